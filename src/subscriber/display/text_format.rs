//! Truncates text to a width in columns, and formats times and counts. PURE.

use std::time::Duration;

use ratatui::style::Style;
use ratatui::text::Span;

use super::run_status::MessageRate;

pub fn width(text: &str) -> usize {
    Span::raw(text).width()
}

fn fitting(text: &str, mut columns: usize, from_end: bool) -> String {
    let span = Span::raw(text);
    let graphemes = span.styled_graphemes(Style::new());
    let mut symbols: Vec<_> = graphemes.map(|g| g.symbol).collect();
    if from_end {
        symbols.reverse();
    }
    let fits = |symbol: &&&str| {
        let left = columns.checked_sub(width(symbol));
        columns = left.unwrap_or(0);
        left.is_some()
    };
    symbols.truncate(symbols.iter().take_while(fits).count());
    if from_end {
        symbols.reverse();
    }
    symbols.concat()
}

pub fn truncate(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        text.to_owned()
    } else if columns == 0 {
        String::new()
    } else {
        fitting(text, columns - 1, false) + "…"
    }
}

/// The part that fits and the rest, divided at a blank if there is one in the second half.
pub fn wrap_once(text: &str, columns: usize) -> (&str, &str) {
    if width(text) <= columns {
        return (text, "");
    }
    let begin = fitting(text, columns, false).len();
    let is_at_word = text[begin..].starts_with(' ');
    let blank = text[..begin].rfind(' ').filter(|at| *at >= begin / 2);
    let end = if is_at_word {
        begin
    } else {
        blank.unwrap_or(begin)
    };
    (&text[..end], text[end..].trim_start())
}

/// For topics, which differ at both ends.
pub fn truncate_middle(text: &str, columns: usize) -> String {
    if width(text) <= columns || columns < 5 {
        return truncate(text, columns);
    }
    let begin = fitting(text, (columns - 1) / 3, false);
    let end = fitting(text, columns - 1 - width(&begin), true);
    begin + "…" + &end
}

/// Truncates a topic so that it can still be distinguished: the levels that all topics begin with go first. `common` is
/// their length in bytes.
pub fn truncate_topic(topic: &str, common: usize, columns: usize) -> String {
    // It begins with a slash.
    let rest = topic.get(common.saturating_sub(1)..);
    match rest.filter(|_| common > 2 && width(topic) > columns) {
        Some(rest) => truncate_middle(&format!("…{rest}"), columns),
        None => truncate_middle(topic, columns),
    }
}

/// The length of the levels that all topics begin with, the slash after them included; 0 for a single topic.
pub fn common_levels<'a>(mut topics: impl Iterator<Item = &'a str>) -> usize {
    let Some(first) = topics.next() else { return 0 };
    let length = topics.map(|topic| {
        let pairs = first.bytes().zip(topic.bytes());
        pairs.take_while(|(a, b)| a == b).count()
    });
    let length = length.min().unwrap_or_default();
    let mut levels = first.as_bytes()[..length].iter();
    levels
        .rposition(|byte| *byte == b'/')
        .map_or(0, |at| at + 1)
}

/// In one unit: `59 s`, `3 min`, `26 h`.
pub fn format_duration(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..60 => format!("{seconds} s"),
        seconds @ ..3600 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// Rounds up to whole seconds.
pub fn format_time_left(left: Duration) -> String {
    let rest = u64::from(left.subsec_nanos() > 0);
    format_duration(Duration::from_secs(left.as_secs().saturating_add(rest)))
}

pub fn format_rate(rate: MessageRate) -> String {
    match rate.per_second {
        many if many >= 99.5 => format!("{many:.0} msg/s"),
        some if some >= 0.2 => format!("{some:.1} msg/s"),
        _ => format!("{} msg/min", rate.per_minute),
    }
}

/// In one of three units: `2.0/s`, `12/min`, `1.5/h`.
pub fn format_topic_rate(per_second: f64) -> String {
    let (number, unit) = match per_second {
        some if some >= 0.95 => (some, "s"),
        some if some * 60.0 >= 0.95 => (some * 60.0, "min"),
        some => (some * 3600.0, "h"),
    };
    let places = usize::from(number < 9.95);
    format!("{number:.places$}/{unit}")
}

pub fn format_plural(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_text_is_truncated_at_the_end_or_in_the_middle() {
        assert_eq!(truncate("connection refused", 10), "connectio…");
        assert_eq!(truncate("short", 5), "short");
        assert_eq!(
            truncate_middle("devices/building-7/pump/temperature", 20),
            "device…p/temperature"
        );
        assert_eq!(truncate_middle("温度/温度/温度", 8), "温…/温度");
    }

    #[test]
    fn times_and_rates_are_short() {
        assert_eq!(format_duration(Duration::from_secs(59)), "59 s");
        assert_eq!(format_duration(Duration::from_secs(150)), "2 min");
        assert_eq!(format_duration(Duration::from_secs(90_000)), "25 h");
        assert_eq!(format_time_left(Duration::from_millis(2001)), "3 s");
        let at = |per_second| {
            format_rate(MessageRate {
                per_second,
                per_minute: 7,
            })
        };
        assert_eq!(
            [at(1234.4), at(1.0), at(0.1)],
            ["1234 msg/s", "1.0 msg/s", "7 msg/min"]
        );
        let rates = [1234.4, 1.0, 0.2, 1.0 / 60.0, 1.0 / 3600.0, 0.0].map(format_topic_rate);
        let expected = ["1234/s", "1.0/s", "12/min", "1.0/min", "1.0/h", "0.0/h"];
        assert_eq!(rates, expected);
    }

    #[test]
    fn truncated_topics_can_be_distinguished() {
        let truncated = |topics: &[&str], columns| -> Vec<_> {
            let common = common_levels(topics.iter().copied());
            let topics = topics.iter();
            topics
                .map(|topic| truncate_topic(topic, common, columns))
                .collect()
        };
        let topics = [
            "plant/hall-7/a/speed",
            "plant/hall-7/b/speed",
            "plant/hall-7/温",
        ];
        assert_eq!(truncated(&topics, 20), topics);
        let shorter = ["…/a/speed", "…/b/speed", "plant/hall-7/温"];
        assert_eq!(truncated(&topics, 15), shorter);
        assert_eq!(truncated(&topics, 8), ["…/…speed", "…/…speed", "…/温"]);
        assert_eq!(truncated(&topics[..1], 10), ["pla…/speed"]);
        assert_eq!(
            truncated(&["a/temperature", "a/温度温度温度温度"], 8),
            ["a/…ature", "a/…温度"]
        );
    }

    #[test]
    fn long_text_is_wrapped_between_words() {
        assert_eq!(wrap_once("one two", 7), ("one two", ""));
        assert_eq!(wrap_once("one two", 6), ("one", "two"));
        assert_eq!(wrap_once("one two", 3), ("one", "two"));
        assert_eq!(wrap_once("a something-long", 9), ("a somethi", "ng-long"));
    }

    proptest! {
        #[test]
        fn wrapped_text_fits_and_is_complete(text in "\\PC{0,40}", columns in 0usize..50) {
            let (first, second) = wrap_once(&text, columns);
            prop_assert!(width(first) <= columns);
            prop_assert!(text.starts_with(first) && text.ends_with(second));
            let between = &text[first.len()..text.len() - second.len()];
            prop_assert!(between.trim().is_empty());
        }

        #[test]
        fn truncated_text_fits(text in "\\PC{0,40}", columns in 0usize..50) {
            prop_assert!(width(&truncate(&text, columns)) <= columns);
            prop_assert!(width(&truncate_middle(&text, columns)) <= columns);
            for common in [0, 1, 3, 100] {
                prop_assert!(width(&truncate_topic(&text, common, columns)) <= columns);
            }
        }
    }
}
