//! A message as one line of JSON: what `subscriber --json` and `publisher queue export`
//! write. PURE.
//!
//! The fields are those of `mosquitto_sub -F %j` in their order, and ours behind.

use std::time::{Duration, SystemTime};

use data_encoding::BASE64;
use serde::Serialize;

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
    payload_base64: Option<String>,
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
            payload_base64: text.is_none().then(|| BASE64.encode(parts.payload)),
            stream: seq.map(|seq| seq.stream.as_str()),
            seq: seq.map(|seq| seq.seq),
            taken: seq.map(|seq| rfc3339(Duration::from_millis(seq.accepted_ms))),
            latency_ms: seq.filter(|_| arrived).and_then(|seq| {
                Some(i128::try_from(now.as_millis()).ok()? - i128::from(seq.accepted_ms))
            }),
        }
    }

    /// The line, without a newline.
    #[must_use]
    pub fn text(&self) -> String {
        // Strings and numbers have no way to fail.
        serde_json::to_string(self).unwrap_or_default()
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
