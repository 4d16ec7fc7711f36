//! A packet that breaks the protocol, and the reason code that answers it. PURE.

use std::borrow::Cow;
use std::fmt;

use super::packet_type::PacketType;
use super::reason_code::{
    self, MALFORMED_PACKET, PACKET_TOO_LARGE, PROTOCOL_ERROR, TOPIC_ALIAS_INVALID,
    TOPIC_NAME_INVALID,
};

/// Why a packet is not acceptable (MQTT 5.0 section 4.13).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The reason code of the DISCONNECT that answers it in MQTT 5.
    pub code: u8,
    /// The type of the packet; none if there is no such type.
    pub packet: Option<PacketType>,
    /// What is wrong with it.
    pub cause: Cow<'static, str>,
    /// What to do about it, where that is known.
    pub remedy: Option<&'static str>,
}

impl Violation {
    /// The packet cannot be parsed according to the specification.
    pub fn malformed(cause: impl Into<Cow<'static, str>>) -> Self {
        Self::new(MALFORMED_PACKET, cause)
    }

    /// The packet can be parsed, but its contents, or that it comes now, are not allowed.
    pub fn protocol_error(cause: impl Into<Cow<'static, str>>) -> Self {
        Self::new(PROTOCOL_ERROR, cause)
    }

    /// A topic alias that was not agreed.
    pub fn topic_alias(cause: impl Into<Cow<'static, str>>) -> Self {
        Self::new(TOPIC_ALIAS_INVALID, cause)
    }

    /// A topic name that no message may have.
    pub fn topic_name(cause: impl Into<Cow<'static, str>>) -> Self {
        Self::new(TOPIC_NAME_INVALID, cause)
    }

    /// The packet is larger than the Maximum Packet Size.
    pub fn too_large(cause: impl Into<Cow<'static, str>>) -> Self {
        Self::new(PACKET_TOO_LARGE, cause)
    }

    fn new(code: u8, cause: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            packet: None,
            cause: cause.into(),
            remedy: None,
        }
    }

    /// The same, with what to do about it.
    pub fn with_remedy(self, remedy: &'static str) -> Self {
        Self {
            remedy: Some(remedy),
            ..self
        }
    }

    /// The same, in a packet of this type.
    pub fn of(self, packet: Option<PacketType>) -> Self {
        Self { packet, ..self }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            code,
            packet,
            cause,
            ..
        } = self;
        let packet = packet.map_or("packet", PacketType::name);
        write!(f, "{packet}: {cause}: {}", reason_code::describe(*code))
    }
}

impl std::error::Error for Violation {}
