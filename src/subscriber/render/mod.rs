//! One message as bytes to write: payload, topic and payload, JSON, or the user's own format.
//! PURE.

pub mod format;
pub mod sanitize;

use std::fmt;
use std::time::Duration;

use super::render::format::Template;
use super::render::sanitize::Page;
use crate::common::mqtt::json::{JsonLine, Parts};
use crate::common::mqtt::message::Received;

/// What to print of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    Payload,
    /// Topic, space, payload.
    Verbose,
    /// One JSON object.
    Json,
    /// What the user asked for.
    Custom(Template),
}

/// How to print messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Style {
    pub format: Format,
    /// Whether a newline ends each.
    pub newline: bool,
    /// Whether to make control characters harmless: on a terminal.
    pub escape: bool,
}

impl Style {
    /// Bytes that each reading of a message takes beside its payload.
    pub fn overhead(&self, message: &Received<'_>) -> usize {
        let mut out = Vec::new();
        let empty = Received {
            payload: &[],
            ..message.clone()
        };
        // What there is to say of it is said of the readings.
        let _ = render(&mut out, &empty, self, Duration::ZERO);
        out.len()
    }

    /// Bounds for the bytes of a message that are written, and for those that are needed meanwhile. Names and
    /// numbers count little.
    pub fn most_bytes(&self, message: &Received<'_>) -> (usize, usize) {
        const LITTLE: usize = 256;
        let payload = message.payload.len();
        let times = |times: usize| payload.saturating_mul(times);
        let (written, meanwhile) = match &self.format {
            Format::Payload | Format::Verbose if !self.escape => (payload, 0),
            // An escape has up to four bytes for one.
            Format::Payload | Format::Verbose => (times(4), times(8)),
            Format::Json if !self.escape => (JsonLine::payload_bytes(message.payload), 0),
            // And up to six in JSON.
            Format::Json => (times(6), times(24)),
            Format::Custom(template) => (times(template.payload_factor()), times(24)),
        };
        (
            written.saturating_add(message.topic.len() + LITTLE),
            meanwhile,
        )
    }
}

/// What is worth a word about a message that was rendered none the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remark {
    /// `%J` of a payload that is not JSON.
    NotJson,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remark::NotJson => {
                f.write_str("the payload is not JSON, so %J prints nothing; %j takes any text")
            }
        }
    }
}

/// Appends a message to `out`. `now` is the Unix time of its arrival.
pub fn render(
    out: &mut Vec<u8>,
    message: &Received<'_>,
    style: &Style,
    now: Duration,
) -> Option<Remark> {
    if style.format == Format::Json && !style.escape {
        json(message, now).write(out);
        if style.newline {
            out.push(b'\n');
        }
        return None;
    }
    let mut page = Page::new(out, style.escape);
    let mut remark = None;
    match &style.format {
        Format::Json => page.json(json(message, now).text().as_bytes()),
        Format::Payload => page.payload(message.payload),
        Format::Verbose => {
            page.name(message.topic.as_bytes());
            page.own(b" ");
            page.payload(message.payload);
        }
        Format::Custom(template) => remark = template.render(&mut page, message, now),
    }
    if style.newline {
        page.own(b"\n");
    }
    remark
}

fn json<'a>(message: &'a Received<'_>, now: Duration) -> JsonLine<'a> {
    let parts = Parts {
        topic: message.topic,
        payload: message.payload,
        qos: message.qos.level(),
        retain: message.retained,
        seq: message.seq.as_ref(),
    };
    JsonLine::new(parts, now, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::mqtt::message::{Qos, SeqProperty};

    const NOW: Duration = Duration::from_millis(1_769_846_400_250);

    fn rendered(format: Format, escape: bool, payload: &[u8], seq: Option<u64>) -> String {
        let message = Received {
            topic: "a\u{1b}/b",
            payload,
            qos: Qos::AtLeastOnce,
            retained: false,
            packet_id: 0,
            properties: None,
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
        assert_eq!(render(&mut out, &message, &style, NOW), None);
        assert!(out.len() <= style.most_bytes(&message).0, "{style:?}");
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
