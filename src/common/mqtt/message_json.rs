//! A message as one line of JSON: what `subscriber --json` and `publisher queue export`
//! write, and `publisher --input json` reads. PURE.
//!
//! The fields are those of `mosquitto_sub -F %j` in their order, and ours behind.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::seq_property::SeqProperty;

#[derive(Debug, Serialize)]
pub struct MessageJson<'a> {
    tst: String,
    topic: &'a str,
    qos: u8,
    retain: u8,
    payloadlen: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<Base64<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    taken: Option<String>,
    /// Negative where the clocks disagree.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<i128>,
}

#[derive(Debug)]
struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&BASE64.encode_display(self.0))
    }
}

#[derive(Clone, Copy, Debug)]
pub struct JsonFields<'a> {
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub qos: u8,
    pub retain: bool,
    pub seq: Option<&'a SeqProperty>,
}

impl<'a> MessageJson<'a> {
    /// A message at this Unix time. `arrived` adds how long it was on its way.
    pub fn new(parts: JsonFields<'a>, now: Duration, arrived: bool) -> Self {
        let text = std::str::from_utf8(parts.payload).ok();
        let seq = parts.seq;
        Self {
            tst: rfc3339(now),
            topic: parts.topic,
            qos: parts.qos,
            retain: u8::from(parts.retain),
            payloadlen: parts.payload.len(),
            payload: text,
            payload_base64: text.is_none().then_some(Base64(parts.payload)),
            stream: seq.map(|seq| seq.stream.as_str()),
            seq: seq.map(|seq| seq.seq),
            taken: seq.map(|seq| rfc3339(Duration::from_millis(seq.accepted_ms))),
            latency_ms: seq.filter(|_| arrived).and_then(|seq| {
                Some(i128::try_from(now.as_millis()).ok()? - i128::from(seq.accepted_ms))
            }),
        }
    }

    /// On one line, or `pretty`, on several.
    pub fn write(&self, out: &mut Vec<u8>, pretty: bool) {
        // Strings and numbers cannot fail.
        let _ = if pretty {
            serde_json::to_writer_pretty(out, self)
        } else {
            serde_json::to_writer(out, self)
        };
    }

    pub fn encoded_payload_length(payload: &[u8]) -> usize {
        if std::str::from_utf8(payload).is_err() {
            return BASE64.encode_len(payload.len());
        }
        let escapes = payload.iter().map(|byte| match byte {
            b'"' | b'\\' | b'\x08' | b'\t' | b'\n' | b'\x0c' | b'\r' => 1,
            0..=0x1f => 5,
            _ => 0,
        });
        payload.len() + escapes.sum::<usize>()
    }

    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A line as it is read: fields with other names are ignored, a field that comes twice is an error.
#[derive(Debug, Deserialize)]
pub struct JsonInput<'a> {
    #[serde(borrow)]
    pub topic: Option<Cow<'a, str>>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    payload_base64: Option<Cow<'a, str>>,
    pub qos: Option<u8>,
    #[serde(borrow)]
    retain: Option<&'a RawValue>,
}

impl<'a> JsonInput<'a> {
    pub fn parse(line: &'a [u8]) -> Result<Self, String> {
        serde_json::from_slice(line)
            .map_err(|e| format!("not a JSON object, for example {{\"payload\": \"21.5\"}}: {e}"))
    }

    /// Whether the broker is to retain it, if the line says so: `true`, `false`, 1 or 0.
    pub fn retain_flag(&self) -> Result<Option<bool>, String> {
        match self.retain.map(RawValue::get) {
            None => Ok(None),
            Some("false" | "0") => Ok(Some(false)),
            Some("true" | "1") => Ok(Some(true)),
            Some(_) => Err("\"retain\" must be 0 or 1".into()),
        }
    }

    /// Of a string its text; of any other value its JSON, byte for byte; empty for `null` and without one. An unpaired
    /// surrogate (`\ud800`) in a string is an error; in other JSON it is passed on.
    pub fn into_payload(self) -> Result<Vec<u8>, String> {
        match (self.payload.map(RawValue::get), self.payload_base64) {
            (Some(_), Some(_)) => Err("has both \"payload\" and \"payload_base64\"".into()),
            (_, Some(text)) => BASE64
                .decode(text.as_bytes())
                .map_err(|e| format!("\"payload_base64\": {e}")),
            (None, None) => Ok(Vec::new()),
            (Some(json), None) if json.starts_with('"') => serde_json::from_str(json)
                .map(String::into_bytes)
                .map_err(|e| format!("\"payload\" is not text: {e}")),
            (Some(json), None) => Ok(json.as_bytes().to_vec()),
        }
    }
}

/// The last second that RFC 3339 can write: a sender may claim any time.
const LAST_MS: u64 = 253_402_300_799_999;

pub fn rfc3339(since_epoch: Duration) -> String {
    let time = SystemTime::UNIX_EPOCH + since_epoch.min(Duration::from_millis(LAST_MS));
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(line: &str) -> Result<Vec<u8>, String> {
        JsonInput::parse(line.as_bytes())?.into_payload()
    }

    #[test]
    fn any_payload_reads_back_as_it_was_written() {
        let text = "\u{1f600}\n\u{1b}".as_bytes();
        for payload in [&b"21.5"[..], b"", b"\xff\x00", text] {
            let parts = JsonFields {
                topic: "a/b",
                payload,
                qos: 2,
                retain: true,
                seq: None,
            };
            let line = MessageJson::new(parts, Duration::ZERO, true).to_json();
            let read = JsonInput::parse(line.as_bytes()).unwrap();
            assert_eq!((read.topic.as_deref(), read.qos), (Some("a/b"), Some(2)));
            assert_eq!(read.retain_flag(), Ok(Some(true)));
            assert_eq!(read.into_payload().as_deref(), Ok(payload));
        }
    }

    #[test]
    fn other_values_are_taken_as_json_and_invalid_lines_are_refused() {
        assert_eq!(read(r#"{"payload":{"t":21.5}}"#).unwrap(), br#"{"t":21.5}"#);
        assert_eq!(read(r#"{"payload":null,"more":1}"#).unwrap(), b"");
        for bad in [
            r#"{"payload":"a","payload_base64":""}"#,
            "",
            "21.5",
            "[1]",
            r#"{"payload_base64":"?"}"#,
            r#"{"topic":7}"#,
            r#"{"topic":"a","topic":"a"}"#,
            r#"{"payload":1,"payload":1}"#,
            r#"{"payload":1,"pay\u006coad":1}"#,
            r#"{"payload":"\ud800"}"#,
            r#"{"payload":"\udc00\ud800"}"#,
            r#"{"payload":01}"#,
            r#"{"payload":NaN}"#,
            r#"{"payload":[1,]}"#,
            r#"{"payload":1} {}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        for retain in [r#""yes""#, "1.0", "{}"] {
            let line = format!("{{\"retain\":{retain}}}");
            let input = JsonInput::parse(line.as_bytes()).unwrap();
            assert!(input.retain_flag().is_err(), "{line}");
        }
    }

    #[test]
    fn json_is_passed_on_byte_for_byte() {
        let deep = "[".repeat(1_000_000) + &"]".repeat(1_000_000);
        for json in [
            r#"{"b":1,"a":2.10}"#,
            "12345678901234567890123",
            "-0",
            "-0.0e-00",
            "1E400",
            "1e-999999999999",
            "{ \"a\" :\t[ 1 , 2.50\r]  }",
            r#"{"a":1,"a":2}"#,
            r#"["\ud800\u00e9\/",true , null]"#,
            "[\"\u{e9}\u{1f600}\u{202e}\"]",
            "true",
            "[]",
            &deep,
        ] {
            for space in ["", " ", "\t "] {
                let line =
                    format!("{{\"topic\":\"t\",\"payload\":{space}{json}{space},\"qos\":0}}");
                assert_eq!(read(&line).unwrap(), json.as_bytes());
            }
        }
        // A field with another name may be as deep.
        let line = format!("{{\"more\":{deep},\"payload\":\"x\"}}");
        assert_eq!(read(&line).unwrap(), b"x");
    }

    proptest! {
        #[test]
        fn any_line_is_read_without_a_panic(line in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = JsonInput::parse(&line).and_then(JsonInput::into_payload);
        }

        #[test]
        fn any_json_in_any_form_is_passed_on_unchanged(
            digits in "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,9})?",
            name in "[a-c\u{e9}]{0,3}",
            space in "[ \t\r]{0,3}",
        ) {
            let json = format!("{{{space}\"{name}\"{space}:{space}[{digits}{space},{digits}],\"{name}\":{digits}}}");
            for json in [&json, &digits] {
                let line = format!("{{\"payload\":{space}{json}{space}}}");
                prop_assert_eq!(&read(&line).unwrap(), json.as_bytes());
            }
        }
    }
}
