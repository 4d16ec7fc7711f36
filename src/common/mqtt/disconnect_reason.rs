//! A broker's DISCONNECT (MQTT 5.0 section 3.14), and why a broker refuses or ends a connection. PURE.

use super::field_reader::FieldReader;
use super::packet_type::PacketType;
use super::properties::{self, PropertyId, Value};
use super::violation::Violation;
use crate::common::escape::cut_to_log_length;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerReason {
    pub code: u8,
    pub reason_string: Option<String>,
    pub server_reference: Option<String>,
}

impl BrokerReason {
    pub fn from_code(code: u8) -> Self {
        Self {
            code,
            ..Self::default()
        }
    }

    /// Takes texts that explain the code. A reason string with a U+0000 is left out; in any other text it is a
    /// violation.
    pub(super) fn add_property(
        &mut self,
        property: PropertyId,
        value: Value<'_>,
    ) -> Result<(), Violation> {
        if value.has_nul() && property != PropertyId::ReasonString {
            return Err(Violation::malformed("a string has a U+0000"));
        }
        let into = match property {
            PropertyId::ReasonString => &mut self.reason_string,
            PropertyId::ServerReference => &mut self.server_reference,
            _ => return Ok(()),
        };
        if let Value::Text(text) = value
            && !text.is_empty()
            && !value.has_nul()
        {
            *into = Some(cut_to_log_length(text));
        }
        Ok(())
    }
}

/// A code that does not belong in a DISCONNECT is no error: the connection ends either way.
pub fn decode_disconnect(body: &[u8]) -> Result<BrokerReason, Violation> {
    let mut reader = FieldReader::new(body);
    let mut reason = BrokerReason::default();
    if reader.is_empty() {
        return Ok(reason);
    }
    reason.code = reader.byte()?;
    if reason.code == 0x04 {
        let cause = "a reason code that only a client may send (0x04)";
        return Err(Violation::protocol_error(cause));
    }
    if reader.is_empty() {
        return Ok(reason);
    }
    properties::read(&mut reader, PacketType::Disconnect, |property, value| {
        reason.add_property(property, value)
    })?;
    if !reader.is_empty() {
        return Err(Violation::malformed("something follows its properties"));
    }
    Ok(reason)
}
