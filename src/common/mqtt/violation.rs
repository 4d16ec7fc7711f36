//! A packet that breaks the protocol, and the reason code that answers it. PURE.

use std::borrow::Cow;
use std::fmt;

use super::packet_type::PacketType;
use super::reason_code::{self, MALFORMED_PACKET, PROTOCOL_ERROR};

/// Why a packet is not acceptable (MQTT 5.0 section 4.13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The reason code of the DISCONNECT that answers it in MQTT 5.
    pub code: u8,
    /// None if there is no such type.
    pub packet: Option<PacketType>,
    pub cause: Cow<'static, str>,
    pub remedy: Option<&'static str>,
}

impl Violation {
    pub fn new(code: u8, cause: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            packet: None,
            cause: cause.into(),
            remedy: None,
        }
    }

    /// The packet cannot be parsed according to the specification.
    pub fn malformed(cause: impl Into<Cow<'static, str>>) -> Self {
        Self::new(MALFORMED_PACKET, cause)
    }

    /// The packet can be parsed, but its contents are not allowed, or not in this state of the connection.
    pub fn protocol_error(cause: impl Into<Cow<'static, str>>) -> Self {
        Self::new(PROTOCOL_ERROR, cause)
    }

    pub fn with_remedy(self, remedy: &'static str) -> Self {
        Self {
            remedy: Some(remedy),
            ..self
        }
    }

    pub fn in_packet(self, packet: Option<PacketType>) -> Self {
        Self { packet, ..self }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let packet = self.packet.map_or("packet", PacketType::name);
        let code = reason_code::describe(self.code);
        write!(f, "{packet}: {}: {code}", self.cause)
    }
}

impl std::error::Error for Violation {}
