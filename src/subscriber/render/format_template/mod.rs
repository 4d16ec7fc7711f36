//! `--format`: a message in the user's own format, in the language of `mosquitto_sub -F`, and byte
//! for byte as version 2.0.11 writes it except for JSON (see `json.rs`). PURE.

mod arrival_time;
mod field_spec;
mod json;
mod parse;
#[cfg(test)]
mod tests;
mod text_until_nul;

use std::cell::LazyCell;
use std::fmt;
use std::time::Duration;

use data_encoding::{HEXLOWER, HEXUPPER};
use jiff::tz::TimeZone;

use self::arrival_time::ArrivalTime;
use self::field_spec::FieldSpec;
use self::parse::Segment;
use super::sanitize::Sanitizer;
use crate::common::mqtt::publish::{PublishProperties, Received};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    segments: Vec<Segment>,
    zone: TimeZone,
}

/// Why the output lacks what its field stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FormatWarning {
    PayloadNotJson,
    PayloadCut,
}

impl fmt::Display for FormatWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PayloadNotJson => {
                "the payload is not JSON, so %J prints nothing; %j takes any text"
            }
            Self::PayloadCut => {
                "the payload has a NUL byte, at which %j ends it, as mosquitto_sub does; %p, %x and --json print all of it"
            }
        })
    }
}

impl Template {
    /// Times are in UTC unless [`in_zone`](Self::in_zone) sets another zone. The error says what is wrong and how to
    /// write it: for formats that `mosquitto_sub` refuses, and for widths above a million, which it does not.
    pub fn parse(format: &str) -> Result<Self, String> {
        Ok(Self {
            segments: parse::segments(format)?,
            zone: TimeZone::UTC,
        })
    }

    /// Upper bounds for the bytes that fields of the payload write, and that are allocated meanwhile.
    pub(crate) fn payload_bounds(&self, payload: &[u8], for_terminal: bool) -> (usize, usize) {
        let times = |factor: usize| payload.len().saturating_mul(factor);
        let bounds = self.segments.iter().map(|segment| match segment {
            Segment::Text(_) | Segment::Time(_) | Segment::Nanoseconds => (0, 0),
            Segment::Field(spec, letter) => {
                let (written, meanwhile) = match letter {
                    'p' if for_terminal => (times(4), times(8)),
                    'p' => (payload.len(), 0),
                    'x' | 'X' => (times(2), 0),
                    'j' | 'J' => json::payload_bounds(payload, *letter == 'J', for_terminal),
                    _ => (0, 0),
                };
                // With `-` and no width as many spaces as the payload has bytes.
                let padding = if spec.left { payload.len() } else { 0 };
                (written.saturating_add(padding), meanwhile)
            }
        });
        add_bounds(bounds)
    }

    /// Upper bounds for the bytes that everything else writes, and that are allocated meanwhile.
    pub(crate) fn other_bounds(
        &self,
        message: &Received<'_>,
        for_terminal: bool,
    ) -> (usize, usize) {
        /// A number, a time, an absent property.
        const SHORT: usize = 64;
        let escaped = |length: usize| length.saturating_mul(if for_terminal { 4 } else { 1 });
        let properties = LazyCell::new(|| json::properties_length(message));
        let bounds = self.segments.iter().map(|segment| match segment {
            Segment::Text(text) => (text.len(), 0),
            Segment::Time(_) | Segment::Nanoseconds => (SHORT, 0),
            Segment::Field(spec, letter) => {
                let (written, meanwhile) = match letter {
                    't' => (escaped(message.topic.len()), 0),
                    // As text they are no longer than in JSON.
                    'C' | 'D' | 'P' | 'R' => (escaped(*properties), 0),
                    'j' | 'J' => json::other_bounds(message, for_terminal),
                    _ => (0, 0),
                };
                (written.saturating_add(spec.width + SHORT), meanwhile)
            }
        });
        add_bounds(bounds)
    }

    /// How many fields have the length of the payload in them.
    pub fn length_fields(&self) -> usize {
        let has_length = |segment: &&Segment| matches!(segment, Segment::Field(_, 'l' | 'j' | 'J'));
        self.segments.iter().filter(has_length).count()
    }

    pub fn has_local_time(&self) -> bool {
        self.segments.iter().any(|segment| match segment {
            Segment::Time(letter) => *letter != 's',
            Segment::Field(_, letter) => matches!(letter, 'I' | 'j' | 'J'),
            Segment::Text(_) | Segment::Nanoseconds => false,
        })
    }

    pub fn in_zone(self, zone: TimeZone) -> Self {
        Self { zone, ..self }
    }

    /// Appends a message that arrived at the Unix time `now`, without a newline.
    pub(crate) fn render(
        &self,
        out: &mut Sanitizer<'_>,
        message: &Received<'_>,
        now: Duration,
    ) -> Option<FormatWarning> {
        let time = LazyCell::new(|| ArrivalTime::new(now, &self.zone));
        let mut warning = None;
        for segment in &self.segments {
            match segment {
                Segment::Text(text) => out.push_trusted(text),
                Segment::Time(letter) => {
                    out.push_trusted(time.format_by_letter(*letter).as_bytes());
                }
                Segment::Nanoseconds => out.push_trusted(time.nanoseconds().as_bytes()),
                Segment::Field(spec, 'I') => spec.push_trusted(out, time.iso().as_bytes()),
                Segment::Field(_, 'U') => out.push_trusted(time.unix().as_bytes()),
                Segment::Field(_, letter @ ('j' | 'J')) => {
                    out.push_json(|out| {
                        let result = json::push_object(out, message, &time, *letter == 'J');
                        warning = warning.or(result);
                    });
                }
                Segment::Field(spec, letter) => push_field(out, *spec, *letter, message),
            }
        }
        warning
    }
}

/// All fields write one after the other; each returns its memory before the next.
fn add_bounds(bounds: impl Iterator<Item = (usize, usize)>) -> (usize, usize) {
    bounds.fold(
        (0, 0),
        |(written, most): (usize, usize), (more, meanwhile)| {
            (written.saturating_add(more), most.max(meanwhile))
        },
    )
}

/// As `mosquitto_sub` does, heeds alignment for some fields only, and pads absent ones differently.
fn push_field(out: &mut Sanitizer<'_>, spec: FieldSpec, letter: char, message: &Received<'_>) {
    let none = PublishProperties::default();
    let properties = message.properties.as_ref().unwrap_or(&none);
    match letter {
        'q' => out.push_trusted(message.qos.level().to_string().as_bytes()),
        'r' => out.push_trusted(if message.retained { b"1" } else { b"0" }),
        't' => spec.push_padded_text(out, message.topic.as_bytes()),
        'p' => spec.push_payload(out, message.payload),
        'x' => spec.push_hex(out, message.payload, &HEXLOWER),
        'X' => spec.push_hex(out, message.payload, &HEXUPPER),
        'l' => spec.push_integer(out, i64::try_from(message.payload.len()).ok()),
        'm' => spec.push_integer(out, Some(message.packet_id.into())),
        'A' => spec.push_integer(out, properties.topic_alias.map(i64::from)),
        'F' => spec.push_integer(out, properties.payload_format.map(i64::from)),
        // `mosquitto_sub` prints these two as signed numbers.
        'E' => spec.push_integer(out, properties.message_expiry.map(cast_signed)),
        'S' => spec.push_integer(
            out,
            properties.repeated.subscriptions().next().map(cast_signed),
        ),
        'C' => match &properties.content_type {
            Some(content_type) => spec.push_padded_text(out, content_type.as_bytes()),
            None => out.push_repeated(b' ', spec.width),
        },
        'R' => {
            if let Some(topic) = &properties.response_topic {
                spec.push_padded_text(out, topic.as_bytes());
            }
        }
        'D' => out.push_name(properties.correlation_data.unwrap_or_default()),
        'P' => {
            for (number, (name, value)) in properties.repeated.user().enumerate() {
                out.push_trusted(if number > 0 { b" " } else { b"" });
                out.push_name(name.as_bytes());
                out.push_trusted(b":");
                out.push_name(value.as_bytes());
            }
        }
        _ => out.push_trusted(b"%"),
    }
}

fn cast_signed(number: u32) -> i64 {
    number.cast_signed().into()
}
