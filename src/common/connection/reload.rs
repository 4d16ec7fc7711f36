//! What follows from reading the certificates again during a run. PURE.

use crate::common::client::CredentialChange;
use crate::common::fault::Fault;

/// For the log when the connection is replaced.
pub const CONNECTING_AGAIN: &str =
    "reload: connecting again with the new certificate, key or password";

/// For the log when the attempt is replaced.
pub const ATTEMPT_RESTARTED: &str =
    "reload: the attempt under way begins again with the new certificate, key or password";

/// Whether a connection can be replaced without losing anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewable {
    Yes,
    /// Why not: what would be lost.
    No(&'static str),
}

/// What uses the files as they were before they were read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialUser {
    Connection,
    /// A connection attempt under way.
    Attempt,
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadResult {
    /// The connection is to be replaced by one with the new certificate.
    Renew,
    /// The attempt is to be replaced, at once: there is no connection on which anything could be lost.
    RestartAttempt,
    /// Nothing to do; for the log at level info.
    Done(String),
    /// Something could not be done; for the log at level warn.
    NotDone(String),
}

pub fn evaluate(
    reloaded: &Result<CredentialChange, Fault>,
    user: CredentialUser,
    renewable: Renewable,
) -> ReloadResult {
    let change = match reloaded {
        Ok(change) => change,
        Err(fault) => {
            return ReloadResult::NotDone(format!("reload: {fault}; an open connection stays"));
        }
    };
    match (change, user, renewable) {
        (CredentialChange::Nothing, ..) => {
            ReloadResult::Done("reload: certificate, key and password are the same".into())
        }
        (_, CredentialUser::Nothing, _) => {
            ReloadResult::Done("reload: the next connection uses the new files".into())
        }
        (CredentialChange::Authorities, ..) => ReloadResult::Done(
            "reload: the CA file has changed; the next connection uses it".into(),
        ),
        (CredentialChange::Identity, CredentialUser::Attempt, _) => ReloadResult::RestartAttempt,
        (CredentialChange::Identity, _, Renewable::Yes) => ReloadResult::Renew,
        (CredentialChange::Identity, _, Renewable::No(loss)) => ReloadResult::NotDone(format!(
            "reload: certificate, key or password has changed, and is used by the next connection; \
             the open one stays, because {loss}"
        )),
    }
}

/// A warning that names the settings that differ from those of this run.
pub fn describe_changed_settings(changed: &Result<Vec<String>, Fault>) -> Option<String> {
    match changed {
        Err(fault) => Some(format!("reload: {fault}; the settings stay as they are")),
        Ok(names) => match &names[..] {
            [] => None,
            [name] => Some(format!("reload: {name} has changed and needs a restart")),
            names => Some(format!(
                "reload: {} have changed and need a restart",
                names.join(", ")
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::fault::Exit;

    fn text(result: ReloadResult) -> String {
        match result {
            ReloadResult::Renew => "renew".into(),
            ReloadResult::RestartAttempt => "restart".into(),
            ReloadResult::Done(text) => text,
            ReloadResult::NotDone(text) => format!("! {text}"),
        }
    }

    #[test]
    fn only_a_new_certificate_key_or_password_replaces_an_attempt_or_a_connection_that_can_be_replaced()
     {
        use CredentialUser::{Attempt, Connection, Nothing};
        let keeps = Renewable::Yes;
        let loses = Renewable::No("messages would be lost");
        let fault = || Fault::permanent(Exit::Config, "a.pem: broken");
        for (reloaded, user, renewable, expected) in [
            (Ok(CredentialChange::Identity), Connection, keeps, "renew"),
            (Ok(CredentialChange::Identity), Attempt, loses, "restart"),
            (
                Ok(CredentialChange::Authorities),
                Attempt,
                keeps,
                "reload: the CA file",
            ),
            (
                Ok(CredentialChange::Identity),
                Connection,
                loses,
                "! reload: certificate, key or",
            ),
            (
                Ok(CredentialChange::Identity),
                Nothing,
                loses,
                "reload: the next connection",
            ),
            (
                Ok(CredentialChange::Authorities),
                Connection,
                keeps,
                "reload: the CA file",
            ),
            (
                Ok(CredentialChange::Nothing),
                Connection,
                keeps,
                "reload: certificate, key and",
            ),
            (Err(fault()), Connection, keeps, "! reload: a.pem: broken"),
        ] {
            let result = text(evaluate(&reloaded, user, renewable));
            assert!(result.starts_with(expected), "{result}");
        }
    }

    #[test]
    fn the_settings_that_need_a_restart_are_named_in_one_line() {
        let named = |names: &[&str]| {
            let names = names.iter().map(ToString::to_string).collect();
            describe_changed_settings(&Ok(names))
        };
        assert_eq!(named(&[]), None);
        let one = "reload: topic has changed and needs a restart";
        assert_eq!(named(&["topic"]).as_deref(), Some(one));
        let two = "reload: qos, topic have changed and need a restart";
        assert_eq!(named(&["qos", "topic"]).as_deref(), Some(two));
    }
}
