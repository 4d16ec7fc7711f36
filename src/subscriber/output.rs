//! One message as bytes to write: payload, topic and payload, or JSON. PURE.

use data_encoding::BASE64;
use serde::Serialize;
use std::time::{Duration, SystemTime};

use crate::common::escape::{escape, escape_json};
use crate::common::message::Received;

/// What to print of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The payload.
    Payload,
    /// Topic, space, payload.
    Verbose,
    /// One JSON object.
    Json,
}

/// How to print messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// What of them.
    pub format: Format,
    /// Whether a newline ends each.
    pub newline: bool,
    /// Whether to make control characters harmless: on a terminal.
    pub escape: bool,
}

/// The JSON object: the fields of `mosquitto_sub -F %j` in their order, and ours behind.
#[derive(Serialize)]
struct Json<'a> {
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

/// The last second that RFC 3339 can write: a sender may claim any time.
const LAST_MS: u64 = 253_402_300_799_999;

/// Appends a message to `out`. `now` is the Unix time of its arrival.
pub fn render(out: &mut Vec<u8>, message: &Received<'_>, style: Style, now: Duration) {
    match style.format {
        Format::Json => {
            let json = json(message, now);
            if style.escape {
                out.extend_from_slice(escape_json(&json).as_bytes());
            } else {
                out.extend_from_slice(json.as_bytes());
            }
        }
        Format::Payload | Format::Verbose => {
            if style.format == Format::Verbose {
                if style.escape {
                    out.extend_from_slice(escape(message.topic.as_bytes(), &[]).as_bytes());
                } else {
                    out.extend_from_slice(message.topic.as_bytes());
                }
                out.push(b' ');
            }
            if style.escape {
                let shown = escape(message.payload, &['\t', '\n']);
                out.extend_from_slice(shown.as_bytes());
            } else {
                out.extend_from_slice(message.payload);
            }
        }
    }
    if style.newline {
        out.push(b'\n');
    }
}

fn json(message: &Received<'_>, now: Duration) -> String {
    let text = std::str::from_utf8(message.payload).ok();
    let seq = message.seq.as_ref();
    let object = Json {
        tst: rfc3339(now),
        topic: message.topic,
        qos: message.qos.level(),
        retain: u8::from(message.retained),
        payloadlen: message.payload.len(),
        payload: text,
        payload_base64: text.is_none().then(|| BASE64.encode(message.payload)),
        stream: seq.map(|seq| seq.stream.as_str()),
        seq: seq.map(|seq| seq.seq),
        taken: seq.map(|seq| rfc3339(Duration::from_millis(seq.accepted_ms))),
        latency_ms: seq.and_then(|seq| {
            Some(i128::try_from(now.as_millis()).ok()? - i128::from(seq.accepted_ms))
        }),
    };
    // Strings and numbers have no way to fail.
    serde_json::to_string(&object).unwrap_or_default()
}

/// A Unix time in UTC with milliseconds.
fn rfc3339(since_epoch: Duration) -> String {
    let time = SystemTime::UNIX_EPOCH + since_epoch.min(Duration::from_millis(LAST_MS));
    humantime::format_rfc3339_millis(time).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::message::{Qos, SeqProperty};

    const NOW: Duration = Duration::from_millis(1_769_846_400_250);

    fn rendered(format: Format, escape: bool, payload: &[u8], seq: Option<u64>) -> String {
        let message = Received {
            topic: "a\u{1b}/b",
            payload,
            qos: Qos::AtLeastOnce,
            retained: false,
            seq: seq.map(|accepted_ms| SeqProperty {
                stream: "s".into(),
                seq: 7,
                accepted_ms,
            }),
        };
        let mut out = Vec::new();
        let style = Style {
            format,
            newline: true,
            escape,
        };
        render(&mut out, &message, style, NOW);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn text_is_byte_exact_in_a_pipe_and_harmless_on_a_terminal() {
        assert_eq!(
            rendered(Format::Payload, false, b"\x1b[2J", None),
            "\x1b[2J\n"
        );
        assert_eq!(
            rendered(Format::Verbose, false, b"1", None),
            "a\u{1b}/b 1\n"
        );
        assert_eq!(
            rendered(Format::Verbose, true, b"\x1b[2J", None),
            "a\\x1b/b \\x1b[2J\n"
        );
    }

    #[test]
    fn json_has_the_documented_fields_in_order() {
        assert_eq!(
            rendered(Format::Json, false, b"21.5", Some(1_769_846_400_000)),
            "{\"tst\":\"2026-01-31T08:00:00.250Z\",\"topic\":\"a\\u001b/b\",\"qos\":1,\"retain\":0,\
             \"payloadlen\":4,\"payload\":\"21.5\",\"stream\":\"s\",\"seq\":7,\
             \"taken\":\"2026-01-31T08:00:00.000Z\",\"latency_ms\":250}\n"
        );
        let binary = rendered(Format::Json, false, b"\xff\x00", None);
        assert!(
            binary.contains("\"payloadlen\":2,\"payload_base64\":\"/wA=\"}"),
            "{binary}"
        );
    }

    #[test]
    fn a_sender_that_claims_an_absurd_time_breaks_nothing() {
        let json = rendered(Format::Json, true, b"", Some(u64::MAX));
        assert!(
            json.contains("\"taken\":\"9999-12-31T23:59:59.999Z\""),
            "{json}"
        );
    }
}
