//! Text as it fits: shortened by what it takes on the screen, not by its bytes; times and
//! counts as people write them. PURE.

use std::time::Duration;

use ratatui::style::Style;
use ratatui::text::Span;

use super::view::Rate;

/// The columns a text takes.
pub(super) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// As much of the beginning as fits into so many columns.
fn head(text: &str, columns: usize) -> String {
    let span = Span::raw(text);
    let mut left = columns;
    let symbols = span.styled_graphemes(Style::new()).map(|g| g.symbol);
    let fits = symbols.take_while(|symbol| {
        let fits = width(symbol) <= left;
        left = left.saturating_sub(width(symbol));
        fits
    });
    fits.collect()
}

/// A sentence in so many columns: its end goes first.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    if columns == 0 {
        return String::new();
    }
    head(text, columns - 1) + "…"
}

/// A topic in so many columns: its middle goes first, because both ends tell topics apart.
pub(super) fn cut_middle(text: &str, columns: usize) -> String {
    if width(text) <= columns || columns < 5 {
        return cut(text, columns);
    }
    let first = (columns - 1) / 3;
    let span = Span::raw(text);
    let graphemes = span.styled_graphemes(Style::new());
    let symbols: Vec<_> = graphemes.map(|g| g.symbol).collect();
    let begin = head(text, first);
    let mut end = Vec::new();
    let mut left = columns - 1 - width(&begin);
    for symbol in symbols.iter().rev() {
        if width(symbol) > left {
            break;
        }
        left -= width(symbol);
        end.push(*symbol);
    }
    end.reverse();
    begin + "…" + &end.concat()
}

/// A time in one unit: `59 s`, `3 min`, `26 h`.
pub(super) fn time(time: Duration) -> String {
    match time.as_secs() {
        seconds @ ..60 => format!("{seconds} s"),
        seconds @ ..3600 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}

/// A time until something, never nought.
pub(super) fn time_left(left: Duration) -> String {
    let rest = u64::from(left.subsec_nanos() > 0);
    time(Duration::from_secs(left.as_secs().saturating_add(rest)))
}

/// How many messages come.
pub(super) fn rate(rate: Rate) -> String {
    match rate.per_second {
        many if many >= 99.5 => format!("{many:.0} msg/s"),
        some if some >= 0.2 => format!("{some:.1} msg/s"),
        _ => format!("{} msg/min", rate.per_minute),
    }
}

/// A count with its noun, in the plural unless it is one.
pub(super) fn count(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_too_long_is_shortened_where_it_hurts_least() {
        assert_eq!(cut("connection refused", 10), "connectio…");
        assert_eq!(cut("short", 5), "short");
        assert_eq!(
            cut_middle("devices/building-7/pump/temperature", 20),
            "device…p/temperature"
        );
        assert_eq!(cut_middle("温度/温度/温度", 8), "温…/温度");
    }

    #[test]
    fn times_and_rates_are_short() {
        assert_eq!(time(Duration::from_secs(59)), "59 s");
        assert_eq!(time(Duration::from_secs(150)), "2 min");
        assert_eq!(time(Duration::from_secs(90_000)), "25 h");
        assert_eq!(time_left(Duration::from_millis(2001)), "3 s");
        let at = |per_second| {
            rate(Rate {
                per_second,
                per_minute: 7,
            })
        };
        assert_eq!(
            [at(1234.4), at(1.0), at(0.1)],
            ["1234 msg/s", "1.0 msg/s", "7 msg/min"]
        );
    }

    proptest! {
        #[test]
        fn nothing_is_wider_than_it_may_be(text in "\\PC{0,40}", columns in 0usize..50) {
            prop_assert!(width(&cut(&text, columns)) <= columns);
            prop_assert!(width(&cut_middle(&text, columns)) <= columns);
        }
    }
}
