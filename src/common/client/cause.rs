//! Why there is no connection, from what MQTT, TLS and the operating system have said. PURE.

use crate::common::endpoint::Endpoint;
use crate::common::fault::{Exit, Fault};

/// What is known about a connection that ended before its CONNACK.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unanswered<'a> {
    /// Where it led.
    pub(super) way: &'a Endpoint,
    /// Whether there is a client certificate.
    pub(super) has_certificate: bool,
    /// The client identifier.
    pub(super) client_id: &'a str,
    /// Whether the broker said anything, which was no CONNACK then.
    pub(super) heard: bool,
    /// What the operating system said of the end.
    pub(super) cause: Option<&'a str>,
}

/// The server took the connection and our CONNECT, and hung up.
pub(super) fn unanswered(facts: Unanswered<'_>) -> Fault {
    let Unanswered { way, .. } = facts;
    if facts.heard {
        return Fault::permanent(
            Exit::Protocol,
            format!(
                "{way}: what answers there does not speak MQTT{}; check --endpoint and --port (for a \
                 WebSocket wss:// or ws://)",
                if way.tls { "" } else { ", or wants TLS" }
            ),
        );
    }
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
