//! What the chart knows: readings, the connection, what is missing. PURE, and bounded in
//! memory whatever comes.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use super::connection::Link;
use super::series::Series;
use super::timing::{Ms, Rate, Skew};
use super::value::is_reading;
use super::view::{self, View};
pub use super::window::Zoom;
use super::window::{LONGEST, Window};
use crate::common::connection::state::Connection;
use crate::common::escape::{escape, one_line};

/// Lines drawn; more could not be told apart.
pub const MAX_LINES: usize = 8;

/// Topics without a line that are told apart.
const MAX_OTHERS: usize = 10_000;

/// A message as the chart sees it.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// Its topic, as it came.
    pub topic: &'a str,
    /// The number in it, if there is one.
    pub value: Option<f64>,
    /// When its sender says that it was taken, as the Unix time.
    pub taken: Option<Duration>,
    /// When it arrived, as the Unix time.
    pub arrived: Duration,
}

#[derive(Debug)]
struct Line {
    topic: String,
    skew: Skew,
    series: Series,
}

#[derive(Debug)]
pub struct Chart {
    broker: String,
    began: Instant,
    window: Window,
    lines: Vec<Line>,
    others: HashSet<u64>,
    received: u64,
    without_value: u64,
    missing: u64,
    rate: Rate,
    link: Link,
    revision: u64,
}

impl Chart {
    /// An empty chart of what comes from this broker.
    pub fn new(broker: &str, now: Instant) -> Self {
        Self {
            broker: one_line(broker),
            began: now,
            window: Window::new(),
            lines: Vec::new(),
            others: HashSet::new(),
            received: 0,
            without_value: 0,
            missing: 0,
            rate: Rate::default(),
            link: Link::default(),
            revision: 0,
        }
    }

    /// A number that grows whenever there is something new to draw.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Takes a message.
    pub fn take(&mut self, reading: &Reading<'_>, now: Instant) {
        self.revision += 1;
        self.received += 1;
        let now = self.ms(now);
        self.rate.count(now);
        let Some(value) = reading.value.filter(|value| is_reading(*value)) else {
            self.without_value += 1;
            return;
        };
        let known = self.lines.iter().position(|l| l.topic == reading.topic);
        if known.is_none() && self.lines.len() >= MAX_LINES {
            if self.others.len() < MAX_OTHERS {
                let mut hasher = DefaultHasher::new();
                reading.topic.hash(&mut hasher);
                self.others.insert(hasher.finish());
            }
            return;
        }
        let number = known.unwrap_or_else(|| {
            self.lines.push(Line {
                topic: reading.topic.to_owned(),
                skew: Skew::default(),
                series: Series::new(),
            });
            self.lines.len() - 1
        });
        let Some(line) = self.lines.get_mut(number) else {
            return;
        };
        let delay = reading.taken.map_or(0, |taken| {
            unix_ms(reading.arrived).saturating_sub(unix_ms(taken))
        });
        // What claims to be older than the chart reaches is shown where it arrived.
        let late = line.skew.late(delay, now);
        let at = if late > LONGEST { now } else { now - late };
        line.series.take(at, value, now);
        if let Some(interval) = line.series.interval() {
            self.window.suit(interval);
        }
    }

    /// Looks at the connection. To be called whenever it may have changed; it may be called
    /// as often as one likes.
    pub fn follow(&mut self, connection: &Connection, now: Instant) {
        let ms = self.ms(now);
        self.revision += u64::from(self.link.follow(connection, ms));
    }

    /// So many readings are missing now, in all streams together.
    pub fn missing(&mut self, missing: u64) {
        self.revision += u64::from(self.missing != missing);
        self.missing = missing;
    }

    /// A key was pressed.
    pub fn zoom(&mut self, zoom: Zoom) {
        self.revision += 1;
        self.window.zoom(zoom);
        let intervals = self.lines.iter().filter_map(|line| line.series.interval());
        if let Some(longest) = intervals.max() {
            self.window.suit(longest);
        }
    }

    /// What there is to be seen now.
    pub fn view(&self, now: Instant) -> View {
        let elapsed = now.saturating_duration_since(self.began);
        let link = self.link.view(now);
        let now = self.ms(now);
        let from = now - self.window.span();
        let outages = self.link.outages();
        let lines = self.lines.iter().filter_map(|line| {
            let (at, last) = line.series.last()?;
            Some(view::Line {
                label: escape(line.topic.as_bytes(), &[]),
                segments: line.series.segments(from, now, &outages),
                last,
                age: Duration::from_millis(u64::try_from(now - at).unwrap_or_default()),
                places: line.series.places(),
                stats: line.series.stats(from, now),
            })
        });
        let down = self.link.down_since().map(|since| (since, now));
        let seen = outages.iter().copied().chain(down).filter(|o| o.1 >= from);
        View {
            broker: self.broker.clone(),
            link,
            elapsed,
            span: Duration::from_millis(u64::try_from(self.window.span()).unwrap_or_default()),
            lines: lines.collect(),
            more: self.others.len(),
            received: self.received,
            without_value: self.without_value,
            missing: self.missing,
            reconnects: self.link.reconnects(),
            rate: view::Rate {
                per_second: self.rate.per_second(now),
                per_minute: self.rate.per_minute(now),
            },
            outages: seen
                .map(|(down, up)| (before(down, now), before(up, now)))
                .collect(),
            log: None,
            ended: None,
        }
    }

    fn ms(&self, at: Instant) -> Ms {
        let since = at.saturating_duration_since(self.began);
        Ms::try_from(since.as_millis()).unwrap_or(Ms::MAX)
    }
}

fn unix_ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// A time in seconds before now, less than nought.
#[allow(clippy::cast_precision_loss, reason = "milliseconds of some days")]
fn before(at: Ms, now: Ms) -> f64 {
    (at - now) as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const UNIX: Duration = Duration::from_secs(1_769_846_400);

    #[allow(
        clippy::disallowed_methods,
        reason = "an origin; the tests move it by hand"
    )]
    fn chart() -> (Chart, Instant) {
        let now = Instant::now();
        (Chart::new("broker\u{1b}", now), now)
    }

    fn reading(topic: &str, value: Option<f64>) -> Reading<'_> {
        Reading {
            topic,
            value,
            taken: None,
            arrived: UNIX,
        }
    }

    #[test]
    fn topics_become_lines_and_what_is_no_number_is_counted() {
        let (mut chart, now) = chart();
        for n in 0..20 {
            chart.take(&reading(&format!("t/{}\u{7}", n % 10), Some(1.0)), now);
        }
        chart.take(&reading("words", None), now);
        chart.take(&reading("words", Some(f64::NAN)), now);
        let view = chart.view(now + SECOND);
        assert_eq!(view.broker, "broker\\u{1b}");
        assert_eq!((view.lines.len(), view.more), (8, 2));
        assert_eq!(view.lines[3].label, "t/3\\x07");
        assert_eq!((view.received, view.without_value), (22, 2));
        assert_eq!(view.lines[3].age, SECOND);
    }

    #[test]
    fn a_reading_stands_where_it_was_taken_though_it_came_late() {
        let (mut chart, now) = chart();
        let mut take = |taken: u64, arrived: u64| {
            let reading = Reading {
                topic: "t",
                value: Some(1.0),
                // The sender's clock is an hour slow.
                taken: Some(UNIX + Duration::from_secs(taken)),
                arrived: UNIX + Duration::from_secs(3600 + arrived),
            };
            chart.take(&reading, now + Duration::from_secs(arrived));
        };
        for second in 0..5 {
            take(second, second);
        }
        for second in 5..9 {
            take(second, 9);
        }
        take(9, 9);
        let view = chart.view(now + SECOND * 10);
        let times: Vec<_> = view.lines[0].segments.concat();
        let times: Vec<_> = times.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [-10., -9., -8., -7., -6., -5., -4., -3., -2., -1.]);
        assert_eq!(view.lines[0].segments.len(), 1);
    }

    proptest! {
        #[test]
        fn memory_is_bounded_whatever_comes(
            readings in proptest::collection::vec((0u32..50, any::<f64>(), any::<u64>(), any::<u64>()), 1..400)
        ) {
            let (mut chart, mut now) = chart();
            for (topic, value, taken, arrived) in readings {
                now += Duration::from_millis(arrived % 100_000);
                let topic = topic.to_string();
                let reading = Reading {
                    topic: &topic,
                    value: Some(value),
                    taken: Some(Duration::from_millis(taken)),
                    arrived: Duration::from_millis(arrived),
                };
                chart.take(&reading, now);
                chart.zoom(Zoom::Out);
            }
            prop_assert!(chart.lines.len() <= MAX_LINES);
            prop_assert!(chart.others.len() <= 50);
            let _ = chart.view(now);
        }
    }
}
