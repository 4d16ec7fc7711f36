//! CONNACK (MQTT 5.0 section 3.2, MQTT 3.1.1 section 3.2). PURE.

use std::time::Duration;

use super::disconnect::Diagnosis;
use super::packet_type::PacketType;
use super::properties::{self, Property, Value};
use super::reader::Reader;
use super::reason_code::{FIRST_ERROR, UNSUPPORTED_PROTOCOL_VERSION};
use super::violation::Violation;

/// What a broker says when it accepts a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connack {
    /// Whether it has the session of an earlier connection.
    pub session_present: bool,
    /// Unacknowledged messages above QoS 0 that it takes; none for 65,535.
    pub receive_maximum: Option<u16>,
    /// The keep-alive that it wants in the place of ours.
    pub server_keep_alive: Option<Duration>,
    /// The largest packet that it takes, in bytes.
    pub maximum_packet_size: Option<u32>,
    /// The highest QoS that it takes; none for 2.
    pub maximum_qos: Option<u8>,
    /// Whether it keeps retained messages.
    pub retain_available: bool,
}

/// The answer to CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The connection is accepted.
    Accepted(Connack),
    /// It is refused by a broker that speaks the version that was asked for. With MQTT 3.1.1 the
    /// code is a return code, 1 to 5.
    Refused(Diagnosis),
    /// A broker that knows no MQTT 5 answers so; the code is the one of MQTT 5.
    OlderVersion(Diagnosis),
}

/// Decodes a CONNACK. `clean` is whether CONNECT asked for a new session.
///
/// # Errors
///
/// A malformed packet or a protocol error.
pub fn decode(body: &[u8], v5: bool, clean: bool) -> Result<Answer, Violation> {
    let mut reader = Reader::new(body);
    let flags = reader.byte()?;
    let code = reader.byte()?;
    if v5 && reader.is_empty() && code != 0 {
        // In the form of MQTT 3.1.1: a broker of today adds the length of its properties.
        let diagnosis = Diagnosis::of(UNSUPPORTED_PROTOCOL_VERSION);
        return Ok(Answer::OlderVersion(diagnosis));
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
    let mut diagnosis = Diagnosis::of(code);
    if v5 {
        properties::read(&mut reader, PacketType::Connack, |property, value| {
            diagnosis.take(property, value);
            connack.take(property, value)
        })?;
    }
    if !reader.is_empty() {
        return Err(Violation::malformed("something follows its last field"));
    }
    if connack.session_present && code != 0 {
        return Err(Violation::protocol_error("Session Present in a refusal"));
    }
    if connack.session_present && clean {
        return Err(Violation::protocol_error(
            "Session Present, where a new session was asked for",
        ));
    }
    let is_refusal = if v5 {
        code >= FIRST_ERROR
    } else {
        (1..=5).contains(&code)
    };
    match code {
        0 => Ok(Answer::Accepted(connack)),
        UNSUPPORTED_PROTOCOL_VERSION if v5 => Ok(Answer::OlderVersion(diagnosis)),
        _ if is_refusal => Ok(Answer::Refused(diagnosis)),
        _ => Err(Violation::protocol_error(format!(
            "a code that it cannot have (0x{code:02X})"
        ))),
    }
}

impl Connack {
    fn take(&mut self, property: Property, value: Value<'_>) -> Result<(), Violation> {
        let must_not = |what: &'static str| Err(Violation::protocol_error(what));
        if value.has_nul() && property != Property::ReasonString {
            return Err(Violation::malformed("a string has a U+0000"));
        }
        let Value::Number(number) = value else {
            return match property {
                Property::AuthenticationMethod | Property::AuthenticationData => {
                    must_not("authentication that was not asked for")
                }
                _ => Ok(()),
            };
        };
        // Not above what the property's type holds.
        let short = u16::try_from(number).unwrap_or(u16::MAX);
        match property {
            Property::ReceiveMaximum if number == 0 => must_not("Receive Maximum is 0"),
            Property::MaximumPacketSize if number == 0 => must_not("Maximum Packet Size is 0"),
            Property::MaximumQos if number > 1 => must_not("Maximum QoS is neither 0 nor 1"),
            Property::RetainAvailable
            | Property::WildcardSubscriptionAvailable
            | Property::SubscriptionIdentifierAvailable
            | Property::SharedSubscriptionAvailable
                if number > 1 =>
            {
                must_not("a value that is either 0 or 1 is neither")
            }
            Property::ReceiveMaximum => {
                self.receive_maximum = Some(short);
                Ok(())
            }
            Property::ServerKeepAlive => {
                self.server_keep_alive = Some(Duration::from_secs(number.into()));
                Ok(())
            }
            Property::MaximumPacketSize => {
                self.maximum_packet_size = Some(number);
                Ok(())
            }
            Property::MaximumQos => {
                self.maximum_qos = u8::try_from(number).ok();
                Ok(())
            }
            Property::RetainAvailable => {
                self.retain_available = number == 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Appends a CONNACK that says no more than the client library has to know.
    pub fn encode(&self, v5: bool, out: &mut Vec<u8>) {
        let mut properties = Vec::new();
        if let Some(maximum) = self.receive_maximum {
            properties.push(0x21);
            properties.extend(maximum.to_be_bytes());
        }
        if let Some(keep_alive) = self.server_keep_alive {
            let seconds = u16::try_from(keep_alive.as_secs()).unwrap_or(u16::MAX);
            properties.push(0x13);
            properties.extend(seconds.to_be_bytes());
        }
        // Six bytes at most.
        let length = u8::try_from(properties.len()).unwrap_or_default();
        let fixed = [u8::from(self.session_present), 0];
        out.push(PacketType::Connack.first_byte(0));
        if v5 {
            out.push(3 + length);
            out.extend(fixed);
            out.push(length);
            out.extend(properties);
        } else {
            out.push(2);
            out.extend(fixed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(body: &[u8]) -> Connack {
        match decode(body, true, true) {
            Ok(Answer::Accepted(connack)) => connack,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_the_library_gets_reads_back() {
        let body = [0, 0, 9, 0x21, 0, 20, 0x13, 0, 7, 0x24, 1, 0x25];
        assert!(decode(&body, true, true).is_err(), "it is cut off");
        let body = [0, 0, 10, 0x21, 0, 20, 0x13, 0, 7, 0x24, 1, 0x25, 0];
        let connack = accepted(&body);
        assert_eq!(connack.receive_maximum, Some(20));
        assert_eq!(connack.server_keep_alive, Some(Duration::from_secs(7)));
        assert_eq!(connack.maximum_qos, Some(1));
        assert!(!connack.retain_available);
        let mut out = Vec::new();
        connack.encode(true, &mut out);
        assert_eq!(out, [0x20, 9, 0, 0, 6, 0x21, 0, 20, 0x13, 0, 7]);
        let told = accepted(&out[2..]);
        assert_eq!(told.receive_maximum, connack.receive_maximum);
        assert_eq!(told.server_keep_alive, connack.server_keep_alive);
        let mut out = Vec::new();
        connack.encode(false, &mut out);
        assert_eq!(out, [0x20, 2, 0, 0]);
    }

    #[test]
    fn a_refusal_keeps_its_code_and_its_words() {
        let body = [&[0, 0xA5, 6, 0x1F, 0, 3][..], b"why"].concat();
        let diagnosis = Diagnosis {
            code: 0xA5,
            reason_string: Some("why".into()),
            server_reference: None,
        };
        assert_eq!(decode(&body, true, true), Ok(Answer::Refused(diagnosis)));
        let refused = Answer::Refused(Diagnosis::of(5));
        assert_eq!(decode(&[0, 5], false, true), Ok(refused));
        let older = Ok(Answer::OlderVersion(Diagnosis::of(0x84)));
        assert_eq!(decode(&[0, 1], true, true), older);
        assert_eq!(decode(&[0, 0x84, 0], true, true), older);
    }
}
