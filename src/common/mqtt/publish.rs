//! PUBLISH as a broker sends it (section 3.3 of MQTT 5.0 and 3.1.1), and the received message. PURE.

use super::field_reader::FieldReader;
use super::packet_type::PacketType;
use super::properties::{self, PropertyId, RawProperties, Value};
use super::qos::Qos;
use super::reason_codes::{TOPIC_ALIAS_INVALID, TOPIC_NAME_INVALID};
use super::seq_property::SeqProperty;
use super::violation::Violation;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    pub dup: bool,
    pub topic: &'a [u8],
    pub defect: Option<TextDefect>,
    pub message: Received<'a>,
}

/// Invalid text that brokers pass on. The message is skipped: if the connection were closed, a retained message would
/// close the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextDefect {
    TopicNotUtf8,
    TopicNul,
    PropertyNul,
}

impl TextDefect {
    pub fn describe(self) -> &'static str {
        match self {
            Self::TopicNotUtf8 => "its topic is not valid UTF-8",
            Self::TopicNul => "its topic has a U+0000",
            Self::PropertyNul => "a property has a U+0000",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishProperties<'a> {
    /// 1 if the sender says that the payload is UTF-8.
    pub payload_format: Option<u8>,
    /// Seconds.
    pub message_expiry: Option<u32>,
    pub topic_alias: Option<u16>,
    pub response_topic: Option<&'a str>,
    pub correlation_data: Option<&'a [u8]>,
    pub content_type: Option<&'a str>,
    /// What may be there more than once. They stay in the packet: there may be millions.
    pub repeated: RawProperties<'a>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub qos: Qos,
    pub retained: bool,
    /// The packet identifier; 0 at QoS 0.
    pub packet_id: u16,
    /// None if no publisher of ours has sent it.
    pub seq: Option<SeqProperty>,
    pub properties: Option<PublishProperties<'a>>,
}

impl<'a> Publish<'a> {
    pub fn decode(first: u8, body: &'a [u8], v5: bool) -> Result<Self, Violation> {
        let qos =
            Qos::from_level(first >> 1 & 3).ok_or_else(|| Violation::malformed("its QoS is 3"))?;
        let dup = first & 8 != 0;
        if qos == Qos::AtMostOnce && dup {
            return Err(Violation::malformed("DUP is set at QoS 0"));
        }
        let mut reader = FieldReader::new(body);
        let topic = reader.binary()?;
        let text = std::str::from_utf8(topic);
        let mut defect = match text {
            Err(_) => Some(TextDefect::TopicNotUtf8),
            Ok(topic) if topic.contains('\0') => Some(TextDefect::TopicNul),
            Ok(_) => None,
        };
        if defect.is_none() && topic.iter().any(|byte| matches!(byte, b'+' | b'#')) {
            let cause = "its topic has a wildcard";
            return Err(Violation::new(TOPIC_NAME_INVALID, cause));
        }
        let has_packet_id = qos != Qos::AtMostOnce;
        let packet_id = if has_packet_id { reader.u16()? } else { 0 };
        if has_packet_id && packet_id == 0 {
            return Err(Violation::protocol_error("the packet identifier is 0"));
        }
        let mut properties = None;
        if v5 {
            properties = Some(PublishProperties::read(&mut reader, |value| {
                if value.has_nul() {
                    defect = defect.or(Some(TextDefect::PropertyNul));
                }
            })?);
        }
        if topic.is_empty() {
            return Err(if v5 {
                Violation::protocol_error("it has neither a topic nor a topic alias")
            } else {
                Violation::malformed("its topic is empty")
            });
        }
        Ok(Self {
            dup,
            topic,
            defect,
            message: Received {
                topic: text.unwrap_or_default(),
                payload: reader.rest(),
                qos,
                retained: first & 1 != 0,
                packet_id,
                seq: properties.and_then(|all| SeqProperty::find(all.repeated)),
                properties,
            },
        })
    }
}

impl<'a> PublishProperties<'a> {
    pub(super) fn read(
        reader: &mut FieldReader<'a>,
        mut each: impl FnMut(&Value<'a>),
    ) -> Result<Self, Violation> {
        let mut collected = Self::default();
        let begin = reader.rest();
        properties::read(reader, PacketType::Publish, |property, value| {
            each(&value);
            collected.set_property(property, value)
        })?;
        let length = begin.len() - reader.rest().len();
        collected.repeated = RawProperties::from_checked(begin.get(..length).unwrap_or_default());
        Ok(collected)
    }

    fn set_property(&mut self, property: PropertyId, value: Value<'a>) -> Result<(), Violation> {
        match (property, value) {
            (PropertyId::PayloadFormatIndicator, Value::Number(2..)) => {
                let cause = "Payload Format Indicator is neither 0 nor 1";
                return Err(Violation::protocol_error(cause));
            }
            (PropertyId::PayloadFormatIndicator, Value::Number(number)) => {
                self.payload_format = u8::try_from(number).ok();
            }
            (PropertyId::MessageExpiryInterval, Value::Number(number)) => {
                self.message_expiry = Some(number);
            }
            // Our CONNECT has no Topic Alias Maximum, so there is none (MQTT-3.1.2-27).
            (PropertyId::TopicAlias, _) => {
                let cause = "a topic alias, where none is allowed";
                return Err(Violation::new(TOPIC_ALIAS_INVALID, cause));
            }
            (PropertyId::SubscriptionIdentifier, Value::Number(0)) => {
                return Err(Violation::protocol_error("Subscription Identifier is 0"));
            }
            (PropertyId::ResponseTopic, Value::Text(text)) => {
                if text.contains(['+', '#']) {
                    return Err(Violation::protocol_error("Response Topic has a wildcard"));
                }
                self.response_topic = Some(text);
            }
            (PropertyId::ContentType, Value::Text(text)) => self.content_type = Some(text),
            (PropertyId::CorrelationData, Value::Binary(bytes)) => {
                self.correlation_data = Some(bytes);
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_text_is_a_defect_and_a_broken_rule_is_a_violation() {
        type Row<'a> = (u8, &'a [u8], Result<Option<TextDefect>, u8>);
        let rows: [Row<'_>; 11] = [
            (0x30, b"\0\x01t\0x", Ok(None)),
            (0x30, b"\0\x03\xef\xbf\xbf\0", Ok(None)),
            (0x30, b"\0\x01\0\0", Ok(Some(TextDefect::TopicNul))),
            (0x30, b"\0\x01\xff\0", Ok(Some(TextDefect::TopicNotUtf8))),
            (
                0x30,
                b"\0\x01t\x07\x26\0\x01\0\0\x01c",
                Ok(Some(TextDefect::PropertyNul)),
            ),
            (0x30, b"\0\x01t\x07\x26\0\x01\xff\0\x01c", Err(0x81)),
            (0x36, b"\0\x01t\0\x01\0", Err(0x81)),
            (0x32, b"\0\x01t\0\0\0", Err(0x82)),
            (0x30, b"\0\x00\0", Err(0x82)),
            (0x30, b"\0\x01t\x03\x23\0\x01", Err(0x94)),
            (0x30, b"\0\x01t\x05\x02", Err(0x81)),
        ];
        for (first, body, expected) in rows {
            let publish = Publish::decode(first, body, true);
            let defect = publish.map(|publish| publish.defect);
            assert_eq!(defect.map_err(|v| v.code), expected, "{body:?}");
        }
    }
}
