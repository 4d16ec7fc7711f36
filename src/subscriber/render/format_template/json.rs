//! `%j` and `%J`: a message as JSON, with the payload as a string or as the JSON that it is. PURE.
//!
//! Parsed, the output equals that of `mosquitto_sub` 2.0.11 (cJSON 1.7.15, which also accepts `01`, `1.` and `\uZZZZ`;
//! here they are not JSON). It is always UTF-8, a string in it ends at its first NUL, and numbers of the payload keep
//! their digits. The properties come in a fixed order; `mosquitto_sub` keeps the order of the packet.

use std::fmt::Write as _;

use memchr::memchr;
use serde::Serialize;
use serde_json::value::RawValue;

use super::FormatWarning;
use super::arrival_time::ArrivalTime;
use super::text_until_nul::TextUntilNul;
use crate::common::mqtt::properties_json::PropertiesJson;
use crate::common::mqtt::publish::{PublishProperties, Received};

/// Appends nothing if the payload is to be shown as JSON and is not JSON.
pub(super) fn push_object(
    out: &mut Vec<u8>,
    message: &Received<'_>,
    time: &ArrivalTime,
    payload_is_json: bool,
) -> Option<FormatWarning> {
    let mut warning = None;
    let payload = match message.payload {
        [] => Payload::Null,
        payload if payload_is_json => match compact_payload(payload) {
            Some(json) => Payload::Json(json),
            None => return Some(FormatWarning::PayloadNotJson),
        },
        payload => {
            if memchr(0, payload).is_some() {
                warning = Some(FormatWarning::PayloadCut);
            }
            Payload::Text(TextUntilNul::new(payload))
        }
    };
    let mut object = Object::begin(out);
    object.add("tst", &time.in_json());
    object.add("topic", &TextUntilNul::of(message.topic));
    object.add("qos", &message.qos.level());
    object.add("retain", &u8::from(message.retained));
    object.add("payloadlen", &message.payload.len());
    let has_packet_id = message.qos.level() > 0;
    object.add_if_some("mid", has_packet_id.then_some(message.packet_id));
    if let Some(properties) = &message.properties {
        object.add_object("properties", |object| {
            add_publish_properties(object, properties);
        });
    }
    match payload {
        Payload::Null => object.add("payload", &()),
        Payload::Json(json) => object.add_raw("payload", json.as_bytes()),
        Payload::Text(text) => object.add("payload", &text),
    }
    object.end();
    warning
}

enum Payload<'a> {
    Null,
    Json(String),
    Text(TextUntilNul<'a>),
}

fn add_publish_properties(object: &mut Object<'_>, properties: &PublishProperties<'_>) {
    for id in properties.repeated.subscriptions() {
        object.add("subscription-identifier", &id);
    }
    object.add_if_some("topic-alias", properties.topic_alias);
    object.add_if_some("payload-format-indicator", properties.payload_format);
    object.add_if_some(
        "content-type",
        properties.content_type.map(TextUntilNul::of),
    );
    object.add_if_some(
        "response-topic",
        properties.response_topic.map(TextUntilNul::of),
    );
    let correlation_data = properties.correlation_data.map(TextUntilNul::new);
    object.add_if_some("correlation-data", correlation_data);
    object.add_object("user-properties", |user| {
        for (name, value) in properties.repeated.user() {
            user.add(name, &TextUntilNul::of(value));
        }
    });
    object.add_if_some("message-expiry-interval", properties.message_expiry);
}

/// Upper bounds for the bytes that the payload is written as, and that are allocated meanwhile.
pub(super) fn payload_bounds(
    payload: &[u8],
    payload_is_json: bool,
    for_terminal: bool,
) -> (usize, usize) {
    // An escape has up to six bytes for one.
    let escaped = payload.len().saturating_mul(6);
    if for_terminal || payload_is_json {
        (escaped, escaped.saturating_mul(4))
    } else {
        (TextUntilNul::new(payload).json_length(), 0)
    }
}

/// The same of everything else.
pub(super) fn other_bounds(message: &Received<'_>, for_terminal: bool) -> (usize, usize) {
    const NAMES: usize = 256;
    let length = NAMES
        .saturating_add(TextUntilNul::of(message.topic).json_length())
        .saturating_add(properties_length(message));
    if for_terminal {
        (length.saturating_mul(6), length.saturating_mul(24))
    } else {
        (length, 0)
    }
}

/// An upper bound.
pub(super) fn properties_length(message: &Received<'_>) -> usize {
    const IDENTIFIER: usize = r#""subscription-identifier":268435455,"#.len();
    let Some(properties) = &message.properties else {
        return 0;
    };
    let identifiers = properties.repeated.subscriptions().count();
    let others = PropertiesJson::new(*properties, false).map_or(0, |json| json.max_length());
    others.saturating_add(identifiers.saturating_mul(IDENTIFIER))
}

/// JSON without white space, with each string as `serde_json` writes it. As cJSON does, accepts a
/// byte order mark, control characters, and bytes that are not UTF-8.
fn compact_payload(payload: &[u8]) -> Option<String> {
    if payload.contains(&0) {
        return None;
    }
    let payload = payload.strip_prefix(b"\xef\xbb\xbf").unwrap_or(payload);
    let payload = String::from_utf8_lossy(payload);
    let mut rest = &*payload;
    // White space becomes newlines, which no string contains once it is written.
    let is_space = |c: char| c <= ' ';
    let mut json = String::with_capacity(rest.len());
    while let Some((before, string)) = rest.find('"').and_then(|at| rest.split_at_checked(at)) {
        json += &before.replace(is_space, "\n");
        let (string, after) = string.split_at_checked(string_literal_length(string)?)?;
        json += &rewrite_string(string)?;
        rest = after;
    }
    json += &rest.replace(is_space, "\n");
    serde_json::from_str::<&RawValue>(&json).ok()?;
    json.retain(|c| c != '\n');
    Some(json)
}

/// The bytes of the string literal at the start of the text, quotes included.
fn string_literal_length(text: &str) -> Option<usize> {
    let mut end = 1;
    loop {
        end += match text.as_bytes().get(end)? {
            b'"' => return Some(end + 1),
            b'\\' => 2,
            _ => 1,
        };
    }
}

fn rewrite_string(literal: &str) -> Option<String> {
    let mut escaped = String::with_capacity(literal.len());
    for c in literal.chars() {
        if c < ' ' {
            let _ = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    let value: String = serde_json::from_str(&escaped).ok()?;
    serde_json::to_string(value.split('\0').next()?).ok()
}

/// A JSON object that is being written. Unlike in a map, a name may come twice.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_empty: bool,
}

impl<'a> Object<'a> {
    fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        let is_empty = true;
        Self { out, is_empty }
    }

    fn add_name(&mut self, name: &str) {
        if !std::mem::take(&mut self.is_empty) {
            self.out.push(b',');
        }
        push_json(self.out, name);
        self.out.push(b':');
    }

    fn add(&mut self, name: &str, value: &(impl Serialize + ?Sized)) {
        self.add_name(name);
        push_json(self.out, value);
    }

    fn add_if_some(&mut self, name: &str, value: Option<impl Serialize>) {
        if let Some(value) = value {
            self.add(name, &value);
        }
    }

    fn add_raw(&mut self, name: &str, json: &[u8]) {
        self.add_name(name);
        self.out.extend_from_slice(json);
    }

    /// Adds the object that `fill` fills, unless it stays empty.
    fn add_object(&mut self, name: &str, fill: impl FnOnce(&mut Object<'_>)) {
        let (begin, was_empty) = (self.out.len(), self.is_empty);
        self.add_name(name);
        let mut object = Object::begin(self.out);
        fill(&mut object);
        if object.is_empty {
            self.out.truncate(begin);
            self.is_empty = was_empty;
        } else {
            object.end();
        }
    }

    fn end(self) {
        self.out.push(b'}');
    }
}

fn push_json(out: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Strings and numbers cannot fail.
    let _ = serde_json::to_writer(out, value);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Recorded from `mosquitto_sub` 2.0.11 on Debian, except that numbers keep their digits and
    /// bytes that are not UTF-8 become U+FFFD.
    #[test]
    fn json_payloads_are_read_and_written_as_recorded() {
        let digits = "1".repeat(64);
        let deep = "[".repeat(1_000) + &"]".repeat(1_000);
        for (text, recorded) in [
            (&b"null"[..], "null"),
            (br#""a\u0000b""#, r#""a""#),
            (
                b"[1,-0,-0.0,0.1,1e999,123456789012345678,1e21,1e15,1e16,1e17,0.1e-5,\
                  3.14159265358979312,1.7976931348623157e308,5e-324,100000,1e5,2147483648,1.5,\
                  0.30000000000000004]",
                "[1,-0,-0.0,0.1,1e999,123456789012345678,1e21,1e15,1e16,1e17,0.1e-5,\
                 3.14159265358979312,1.7976931348623157e308,5e-324,100000,1e5,2147483648,1.5,\
                 0.30000000000000004]",
            ),
            (
                br#"{"a":"\ud83d\ude00\/","a":[ ],"b":{ },"c":[{},[]]}"#,
                "{\"a\":\"\u{1f600}/\",\"a\":[],\"b\":{},\"c\":[{},[]]}",
            ),
            (b" \x01 1 \x02", "1"),
            (b"\xef\xbb\xbf1", "1"),
            (
                b"\"\xff\x1b\n\r\t\x08\x0c\\\"\\\\\x7f\"",
                "\"\u{fffd}\\u001b\\n\\r\\t\\b\\f\\\"\\\\\x7f\"",
            ),
            (digits.as_bytes(), &digits),
            (b"[ 2.10 ,1E+2 , -1.0e-05]", "[2.10,1E+2,-1.0e-05]"),
            (br#"{"a\u0000b":1}"#, r#"{"a":1}"#),
            (deep.as_bytes(), &deep),
        ] {
            assert_eq!(compact_payload(text).as_deref(), Some(recorded), "{text:?}");
        }
        let refused = b"|x|a\0b|\xff\xfe|nul|1 \0|\"x|[1,]|-|1e|truex|\"\\u12\"|\n|[1\0]|\
                        \"\\udc00\"|\"\\ud800x\"";
        for text in refused.split(|byte| *byte == b'|') {
            assert_eq!(compact_payload(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_json_and_is_written_the_same_again(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
            text in r#"[\[\]{},:"\\0-9eE.+\-a-fu ]{0,30}"#,
        ) {
            for payload in [&bytes[..], text.as_bytes()] {
                if let Some(once) = compact_payload(payload) {
                    prop_assert!(serde_json::from_str::<&RawValue>(&once).is_ok());
                    prop_assert_eq!(compact_payload(once.as_bytes()), Some(once));
                }
            }
        }

        #[test]
        fn a_number_keeps_its_digits(
            text in "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,5})?",
        ) {
            prop_assert_eq!(compact_payload(text.as_bytes()), Some(text));
        }
    }
}
