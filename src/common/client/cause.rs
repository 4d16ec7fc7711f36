//! Why there is no connection, from what MQTT, TLS and the operating system have said. PURE.

use crate::common::endpoint::Endpoint;
use crate::common::fault::{Exit, Fault};
use crate::common::mqtt::reason_code::MALFORMED_PACKET;
use crate::common::mqtt::violation::Violation;

/// What is known about a connection that ended before its CONNACK.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unanswered<'a> {
    /// Where it led.
    pub(super) way: &'a Endpoint,
    /// Whether there is a client certificate.
    pub(super) has_certificate: bool,
    /// The client identifier.
    pub(super) client_id: &'a str,
    /// What the operating system said of the end.
    pub(super) cause: Option<&'a str>,
}

/// The server took the connection and our CONNECT, and hung up.
pub(super) fn unanswered(facts: Unanswered<'_>) -> Fault {
    let Unanswered { way, .. } = facts;
    let how = facts
        .cause
        .map_or_else(String::new, |cause| format!(" ({cause})"));
    let remedy = if !way.tls {
        "is this an MQTT port without TLS? if it wants TLS, use mqtts://".into()
    } else if facts.has_certificate {
        format!(
            "is the certificate active and attached to a policy, and does the policy allow \
             iot:Connect for the client id {:?}?",
            facts.client_id
        )
    } else {
        "if the broker wants a client certificate, give --cert and --key".into()
    };
    Fault::passing(
        Exit::Unavailable,
        format!("{way}: the broker closed the connection before CONNACK{how}; {remedy}"),
    )
}

/// What answers CONNECT is no CONNACK. A packet of another type, or a CONNACK that breaks the protocol, may be a
/// broker's mistake of the moment; anything else speaks another protocol.
pub(super) fn no_connack(way: &Endpoint, violation: &Violation) -> Fault {
    if violation.packet == "CONNACK" || violation.code != MALFORMED_PACKET {
        return self::violation(way, violation);
    }
    Fault::permanent(
        Exit::Protocol,
        format!(
            "{way}: what answers there does not speak MQTT{} ({violation}); check --endpoint and --port (for a \
             WebSocket wss:// or ws://)",
            if way.tls { "" } else { ", or wants TLS" }
        ),
    )
}

/// The broker broke the protocol.
pub(super) fn violation(way: &Endpoint, violation: &Violation) -> Fault {
    Fault::passing(
        Exit::Protocol,
        format!(
            "{way}: the broker broke the MQTT protocol: {violation}; the connection was closed; \
             update the broker, or whatever stands between"
        ),
    )
}

/// There is no memory for a packet of this size, in bytes.
pub(super) fn no_memory(way: &Endpoint, size: usize) -> Fault {
    Fault::passing(
        Exit::Io,
        format!(
            "{way}: no memory for a message of {size} bytes; the connection was closed, and the message not \
             acknowledged; raise the memory limit, or lower --max-packet"
        ),
    )
}

/// A connection that was accepted has ended, and nobody said why in MQTT or in TLS.
pub(super) fn lost(way: &Endpoint, by_us: bool, cause: Option<&str>) -> Fault {
    let why = match (by_us, cause) {
        (true, _) => "the broker does not answer",
        (false, None) => "the broker closed it",
        (false, Some(cause)) => cause,
    };
    Fault::passing(
        Exit::Unavailable,
        format!("{way}: the connection was lost: {why}"),
    )
}
