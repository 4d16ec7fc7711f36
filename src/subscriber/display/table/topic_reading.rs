//! The latest reading of one topic. PURE. Its memory is bounded.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::Duration;

use super::table_content::TableRow;
use super::topic_rate::TopicRate;
use crate::common::escape::escape;
use crate::subscriber::display::delay_estimator::DelayEstimator;
use crate::subscriber::display::ms::{Ms, ms_to_duration};
use crate::subscriber::display::number_format::{decimal_places, format_number, limit_places};

/// The bytes of a value that are kept, more than the widest terminals show.
pub const MAX_VALUE: usize = 512;

/// The bytes of a topic that are shown.
const MAX_TOPIC: usize = 512;

/// How long a changed value is emphasised.
const NEW: Ms = 1000;

#[derive(Debug, Default)]
pub struct TopicReading {
    /// The beginnings of the values.
    values: Vec<Option<Vec<u8>>>,
    /// Of the whole values.
    hash: u64,
    number: Option<f64>,
    number_before: Option<f64>,
    changed_at: Option<Ms>,
    taken_at: Ms,
    delays: DelayEstimator,
    readings: u64,
    rate: TopicRate,
}

impl TopicReading {
    /// `delay`: our time of arrival minus the sender's time of measurement, in milliseconds.
    pub fn update(&mut self, values: &[Option<&[u8]>], delay: i64, now: Ms) {
        let mut hasher = DefaultHasher::new();
        values.hash(&mut hasher);
        let hash = hasher.finish();
        if self.hash != hash && self.readings > 0 {
            self.changed_at = Some(now);
        }
        self.hash = hash;
        self.number_before = self.number;
        self.number = values.first().copied().flatten().and_then(to_number);
        self.values.resize_with(values.len(), || None);
        for (kept, value) in self.values.iter_mut().zip(values) {
            let Some(value) = value else {
                *kept = None;
                continue;
            };
            // The memory is used again for the next value.
            let kept = kept.get_or_insert_default();
            kept.clear();
            kept.extend_from_slice(&value[..value.len().min(MAX_VALUE)]);
        }
        self.taken_at = now.saturating_sub(self.delays.estimate_delay(delay, now));
        self.readings += 1;
        self.rate.count(self.readings, now);
    }

    pub fn row(&self, topic: &str, now: Ms) -> TableRow {
        let text = |value: &Option<Vec<u8>>| value.as_deref().map(|value| escape(value, &[]));
        TableRow {
            topic: format_topic(topic),
            values: self.values.iter().map(text).collect(),
            is_new: self.changed_at.is_some_and(|at| now - at < NEW),
            change: self.number.zip(self.number_before).map(format_change),
            age: self.age(now),
            per_second: self.rate.per_second(now),
            readings: self.readings,
        }
    }

    fn age(&self, now: Ms) -> Duration {
        ms_to_duration(now.saturating_sub(self.taken_at))
    }
}

pub fn format_topic(topic: &str) -> String {
    escape(shorten(topic).as_bytes(), &[])
}

/// Both ends of a topic that is longer than any terminal is wide.
fn shorten(topic: &str) -> Cow<'_, str> {
    if topic.len() <= MAX_TOPIC {
        return topic.into();
    }
    let bytes = topic.as_bytes();
    let begin = String::from_utf8_lossy(&bytes[..MAX_TOPIC / 2]);
    let end = String::from_utf8_lossy(&bytes[bytes.len() - MAX_TOPIC / 2..]);
    format!("{begin}…{end}").into()
}

fn to_number(value: &[u8]) -> Option<f64> {
    let number = std::str::from_utf8(value).ok()?.trim().parse::<f64>();
    number.ok().filter(|number| number.is_finite())
}

fn format_change((number, before): (f64, f64)) -> String {
    let change = number - before;
    let places = decimal_places(number).max(decimal_places(before));
    let places = limit_places(&[number, before], places);
    let text = format_number(change, places);
    // What rounds to zero has no sign.
    if text.parse() == Ok(0.0) {
        "0".into()
    } else if change > 0.0 {
        format!("+{text}")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(reading: &mut TopicReading, value: &[u8], now: Ms) -> TableRow {
        reading.update(&[Some(value)], 0, now);
        reading.row("t", now)
    }

    #[test]
    fn a_changed_value_is_new_for_a_second() {
        let mut reading = TopicReading::default();
        assert!(!update(&mut reading, b"a", 0).is_new);
        assert!(!update(&mut reading, b"a", 500).is_new);
        assert!(update(&mut reading, b"b", 1000).is_new);
        assert!(update(&mut reading, b"b", 1500).is_new);
        assert!(!reading.row("t", 2000).is_new);
        let long = vec![b'x'; 10_000];
        update(&mut reading, &long, 3000);
        let mut other = long;
        other[9_999] = b'y';
        assert!(update(&mut reading, &other, 4900).is_new);
    }

    #[test]
    fn the_change_is_the_difference_of_two_numbers() {
        let mut reading = TopicReading::default();
        for (value, change) in [
            ("21.5", None),
            ("21.75", Some("+0.25")),
            (" 20\n", Some("-1.75")),
            ("20.0", Some("0")),
            ("off", None),
            ("1", None),
            ("nan", None),
        ] {
            let row = update(&mut reading, value.as_bytes(), 0);
            assert_eq!(row.change.as_deref(), change, "{value}");
        }
    }

    #[test]
    fn a_reading_that_waited_has_its_own_age() {
        let mut reading = TopicReading::default();
        reading.update(&[Some(b"1")], 7_000_040, 1000);
        reading.update(&[Some(b"2")], 7_030_040, 31_000);
        assert_eq!(reading.row("t", 32_000).age, Duration::from_secs(31));
    }

    #[test]
    fn bytes_that_are_no_text_and_long_values_are_shown_as_text() {
        let mut reading = TopicReading::default();
        let row = update(&mut reading, b"\xff\x00\x1b[2J\n", 0);
        let shown = row.values[0].as_deref();
        assert_eq!(shown, Some("\\xff\\x00\\x1b[2J\\x0a"));
        update(&mut reading, &vec![b'\xff'; 1 << 20], 0);
        assert_eq!(reading.values[0].as_ref().unwrap().len(), MAX_VALUE);
    }
}
