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

/// The names of the codes that say no (MQTT 5.0 table 2-6), in the order of their numbers.
const NAMES: [(u8, &str); 35] = [
    (0x80, "unspecified error"),
    (0x81, "malformed packet"),
    (0x82, "protocol error"),
    (0x83, "implementation specific error"),
    (0x84, "unsupported protocol version"),
    (0x85, "client identifier not valid"),
    (0x86, "bad user name or password"),
    (0x87, "not authorized"),
    (0x88, "server unavailable"),
    (0x89, "server busy"),
    (0x8A, "banned"),
    (0x8B, "server shutting down"),
    (0x8C, "bad authentication method"),
    (0x8D, "keep alive timeout"),
    (0x8E, "session taken over"),
    (0x8F, "topic filter invalid"),
    (0x90, "topic name invalid"),
    (0x91, "packet identifier in use"),
    (0x92, "packet identifier not found"),
    (0x93, "receive maximum exceeded"),
    (0x94, "topic alias invalid"),
    (0x95, "packet too large"),
    (0x96, "message rate too high"),
    (0x97, "quota exceeded"),
    (0x98, "administrative action"),
    (0x99, "payload format invalid"),
    (0x9A, "retain not supported"),
    (0x9B, "QoS not supported"),
    (0x9C, "use another server"),
    (0x9D, "server moved"),
    (0x9E, "shared subscriptions not supported"),
    (0x9F, "connection rate exceeded"),
    (0xA0, "maximum connect time"),
    (0xA1, "subscription identifiers not supported"),
    (0xA2, "wildcard subscriptions not supported"),
];

/// The code's name with its number.
pub(super) fn name(code: u8) -> String {
    let name = NAMES.iter().find(|(number, _)| *number == code);
    let name = name.map_or("unknown reason code", |(_, name)| *name);
    format!("{name} (0x{code:02X})")
}

/// The code's name with its number, and the broker's own words if it sent any.
fn describe(code: u8, properties: &Properties) -> String {
    let named = name(code);
    let told = match properties.get_string(PropertyCode::ReasonString) {
        Some(text) if !text.is_empty() => format!("{named}: {text}"),
        _ => named,
    };
    if let Some(server) = properties.get_string(PropertyCode::ServerReference)
        && !server.is_empty()
    {
        return format!("{told}, the server to use is {server}");
    }
    told
}

/// The broker's no.
pub(super) fn refusal(code: u8, properties: &Properties) -> Refusal {
    Refusal {
        code,
        reason: describe(code, properties),
    }
}

/// The code's number.
pub(super) fn number(code: ReasonCode) -> u8 {
    u8::try_from(code as u32).unwrap_or(0x80)
}

/// A CONNACK of MQTT 5 that refuses.
pub(super) fn connect_refused(host: &str, code: ReasonCode, properties: &Properties) -> Fault {
    let code = number(code);
    let what = describe(code, properties);
    let say = |remedy: &str| format!("{host}: the broker refused the connection: {what}; {remedy}");
    match code {
        0x84 => version_5_refused(host),
        0x85 => Fault::permanent(
            Exit::Refused,
            say("choose another --client-id, or allow this one in the broker's policy"),
        ),
        0x86 | 0x8C => Fault::permanent(Exit::Refused, say("check --username and --password-file")),
        0x87 | 0x8A => Fault::permanent(
            Exit::Refused,
            say(
                "check --username and --password-file, and what the broker's policy allows this certificate and client id",
            ),
        ),
        0x80 | 0x83 | 0x88 | 0x89 | 0x8B | 0x97 | 0x9F => {
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
        ConnectReturnCode::IdentifierRejected => Fault::permanent(
            Exit::Refused,
            say("choose another --client-id, or allow this one in the broker's policy"),
        ),
        ConnectReturnCode::BadUserNameOrPassword => {
            Fault::permanent(Exit::Refused, say("check --username and --password-file"))
        }
        ConnectReturnCode::NotAuthorized => Fault::permanent(
            Exit::Refused,
            say(
                "check --username and --password-file, and what the broker's policy allows this certificate and client id",
            ),
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
pub(super) fn disconnected(host: &str, code: u8, properties: &Properties) -> Fault {
    let what = describe(code, properties);
    let (exit, remedy) = match code {
        0x8E => (
            Exit::Refused,
            "another client connected with this --client-id; give each its own",
        ),
        0x87 | 0x98 => (
            Exit::Refused,
            "check what the broker's policy allows this client",
        ),
        0x8D => (
            Exit::Unavailable,
            "it heard nothing for too long; connecting again",
        ),
        0x93 => (Exit::Protocol, "give a smaller --max-inflight"),
        0x95 => (Exit::Protocol, "publish smaller messages"),
        0x90 => (Exit::Protocol, "check --topic"),
        0x96 | 0x97 => (
            Exit::Unavailable,
            "publish less often, or raise the broker's quota",
        ),
        0x9A => (Exit::Protocol, "leave --retain out"),
        0x9B => (Exit::Protocol, "give a lower --qos"),
        0x9C | 0x9D => (Exit::Protocol, "ask its operator for the --endpoint to use"),
        0x81..=0x83 | 0x8F | 0x91 | 0x92 | 0x94 | 0x99 | 0x9E | 0xA1 | 0xA2 => {
            (Exit::Protocol, "see the broker's log")
        }
        _ => (Exit::Unavailable, "connecting again"),
    };
    Fault::passing(
        exit,
        format!("{host}: the broker ended the connection: {what}; {remedy}"),
    )
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
    fn every_code_of_mqtt_5_that_says_no_has_a_name() {
        for code in 0x80..=0xA2 {
            assert!(!name(code).contains("unknown"), "{code:02X}");
        }
        assert_eq!(name(0xA3), "unknown reason code (0xA3)");
        let names: std::collections::BTreeSet<_> = (0x80..=0xA2).map(name).collect();
        assert_eq!(names.len(), 0xA3 - 0x80);
    }

    #[test]
    fn quota_exceeded_is_no_reason_to_bury_a_message() {
        assert!(is_transient(0x97));
        assert!(!is_transient(0x87));
    }
}
