//! A broker's DISCONNECT (MQTT 5.0 section 3.14), and what a broker says of a refusal. PURE.

use super::packet_type::PacketType;
use super::properties::{self, Property, Value};
use super::reader::Reader;
use super::violation::Violation;
use crate::common::escape::shortened;

/// Why a broker refuses or ends a connection, as it said it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diagnosis {
    /// The reason code, whether the specification has it or not.
    pub code: u8,
    pub reason_string: Option<String>,
    pub server_reference: Option<String>,
}

impl Diagnosis {
    /// A code without further words.
    pub fn of(code: u8) -> Self {
        Self {
            code,
            ..Self::default()
        }
    }

    /// Takes the property if it is one of its own. A text with a U+0000 is left out: it explains
    /// what matters, and is not that itself.
    pub(super) fn take(&mut self, property: Property, value: Value<'_>) {
        let into = match property {
            Property::ReasonString => &mut self.reason_string,
            Property::ServerReference => &mut self.server_reference,
            _ => return,
        };
        if let Value::Text(text) = value
            && !text.is_empty()
            && !value.has_nul()
        {
            *into = Some(shortened(text));
        }
    }
}

/// Decodes the DISCONNECT of a broker that speaks MQTT 5. A code that it cannot have is left as it is: the
/// connection ends either way.
///
/// # Errors
///
/// A malformed packet or a protocol error.
pub fn decode(body: &[u8]) -> Result<Diagnosis, Violation> {
    let mut reader = Reader::new(body);
    let mut diagnosis = Diagnosis::default();
    if reader.is_empty() {
        return Ok(diagnosis);
    }
    diagnosis.code = reader.byte()?;
    if diagnosis.code == 0x04 {
        return Err(Violation::protocol_error(
            "a reason code that only a client may send (0x04)",
        ));
    }
    if reader.is_empty() {
        return Ok(diagnosis);
    }
    properties::read(&mut reader, PacketType::Disconnect, |property, value| {
        diagnosis.take(property, value);
        if value.has_nul() && property != Property::ReasonString {
            return Err(Violation::malformed("a string has a U+0000"));
        }
        Ok(())
    })?;
    if reader.is_empty() {
        Ok(diagnosis)
    } else {
        Err(Violation::malformed("something follows its properties"))
    }
}
