//! MQTT's codes as faults: what the broker meant and what to do about it.
//!
//! Sources: MQTT 5.0 section 2.4 (reason codes), MQTT 3.1.1 section 3.2.2.3 (CONNACK
//! return codes).

use paho_mqtt::{Properties, PropertyCode, ReasonCode};

use super::Refusal;
use crate::common::broker::endpoint::Endpoint;
use crate::common::escape::shortened;
use crate::common::fault::{Exit, Fault, Kind};
use crate::common::mqtt::disconnect::BrokerReason;
use crate::common::mqtt::packet_type::PacketType;
use crate::common::mqtt::reason_code::{
    self, FIRST_ERROR, PROTOCOL_ERROR, UNSUPPORTED_PROTOCOL_VERSION,
};

/// MQTT 3.1.1's return code for a version that the broker does not speak.
pub(super) const RETURNED_VERSION: u8 = 1;

/// Quota exceeded, message rate too high, server busy, connection rate exceeded, packet identifier in use: the
/// message is good, the moment is not.
const NOT_NOW: [u8; 5] = [0x97, 0x96, 0x89, 0x9F, 0x91];

/// Whether a refused message may be accepted a little later.
pub(super) fn is_transient(code: u8) -> bool {
    NOT_NOW.contains(&code)
}

/// The code's name with its number, and the broker's own words if it sent any.
fn describe(named: String, diagnosis: &BrokerReason) -> String {
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
    let diagnosis = BrokerReason {
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
pub(super) fn connect_refused(way: &Endpoint, diagnosis: &BrokerReason) -> Fault {
    let code = diagnosis.code;
    if code == UNSUPPORTED_PROTOCOL_VERSION {
        return version_5_refused(way, diagnosis);
    }
    let what = describe(reason_code::describe(code), diagnosis);
    let what = what + &foreign(PacketType::Connack, code);
    let message = format!("{way}: the broker refused the connection: {what}");
    match code {
        0x85 => Fault::permanent(Exit::Refused, message).with_remedy(other_client_id(way)),
        0x86 | 0x8C => Fault::permanent(Exit::Refused, message).with_remedy(CREDENTIALS),
        0x87 | 0x8A => Fault::permanent(Exit::Refused, message).with_remedy(not_authorized(way)),
        0x80 | 0x83 | 0x88 | 0x89 | 0x8B | 0x97 | 0x9F => {
            Fault::passing(Exit::Unavailable, message).with_remedy("it may accept later")
        }
        0x9C | 0x9D => Fault::permanent(Exit::Protocol, message)
            .with_remedy("ask its operator for the --endpoint to use"),
        _ => Fault::permanent(Exit::Protocol, message).with_remedy("see the broker's log"),
    }
}

/// What to look at when user name and password are wrong.
const CREDENTIALS: &str = "check --username and --password-file";

/// What to do about a client identifier that is not accepted.
fn other_client_id(way: &Endpoint) -> String {
    let rules = way.profile.access_rules();
    format!("choose another --client-id, or allow this one in {rules}")
}

/// What to look at when a client may not connect.
fn not_authorized(way: &Endpoint) -> String {
    let rules = way.profile.access_rules();
    format!("{CREDENTIALS}, and whether {rules} lets this client id connect")
}

/// The broker does not speak MQTT 5, and nothing else is allowed.
pub(super) fn version_5_refused(way: &Endpoint, diagnosis: &BrokerReason) -> Fault {
    let what = describe(reason_code::describe(diagnosis.code), diagnosis);
    let message = format!("{way}: the broker refuses MQTT 5: {what}");
    Fault::permanent(Exit::Protocol, message).with_remedy("give --mqtt-version 3.1.1")
}

/// A CONNACK of MQTT 3.1.1 that refuses, with its return code.
pub(super) fn connect_returned(way: &Endpoint, code: u8) -> Fault {
    let message = |what: &str| format!("{way}: the broker refused the connection: {what} ({code})");
    let refused = |what: &str| Fault::permanent(Exit::Refused, message(what));
    match code {
        RETURNED_VERSION => {
            Fault::permanent(Exit::Protocol, message("unacceptable protocol version"))
                .with_remedy("it speaks neither MQTT 5 nor 3.1.1 on this port")
        }
        2 => refused("identifier rejected").with_remedy(other_client_id(way)),
        4 => refused("bad user name or password").with_remedy(CREDENTIALS),
        5 => refused("not authorized").with_remedy(not_authorized(way)),
        _ => Fault::passing(Exit::Unavailable, message("server unavailable"))
            .with_remedy("it may accept later"),
    }
}

/// A DISCONNECT from the broker on a live connection. The next attempt says whether it
/// means it.
pub(super) fn disconnected(way: &Endpoint, diagnosis: &BrokerReason) -> Fault {
    let code = diagnosis.code;
    let what = describe(reason_code::describe_disconnect(code), diagnosis);
    let what = what + &foreign(PacketType::Disconnect, code);
    let rules = way.profile.access_rules();
    let (exit, remedy) = match code {
        0x8E => (
            Exit::Refused,
            "another client connected with this --client-id; give each its own".into(),
        ),
        0x87 | 0x98 => (
            Exit::Refused,
            format!("check what {rules} lets this client do"),
        ),
        0x8D => (
            Exit::Unavailable,
            "it heard nothing for too long; connecting again".into(),
        ),
        0x93 => (Exit::Protocol, "give a smaller --max-inflight".into()),
        0x95 => (Exit::Protocol, "publish smaller messages".into()),
        0x90 => (Exit::Protocol, "check --topic".into()),
        0x96 | 0x97 => (
            Exit::Unavailable,
            "publish less often, or raise the broker's quota".into(),
        ),
        0x9A => (Exit::Protocol, "leave --retain out".into()),
        0x9B => (Exit::Protocol, "give a lower --qos".into()),
        0x9C | 0x9D => (
            Exit::Protocol,
            "ask its operator for the --endpoint to use".into(),
        ),
        0x81..=0x83 | 0x8F | 0x91 | 0x92 | 0x94 | 0x99 | 0x9E | 0xA1 | 0xA2 => {
            (Exit::Protocol, "see the broker's log".into())
        }
        _ => (Exit::Unavailable, "connecting again".into()),
    };
    let kind = match code {
        0x8E => Kind::TakenOver,
        _ => Kind::Other,
    };
    Fault::passing(
        exit,
        format!("{way}: the broker ended the connection: {what}"),
    )
    .with_remedy(remedy)
    .of_kind(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way() -> Endpoint {
        Endpoint::parse("h:8883", None).unwrap()
    }

    #[test]
    fn a_refusal_names_its_reason_and_a_remedy() {
        let fault = connect_refused(&way(), &BrokerReason::of(0x87));
        assert_eq!(fault.exit, Exit::Refused);
        assert!(fault.permanent);
        assert!(fault.message.contains("not authorized (0x87)"), "{fault}");
        assert!(!connect_refused(&way(), &BrokerReason::of(0x89)).permanent);
        let gone = connect_returned(&way(), 3);
        assert!(
            !gone.permanent && gone.message.contains("server unavailable (3)"),
            "{gone}"
        );
    }

    #[test]
    fn what_the_broker_adds_is_said_whatever_the_code() {
        let diagnosis = BrokerReason {
            code: 0xA5,
            reason_string: Some("come later".into()),
            server_reference: Some("b.example".into()),
        };
        let words =
            "unknown reason code (0xA5): come later, the server to use is b.example, which no ";
        let refused = connect_refused(&way(), &diagnosis);
        assert!(refused.message.contains(words), "{refused}");
        let ended = disconnected(&way(), &diagnosis);
        assert!(ended.message.contains(words), "{ended}");
        let ended = disconnected(&way(), &BrokerReason::of(0));
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
