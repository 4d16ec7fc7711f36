//! The data of the chart: the readings of each line. PURE. Its memory is bounded.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::axis_division::AxisDivision;
use super::chart_content::{ChartContent, ChartCurve};
use super::series::Series;
use super::time_axis::MAX_EXCESS_DIVISOR;
use super::zoom::{MAX_WINDOW, ZoomCommand, ZoomLevel};
use crate::common::escape::escape;
use crate::subscriber::display::connection_history::ConnectionHistory;
use crate::subscriber::display::delay_estimator::DelayEstimator;
use crate::subscriber::display::ms::{Ms, ms_to_duration, seconds_from_now};

pub const MAX_LINES: usize = 8;

/// Topics or values without a line that are counted.
const MAX_OTHER_LINES: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HideCommand {
    /// Hides the line at this position, or shows it again.
    Toggle(usize),
    /// One line after the other, then all.
    ShowNextAlone,
}

#[derive(Debug)]
struct Line {
    topic: String,
    /// Which of the values of a message.
    value: usize,
    delays: DelayEstimator,
    series: Series,
    is_hidden: bool,
}

#[derive(Debug)]
pub struct ChartData {
    /// The names of the values.
    headings: Vec<String>,
    window: ZoomLevel,
    lines: Vec<Line>,
    axes: AxisDivision,
    other_lines: HashSet<u64>,
}

impl ChartData {
    pub fn new(headings: Vec<String>) -> Self {
        Self {
            headings,
            window: ZoomLevel::new(),
            lines: Vec::new(),
            axes: AxisDivision::default(),
            other_lines: HashSet::new(),
        }
    }

    /// `delay`: our time of arrival minus the sender's time of measurement, in milliseconds.
    pub fn add(&mut self, topic: &str, values: &[Option<f64>], delay: i64, now: Ms) {
        for (number, value) in values.iter().enumerate() {
            if let Some(value) = value {
                self.add_value((topic, number), *value, delay, now);
            }
        }
    }

    fn add_value(&mut self, (topic, value): (&str, usize), number: f64, delay: i64, now: Ms) {
        let is_same = |line: &Line| line.value == value && line.topic == topic;
        let known = self.lines.iter().position(is_same);
        if known.is_none() && self.lines.len() == MAX_LINES {
            if self.other_lines.len() < MAX_OTHER_LINES {
                let mut hasher = DefaultHasher::new();
                (topic, value).hash(&mut hasher);
                self.other_lines.insert(hasher.finish());
            }
            return;
        }
        let position = known.unwrap_or_else(|| {
            self.lines.push(Line {
                topic: topic.to_owned(),
                value,
                delays: DelayEstimator::default(),
                series: Series::new(),
                is_hidden: false,
            });
            self.lines.len() - 1
        });
        let line = &mut self.lines[position];
        // A reading that claims to be older than the longest window is shown at its arrival.
        let late = line.delays.estimate_delay(delay, now);
        let at = if late > MAX_WINDOW { now } else { now - late };
        line.series.add(at, number, now);
        if let Some(interval) = line.series.interval() {
            self.window.grow_for_interval(interval);
        }
    }

    pub fn hide(&mut self, command: HideCommand) {
        match command {
            HideCommand::Toggle(position) => {
                if let Some(line) = self.lines.get_mut(position) {
                    line.is_hidden = !line.is_hidden;
                }
            }
            HideCommand::ShowNextAlone => {
                let is_any_hidden = self.lines.iter().any(|line| line.is_hidden);
                let first_shown = self.lines.iter().position(|line| !line.is_hidden);
                let alone = match first_shown {
                    Some(position) if is_any_hidden => position + 1,
                    _ => 0,
                };
                // After the last one all are shown.
                let is_end = alone == self.lines.len();
                for (position, line) in self.lines.iter_mut().enumerate() {
                    line.is_hidden = !is_end && position != alone;
                }
            }
        }
    }

    pub fn zoom(&mut self, zoom: ZoomCommand) {
        self.window.zoom(zoom);
        let intervals = self.lines.iter().filter_map(|line| line.series.interval());
        if let Some(longest) = intervals.max() {
            self.window.grow_for_interval(longest);
        }
    }

    fn label(&self, line: &Line) -> String {
        let topic = escape(line.topic.as_bytes(), &[]);
        match &*self.headings {
            [_, _, ..] => format!("{topic} {}", self.headings[line.value]),
            _ => topic,
        }
    }

    pub fn content(&mut self, connection: &ConnectionHistory, clock: i64, now: Ms) -> ChartContent {
        let first = self.lines.iter().filter_map(|line| line.series.first);
        let span = self.window.span(first.min(), now);
        let from = now - span;
        // The columns may show more than the window.
        let earliest = from - span / MAX_EXCESS_DIVISOR;
        let outages = &connection.outages;
        let stats = self.lines.iter().map(|line| line.series.stats(from, now));
        let stats: Vec<_> = stats.collect();
        let shown = self.lines.iter().zip(&stats);
        let ranges = shown.map(|(line, stats)| {
            let stats = stats.filter(|_| !line.is_hidden);
            stats.map(|stats| (stats.min, stats.max))
        });
        let ranges: Vec<_> = ranges.collect();
        let axes = self.axes.update(&ranges).to_vec();
        let lines = self.lines.iter().zip(stats).zip(axes);
        let curves = lines.filter_map(|((line, stats), axis)| {
            let (at, last) = line.series.last?;
            Some(ChartCurve {
                label: self.label(line),
                segments: line.series.segments(earliest, now, outages),
                last,
                age: ms_to_duration(now - at),
                decimal_places: line.series.places,
                stats,
                is_hidden: line.is_hidden,
                axis,
            })
        });
        let down = connection.down_since.map(|since| (since, now));
        let shown = outages
            .iter()
            .copied()
            .chain(down)
            .filter(|o| o.1 >= earliest);
        ChartContent {
            span: ms_to_duration(span),
            clock,
            curves: curves.collect(),
            more_lines: self.other_lines.len(),
            outages: shown
                .map(|(down, up)| (seconds_from_now(down, now), seconds_from_now(up, now)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subscriber::display::chart::axis_division::Axis;
    use std::time::Duration;

    use proptest::prelude::*;

    fn content(chart: &mut ChartData, now: Ms) -> ChartContent {
        chart.content(&ConnectionHistory::default(), 0, now)
    }

    #[test]
    fn topics_become_lines() {
        let mut chart = ChartData::new(vec!["value".into()]);
        for n in 0..20 {
            chart.add(&format!("t/{}\u{7}", n % 10), &[Some(1.0)], 0, 0);
        }
        let content = content(&mut chart, 1000);
        assert_eq!((content.curves.len(), content.more_lines), (8, 2));
        assert_eq!(content.curves[3].label, "t/3\\x07");
        assert_eq!(content.curves[3].age, Duration::from_secs(1));
    }

    #[test]
    fn several_values_of_a_topic_become_lines_of_their_own() {
        let mut chart = ChartData::new(vec!["/a".into(), "/b".into()]);
        chart.add("t", &[Some(1.0), Some(2.0)], 0, 0);
        chart.add("t", &[None, Some(3.0)], 0, 1000);
        let curves = content(&mut chart, 1000).curves;
        let curves: Vec<_> = curves.iter().map(|c| (&*c.label, c.last)).collect();
        assert_eq!(curves, [("t /a", 1.0), ("t /b", 3.0)]);
    }

    #[test]
    fn lines_are_shown_alone_in_turn_or_hidden_one_by_one() {
        let mut chart = ChartData::new(vec!["value".into()]);
        for topic in ["a", "b", "c"] {
            chart.add(topic, &[Some(1.0)], 0, 0);
        }
        let next = HideCommand::ShowNextAlone;
        for (command, shown) in [
            (next, "a"),
            (next, "b"),
            (next, "c"),
            (next, "abc"),
            (HideCommand::Toggle(1), "ac"),
            (HideCommand::Toggle(7), "ac"),
            (HideCommand::Toggle(1), "abc"),
        ] {
            chart.hide(command);
            let curves = content(&mut chart, 0).curves;
            let curves = curves.into_iter().filter(|curve| !curve.is_hidden);
            let labels: String = curves.map(|curve| curve.label).collect();
            assert_eq!(labels, shown, "{command:?}");
        }
    }

    #[test]
    fn a_hidden_line_has_no_axis_and_the_others_share_one() {
        let mut chart = ChartData::new(vec!["value".into()]);
        for (topic, value) in [("a", 21.0), ("b", 101_300.0), ("c", 20.0)] {
            chart.add(topic, &[Some(value)], 0, 0);
        }
        let mut axes = |key: usize| {
            chart.hide(HideCommand::Toggle(key));
            let curves = content(&mut chart, 0).curves;
            curves.iter().map(|curve| curve.axis).collect::<Vec<_>>()
        };
        let (left, right) = (Some(Axis::Left), Some(Axis::Right));
        assert_eq!(axes(7), [left, right, left]);
        assert_eq!(axes(1), [left, None, left]);
        assert_eq!(axes(1), [left, right, left]);
        assert_eq!(axes(0), [None, left, right]);
    }

    #[test]
    fn a_late_reading_is_shown_at_the_time_of_its_measurement() {
        let mut chart = ChartData::new(vec!["value".into()]);
        // The sender's clock is an hour slow.
        let mut add = |taken: i64, arrived: i64| {
            let delay = (3600 + arrived - taken) * 1000;
            chart.add("t", &[Some(1.0)], delay, arrived * 1000);
        };
        for second in 0..5 {
            add(second, second);
        }
        for second in 5..9 {
            add(second, 9);
        }
        add(9, 9);
        let content = content(&mut chart, 10_000);
        let times: Vec<_> = content.curves[0].segments.concat();
        let times: Vec<_> = times.iter().map(|(at, _)| *at).collect();
        assert_eq!(times, [-10., -9., -8., -7., -6., -5., -4., -3., -2., -1.]);
        assert_eq!(content.curves[0].segments.len(), 1);
    }

    proptest! {
        #[test]
        fn memory_is_bounded(
            readings in proptest::collection::vec((0u32..50, -1e100f64..1e100, any::<i64>(), 0i64..100_000), 1..400)
        ) {
            let mut chart = ChartData::new(vec!["value".into()]);
            let mut now = 0;
            for (topic, value, delay, later) in readings {
                now += later;
                chart.add(&topic.to_string(), &[Some(value)], delay, now);
                chart.zoom(ZoomCommand::Out);
            }
            prop_assert!(chart.lines.len() <= MAX_LINES);
            prop_assert!(chart.other_lines.len() <= 50);
            let _ = content(&mut chart, now);
        }
    }
}
