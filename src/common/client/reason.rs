//! MQTT's codes as faults: what the broker meant and what to do about it.
//!
//! Sources: MQTT 5.0 section 2.4 (reason codes), MQTT 3.1.1 section 3.2.2.3 (CONNACK
//! return codes).

use paho_mqtt::{ConnectReturnCode, Properties, PropertyCode, ReasonCode};

use super::Refusal;
use crate::common::fault::{Exit, Fault};

/// Quota exceeded, message rate too high, server busy, connection rate exceeded: the
/// message is good, the moment is not.
const NOT_NOW: [u8; 4] = [0x97, 0x96, 0x89, 0x9F];

/// Whether a refused message may be accepted a little later.
pub(super) fn is_transient(code: u8) -> bool {
    NOT_NOW.contains(&code)
}

/// The code's name with its number, and the broker's own words if it sent any.
fn describe(code: ReasonCode, properties: &Properties) -> String {
    let named = format!("{} (0x{:02X})", spaced(&code.to_string()), number(code));
    match properties.get_string(PropertyCode::ReasonString) {
        Some(text) if !text.is_empty() => format!("{named}: {text}"),
        _ => named,
    }
}

/// The broker's no.
pub(super) fn refusal(code: ReasonCode, properties: &Properties) -> Refusal {
    Refusal {
        code: number(code),
        reason: describe(code, properties),
    }
}

/// The code's number.
fn number(code: ReasonCode) -> u8 {
    u8::try_from(code as u32).unwrap_or(0x80)
}

/// A CONNACK of MQTT 5 that refuses.
pub(super) fn connect_refused(host: &str, code: ReasonCode, properties: &Properties) -> Fault {
    let what = describe(code, properties);
    let say = |remedy: &str| format!("{host}: the broker refused the connection: {what}; {remedy}");
    match number(code) {
        0x84 => version_5_refused(host),
        0x85 => Fault::permanent(
            Exit::Refused,
            say("choose another --client-id, or allow this one in the broker's policy"),
        ),
        0x86 | 0x8C => Fault::permanent(Exit::Refused, say("check --username and --password-file")),
        0x87 | 0x8A => Fault::permanent(
            Exit::Refused,
            say("check what the broker's policy allows this certificate, user and client id"),
        ),
        0x88 | 0x89 | 0x80 | 0x83 | 0x97 | 0x9F => {
            Fault::passing(Exit::Unavailable, say("it may accept later"))
        }
        0x9C | 0x9D => Fault::permanent(
            Exit::Protocol,
            say("ask its operator for the --endpoint to use"),
        ),
        _ => Fault::permanent(Exit::Protocol, say("see the broker's log")),
    }
}

/// The broker does not speak MQTT 5, and nothing else is allowed.
pub(super) fn version_5_refused(host: &str) -> Fault {
    Fault::permanent(
        Exit::Protocol,
        format!(
            "{host}: the broker refuses MQTT 5: unsupported protocol version (0x84); give \
             --mqtt-version 3.1.1"
        ),
    )
}

/// A CONNACK of MQTT 3.1.1 that refuses.
pub(super) fn connect_returned(host: &str, code: ConnectReturnCode) -> Fault {
    let what = code.to_string().to_lowercase();
    let say = |remedy: &str| format!("{host}: the broker refused the connection: {what}; {remedy}");
    match code {
        ConnectReturnCode::IdentifierRejected => {
            Fault::permanent(Exit::Refused, say("choose another --client-id"))
        }
        ConnectReturnCode::BadUserNameOrPassword => {
            Fault::permanent(Exit::Refused, say("check --username and --password-file"))
        }
        ConnectReturnCode::NotAuthorized => Fault::permanent(
            Exit::Refused,
            say("check what the broker's policy allows this certificate, user and client id"),
        ),
        ConnectReturnCode::UnacceptableProtocolVersion => Fault::permanent(
            Exit::Protocol,
            say("it speaks neither MQTT 5 nor 3.1.1 on this port"),
        ),
        ConnectReturnCode::ServerUnavailable | ConnectReturnCode::Accepted => {
            Fault::passing(Exit::Unavailable, say("it may accept later"))
        }
    }
}

/// A DISCONNECT from the broker on a live connection. The next attempt says whether it
/// means it.
pub(super) fn disconnected(host: &str, code: ReasonCode, properties: &Properties) -> Fault {
    let what = describe(code, properties);
    let (exit, remedy) = match number(code) {
        0x8E => (
            Exit::Refused,
            "another client connected with this --client-id; give each its own",
        ),
        0x87 | 0x98 => (
            Exit::Refused,
            "check what the broker's policy allows this client",
        ),
        0x81..=0x83 | 0x90..=0x95 | 0x99..=0x9B | 0x9E..=0xA2 => {
            (Exit::Protocol, "see the broker's log")
        }
        _ => (Exit::Unavailable, "connecting again"),
    };
    Fault::passing(
        exit,
        format!("{host}: the broker ended the connection: {what}; {remedy}"),
    )
}

/// `NotAuthorized` as `not authorized`.
fn spaced(camel: &str) -> String {
    let mut words = String::with_capacity(camel.len() + 4);
    for c in camel.chars() {
        if c.is_uppercase() && !words.is_empty() && !words.ends_with(' ') {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_its_reason_and_a_remedy() {
        let fault = connect_refused("h:8883", ReasonCode::NotAuthorized, &Properties::new());
        assert_eq!(fault.exit, Exit::Refused);
        assert!(fault.permanent);
        assert!(fault.message.contains("not authorized (0x87)"), "{fault}");
        let busy = connect_refused("h:8883", ReasonCode::ServerBusy, &Properties::new());
        assert!(!busy.permanent);
        let gone = connect_returned("h:8883", ConnectReturnCode::ServerUnavailable);
        assert!(
            !gone.permanent && gone.message.contains("server unavailable"),
            "{gone}"
        );
    }

    #[test]
    fn quota_exceeded_is_no_reason_to_bury_a_message() {
        assert!(is_transient(0x97));
        assert!(!is_transient(0x87));
    }
}
