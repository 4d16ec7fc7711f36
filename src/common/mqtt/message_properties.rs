//! The MQTT 5 properties of a message to publish, other than those that the publisher adds itself. PURE.

use std::sync::Arc;

use super::field_reader::FieldReader;
use super::framing::push_variable_int;
use super::packet_type::PacketType;
use super::properties::{self, PropertyId, Value};
use super::property_fields::PropertyFields;
use super::publish::PublishProperties;

/// Payload format indicator, content type, response topic, correlation data and user properties, encoded as in a
/// PUBLISH: also the form in the queue file. Messages with the same flags share one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageProperties {
    /// Their length comes first (MQTT 5.0 section 2.2.2.1).
    encoded: Box<[u8]>,
    /// Seconds from the moment at which the message was taken. Not among the encoded ones: what is sent is the rest of it.
    pub message_expiry: Option<u32>,
}

impl MessageProperties {
    /// None if nothing is set.
    pub fn new(fields: &PropertyFields<'_>) -> Option<Arc<Self>> {
        let mut body = Vec::new();
        if let Some(format) = fields.payload_format {
            body.extend([PropertyId::PayloadFormatIndicator as u8, format]);
        }
        let strings = [
            (
                PropertyId::ContentType,
                fields.content_type.as_deref().map(str::as_bytes),
            ),
            (
                PropertyId::ResponseTopic,
                fields.response_topic.as_deref().map(str::as_bytes),
            ),
            (
                PropertyId::CorrelationData,
                fields.correlation_data.as_deref(),
            ),
        ];
        for (property, value) in strings {
            if let Some(bytes) = value {
                body.push(property as u8);
                push_binary(&mut body, bytes);
            }
        }
        for (name, value) in fields.user.iter().flatten() {
            body.push(PropertyId::UserProperty as u8);
            push_binary(&mut body, name.as_bytes());
            push_binary(&mut body, value.as_bytes());
        }
        if body.is_empty() && fields.message_expiry.is_none() {
            return None;
        }
        let mut encoded = Vec::new();
        push_variable_int(&mut encoded, body.len());
        encoded.append(&mut body);
        Some(Arc::new(Self {
            encoded: encoded.into(),
            message_expiry: fields.message_expiry,
        }))
    }

    /// None if the bytes are not what [`encoded`](Self::encoded) gives.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = FieldReader::new(bytes);
        let mut is_own = true;
        let read = properties::read(&mut reader, PacketType::Publish, |property, value| {
            is_own &= !value.has_nul()
                && matches!(
                    (property, value),
                    (PropertyId::PayloadFormatIndicator, Value::Number(0 | 1))
                        | (
                            PropertyId::ContentType
                                | PropertyId::ResponseTopic
                                | PropertyId::CorrelationData
                                | PropertyId::UserProperty,
                            _
                        )
                );
            Ok(())
        });
        (read.is_ok() && is_own && reader.is_empty()).then(|| Self {
            encoded: bytes.into(),
            message_expiry: None,
        })
    }

    /// With their length; empty if only an expiry is set.
    pub fn encoded(&self) -> &[u8] {
        match &*self.encoded {
            [0] => &[],
            encoded => encoded,
        }
    }

    /// Bytes in a PUBLISH, without the length of all its properties.
    pub fn packet_size(&self) -> usize {
        let mut reader = FieldReader::new(&self.encoded);
        let length = reader.variable_int();
        length.map_or(0, |_| reader.rest().len())
    }

    /// In the order in which they are sent.
    pub fn all(&self) -> impl Iterator<Item = (PropertyId, Value<'_>)> {
        self.fields().repeated.all()
    }

    pub fn fields(&self) -> PublishProperties<'_> {
        let mut reader = FieldReader::new(&self.encoded);
        // They have been encoded here, or checked.
        let mut fields = PublishProperties::read(&mut reader, |_| {}).unwrap_or_default();
        fields.message_expiry = self.message_expiry;
        fields
    }
}

/// The length of each has been checked.
fn push_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend(length.to_be_bytes());
    out.extend(bytes.iter().take(length.into()));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_encoded_reads_back_in_order_and_with_repeats(
            format in proptest::option::of(0u8..2),
            strings in proptest::array::uniform2(proptest::option::of("[a-z/\u{e9}]{1,200}")),
            correlation in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..300)),
            user in proptest::collection::vec(("[ab\u{1f600}]{0,3}", "[^\0]{0,90}"), 0..9),
        ) {
            let [content_type, response_topic] = strings;
            let properties = MessageProperties::new(&PropertyFields {
                payload_format: format,
                message_expiry: Some(7),
                content_type: content_type.as_deref().map(Into::into),
                response_topic: response_topic.as_deref().map(Into::into),
                correlation_data: correlation.as_deref().map(Into::into),
                user: Some(user.iter().map(|(n, v)| (n.into(), v.into())).collect()),
            });
            let properties = properties.unwrap();
            let fields = properties.fields();
            prop_assert_eq!(fields.payload_format, format);
            prop_assert_eq!(fields.message_expiry, Some(7));
            prop_assert_eq!(fields.content_type, content_type.as_deref());
            prop_assert_eq!(fields.response_topic, response_topic.as_deref());
            prop_assert_eq!(fields.correlation_data, correlation.as_deref());
            let read: Vec<_> = fields.repeated.user().collect();
            let expected: Vec<_> = user.iter().map(|(n, v)| (&**n, &**v)).collect();
            prop_assert_eq!(read, expected);
            if !properties.encoded().is_empty() {
                let decoded = MessageProperties::decode(properties.encoded()).unwrap();
                prop_assert_eq!(&decoded.encoded, &properties.encoded);
                let cut = properties.encoded().len() - 1;
                prop_assert_eq!(MessageProperties::decode(&properties.encoded()[..cut]), None);
            }
        }

        #[test]
        fn any_bytes_are_decoded_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(properties) = MessageProperties::decode(&bytes) {
                prop_assert_eq!(properties.packet_size() + 1, bytes.len());
            }
        }
    }

    #[test]
    fn nothing_set_is_no_properties_and_foreign_ones_are_refused() {
        assert_eq!(MessageProperties::new(&PropertyFields::default()), None);
        let empty_list = PropertyFields {
            user: Some(Vec::new()),
            ..PropertyFields::default()
        };
        assert_eq!(MessageProperties::new(&empty_list), None);
        for bytes in [
            &b""[..],
            b"\x05\x02\0\0\0\x01",
            b"\x03\x23\0\x01",
            b"\x02\x0b\x01",
            b"\x02\x01\x02",
            b"\x04\x03\0\x01\0",
            b"\x02\x01\x01\0",
        ] {
            assert_eq!(MessageProperties::decode(bytes), None, "{bytes:?}");
        }
    }
}
