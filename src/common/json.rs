//! A message as one line of JSON: what `subscriber --json` and `publisher queue export`
//! write, and `publisher --input json` reads. PURE.
//!
//! The fields are those of `mosquitto_sub -F %j` in their order, and ours behind.

use std::time::{Duration, SystemTime};

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::message::SeqProperty;

/// A message.
#[derive(Debug, Serialize)]
pub struct JsonLine<'a> {
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

/// Bytes that are written in base64, without a copy in between.
#[derive(Debug)]
struct Base64<'a>(&'a [u8]);

impl Serialize for Base64<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&BASE64.encode_display(self.0))
    }
}

/// What a [`JsonLine`] is made of.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The topic name.
    pub topic: &'a str,
    /// Any bytes.
    pub payload: &'a [u8],
    /// The quality of service, 0 to 2.
    pub qos: u8,
    /// Whether it is a retained message.
    pub retain: bool,
    /// Its number, if it has one.
    pub seq: Option<&'a SeqProperty>,
}

impl<'a> JsonLine<'a> {
    /// A message at this Unix time. `arrived` adds how long it took since it was taken.
    #[must_use]
    pub fn new(parts: Parts<'a>, now: Duration, arrived: bool) -> Self {
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

    /// Appends the line, without a newline.
    pub fn write(&self, out: &mut Vec<u8>) {
        // Strings and numbers have no way to fail, nor has memory that was asked for before.
        let _ = serde_json::to_writer(out, self);
    }

    /// Bytes that the payload takes in the line.
    #[must_use]
    pub fn payload_bytes(payload: &[u8]) -> usize {
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

    /// The line, without a newline.
    #[must_use]
    pub fn text(&self) -> String {
        // Strings and numbers have no way to fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// A line as it is read: fields that are not ours are passed over.
#[derive(Debug, Deserialize)]
pub struct JsonInput {
    /// The topic name.
    pub topic: Option<String>,
    payload: Option<Value>,
    payload_base64: Option<String>,
    /// The quality of service.
    pub qos: Option<u8>,
    retain: Option<Value>,
}

impl JsonInput {
    /// Reads a line.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn parse(line: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(line).map_err(|e| format!("not a JSON object as expected: {e}"))
    }

    /// Whether the broker is to keep it, if the line says so: `true`, `false`, 1 or 0.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn retain(&self) -> Result<Option<bool>, String> {
        match &self.retain {
            None => Ok(None),
            Some(Value::Bool(retain)) => Ok(Some(*retain)),
            Some(value) if value.as_u64() == Some(0) => Ok(Some(false)),
            Some(value) if value.as_u64() == Some(1) => Ok(Some(true)),
            Some(_) => Err("\"retain\" must be 0 or 1".into()),
        }
    }

    /// The payload's bytes: of a string its text, of any other value its JSON; empty if there
    /// is none.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn into_payload(self) -> Result<Vec<u8>, String> {
        match (self.payload, self.payload_base64) {
            (Some(_), Some(_)) => Err("has both \"payload\" and \"payload_base64\"".into()),
            (_, Some(text)) => BASE64
                .decode(text.as_bytes())
                .map_err(|e| format!("\"payload_base64\": {e}")),
            (None | Some(Value::Null), None) => Ok(Vec::new()),
            (Some(Value::String(text)), None) => Ok(text.into_bytes()),
            (Some(value), None) => Ok(value.to_string().into_bytes()),
        }
    }
}

/// The last second that RFC 3339 can write: a sender may claim any time.
const LAST_MS: u64 = 253_402_300_799_999;

/// A Unix time in UTC with milliseconds.
#[must_use]
pub fn rfc3339(since_epoch: Duration) -> String {
    let time = SystemTime::UNIX_EPOCH + since_epoch.min(Duration::from_millis(LAST_MS));
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Vec<u8>, String> {
        JsonInput::parse(line.as_bytes())?.into_payload()
    }

    #[test]
    fn what_is_written_reads_back_whatever_the_bytes() {
        for payload in [
            &b"21.5"[..],
            b"",
            b"\xff\x00",
            "\u{1f600}\n\u{1b}".as_bytes(),
        ] {
            let parts = Parts {
                topic: "a/b",
                payload,
                qos: 2,
                retain: true,
                seq: None,
            };
            let line = JsonLine::new(parts, Duration::ZERO, true).text();
            let read = JsonInput::parse(line.as_bytes()).unwrap();
            assert_eq!((read.topic.as_deref(), read.qos), (Some("a/b"), Some(2)));
            assert_eq!(read.retain(), Ok(Some(true)));
            assert_eq!(read.into_payload().as_deref(), Ok(payload));
        }
    }

    #[test]
    fn other_values_are_taken_as_json_and_nonsense_is_named() {
        assert_eq!(read(r#"{"payload":{"t":21.5}}"#).unwrap(), br#"{"t":21.5}"#);
        assert_eq!(read(r#"{"payload":null,"more":1}"#).unwrap(), b"");
        for bad in [
            "",
            "21.5",
            "[1]",
            r#"{"payload_base64":"?"}"#,
            r#"{"topic":7}"#,
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        assert!(read(r#"{"payload":"a","payload_base64":""}"#).is_err());
        let odd = JsonInput::parse(br#"{"retain":"yes"}"#).unwrap();
        assert!(odd.retain().is_err());
    }
}
