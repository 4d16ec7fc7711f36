//! A packet that breaks the protocol, and the reason code that answers it. PURE.

use std::borrow::Cow;

use thiserror::Error;

use super::packet_type::PacketType;
use super::reason_codes::{self, MALFORMED_PACKET, PROTOCOL_ERROR};

#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error(
    "{}: {cause}: {}",
    .packet.map_or("packet", PacketType::name),
    reason_codes::describe(*.code)
)]
pub struct Violation {
    /// Of the DISCONNECT that answers it in MQTT 5.
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

    pub fn malformed(cause: impl Into<Cow<'static, str>>) -> Self {
        Self::new(MALFORMED_PACKET, cause)
    }

    /// Its contents are not allowed, or not in this state of the connection.
    pub fn protocol_error(cause: impl Into<Cow<'static, str>>) -> Self {
        Self::new(PROTOCOL_ERROR, cause)
    }

    pub fn in_packet(self, packet: Option<PacketType>) -> Self {
        Self { packet, ..self }
    }
}
