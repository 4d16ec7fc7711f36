//! Turns the end of an attempt or a connection into a fault, from what MQTT, TLS and the operating system report. PURE.
//!
//! Sources: MQTT 5.0 section 2.4 (reason codes), MQTT 3.1.1 section 3.2.2.3 (return codes).

use super::worker_input::DialAttempt;
use super::{ClientConfig, MqttVersion};
use crate::common::broker::endpoint::Endpoint;
use crate::common::broker::profile::Profile;
use crate::common::fault::{Exit, Fault, FaultCause};
use crate::common::mqtt::disconnect_reason::BrokerReason;
use crate::common::mqtt::packet_type::PacketType;
use crate::common::mqtt::reason_codes::{
    self, MALFORMED_PACKET, PROTOCOL_ERROR, UNSUPPORTED_PROTOCOL_VERSION,
};
use crate::common::mqtt::violation::Violation;
use crate::common::transport::bridge::{ConnectionEnd, EndReason};

/// A return code of MQTT 3.1.1.
pub(super) const UNACCEPTABLE_VERSION: u8 = 1;

const CHECK_CREDENTIALS: &str = "check --username and --password-file";
const MAY_ACCEPT_LATER: &str = "it may accept later";
const SEE_LOG: &str = "see the broker's log";
const ASK_FOR_ENDPOINT: &str = "ask its operator for the --endpoint to use";

/// The server closed the connection after our CONNECT. Once, this may only mean that the broker is
/// starting, or that a proxy in front of it does not reach it. `in_a_row` counts such CONNECTs, this
/// one included; `older_is_next` is whether the next is one of MQTT 3.1.1.
pub(super) fn closed_during_connect(
    config: &ClientConfig,
    dial: &DialAttempt,
    end: Option<&ConnectionEnd>,
    in_a_row: u32,
    older_is_next: bool,
) -> Fault {
    let (endpoint, client_id) = (&dial.endpoint, &config.client_id);
    let in_packet = end.is_some_and(|end| end.in_packet);
    let cause = end.and_then(|end| end.cause.as_deref());
    let cause = cause.map_or_else(String::new, |cause| format!(" ({cause})"));
    let when = if in_packet {
        "in the middle of its CONNACK"
    } else if !dial.v5 && config.version == MqttVersion::Any {
        "before CONNACK, with MQTT 3.1.1 as with 5"
    } else {
        "before CONNACK"
    };
    let message = format!("{endpoint}: the broker closed the connection {when}{cause}");
    let is_repeated = in_a_row > 1;
    let remedy = if in_packet {
        "is it being restarted?".into()
    } else if !endpoint.tls {
        let port = "is this an MQTT port without TLS? if it wants TLS, use mqtts://";
        if is_repeated {
            format!(
                "{port}; or does it refuse the client id {client_id:?} or --username? see its log"
            )
        } else {
            port.into()
        }
    } else if !dial.has_certificate {
        "if the broker wants a client certificate, give --cert and --key, or --certs DIR".into()
    } else if !is_repeated {
        "is it being restarted?".into()
    } else if endpoint.profile == Profile::Aws {
        format!(
            "is the certificate active and attached to a policy, and does the policy allow \
             iot:Connect for the client id {client_id:?}?"
        )
    } else {
        let speaks_5 = match config.version {
            MqttVersion::V5 => "speak MQTT 5 (--mqtt-version 3.1.1 if not), and ",
            _ => "",
        };
        format!(
            "does it {speaks_5}accept this certificate, the client id {client_id:?} and --username? see its log"
        )
    };
    let next = if older_is_next && dial.v5 {
        "; a further attempt uses MQTT 3.1.1"
    } else {
        ""
    };
    Fault::passing(Exit::Unavailable, message)
        .with_kind(FaultCause::Unanswered)
        .with_remedy(format!("{remedy}{next}"))
}

pub(super) fn connect_refused(endpoint: &Endpoint, reason: &BrokerReason) -> Fault {
    let code = reason.code;
    if code == UNSUPPORTED_PROTOCOL_VERSION {
        return version_5_refused(endpoint, reason);
    }
    let what = append_reason_details(reason_codes::describe(code), reason)
        + &forbidden_code_note(PacketType::Connack, code);
    let message = format!("{endpoint}: the broker refused the connection: {what}");
    let permanent = |exit| Fault::permanent(exit, message.clone());
    match code {
        0x85 => permanent(Exit::Refused).with_remedy(client_id_remedy(endpoint)),
        0x86 | 0x8C => permanent(Exit::Refused).with_remedy(CHECK_CREDENTIALS),
        0x87 | 0x8A => permanent(Exit::Refused).with_remedy(authorization_remedy(endpoint)),
        0x80 | 0x83 | 0x88 | 0x89 | 0x8B | 0x97 | 0x9F => {
            Fault::passing(Exit::Unavailable, message).with_remedy(MAY_ACCEPT_LATER)
        }
        0x9C | 0x9D => permanent(Exit::Protocol).with_remedy(ASK_FOR_ENDPOINT),
        _ => permanent(Exit::Protocol).with_remedy(SEE_LOG),
    }
}

/// A broker without MQTT 5, where MQTT 3.1.1 must not be used or does not work either.
pub(super) fn version_5_refused(endpoint: &Endpoint, reason: &BrokerReason) -> Fault {
    let what = append_reason_details(reason_codes::describe(reason.code), reason);
    let message = format!("{endpoint}: the broker refuses MQTT 5: {what}");
    Fault::permanent(Exit::Protocol, message).with_remedy("give --mqtt-version 3.1.1")
}

pub(super) fn connect_refused_v3(endpoint: &Endpoint, code: u8) -> Fault {
    let message =
        |what: &str| format!("{endpoint}: the broker refused the connection: {what} ({code})");
    let refused = |what: &str| Fault::permanent(Exit::Refused, message(what));
    match code {
        UNACCEPTABLE_VERSION => {
            Fault::permanent(Exit::Protocol, message("unacceptable protocol version"))
                .with_remedy("it speaks neither MQTT 5 nor 3.1.1 on this port")
        }
        2 => refused("identifier rejected").with_remedy(client_id_remedy(endpoint)),
        4 => refused("bad user name or password").with_remedy(CHECK_CREDENTIALS),
        5 => refused("not authorized").with_remedy(authorization_remedy(endpoint)),
        _ => Fault::passing(Exit::Unavailable, message("server unavailable"))
            .with_remedy(MAY_ACCEPT_LATER),
    }
}

/// The answer to CONNECT is not a CONNACK. A packet of another type, or a CONNACK that breaks the
/// protocol, may be a passing error of the broker; anything else is not MQTT.
pub(super) fn invalid_connack(endpoint: &Endpoint, violation: &Violation) -> Fault {
    if violation.packet == Some(PacketType::Connack) || violation.code != MALFORMED_PACKET {
        return self::violation(endpoint, violation);
    }
    let or = if endpoint.tls { "" } else { ", or wants TLS" };
    let message = format!("{endpoint}: the server does not speak MQTT{or} ({violation})");
    Fault::permanent(Exit::Protocol, message)
        .with_remedy("check --endpoint and --port (for a WebSocket wss:// or ws://)")
}

fn violation(endpoint: &Endpoint, violation: &Violation) -> Fault {
    let message = format!(
        "{endpoint}: the broker broke the MQTT protocol: {violation}; the connection was closed"
    );
    let remedy = violation.remedy;
    Fault::passing(Exit::Protocol, message)
        .with_remedy(remedy.unwrap_or("update the broker, or whatever stands between"))
}

fn no_memory_for_message(endpoint: &Endpoint, size: usize) -> Fault {
    let message = format!(
        "{endpoint}: no memory for a message of {size} bytes; the connection was closed, and the message \
         not acknowledged"
    );
    Fault::passing(Exit::Io, message).with_remedy("raise the memory limit, or lower --max-packet")
}

/// The end of an accepted connection, and the reason code of the broker's DISCONNECT.
pub(super) fn connection_ended(
    endpoint: &Endpoint,
    end: Option<&ConnectionEnd>,
) -> (Option<u8>, Fault) {
    let fault = match end.map(|end| &end.reason) {
        Some(EndReason::Disconnected(reason)) => {
            return (Some(reason.code), disconnected(endpoint, reason));
        }
        Some(EndReason::Violation(violation) | EndReason::NoConnack(violation)) => {
            self::violation(endpoint, violation)
        }
        Some(EndReason::NoMemory(size)) => no_memory_for_message(endpoint, *size),
        _ => end
            .and_then(|end| end.fault.clone())
            .unwrap_or_else(|| lost(endpoint, end)),
    };
    (None, fault)
}

/// A DISCONNECT from the broker. Only the next attempt shows whether the reason is permanent.
fn disconnected(endpoint: &Endpoint, reason: &BrokerReason) -> Fault {
    let code = reason.code;
    let what = append_reason_details(reason_codes::describe_disconnect(code), reason)
        + &forbidden_code_note(PacketType::Disconnect, code);
    let rules = endpoint.profile.access_rules();
    let check_rules = format!("check what {rules} lets this client do");
    let exit = match code {
        0x87 | 0x8E | 0x98 => Exit::Refused,
        0x81..=0x83 | 0x8F..=0x95 | 0x99..=0x9E | 0xA1 | 0xA2 => Exit::Protocol,
        _ => Exit::Unavailable,
    };
    let remedy = match code {
        0x8E => "another client connected with this --client-id; give each its own",
        0x87 | 0x98 => &*check_rules,
        0x8D => "it received nothing for too long; connecting again",
        0x90 => "check --topic",
        0x93 => "give a smaller --max-inflight",
        0x95 => "publish smaller messages",
        0x96 | 0x97 => "publish less often, or raise the broker's quota",
        0x9A => "leave --retain out",
        0x9B => "give a lower --qos",
        0x9C | 0x9D => ASK_FOR_ENDPOINT,
        _ if exit == Exit::Protocol => SEE_LOG,
        _ => "connecting again",
    };
    let message = format!("{endpoint}: the broker ended the connection: {what}");
    let fault = Fault::passing(exit, message).with_remedy(remedy);
    match code {
        0x8E => fault.with_kind(FaultCause::TakenOver),
        _ => fault,
    }
}

/// The end of an accepted connection for which neither MQTT nor TLS gives a reason.
fn lost(endpoint: &Endpoint, end: Option<&ConnectionEnd>) -> Fault {
    let why = match end.filter(|end| end.reason != EndReason::ByUs) {
        None => "the broker does not answer",
        Some(end) if end.in_order => "the broker closed it",
        Some(end) => {
            let cause = end.cause.as_deref();
            cause.unwrap_or("the broker closed it in the middle of a packet")
        }
    };
    let kind = match end {
        Some(end) if end.in_order && end.reason == EndReason::Lost => FaultCause::Closed,
        _ => FaultCause::Other,
    };
    let message = format!("{endpoint}: the connection was lost: {why}");
    Fault::passing(Exit::Unavailable, message).with_kind(kind)
}

fn append_reason_details(name: String, reason: &BrokerReason) -> String {
    let text = reason.reason_string.iter().map(|text| format!(": {text}"));
    let server = reason.server_reference.iter();
    let server = server.map(|server| format!(", the server to use is {server}"));
    [name].into_iter().chain(text).chain(server).collect()
}

/// A note on a code that the specification does not allow in this packet.
fn forbidden_code_note(packet: PacketType, code: u8) -> String {
    if reason_codes::is_allowed(packet, true, code) {
        return String::new();
    }
    let error = reason_codes::describe(PROTOCOL_ERROR);
    format!(", which no {} can have: {error}", packet.name())
}

fn client_id_remedy(endpoint: &Endpoint) -> String {
    let rules = endpoint.profile.access_rules();
    format!("choose another --client-id, or allow this one in {rules}")
}

fn authorization_remedy(endpoint: &Endpoint) -> String {
    let rules = endpoint.profile.access_rules();
    format!("{CHECK_CREDENTIALS}, and whether {rules} lets this client id connect")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint() -> Endpoint {
        Endpoint::parse("h:8883", None).unwrap()
    }

    #[test]
    fn a_refusal_names_its_reason_and_a_remedy() {
        let refused = |code| connect_refused(&endpoint(), &BrokerReason::from_code(code));
        let fault = refused(0x87);
        assert_eq!((fault.exit, fault.permanent), (Exit::Refused, true));
        assert!(fault.message.contains("not authorized (0x87)"), "{fault}");
        assert!(!refused(0x89).permanent);
        let fault = connect_refused_v3(&endpoint(), 3);
        assert!(!fault.permanent);
        assert!(fault.message.contains("server unavailable (3)"), "{fault}");
    }

    #[test]
    fn the_texts_of_the_broker_are_part_of_the_message_with_any_code() {
        let reason = BrokerReason {
            code: 0xA5,
            reason_string: Some("come later".into()),
            server_reference: Some("b.example".into()),
        };
        let text =
            "unknown reason code (0xA5): come later, the server to use is b.example, which no ";
        let normal = disconnected(&endpoint(), &BrokerReason::from_code(0));
        for (fault, text) in [
            (connect_refused(&endpoint(), &reason), text),
            (disconnected(&endpoint(), &reason), text),
            (normal, "normal disconnection (0x00)"),
        ] {
            assert!(fault.message.contains(text), "{fault}");
        }
    }
}
