//! Renders a message as the bytes to write: payload, topic and payload, JSON, or the user's own format. PURE.

pub mod csv;
pub mod format_template;
pub mod sanitize;

use std::time::Duration;

use self::format_template::{FormatWarning, Template};
use self::sanitize::Sanitizer;
use crate::common::mqtt::message_json::{JsonFields, MessageJson};
use crate::common::mqtt::properties_json::PropertiesJson;
use crate::common::mqtt::publish::Received;
use crate::common::transport::bridge::OutOfMemory;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Format {
    Payload,
    Verbose,
    Json,
    PrettyJson,
    Csv,
    Custom(Template),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenderOptions {
    pub format: Format,
    pub newline: bool,
    /// Whether to escape control characters: on a terminal.
    pub escape: bool,
}

impl RenderOptions {
    /// What an output begins with.
    pub fn header(&self) -> Option<&'static [u8]> {
        (self.format == Format::Csv).then_some(csv::HEADER)
    }

    /// The most bytes that each reading of a batch takes beside its payload.
    pub fn overhead(&self, message: &Received<'_>) -> Result<usize, OutOfMemory> {
        /// More digits of a length, a longer name of the payload in base64 with its padding, quotes in CSV.
        const MORE: usize = 24;
        let mut out = Vec::new();
        let mut empty = message.clone();
        empty.payload = &[];
        let (written, meanwhile) = self.memory_bounds(&empty, [empty.payload]);
        let total = written.saturating_add(meanwhile);
        out.try_reserve(total).map_err(|_| OutOfMemory)?;
        // Warnings concern the readings themselves.
        let _ = render(&mut out, &empty, self, Duration::ZERO);
        let fields = match &self.format {
            Format::Custom(template) => template.length_fields(),
            Format::Payload | Format::Verbose => 0,
            Format::Json | Format::PrettyJson | Format::Csv => 1,
        };
        Ok(out.len() + MORE * fields)
    }

    /// Upper bounds for the bytes that [`render`] appends for a message, and that it allocates meanwhile. For a batch,
    /// of which `payloads` are the lines, [`overhead`](Self::overhead) is added for each.
    pub fn memory_bounds<'a>(
        &self,
        message: &Received<'_>,
        payloads: impl IntoIterator<Item = &'a [u8]>,
    ) -> (usize, usize) {
        const REST: usize = 512;
        let lengths = payloads
            .into_iter()
            .map(|payload| self.rendered_payload_bound(payload));
        let written = lengths.fold(0, usize::saturating_add);
        let payload = message.payload.len();
        let times = |factor: usize| payload.saturating_mul(factor);
        let properties = |indent: usize| {
            let length = properties_json(message).map_or(0, |properties| properties.max_length());
            length.saturating_mul(indent)
        };
        let escaped = |length: usize| length.saturating_mul(if self.escape { 6 } else { 1 });
        let (rest, meanwhile) = match &self.format {
            Format::Payload | Format::Verbose | Format::Csv => (0, times(16)),
            Format::Json => (escaped(properties(1)), times(24)),
            // Indented, each property takes several lines.
            Format::PrettyJson => (escaped(properties(16)), times(24)),
            Format::Custom(template) => {
                let (_, for_payload) = template.payload_bounds(message.payload, self.escape);
                let (rest, for_others) = template.other_bounds(message, self.escape);
                (rest, for_payload.saturating_add(for_others))
            }
        };
        let meanwhile = match &self.format {
            Format::Custom(_) => meanwhile,
            _ if !self.escape => 0,
            _ => meanwhile.saturating_add(rest.saturating_mul(4)),
        };
        // A topic is escaped as well.
        let rest = rest.saturating_add(6 * message.topic.len() + REST);
        (written.saturating_add(rest), meanwhile)
    }

    fn rendered_payload_bound(&self, payload: &[u8]) -> usize {
        let times = |factor: usize| payload.len().saturating_mul(factor);
        match &self.format {
            Format::Custom(template) => template.payload_bounds(payload, self.escape).0,
            Format::Payload | Format::Verbose if !self.escape => payload.len(),
            // An escape has up to four bytes for one.
            Format::Payload | Format::Verbose => times(4),
            Format::Json | Format::PrettyJson if !self.escape => {
                MessageJson::encoded_payload_length(payload)
            }
            // In JSON it has up to six.
            Format::Json | Format::PrettyJson => times(6),
            Format::Csv if !self.escape => csv::max_length(payload),
            // Quotes are doubled.
            Format::Csv => times(8),
        }
    }
}

/// What is in the `seq` property is written in other fields.
fn properties_json<'a>(message: &Received<'a>) -> Option<PropertiesJson<'a>> {
    PropertiesJson::new(message.properties?, message.seq.is_some())
}

pub fn render(
    out: &mut Vec<u8>,
    message: &Received<'_>,
    style: &RenderOptions,
    now: Duration,
) -> Option<FormatWarning> {
    let json = || {
        let parts = JsonFields {
            topic: message.topic,
            payload: message.payload,
            qos: message.qos.level(),
            retain: message.retained,
            seq: message.seq.as_ref(),
            properties: properties_json(message),
        };
        MessageJson::new(parts, now, true)
    };
    let mut out = Sanitizer::new(out, style.escape);
    let mut warning = None;
    match &style.format {
        Format::Json => out.push_json(|out| json().write(out, false)),
        Format::PrettyJson => out.push_json(|out| json().write(out, true)),
        Format::Csv => csv::push_line(&mut out, message, now),
        Format::Payload => out.push_payload(message.payload),
        Format::Verbose => {
            out.push_name(message.topic.as_bytes());
            out.push_trusted(b" ");
            out.push_payload(message.payload);
        }
        Format::Custom(template) => warning = template.render(&mut out, message, now),
    }
    if style.newline && style.format != Format::Csv {
        out.push_trusted(b"\n");
    }
    warning
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::common::mqtt::message_properties::MessageProperties;
    use crate::common::mqtt::property_fields::PropertyFields;
    use crate::common::mqtt::qos::Qos;
    use crate::common::mqtt::seq_property::SeqProperty;

    const NOW: Duration = Duration::from_millis(1_769_846_400_250);

    pub(in crate::subscriber) fn received<'a>(topic: &'a str, payload: &'a [u8]) -> Received<'a> {
        Received {
            topic,
            payload,
            qos: Qos::AtLeastOnce,
            retained: false,
            packet_id: 3,
            seq: None,
            properties: None,
        }
    }

    fn rendered(format: Format, escape: bool, payload: &[u8], seq: Option<u64>) -> String {
        let mut message = received("a\u{1b}/b", payload);
        message.seq = seq.map(|accepted_ms| SeqProperty {
            stream: "s".into(),
            seq: 7,
            accepted_ms,
        });
        let mut out = Vec::new();
        let style = RenderOptions {
            format,
            newline: true,
            escape,
        };
        assert_eq!(render(&mut out, &message, &style, NOW), None);
        let (most, _) = style.memory_bounds(&message, [message.payload]);
        assert!(out.len() <= most, "{style:?}");
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn text_is_byte_exact_in_a_pipe_and_escaped_on_a_terminal() {
        for (format, escape, payload, expected) in [
            (Format::Payload, false, &b"\x1b[2J"[..], "\x1b[2J\n"),
            (Format::Verbose, false, b"1", "a\u{1b}/b 1\n"),
            (Format::Verbose, true, b"\x1b[2J", "a\\x1b/b \\x1b[2J\n"),
        ] {
            assert_eq!(rendered(format, escape, payload, None), expected);
        }
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
        let expected = "\"payloadlen\":2,\"payload_base64\":\"/wA=\"}";
        assert!(binary.contains(expected), "{binary}");
    }

    #[test]
    fn a_time_beyond_the_year_9999_is_printed_as_the_last() {
        let json = rendered(Format::Json, true, b"", Some(u64::MAX));
        let expected = "\"taken\":\"9999-12-31T23:59:59.999Z\"";
        assert!(json.contains(expected), "{json}");
    }

    #[test]
    fn no_format_takes_more_memory_than_its_bound() {
        let text = "\u{9b}\"\\".repeat(1_000);
        let properties = MessageProperties::new(&PropertyFields {
            payload_format: Some(1),
            message_expiry: Some(u32::MAX),
            content_type: Some(text.as_str().into()),
            response_topic: Some(text.as_str().into()),
            correlation_data: Some(text.as_bytes().into()),
            user: Some(vec![(text.as_str().into(), text.as_str().into()); 3]),
        });
        let properties = properties.unwrap();
        let mut message = received(&text, b"7");
        message.properties = Some(properties.fields());
        let templates = [
            "%t%t%t%t%t%t%t%t%t",
            "%P%C%D%R%F%E",
            "%j",
            "%J%J",
            "%9999l%-9999t%.9C",
            "@Y-@m-@d @H:@M:@S.@N %I %U",
        ];
        let templates = templates.map(|text| Format::Custom(Template::parse(text).unwrap()));
        let others = [
            Format::Verbose,
            Format::Json,
            Format::PrettyJson,
            Format::Csv,
        ];
        for format in others.into_iter().chain(templates) {
            for escape in [false, true] {
                let style = RenderOptions {
                    format: format.clone(),
                    newline: true,
                    escape,
                };
                let mut out = Vec::new();
                render(&mut out, &message, &style, NOW);
                let (most, _) = style.memory_bounds(&message, [message.payload]);
                assert!(out.len() <= most, "{} of {most}: {style:?}", out.len());
            }
        }
    }
}
