//! Why there is no connection, from what MQTT, TLS and the operating system have said. PURE.

use super::Version;
use crate::common::broker::endpoint::Endpoint;
use crate::common::broker::profile::Profile;
use crate::common::fault::{Exit, Fault, Kind};
use crate::common::mqtt::packet_type::PacketType;
use crate::common::mqtt::reason_code::MALFORMED_PACKET;
use crate::common::mqtt::violation::Violation;
use crate::common::transport::bridge::{End, Severed};

/// What is known about a CONNECT that was not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unanswered<'a> {
    /// Where it led.
    pub(super) way: &'a Endpoint,
    /// Whether there is a client certificate.
    pub(super) has_certificate: bool,
    /// The client identifier.
    pub(super) client_id: &'a str,
    /// What the operating system or TLS said of the end.
    pub(super) cause: Option<&'a str>,
    /// Whether the end came inside the answer.
    pub(super) in_packet: bool,
    /// The version of MQTT that was asked for.
    pub(super) version: Version,
    /// Whether MQTT 3.1.1 was spoken.
    pub(super) is_older: bool,
    /// CONNECTs in a row that were not answered, this one included.
    pub(super) in_a_row: u32,
    /// The next one speaks MQTT 3.1.1.
    pub(super) older_is_next: bool,
}

/// The server took the connection and our CONNECT, and hung up. Once that says nothing: the broker may be starting,
/// or what stands before it may have none behind it.
pub(super) fn unanswered(facts: Unanswered<'_>) -> Fault {
    let Unanswered { way, client_id, .. } = facts;
    let cause = facts
        .cause
        .map_or_else(String::new, |cause| format!(" ({cause})"));
    let when = if facts.in_packet {
        "in the middle of its CONNACK"
    } else if facts.is_older && facts.version == Version::Any {
        "before CONNACK, with MQTT 3.1.1 as with 5"
    } else {
        "before CONNACK"
    };
    let message = format!("{way}: the broker closed the connection {when}{cause}");
    let fault = Fault::passing(Exit::Unavailable, message).of_kind(Kind::Unanswered);
    let again = facts.in_a_row > 1;
    let remedy = if facts.in_packet {
        "is it being restarted?".into()
    } else if !way.tls {
        let port = "is this an MQTT port without TLS? if it wants TLS, use mqtts://";
        if again {
            format!(
                "{port}; or does it refuse the client id {client_id:?} or --username? see its log"
            )
        } else {
            port.into()
        }
    } else if !facts.has_certificate {
        "if the broker wants a client certificate, give --cert and --key".into()
    } else if !again {
        "is it being restarted?".into()
    } else if way.profile == Profile::Aws {
        format!(
            "is the certificate active and attached to a policy, and does the policy allow \
             iot:Connect for the client id {client_id:?}?"
        )
    } else if facts.version == Version::V5 {
        format!(
            "does it speak MQTT 5 (--mqtt-version 3.1.1 if not), and accept this certificate, the client id \
             {client_id:?} and --username? see its log"
        )
    } else {
        format!(
            "does it accept this certificate, the client id {client_id:?} and --username? see its log"
        )
    };
    let next = if facts.older_is_next && !facts.is_older {
        "; MQTT 3.1.1 is tried next"
    } else {
        ""
    };
    fault.with_remedy(format!("{remedy}{next}"))
}

/// What answers CONNECT is no CONNACK. A packet of another type, or a CONNACK that breaks the protocol, may be a
/// broker's mistake of the moment; anything else speaks another protocol.
pub(super) fn no_connack(way: &Endpoint, violation: &Violation) -> Fault {
    if violation.packet == Some(PacketType::Connack) || violation.code != MALFORMED_PACKET {
        return self::violation(way, violation);
    }
    let or = if way.tls { "" } else { ", or wants TLS" };
    let message = format!("{way}: what answers there does not speak MQTT{or} ({violation})");
    Fault::permanent(Exit::Protocol, message)
        .with_remedy("check --endpoint and --port (for a WebSocket wss:// or ws://)")
}

/// The broker broke the protocol.
pub(super) fn violation(way: &Endpoint, violation: &Violation) -> Fault {
    let message = format!(
        "{way}: the broker broke the MQTT protocol: {violation}; the connection was closed"
    );
    Fault::passing(Exit::Protocol, message).with_remedy(
        violation
            .remedy
            .unwrap_or("update the broker, or whatever stands between"),
    )
}

/// There is no memory for a packet of this size, in bytes.
pub(super) fn no_memory(way: &Endpoint, size: usize) -> Fault {
    let message = format!(
        "{way}: no memory for a message of {size} bytes; the connection was closed, and the message not \
         acknowledged"
    );
    Fault::passing(Exit::Io, message).with_remedy("raise the memory limit, or lower --max-packet")
}

/// An accepted connection has ended, and nobody said why in MQTT or in TLS.
pub(super) fn lost(way: &Endpoint, severed: Option<&Severed>) -> Fault {
    let closed = severed.is_some_and(|severed| severed.in_order);
    let why = match severed {
        Some(severed) if severed.end != End::ByUs => match &severed.cause {
            _ if closed => "the broker closed it",
            Some(cause) => cause,
            None => "the broker closed it in the middle of a packet",
        },
        _ => "the broker does not answer",
    };
    let fault = Fault::passing(
        Exit::Unavailable,
        format!("{way}: the connection was lost: {why}"),
    );
    if closed && severed.is_some_and(|severed| severed.end == End::Lost) {
        fault.of_kind(Kind::Closed)
    } else {
        fault
    }
}
