//! The data of the chart: readings, connection, counts. PURE. Its memory is bounded.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use super::chart_content::{ChartContent, ChartCurve, MessageRate};
use super::connection_history::ConnectionHistory;
use super::delay_estimator::DelayEstimator;
use super::rate_meter::RateMeter;
use super::series::Series;
use super::value_extractor::is_plottable;
pub use super::zoom::ZoomCommand;
use super::zoom::{MAX_WINDOW, Ms, ZoomLevel, seconds_from_now};
use crate::common::connection::state::ConnectionStateMachine;
use crate::common::escape::{escape, one_line};

pub const MAX_LINES: usize = 8;

/// Topics without a line that are counted.
const MAX_OTHER_TOPICS: usize = 10_000;

#[derive(Clone, Copy, Debug)]
pub struct PlottedMessage<'a> {
    pub topic: &'a str,
    pub value: Option<f64>,
    /// The Unix time of the measurement by the sender's clock, if it is in the message.
    pub taken_at: Option<Duration>,
    pub arrived_at: Duration,
}

#[derive(Debug)]
struct Line {
    topic: String,
    delays: DelayEstimator,
    series: Series,
}

#[derive(Debug)]
pub struct ChartData {
    broker: String,
    started: Instant,
    window: ZoomLevel,
    lines: Vec<Line>,
    other_topics: HashSet<u64>,
    received: u64,
    without_value: u64,
    missing: u64,
    rate: RateMeter,
    connection: ConnectionHistory,
    revision: u64,
}

impl ChartData {
    pub fn new(broker: &str, now: Instant) -> Self {
        Self {
            broker: one_line(broker),
            started: now,
            window: ZoomLevel::new(),
            lines: Vec::new(),
            other_topics: HashSet::new(),
            received: 0,
            without_value: 0,
            missing: 0,
            rate: RateMeter::default(),
            connection: ConnectionHistory::default(),
            revision: 0,
        }
    }

    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn add(&mut self, reading: &PlottedMessage<'_>, now: Instant) {
        self.revision += 1;
        self.received += 1;
        let now = self.ms(now);
        self.rate.count(now);
        let Some(value) = reading.value.filter(|value| is_plottable(*value)) else {
            self.without_value += 1;
            return;
        };
        let known = self.lines.iter().position(|l| l.topic == reading.topic);
        if known.is_none() && self.lines.len() == MAX_LINES {
            if self.other_topics.len() < MAX_OTHER_TOPICS {
                let mut hasher = DefaultHasher::new();
                reading.topic.hash(&mut hasher);
                self.other_topics.insert(hasher.finish());
            }
            return;
        }
        let number = known.unwrap_or_else(|| {
            self.lines.push(Line {
                topic: reading.topic.to_owned(),
                delays: DelayEstimator::default(),
                series: Series::new(),
            });
            self.lines.len() - 1
        });
        let line = &mut self.lines[number];
        let delay = reading.taken_at.map_or(0, |taken| {
            unix_ms(reading.arrived_at).saturating_sub(unix_ms(taken))
        });
        // A reading that claims to be older than the longest window is shown at its arrival.
        let late = line.delays.estimate_delay(delay, now);
        let at = if late > MAX_WINDOW { now } else { now - late };
        line.series.add(at, value, now);
        if let Some(interval) = line.series.interval() {
            self.window.grow_for_interval(interval);
        }
    }

    pub fn update_connection(&mut self, connection: &ConnectionStateMachine, now: Instant) {
        let ms = self.ms(now);
        self.revision += u64::from(self.connection.update(connection, ms));
    }

    pub fn set_missing_count(&mut self, missing: u64) {
        self.revision += u64::from(self.missing != missing);
        self.missing = missing;
    }

    pub fn zoom(&mut self, zoom: ZoomCommand) {
        self.revision += 1;
        self.window.zoom(zoom);
        let intervals = self.lines.iter().filter_map(|line| line.series.interval());
        if let Some(longest) = intervals.max() {
            self.window.grow_for_interval(longest);
        }
    }

    pub fn view(&self, at: Instant) -> ChartContent {
        let now = self.ms(at);
        let from = now - self.window.span();
        let outages = &self.connection.outages;
        let lines = self.lines.iter().filter_map(|line| {
            let (at, last) = line.series.last?;
            Some(ChartCurve {
                topic: escape(line.topic.as_bytes(), &[]),
                segments: line.series.segments(from, now, outages),
                last,
                age: ms_to_duration(now - at),
                decimal_places: line.series.places,
                stats: line.series.stats(from, now),
            })
        });
        let down = self.connection.down_since.map(|since| (since, now));
        let shown = outages.iter().copied().chain(down).filter(|o| o.1 >= from);
        ChartContent {
            now: at,
            broker: self.broker.clone(),
            connection: self.connection.state,
            why_offline: self.connection.why_offline.clone(),
            elapsed: at.saturating_duration_since(self.started),
            span: ms_to_duration(self.window.span()),
            lines: lines.collect(),
            more_topics: self.other_topics.len(),
            received: self.received,
            without_value: self.without_value,
            missing: self.missing,
            reconnects: self.connection.reconnects,
            rate: MessageRate {
                per_second: self.rate.per_second(now),
                per_minute: self.rate.per_minute(now),
            },
            outages: shown
                .map(|(down, up)| (seconds_from_now(down, now), seconds_from_now(up, now)))
                .collect(),
            log: None,
            ended: None,
        }
    }

    fn ms(&self, at: Instant) -> Ms {
        let since = at.saturating_duration_since(self.started);
        Ms::try_from(since.as_millis()).unwrap_or(Ms::MAX)
    }
}

fn unix_ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn ms_to_duration(ms: Ms) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or_default())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    const UNIX: Duration = Duration::from_secs(1_769_846_400);

    #[allow(
        clippy::disallowed_methods,
        reason = "an origin; the tests move it by hand"
    )]
    pub(in crate::subscriber::plot) fn chart() -> (ChartData, Instant) {
        let now = Instant::now();
        (ChartData::new("broker\u{1b}", now), now)
    }

    fn reading(topic: &str, value: Option<f64>) -> PlottedMessage<'_> {
        PlottedMessage {
            topic,
            value,
            taken_at: None,
            arrived_at: UNIX,
        }
    }

    #[test]
    fn topics_become_lines_and_messages_without_a_number_are_counted() {
        let (mut chart, now) = chart();
        for n in 0..20 {
            chart.add(&reading(&format!("t/{}\u{7}", n % 10), Some(1.0)), now);
        }
        chart.add(&reading("words", None), now);
        chart.add(&reading("words", Some(f64::NAN)), now);
        let view = chart.view(now + SECOND);
        assert_eq!(view.broker, "broker\\u{1b}");
        assert_eq!((view.lines.len(), view.more_topics), (8, 2));
        assert_eq!(view.lines[3].topic, "t/3\\x07");
        assert_eq!((view.received, view.without_value), (22, 2));
        assert_eq!(view.lines[3].age, SECOND);
    }

    #[test]
    fn a_late_reading_is_shown_at_the_time_of_its_measurement() {
        let (mut chart, now) = chart();
        let mut add = |taken: u64, arrived: u64| {
            let reading = PlottedMessage {
                // The sender's clock is an hour slow.
                taken_at: Some(UNIX + Duration::from_secs(taken)),
                arrived_at: UNIX + Duration::from_secs(3600 + arrived),
                ..reading("t", Some(1.0))
            };
            chart.add(&reading, now + Duration::from_secs(arrived));
        };
        for second in 0..5 {
            add(second, second);
        }
        for second in 5..9 {
            add(second, 9);
        }
        add(9, 9);
        let view = chart.view(now + SECOND * 10);
        let times: Vec<_> = view.lines[0].segments.concat();
        let times: Vec<_> = times.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [-10., -9., -8., -7., -6., -5., -4., -3., -2., -1.]);
        assert_eq!(view.lines[0].segments.len(), 1);
    }

    proptest! {
        #[test]
        fn memory_is_bounded(
            readings in proptest::collection::vec((0u32..50, any::<f64>(), any::<u64>(), any::<u64>()), 1..400)
        ) {
            let (mut chart, mut now) = chart();
            for (topic, value, taken, arrived) in readings {
                now += Duration::from_millis(arrived % 100_000);
                let topic = topic.to_string();
                let reading = PlottedMessage {
                    taken_at: Some(Duration::from_millis(taken)),
                    arrived_at: Duration::from_millis(arrived),
                    ..reading(&topic, Some(value))
                };
                chart.add(&reading, now);
                chart.zoom(ZoomCommand::Out);
            }
            prop_assert!(chart.lines.len() <= MAX_LINES);
            prop_assert!(chart.other_topics.len() <= 50);
            let _ = chart.view(now);
        }
    }
}
