//! MQTT's codes as faults: what the broker meant and what to do about it.
//!
//! Sources: MQTT 5.0 section 2.4 (reason codes), MQTT 3.1.1 section 3.2.2.3 (CONNACK
//! return codes).

use paho_mqtt::{Properties, PropertyCode, ReasonCode};

use super::Refusal;
use crate::common::escape::shortened;
use crate::common::fault::{Exit, Fault};
use crate::common::mqtt::disconnect::Diagnosis;
use crate::common::mqtt::packet_type::PacketType;
use crate::common::mqtt::reason_code::{self, FIRST_ERROR, PROTOCOL_ERROR};

/// Quota exceeded, message rate too high, server busy, connection rate exceeded: the
/// message is good, the moment is not.
const NOT_NOW: [u8; 4] = [0x97, 0x96, 0x89, 0x9F];

/// Whether a refused message may be accepted a little later.
pub(super) fn is_transient(code: u8) -> bool {
    NOT_NOW.contains(&code)
}

/// The code's name with its number, and the broker's own words if it sent any.
fn describe(named: String, diagnosis: &Diagnosis) -> String {
    let mut described = named;
    if let Some(text) = &diagnosis.reason_string {
        described = format!("{described}: {text}");
    }
    if let Some(server) = &diagnosis.server_reference {
        described = format!("{described}, the server to use is {server}");
    }
    described
}

/// What is to be added about a code that the specification does not have for the packet.
fn foreign(packet: PacketType, code: u8) -> String {
    if reason_code::is_allowed(packet, true, code) {
        return String::new();
    }
    let error = reason_code::describe(PROTOCOL_ERROR);
    format!(", which no {} can have: {error}", packet.name())
}

/// The broker's no to one message or filter.
pub(super) fn refusal(code: u8, properties: &Properties) -> Refusal {
    let diagnosis = Diagnosis {
        code,
        reason_string: properties
            .get_string(PropertyCode::ReasonString)
            .filter(|text| !text.is_empty())
            .map(|text| shortened(&text)),
        server_reference: None,
    };
    Refusal {
        code,
        reason: describe(reason_code::describe(code), &diagnosis),
    }
}

/// The code's number.
pub(super) fn number(code: ReasonCode) -> u8 {
    u8::try_from(code as u32).unwrap_or(FIRST_ERROR)
}

/// A CONNACK of MQTT 5 that refuses.
pub(super) fn connect_refused(host: &str, diagnosis: &Diagnosis) -> Fault {
    let code = diagnosis.code;
    let what = describe(reason_code::describe(code), diagnosis);
    let what = what + &foreign(PacketType::Connack, code);
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

/// A CONNACK of MQTT 3.1.1 that refuses, with its return code.
pub(super) fn connect_returned(host: &str, code: u8) -> Fault {
    let say = |what: &str, remedy: &str| {
        format!("{host}: the broker refused the connection: {what} ({code}); {remedy}")
    };
    match code {
        1 => Fault::permanent(
            Exit::Protocol,
            say(
                "unacceptable protocol version",
                "it speaks neither MQTT 5 nor 3.1.1 on this port",
            ),
        ),
        2 => Fault::permanent(
            Exit::Refused,
            say(
                "identifier rejected",
                "choose another --client-id, or allow this one in the broker's policy",
            ),
        ),
        4 => Fault::permanent(
            Exit::Refused,
            say(
                "bad user name or password",
                "check --username and --password-file",
            ),
        ),
        5 => Fault::permanent(
            Exit::Refused,
            say(
                "not authorized",
                "check --username and --password-file, and what the broker's policy allows this certificate and client id",
            ),
        ),
        _ => Fault::passing(
            Exit::Unavailable,
            say("server unavailable", "it may accept later"),
        ),
    }
}

/// A DISCONNECT from the broker on a live connection. The next attempt says whether it
/// means it.
pub(super) fn disconnected(host: &str, diagnosis: &Diagnosis) -> Fault {
    let code = diagnosis.code;
    let what = describe(reason_code::describe_disconnect(code), diagnosis);
    let what = what + &foreign(PacketType::Disconnect, code);
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
        let fault = connect_refused("h:8883", &Diagnosis::of(0x87));
        assert_eq!(fault.exit, Exit::Refused);
        assert!(fault.permanent);
        assert!(fault.message.contains("not authorized (0x87)"), "{fault}");
        assert!(!connect_refused("h:8883", &Diagnosis::of(0x89)).permanent);
        let gone = connect_returned("h:8883", 3);
        assert!(
            !gone.permanent && gone.message.contains("server unavailable (3)"),
            "{gone}"
        );
    }

    #[test]
    fn what_the_broker_adds_is_said_whatever_the_code() {
        let diagnosis = Diagnosis {
            code: 0xA5,
            reason_string: Some("come later".into()),
            server_reference: Some("b.example".into()),
        };
        let words =
            "unknown reason code (0xA5): come later, the server to use is b.example, which no ";
        let refused = connect_refused("h:8883", &diagnosis);
        assert!(refused.message.contains(words), "{refused}");
        let ended = disconnected("h:8883", &diagnosis);
        assert!(ended.message.contains(words), "{ended}");
        let ended = disconnected("h:8883", &Diagnosis::of(0));
        assert!(
            ended.message.contains("normal disconnection (0x00)"),
            "{ended}"
        );
    }

    #[test]
    fn quota_exceeded_is_no_reason_to_give_a_message_up() {
        assert!(is_transient(0x97));
        assert!(!is_transient(0x87));
    }
}
