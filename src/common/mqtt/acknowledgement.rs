//! PUBACK, PUBREC, PUBREL and PUBCOMP (MQTT 5.0 sections 3.4 to 3.7), SUBACK and UNSUBACK
//! (sections 3.9 and 3.11). PURE.

use super::framing;
use super::packet_type::PacketType;
use super::properties::{self, Property, Value};
use super::reader::Reader;
use super::reason_code::{self, FIRST_ERROR};
use super::violation::Violation;

/// The answer to one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement<'a> {
    /// The type of the answer.
    pub packet: PacketType,
    /// The packet identifier of what it answers.
    pub id: u16,
    /// Its reason code: 0 in MQTT 3.1.1, except in a SUBACK.
    pub code: u8,
    /// What the broker says of it, without U+0000.
    pub reason_string: Option<&'a str>,
}

impl<'a> Acknowledgement<'a> {
    /// Decodes an answer. Each SUBSCRIBE and UNSUBSCRIBE of ours has one filter, so its answer has
    /// one code.
    ///
    /// # Errors
    ///
    /// A malformed packet or a protocol error.
    pub fn decode(packet: PacketType, body: &'a [u8], v5: bool) -> Result<Self, Violation> {
        if let (PacketType::Puback, &[high, low]) = (packet, body)
            && (high, low) != (0, 0)
        {
            // What comes for every message.
            return Ok(Self {
                packet,
                id: u16::from_be_bytes([high, low]),
                code: 0,
                reason_string: None,
            });
        }
        let mut reader = Reader::new(body);
        let mut acknowledgement = Self {
            packet,
            id: reader.short()?,
            code: 0,
            reason_string: None,
        };
        if acknowledgement.id == 0 {
            return Err(Violation::protocol_error("the packet identifier is 0"));
        }
        let has_payload = matches!(packet, PacketType::Suback | PacketType::Unsuback);
        if has_payload {
            if v5 {
                acknowledgement.read_properties(&mut reader)?;
            }
            if v5 || packet == PacketType::Suback {
                acknowledgement.read_one_code(&mut reader)?;
            }
        } else if v5 && !reader.is_empty() {
            acknowledgement.code = reader.byte()?;
            if !reader.is_empty() {
                acknowledgement.read_properties(&mut reader)?;
            }
        }
        if !reader.is_empty() {
            return Err(Violation::malformed("something follows its last field"));
        }
        let code = acknowledgement.code;
        if (v5 || has_payload) && !Self::may_have(packet, v5, code) {
            return Err(Violation::protocol_error(format!(
                "a reason code that it cannot have (0x{code:02X})"
            )));
        }
        Ok(acknowledgement)
    }

    fn may_have(packet: PacketType, v5: bool, code: u8) -> bool {
        (packet == PacketType::Unsuback && !v5) || reason_code::is_allowed(packet, v5, code)
    }

    fn read_properties(&mut self, reader: &mut Reader<'a>) -> Result<(), Violation> {
        properties::read(reader, self.packet, |property, value| {
            match (property, value) {
                (Property::ReasonString, Value::Text(text)) => {
                    self.reason_string = Some(text).filter(|text| !text.contains('\0'));
                }
                _ if value.has_nul() => return Err(Violation::malformed("a string has a U+0000")),
                _ => {}
            }
            Ok(())
        })
    }

    fn read_one_code(&mut self, reader: &mut Reader<'_>) -> Result<(), Violation> {
        let [code] = reader.rest() else {
            return Err(Violation::protocol_error(format!(
                "{} codes, where one filter was sent",
                reader.rest().len()
            )));
        };
        self.code = *code;
        reader.take(1).map(|_| ())
    }

    /// Appends the same, without what the client library need not know: a reason string only
    /// with a code that says no.
    pub fn encode(&self, v5: bool, out: &mut Vec<u8>) {
        let id = self.id.to_be_bytes();
        let has_payload = matches!(self.packet, PacketType::Suback | PacketType::Unsuback);
        if !has_payload && (self.code == 0 || !v5) {
            let [high, low] = id;
            out.extend_from_slice(&[self.packet.first_byte(0), 2, high, low]);
            return;
        }
        let mut body = id.to_vec();
        let mut properties = Vec::new();
        if let Some(text) = self.reason_string.filter(|_| self.code >= FIRST_ERROR) {
            properties.push(0x1F);
            // It came with a length of two bytes.
            properties.extend(u16::try_from(text.len()).unwrap_or_default().to_be_bytes());
            properties.extend(text.as_bytes());
        }
        if !has_payload {
            body.push(self.code);
        }
        if v5 {
            framing::push_variable(&mut body, properties.len());
            body.extend(properties);
        }
        if self.packet == PacketType::Suback || (has_payload && v5) {
            body.push(self.code);
        }
        out.push(self.packet.first_byte(0));
        framing::push_variable(out, body.len());
        out.extend(body);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_library_gets_reads_back() {
        let text = "x".repeat(300);
        for packet in [PacketType::Puback, PacketType::Pubrec, PacketType::Suback] {
            for (code, reason_string) in [(0, None), (0x87, None), (0x87, Some(&*text))] {
                let acknowledgement = Acknowledgement {
                    packet,
                    id: 258,
                    code,
                    reason_string,
                };
                let mut out = Vec::new();
                acknowledgement.encode(true, &mut out);
                let header = framing::header(&out, true).unwrap().unwrap();
                assert_eq!(header.total(), out.len());
                let body = &out[header.length..];
                let read = Acknowledgement::decode(packet, body, true);
                assert_eq!(read, Ok(acknowledgement));
            }
        }
        let mut out = Vec::new();
        let (packet, code) = (PacketType::Suback, 0x80);
        let refusal = Acknowledgement {
            packet,
            id: 1,
            code,
            reason_string: None,
        };
        refusal.encode(false, &mut out);
        assert_eq!(out, [0x90, 3, 0, 1, 0x80]);
    }

    #[test]
    fn a_reason_string_with_a_nul_is_left_out_and_the_refusal_counts() {
        let body = [0, 1, 0x87, 4, 0x1f, 0, 1, 0];
        let read = Acknowledgement::decode(PacketType::Puback, &body, true).unwrap();
        assert_eq!((read.code, read.reason_string), (0x87, None));
    }
}
