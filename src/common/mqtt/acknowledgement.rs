//! PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK (MQTT 5.0 sections 3.4 to 3.7, 3.9, 3.11). PURE.

use super::field_reader::FieldReader;
use super::framing;
use super::packet_type::PacketType;
use super::properties::{self, PropertyId, Value};
use super::reason_codes::{self, FIRST_ERROR};
use super::violation::Violation;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement<'a> {
    pub packet: PacketType,
    pub packet_id: u16,
    /// 0 in MQTT 3.1.1, except in a SUBACK.
    pub code: u8,
    /// Without U+0000.
    pub reason_string: Option<&'a str>,
}

impl<'a> Acknowledgement<'a> {
    pub fn new(packet: PacketType, packet_id: u16, code: u8) -> Self {
        Self {
            packet,
            packet_id,
            code,
            reason_string: None,
        }
    }

    /// Each SUBSCRIBE and UNSUBSCRIBE of ours has one filter, so its answer has one code.
    pub fn decode(packet: PacketType, body: &'a [u8], v5: bool) -> Result<Self, Violation> {
        let mut reader = FieldReader::new(body);
        let mut acknowledgement = Self::new(packet, reader.u16()?, 0);
        if acknowledgement.packet_id == 0 {
            return Err(Violation::protocol_error("the packet identifier is 0"));
        }
        let has_code = v5 || packet == PacketType::Suback;
        if acknowledgement.has_payload() {
            if v5 {
                acknowledgement.read_properties(&mut reader)?;
            }
            if has_code {
                acknowledgement.read_filter_code(&mut reader)?;
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
        if has_code && !reason_codes::is_allowed(packet, v5, code) {
            return Err(Violation::protocol_error(format!(
                "a reason code that it cannot have (0x{code:02X})"
            )));
        }
        Ok(acknowledgement)
    }

    fn has_payload(&self) -> bool {
        matches!(self.packet, PacketType::Suback | PacketType::Unsuback)
    }

    fn read_properties(&mut self, reader: &mut FieldReader<'a>) -> Result<(), Violation> {
        properties::read(reader, self.packet, |property, value| {
            if let (PropertyId::ReasonString, Value::Text(text)) = (property, value) {
                self.reason_string = Some(text).filter(|text| !text.contains('\0'));
            } else if value.has_nul() {
                return Err(Violation::malformed("a string has a U+0000"));
            }
            Ok(())
        })
    }

    fn read_filter_code(&mut self, reader: &mut FieldReader<'_>) -> Result<(), Violation> {
        let count = reader.rest().len();
        if count != 1 {
            let cause = format!("{count} codes, where one filter was sent");
            return Err(Violation::protocol_error(cause));
        }
        self.code = reader.byte()?;
        Ok(())
    }

    pub fn encode(&self, v5: bool, out: &mut Vec<u8>) {
        let has_payload = self.has_payload();
        if !has_payload && (self.code == 0 || !v5) {
            out.extend(encode_short(self.packet, self.packet_id));
            return;
        }
        let mut body = self.packet_id.to_be_bytes().to_vec();
        let mut properties = Vec::new();
        if let Some(text) = self.reason_string.filter(|_| self.code >= FIRST_ERROR) {
            properties.push(PropertyId::ReasonString as u8);
            // It came with a length of two bytes.
            properties.extend(u16::try_from(text.len()).unwrap_or_default().to_be_bytes());
            properties.extend(text.as_bytes());
        }
        if !has_payload {
            body.push(self.code);
        }
        if v5 {
            framing::push_variable_int(&mut body, properties.len());
            body.extend(properties);
        }
        if self.packet == PacketType::Suback || (has_payload && v5) {
            body.push(self.code);
        }
        out.push(self.packet.first_byte(0));
        framing::push_variable_int(out, body.len());
        out.extend(body);
    }
}

pub fn encode_short(packet: PacketType, packet_id: u16) -> [u8; 4] {
    let flags = if packet == PacketType::Pubrel { 2 } else { 0 };
    let [high, low] = packet_id.to_be_bytes();
    [packet.first_byte(flags), 2, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_for_the_client_library_decodes_to_the_same() {
        let text = "x".repeat(300);
        for packet in [PacketType::Puback, PacketType::Pubrec, PacketType::Suback] {
            for (code, reason_string) in [(0, None), (0x87, None), (0x87, Some(&*text))] {
                let acknowledgement = Acknowledgement {
                    reason_string,
                    ..Acknowledgement::new(packet, 258, code)
                };
                let mut out = Vec::new();
                acknowledgement.encode(true, &mut out);
                let header = framing::parse_header(&out, true).unwrap().unwrap();
                assert_eq!(header.total(), out.len());
                let body = &out[header.length..];
                let read = Acknowledgement::decode(packet, body, true);
                assert_eq!(read, Ok(acknowledgement));
            }
        }
        let mut out = Vec::new();
        Acknowledgement::new(PacketType::Suback, 1, 0x80).encode(false, &mut out);
        assert_eq!(out, [0x90, 3, 0, 1, 0x80]);
    }

    #[test]
    fn a_reason_string_with_a_nul_is_left_out_and_the_refusal_remains() {
        let body = [0, 1, 0x87, 4, 0x1f, 0, 1, 0];
        let read = Acknowledgement::decode(PacketType::Puback, &body, true).unwrap();
        assert_eq!((read.code, read.reason_string), (0x87, None));
    }
}
