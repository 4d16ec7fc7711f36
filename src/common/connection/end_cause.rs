//! Why an attempt to connect failed or a connection ended, in a few words for counting. PURE.

use crate::common::fault::{Exit, Fault, FaultCause};
use crate::common::transport::DialStep;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EndCause {
    Dns,
    Tcp,
    Proxy,
    Tls,
    WebSocket,
    /// CONNECT was not answered.
    NoConnack,
    Refused,
    TakenOver,
    /// The broker closed the connection without a reason.
    Closed,
    Timeout,
    Protocol,
    /// A certificate, key or password file cannot be used.
    Files,
    /// The system has no memory, threads or descriptors.
    System,
    /// The connection broke, or the broker is not available.
    Network,
}

impl EndCause {
    pub(super) const ALL: [Self; 14] = [
        Self::Dns,
        Self::Tcp,
        Self::Proxy,
        Self::Tls,
        Self::WebSocket,
        Self::NoConnack,
        Self::Refused,
        Self::TakenOver,
        Self::Closed,
        Self::Timeout,
        Self::Protocol,
        Self::Files,
        Self::System,
        Self::Network,
    ];

    /// `step` is the step of the attempt that failed, if no connection was made.
    pub(super) fn of(step: Option<DialStep>, fault: &Fault) -> Self {
        match (step, fault.kind, fault.exit) {
            (Some(DialStep::Dns), ..) => Self::Dns,
            (Some(DialStep::Tcp | DialStep::UnixSocket), ..) => Self::Tcp,
            (Some(DialStep::Proxy), ..) => Self::Proxy,
            (Some(DialStep::Tls), ..) => Self::Tls,
            (Some(DialStep::WebSocket), ..) => Self::WebSocket,
            (None, FaultCause::Unanswered, _) => Self::NoConnack,
            (None, FaultCause::TakenOver, _) => Self::TakenOver,
            (None, FaultCause::Closed, _) => Self::Closed,
            (None, FaultCause::TimedOut, _) => Self::Timeout,
            (None, _, Exit::Refused) => Self::Refused,
            (None, _, Exit::Protocol) => Self::Protocol,
            (None, _, Exit::Config | Exit::NoInput) => Self::Files,
            (None, _, Exit::Io) => Self::System,
            _ => Self::Network,
        }
    }

    /// The value of the label `cause`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Proxy => "proxy",
            Self::Tls => "tls",
            Self::WebSocket => "websocket",
            Self::NoConnack => "no_connack",
            Self::Refused => "refused",
            Self::TakenOver => "taken_over",
            Self::Closed => "closed",
            Self::Timeout => "timeout",
            Self::Protocol => "protocol",
            Self::Files => "files",
            Self::System => "system",
            Self::Network => "network",
        }
    }
}
