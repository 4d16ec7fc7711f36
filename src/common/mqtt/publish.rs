//! PUBLISH as a broker sends it (MQTT 5.0 section 3.3, MQTT 3.1.1 section 3.3). PURE.

use super::packet_type::PacketType;
use super::properties::{self, Property, Repeated, Value};
use super::reader::Reader;
use super::violation::Violation;
use crate::common::mqtt::message::{PublishProperties, Qos};

/// A message that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// How it is to be acknowledged.
    pub qos: Qos,
    /// Whether it is a retained message.
    pub retain: bool,
    /// Whether the broker says that it has sent it before.
    pub dup: bool,
    /// The packet identifier; 0 at QoS 0.
    pub id: u16,
    /// The topic as it came.
    pub topic: &'a [u8],
    /// What of it a receiver cannot be given, if there is such a thing.
    pub defect: Option<Defect>,
    /// Its properties; none with MQTT 3.1.1.
    pub properties: Option<PublishProperties<'a>>,
    pub payload: &'a [u8],
}

/// What is no text in a message, though brokers pass it on. The message is skipped; to end the
/// connection would bring it again if it is retained, and end the connection again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// The topic is not valid UTF-8.
    TopicNotUtf8,
    /// The topic has a U+0000.
    TopicNul,
    /// A property has a U+0000.
    PropertyNul,
}

impl Defect {
    /// The defect in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::TopicNotUtf8 => "its topic is not valid UTF-8",
            Self::TopicNul => "its topic has a U+0000",
            Self::PropertyNul => "a property has a U+0000",
        }
    }
}

impl<'a> Publish<'a> {
    /// Decodes a message. `first` is the packet's first byte.
    ///
    /// # Errors
    ///
    /// A malformed packet or a protocol error.
    pub fn decode(first: u8, body: &'a [u8], v5: bool) -> Result<Self, Violation> {
        let qos =
            Qos::from_level(first >> 1 & 3).ok_or_else(|| Violation::malformed("its QoS is 3"))?;
        if qos == Qos::AtMostOnce && first & 8 != 0 {
            return Err(Violation::malformed("DUP is set at QoS 0"));
        }
        let mut reader = Reader::new(body);
        let topic = reader.binary()?;
        let defect = match std::str::from_utf8(topic) {
            Err(_) => Some(Defect::TopicNotUtf8),
            Ok(topic) if topic.contains('\0') => Some(Defect::TopicNul),
            Ok(_) => None,
        };
        if defect.is_none() && topic.iter().any(|byte| matches!(byte, b'+' | b'#')) {
            return Err(Violation::topic_name("its topic has a wildcard"));
        }
        let id = if qos == Qos::AtMostOnce {
            0
        } else {
            reader.short()?
        };
        if qos != Qos::AtMostOnce && id == 0 {
            return Err(Violation::protocol_error("the packet identifier is 0"));
        }
        let mut publish = Self {
            qos,
            retain: first & 1 != 0,
            dup: first & 8 != 0,
            id,
            topic,
            defect,
            properties: None,
            payload: &[],
        };
        if v5 {
            let mut collected = PublishProperties::default();
            let begin = reader;
            properties::read(&mut reader, PacketType::Publish, |property, value| {
                if value.has_nul() {
                    publish.defect = publish.defect.or(Some(Defect::PropertyNul));
                }
                collect(&mut collected, property, value)
            })?;
            let length = begin.rest().len() - reader.rest().len();
            let mut properties = Reader::new(begin.rest().get(..length).unwrap_or_default());
            properties.variable()?;
            collected.repeated = Repeated::of(properties.rest());
            publish.properties = Some(collected);
        }
        if topic.is_empty() {
            return Err(if v5 {
                Violation::protocol_error("it has neither a topic nor a topic alias")
            } else {
                Violation::malformed("its topic is empty")
            });
        }
        publish.payload = reader.rest();
        Ok(publish)
    }

    /// The topic as text; empty if it is none.
    pub fn topic_text(&self) -> &'a str {
        std::str::from_utf8(self.topic).unwrap_or_default()
    }
}

fn collect<'a>(
    collected: &mut PublishProperties<'a>,
    property: Property,
    value: Value<'a>,
) -> Result<(), Violation> {
    match (property, value) {
        (Property::PayloadFormatIndicator, Value::Number(number)) => {
            if number > 1 {
                let cause = "Payload Format Indicator is neither 0 nor 1";
                return Err(Violation::protocol_error(cause));
            }
            collected.payload_format = u8::try_from(number).ok();
        }
        (Property::MessageExpiryInterval, Value::Number(number)) => {
            collected.message_expiry = Some(number);
        }
        // Our CONNECT has no Topic Alias Maximum, so there is none (MQTT-3.1.2-27).
        (Property::TopicAlias, _) => {
            return Err(Violation::topic_alias(
                "a topic alias, where none is allowed",
            ));
        }
        (Property::SubscriptionIdentifier, Value::Number(0)) => {
            return Err(Violation::protocol_error("Subscription Identifier is 0"));
        }
        (Property::ResponseTopic, Value::Text(text)) => {
            if text.contains(['+', '#']) {
                let cause = "Response Topic has a wildcard";
                return Err(Violation::protocol_error(cause));
            }
            collected.response_topic = Some(text);
        }
        (Property::ContentType, Value::Text(text)) => {
            collected.content_type = Some(text);
        }
        (Property::CorrelationData, Value::Binary(bytes)) => {
            collected.correlation_data = Some(bytes);
        }
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_a_defect_and_what_breaks_the_protocol_a_violation() {
        let decode = |first: u8, body: &[u8]| {
            Publish::decode(first, body, true)
                .map(|publish| publish.defect)
                .map_err(|violation| violation.code)
        };
        assert_eq!(decode(0x30, b"\0\x01t\0x"), Ok(None));
        assert_eq!(decode(0x30, b"\0\x03\xef\xbf\xbf\0"), Ok(None));
        assert_eq!(decode(0x30, b"\0\x01\0\0"), Ok(Some(Defect::TopicNul)));
        assert_eq!(
            decode(0x30, b"\0\x01\xff\0"),
            Ok(Some(Defect::TopicNotUtf8))
        );
        let nul = b"\0\x01t\x07\x26\0\x01\0\0\x01c";
        assert_eq!(decode(0x30, nul), Ok(Some(Defect::PropertyNul)));
        let ill_formed = b"\0\x01t\x07\x26\0\x01\xff\0\x01c";
        assert_eq!(decode(0x30, ill_formed), Err(0x81));
        assert_eq!(decode(0x36, b"\0\x01t\0\x01\0"), Err(0x81));
        assert_eq!(decode(0x32, b"\0\x01t\0\0\0"), Err(0x82));
        assert_eq!(decode(0x30, b"\0\x00\0"), Err(0x82));
        assert_eq!(decode(0x30, b"\0\x01t\x03\x23\0\x01"), Err(0x94));
        assert_eq!(decode(0x30, b"\0\x01t\x05\x02"), Err(0x81));
    }
}
