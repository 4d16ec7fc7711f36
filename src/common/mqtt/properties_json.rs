//! The MQTT 5 properties of a message in JSON: what `subscriber --json` and `publisher queue export` write, and
//! `publisher --input json` reads. PURE.
//!
//! The names are those of `mosquitto_sub -F %j`. User properties are an array of pairs, in which their order and
//! repeats survive; an object is read as well.

use std::borrow::Cow;
use std::fmt;

use data_encoding::BASE64;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::properties::{PropertyId, Value};
use super::property_fields::PropertyFields;
use super::publish::PublishProperties;
use super::seq_property::SeqProperty;

#[derive(Clone, Copy, Debug)]
pub struct PropertiesJson<'a> {
    properties: PublishProperties<'a>,
    /// The first user property named `seq` is written in other fields.
    omits_seq: bool,
}

impl<'a> PropertiesJson<'a> {
    /// None if there would be nothing in it.
    pub fn new(properties: PublishProperties<'a>, omits_seq: bool) -> Option<Self> {
        let json = Self {
            properties,
            omits_seq,
        };
        let of_own = usize::from(omits_seq);
        let has_other = properties.repeated.all().nth(of_own).is_some();
        (has_other || properties.message_expiry.is_some()).then_some(json)
    }

    fn user(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let mut omits_seq = self.omits_seq;
        let user = self.properties.repeated.user();
        user.filter(move |(name, _)| {
            *name != SeqProperty::NAME || !std::mem::replace(&mut omits_seq, false)
        })
    }

    /// An upper bound for the bytes of its JSON.
    pub fn max_length(&self) -> usize {
        const NAME_AND_PUNCTUATION: usize = 32;
        const NUMBER: usize = 10;
        let lengths = self
            .properties
            .repeated
            .all()
            .map(|(property, value)| match value {
                Value::Number(_) if property == PropertyId::SubscriptionIdentifier => {
                    NUMBER + ",".len()
                }
                Value::Number(_) => NAME_AND_PUNCTUATION + NUMBER,
                Value::Text(text) => NAME_AND_PUNCTUATION + escaped_length(text.as_bytes()),
                Value::Binary(bytes) => {
                    NAME_AND_PUNCTUATION + escaped_length(bytes).max(BASE64.encode_len(bytes.len()))
                }
                Value::Pair(name, value) => {
                    let text = escaped_length(name.as_bytes()) + escaped_length(value.as_bytes());
                    r#"["",""],"#.len() + text
                }
            });
        // The names and brackets of the two arrays, and those of the object.
        3 * NAME_AND_PUNCTUATION + lengths.sum::<usize>()
    }
}

/// Bytes of a text in a JSON string, without its quotation marks.
pub fn escaped_length(text: &[u8]) -> usize {
    let escapes = text.iter().map(|byte| match byte {
        b'"' | b'\\' | b'\x08' | b'\t' | b'\n' | b'\x0c' | b'\r' => 1,
        0..=0x1f => 5,
        _ => 0,
    });
    text.len() + escapes.sum::<usize>()
}

/// Written element by element: there may be millions.
struct Elements<I>(std::cell::Cell<Option<I>>);

impl<I> Elements<I> {
    fn new(items: I) -> Self {
        Self(std::cell::Cell::new(Some(items)))
    }
}

impl<I: Iterator<Item: Serialize>> Serialize for Elements<I> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.take().into_iter().flatten())
    }
}

impl Serialize for PropertiesJson<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let properties = &self.properties;
        let mut object = serializer.serialize_map(None)?;
        if properties.repeated.subscriptions().next().is_some() {
            let ids = Elements::new(properties.repeated.subscriptions());
            object.serialize_entry("subscription-identifiers", &ids)?;
        }
        if let Some(format) = properties.payload_format {
            object.serialize_entry("payload-format-indicator", &format)?;
        }
        if let Some(content_type) = properties.content_type {
            object.serialize_entry("content-type", content_type)?;
        }
        if let Some(topic) = properties.response_topic {
            object.serialize_entry("response-topic", topic)?;
        }
        match properties
            .correlation_data
            .map(|d| (d, std::str::from_utf8(d)))
        {
            Some((_, Ok(text))) => object.serialize_entry("correlation-data", text)?,
            Some((bytes, Err(_))) => {
                let base64 = Base64(bytes);
                object.serialize_entry("correlation-data-base64", &base64)?;
            }
            None => {}
        }
        if self.user().next().is_some() {
            object.serialize_entry("user-properties", &Elements::new(self.user()))?;
        }
        if let Some(seconds) = properties.message_expiry {
            object.serialize_entry("message-expiry-interval", &seconds)?;
        }
        object.end()
    }
}

/// Bytes as a string of Base64.
#[derive(Debug)]
pub struct Base64<'a>(pub &'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&BASE64.encode_display(self.0))
    }
}

/// As they are read: fields with other names are ignored, among them what only a broker may set.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct PropertiesInput<'a> {
    payload_format_indicator: Option<u8>,
    message_expiry_interval: Option<u32>,
    #[serde(borrow)]
    content_type: Option<Cow<'a, str>>,
    #[serde(borrow)]
    response_topic: Option<Cow<'a, str>>,
    #[serde(borrow)]
    correlation_data: Option<Cow<'a, str>>,
    #[serde(borrow)]
    correlation_data_base64: Option<Cow<'a, str>>,
    user_properties: Option<UserProperties>,
}

/// Reads the object and checks it, except for the response topic.
pub fn parse_properties(json: &str) -> Result<PropertyFields<'static>, String> {
    let named = |e: &dyn fmt::Display| format!("\"properties\": {e}");
    let input: PropertiesInput<'_> = serde_json::from_str(json).map_err(|e| named(&e))?;
    let correlation_data = match (input.correlation_data, input.correlation_data_base64) {
        (Some(_), Some(_)) => {
            return Err(named(
                &"has both correlation-data and correlation-data-base64",
            ));
        }
        (text, None) => text.map(|text| text.into_owned().into_bytes()),
        (None, Some(text)) => {
            let bytes = BASE64.decode(text.as_bytes());
            Some(bytes.map_err(|e| named(&format!("correlation-data-base64: {e}")))?)
        }
    };
    let owned = |text: Option<Cow<'_, str>>| text.map(|text| Cow::Owned(text.into_owned()));
    let fields = PropertyFields {
        payload_format: input.payload_format_indicator,
        message_expiry: input.message_expiry_interval,
        content_type: owned(input.content_type),
        response_topic: owned(input.response_topic),
        correlation_data: correlation_data.map(Cow::Owned),
        user: input.user_properties.map(|user| user.0),
    };
    fields.check().map_err(|e| named(&e))?;
    Ok(fields)
}

#[derive(Debug)]
struct UserProperties(Vec<(Cow<'static, str>, Cow<'static, str>)>);

impl<'de> Deserialize<'de> for UserProperties {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer
            .deserialize_any(UserPropertiesVisitor)
            .map(Self)
    }
}

struct UserPropertiesVisitor;

impl<'de> Visitor<'de> for UserPropertiesVisitor {
    type Value = Vec<(Cow<'static, str>, Cow<'static, str>)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("user-properties as an array of [\"name\", \"value\"], or as an object")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut user = Vec::new();
        while let Some((name, value)) = items.next_element::<(String, String)>()? {
            user.push((name.into(), value.into()));
        }
        Ok(user)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut user = Vec::new();
        while let Some((name, value)) = items.next_entry::<String, String>()? {
            user.push((name.into(), value.into()));
        }
        Ok(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::mqtt::message_properties::MessageProperties;
    use proptest::prelude::*;

    fn written(fields: &PropertyFields<'_>, omits_seq: bool) -> String {
        let properties = MessageProperties::new(fields).unwrap();
        let json = PropertiesJson::new(properties.fields(), omits_seq).unwrap();
        let text = serde_json::to_string(&json).unwrap();
        assert!(text.len() <= json.max_length(), "{text}");
        text
    }

    #[test]
    fn the_names_are_those_of_mosquitto_and_user_properties_are_pairs() {
        let mut fields = PropertyFields {
            payload_format: Some(1),
            message_expiry: Some(60),
            content_type: Some("text/plain".into()),
            response_topic: Some("answers/7".into()),
            correlation_data: Some(b"r-1".into()),
            user: Some(vec![
                ("seq".into(), "s/1/2".into()),
                ("a".into(), "1".into()),
                ("seq".into(), "mine".into()),
                ("a".into(), "1".into()),
            ]),
        };
        assert_eq!(
            written(&fields, true),
            "{\"payload-format-indicator\":1,\"content-type\":\"text/plain\",\
             \"response-topic\":\"answers/7\",\"correlation-data\":\"r-1\",\
             \"user-properties\":[[\"a\",\"1\"],[\"seq\",\"mine\"],[\"a\",\"1\"]],\
             \"message-expiry-interval\":60}"
        );
        fields = PropertyFields {
            correlation_data: Some(b"\xff\0"[..].into()),
            ..PropertyFields::default()
        };
        let expected = "{\"correlation-data-base64\":\"/wA=\"}";
        assert_eq!(written(&fields, false), expected);
    }

    #[test]
    fn properties_of_nothing_but_the_number_are_not_written() {
        let fields = PropertyFields {
            user: Some(vec![("seq".into(), "s/1/2".into())]),
            ..PropertyFields::default()
        };
        let properties = MessageProperties::new(&fields).unwrap();
        assert!(PropertiesJson::new(properties.fields(), true).is_none());
        assert!(PropertiesJson::new(properties.fields(), false).is_some());
        assert!(PropertiesJson::new(PublishProperties::default(), false).is_none());
    }

    #[test]
    fn an_object_of_user_properties_is_read_and_wrong_values_are_named() {
        let fields = parse_properties(
            r#"{"user-properties":{"b":"1","a":"2","b":"3"},"topic-alias":3,"more":[]}"#,
        );
        let user = fields.unwrap().user.unwrap();
        let pairs: Vec<_> = user.iter().map(|(n, v)| (&**n, &**v)).collect();
        assert_eq!(pairs, [("b", "1"), ("a", "2"), ("b", "3")]);
        let long = format!("{{\"content-type\":\"{}\"}}", "x".repeat(65_536));
        for (json, why) in [
            ("7", "properties"),
            (r#"{"content-type":7}"#, "string"),
            (
                r#"{"content-type":"a\u0000"}"#,
                "content-type contains a NUL",
            ),
            (&long, "content-type is 65536 bytes long"),
            (r#"{"payload-format-indicator":2}"#, "must be 0 or 1"),
            (r#"{"message-expiry-interval":-1}"#, "-1"),
            (r#"{"message-expiry-interval":4294967296}"#, "4294967296"),
            (
                r#"{"correlation-data":"","correlation-data-base64":""}"#,
                "both",
            ),
            (
                r#"{"correlation-data-base64":"?"}"#,
                "correlation-data-base64",
            ),
            (r#"{"user-properties":[["a"]]}"#, "size 2"),
            (
                r#"{"user-properties":[["a","b","c"]]}"#,
                "trailing characters",
            ),
            (r#"{"user-properties":["a=b"]}"#, "a=b"),
            (r#"{"user-properties":{"a":1}}"#, "string"),
            (
                r#"{"user-properties":{"a\u0000":""}}"#,
                "name of a user property",
            ),
            (
                r#"{"user-properties":[["a","\u0000"]]}"#,
                "value of a user property",
            ),
            (r#"{"content-type":"a","content-type":"a"}"#, "duplicate"),
        ] {
            let error = parse_properties(json).unwrap_err();
            assert!(error.starts_with("\"properties\": "), "{error}");
            assert!(error.contains(why), "{json}: {error}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(
            format in proptest::option::of(0u8..2),
            expiry in proptest::option::of(any::<u32>()),
            strings in proptest::array::uniform2(proptest::option::of("[^\0]{0,20}")),
            correlation in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)),
            user in proptest::collection::vec(("[ab\"\n]{0,2}", "[^\0]{0,9}"), 1..5),
        ) {
            let [content_type, response_topic] = strings;
            let fields = PropertyFields {
                payload_format: format,
                message_expiry: expiry,
                content_type: content_type.map(Into::into),
                response_topic: response_topic.map(|_| "a/\"b".into()),
                correlation_data: correlation.map(Into::into),
                user: Some(user.into_iter().map(|(n, v)| (n.into(), v.into())).collect()),
            };
            prop_assert_eq!(parse_properties(&written(&fields, false)), Ok(fields));
        }

        #[test]
        fn any_text_is_read_without_a_panic(json in "[\\[\\]{}\",:a-z0-9-]{0,60}") {
            let _ = parse_properties(&json);
        }
    }
}
