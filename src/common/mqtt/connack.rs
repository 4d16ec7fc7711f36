//! CONNACK (MQTT 5.0 section 3.2, MQTT 3.1.1 section 3.2). PURE.

use std::time::Duration;

use super::disconnect_reason::BrokerReason;
use super::field_reader::FieldReader;
use super::packet_type::PacketType;
use super::properties::{self, PropertyId, Value};
use super::reason_codes::{FIRST_ERROR, UNSUPPORTED_PROTOCOL_VERSION};
use super::violation::Violation;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connack {
    pub session_present: bool,
    pub receive_maximum: Option<u16>,
    pub server_keep_alive: Option<Duration>,
    pub maximum_packet_size: Option<u32>,
    pub maximum_qos: Option<u8>,
    pub retain_available: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectAnswer {
    Accepted(Connack),
    /// The broker speaks the version that was asked for. With MQTT 3.1.1 the code is a return code, 1 to 5.
    Refused(BrokerReason),
    /// The broker does not speak MQTT 5; the code is the one of MQTT 5.
    OlderVersion(BrokerReason),
}

/// `clean` is whether CONNECT asked for a new session.
pub fn decode(body: &[u8], v5: bool, clean: bool) -> Result<ConnectAnswer, Violation> {
    let mut reader = FieldReader::new(body);
    let flags = reader.byte()?;
    let code = reader.byte()?;
    if v5 && reader.is_empty() && code != 0 {
        // In the form of MQTT 3.1.1: a broker that speaks MQTT 5 adds the length of its properties.
        let reason = BrokerReason::from_code(UNSUPPORTED_PROTOCOL_VERSION);
        return Ok(ConnectAnswer::OlderVersion(reason));
    }
    if flags > 1 {
        return Err(Violation::malformed("a reserved flag is set"));
    }
    let mut connack = Connack {
        session_present: flags == 1,
        receive_maximum: None,
        server_keep_alive: None,
        maximum_packet_size: None,
        maximum_qos: None,
        retain_available: true,
    };
    let mut reason = BrokerReason::from_code(code);
    if v5 {
        properties::read(&mut reader, PacketType::Connack, |property, value| {
            reason.add_property(property, value)?;
            connack.set_property(property, value)
        })?;
    }
    if !reader.is_empty() {
        return Err(Violation::malformed("something follows its last field"));
    }
    if connack.session_present && code != 0 {
        return Err(Violation::protocol_error("Session Present in a refusal"));
    }
    if connack.session_present && clean {
        let cause = "Session Present, where a new session was asked for";
        return Err(Violation::protocol_error(cause));
    }
    match code {
        0 => Ok(ConnectAnswer::Accepted(connack)),
        UNSUPPORTED_PROTOCOL_VERSION if v5 => Ok(ConnectAnswer::OlderVersion(reason)),
        FIRST_ERROR.. if v5 => Ok(ConnectAnswer::Refused(reason)),
        1..=5 if !v5 => Ok(ConnectAnswer::Refused(reason)),
        _ => Err(Violation::protocol_error(format!(
            "a code that it cannot have (0x{code:02X})"
        ))),
    }
}

impl Connack {
    fn set_property(&mut self, property: PropertyId, value: Value<'_>) -> Result<(), Violation> {
        let error = match (property, value) {
            (PropertyId::AuthenticationMethod | PropertyId::AuthenticationData, _) => {
                "authentication that was not asked for"
            }
            (PropertyId::ReceiveMaximum, Value::Number(0)) => "Receive Maximum is 0",
            (PropertyId::MaximumPacketSize, Value::Number(0)) => "Maximum Packet Size is 0",
            (PropertyId::MaximumQos, Value::Number(2..)) => "Maximum QoS is neither 0 nor 1",
            (
                PropertyId::RetainAvailable
                | PropertyId::WildcardSubscriptionAvailable
                | PropertyId::SubscriptionIdentifierAvailable
                | PropertyId::SharedSubscriptionAvailable,
                Value::Number(2..),
            ) => "a value that is either 0 or 1 is neither",
            (property, Value::Number(number)) => {
                match property {
                    PropertyId::ReceiveMaximum => self.receive_maximum = u16::try_from(number).ok(),
                    PropertyId::ServerKeepAlive => {
                        self.server_keep_alive = Some(Duration::from_secs(number.into()));
                    }
                    PropertyId::MaximumPacketSize => self.maximum_packet_size = Some(number),
                    PropertyId::MaximumQos => self.maximum_qos = u8::try_from(number).ok(),
                    PropertyId::RetainAvailable => self.retain_available = number == 1,
                    _ => {}
                }
                return Ok(());
            }
            _ => return Ok(()),
        };
        Err(Violation::protocol_error(error))
    }

    pub fn encode(&self, v5: bool, out: &mut Vec<u8>) {
        let mut properties = Vec::new();
        if let Some(maximum) = self.receive_maximum {
            properties.push(PropertyId::ReceiveMaximum as u8);
            properties.extend(maximum.to_be_bytes());
        }
        if let Some(keep_alive) = self.server_keep_alive {
            let seconds = u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX);
            properties.push(PropertyId::ServerKeepAlive as u8);
            properties.extend(seconds.to_be_bytes());
        }
        // Six bytes at most.
        let length = u8::try_from(properties.len()).unwrap_or_default();
        let first = PacketType::Connack.first_byte(0);
        let flags = u8::from(self.session_present);
        if v5 {
            out.extend([first, 3 + length, flags, 0, length]);
            out.extend(properties);
        } else {
            out.extend([first, 2, flags, 0]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(body: &[u8]) -> Connack {
        match decode(body, true, true) {
            Ok(ConnectAnswer::Accepted(connack)) => connack,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_library_gets_reads_back() {
        let body = [0, 0, 9, 0x21, 0, 20, 0x13, 0, 7, 0x24, 1, 0x25];
        assert!(decode(&body, true, true).is_err(), "it is cut off");
        let body = [0, 0, 10, 0x21, 0, 20, 0x13, 0, 7, 0x24, 1, 0x25, 0];
        let connack = accepted(&body);
        let expected = Connack {
            session_present: false,
            receive_maximum: Some(20),
            server_keep_alive: Some(Duration::from_secs(7)),
            maximum_packet_size: None,
            maximum_qos: Some(1),
            retain_available: false,
        };
        assert_eq!(connack, expected);
        let mut out = Vec::new();
        connack.encode(true, &mut out);
        assert_eq!(out, [0x20, 9, 0, 0, 6, 0x21, 0, 20, 0x13, 0, 7]);
        let read = accepted(&out[2..]);
        assert_eq!(read.receive_maximum, connack.receive_maximum);
        assert_eq!(read.server_keep_alive, connack.server_keep_alive);
        let mut out = Vec::new();
        connack.encode(false, &mut out);
        assert_eq!(out, [0x20, 2, 0, 0]);
    }

    #[test]
    fn a_refusal_keeps_its_code_and_its_words() {
        let body = [&[0, 0xA5, 6, 0x1F, 0, 3][..], b"why"].concat();
        let reason = BrokerReason {
            code: 0xA5,
            reason_string: Some("why".into()),
            server_reference: None,
        };
        assert_eq!(
            decode(&body, true, true),
            Ok(ConnectAnswer::Refused(reason))
        );
        let refused = ConnectAnswer::Refused(BrokerReason::from_code(5));
        assert_eq!(decode(&[0, 5], false, true), Ok(refused));
        let older = Ok(ConnectAnswer::OlderVersion(BrokerReason::from_code(0x84)));
        assert_eq!(decode(&[0, 1], true, true), older);
        assert_eq!(decode(&[0, 0x84, 0], true, true), older);
    }
}
