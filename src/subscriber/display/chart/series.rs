//! The readings of one line. PURE. Its memory is bounded.
//!
//! Readings are combined in buckets: short ones for the last minute, longer ones for the last hour and the last day. A
//! bucket keeps its first, last, lowest and highest reading, so that the line shows every peak.

use std::collections::VecDeque;

use super::zoom::MAX_WINDOW;
use crate::subscriber::display::ms::{Ms, seconds_from_now};
use crate::subscriber::display::number_format::decimal_places;

/// The width of the buckets and how far they reach back, in milliseconds.
const TIERS: [(Ms, Ms); 3] = [(50, 60_000), (1000, 3_600_000), (30_000, MAX_WINDOW)];

const MAX_INTERVALS: usize = 31;

/// A line has a gap where readings are further apart than this many usual intervals.
const GAP_INTERVALS: Ms = 5;

const MIN_GAP: Ms = 1500;

/// Seconds before now (negative), and the value.
pub type Point = (f64, f64);

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stats {
    pub min: f64,
    pub mean: f64,
    pub max: f64,
    pub count: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    number: i64,
    first: (Ms, f64),
    last: (Ms, f64),
    min: f64,
    max: f64,
    sum: f64,
    count: u64,
}

impl Bucket {
    fn add(&mut self, at: Ms, value: f64) {
        if at < self.first.0 {
            self.first = (at, value);
        }
        if at >= self.last.0 {
            self.last = (at, value);
        }
        self.min = self.min.min(value);
        self.max = self.max.max(value);
        self.sum += value;
        self.count += 1;
    }

    fn points(&self) -> impl Iterator<Item = (Ms, f64)> {
        let middle = self.first.0.midpoint(self.last.0);
        let inner = self.count > 2;
        [
            Some(self.first),
            inner.then_some((middle, self.min)),
            inner.then_some((middle, self.max)),
            (self.count > 1).then_some(self.last),
        ]
        .into_iter()
        .flatten()
    }
}

#[derive(Debug)]
struct Tier {
    width: Ms,
    keep: Ms,
    buckets: VecDeque<Bucket>,
}

impl Tier {
    fn add(&mut self, at: Ms, value: f64, now: Ms) {
        // One bucket more than is shown, because the line starts outside the window.
        let oldest = (now - self.keep).div_euclid(self.width) - 1;
        while self.buckets.front().is_some_and(|b| b.number < oldest) {
            self.buckets.pop_front();
        }
        let number = at.div_euclid(self.width);
        if number < oldest {
            return;
        }
        let index = self.buckets.partition_point(|b| b.number < number);
        match self.buckets.get_mut(index) {
            Some(bucket) if bucket.number == number => bucket.add(at, value),
            _ => {
                let bucket = Bucket {
                    number,
                    first: (at, value),
                    last: (at, value),
                    min: value,
                    max: value,
                    sum: value,
                    count: 1,
                };
                self.buckets.insert(index, bucket);
            }
        }
    }
}

#[derive(Debug)]
pub struct Series {
    tiers: [Tier; 3],
    intervals: VecDeque<Ms>,
    pub first: Option<Ms>,
    pub last: Option<(Ms, f64)>,
    pub places: usize,
}

impl Series {
    pub(super) fn new() -> Self {
        Self {
            tiers: TIERS.map(|(width, keep)| Tier {
                width,
                keep,
                buckets: VecDeque::new(),
            }),
            intervals: VecDeque::new(),
            first: None,
            last: None,
            places: 0,
        }
    }

    /// `at` is not after `now`. Readings may come in any order.
    pub fn add(&mut self, at: Ms, value: f64, now: Ms) {
        for tier in &mut self.tiers {
            tier.add(at, value, now);
        }
        self.places = self.places.max(decimal_places(value));
        self.first = Some(self.first.map_or(at, |first| first.min(at)));
        match self.last {
            Some((last, _)) if at < last => return,
            Some((last, _)) if at > last => {
                self.intervals.push_back(at - last);
                if self.intervals.len() > MAX_INTERVALS {
                    self.intervals.pop_front();
                }
            }
            _ => {}
        }
        self.last = Some((at, value));
    }

    pub fn interval(&self) -> Option<Ms> {
        let mut sorted: Vec<_> = self.intervals.iter().copied().collect();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    pub fn segments(&self, from: Ms, now: Ms, outages: &[(Ms, Ms)]) -> Vec<Vec<Point>> {
        let tier = self.tier(now - from);
        let max_interval = (self.interval().unwrap_or_default() * GAP_INTERVALS)
            .max(MIN_GAP)
            .max(tier.width * 5 / 2);
        let inside = tier.buckets.partition_point(|b| b.last.0 < from);
        let mut segments = Vec::new();
        let mut segment: Vec<Point> = Vec::new();
        let mut last: Option<Ms> = None;
        for bucket in tier.buckets.iter().skip(inside.saturating_sub(1)) {
            let first = bucket.first.0;
            let is_gap = |last: Ms| {
                let mut outages = outages.iter();
                first - last > max_interval
                    || outages.any(|(down, up)| last <= *down && *up <= first)
            };
            if last.is_some_and(is_gap) {
                segments.push(std::mem::take(&mut segment));
            }
            let points = bucket.points();
            segment.extend(points.map(|(at, value)| (seconds_from_now(at, now), value)));
            last = Some(bucket.last.0);
        }
        segments.push(segment);
        let edge = seconds_from_now(from, now);
        segments.retain(|points| points.last().is_some_and(|(at, _)| *at >= edge));
        segments
    }

    pub fn stats(&self, from: Ms, now: Ms) -> Option<Stats> {
        let tier = self.tier(now - from);
        let shown = tier.buckets.iter().filter(|b| b.last.0 >= from);
        let all = shown.copied().reduce(|all, b| Bucket {
            min: all.min.min(b.min),
            max: all.max.max(b.max),
            sum: all.sum + b.sum,
            count: all.count + b.count,
            ..all
        })?;
        #[allow(clippy::cast_precision_loss, reason = "a mean")]
        let mean = all.sum / all.count as f64;
        Some(Stats {
            min: all.min,
            mean: mean.clamp(all.min, all.max),
            max: all.max,
            count: all.count,
        })
    }

    fn tier(&self, span: Ms) -> &Tier {
        let [.., coarse] = &self.tiers;
        let mut tiers = self.tiers.iter();
        tiers.find(|tier| tier.keep >= span).unwrap_or(coarse)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Ms = 60_000;

    fn series(readings: &[(Ms, f64)]) -> Series {
        let mut series = Series::new();
        for (at, value) in readings {
            series.add(*at, *value, *at);
        }
        series
    }

    fn lengths(segments: &[Vec<Point>]) -> Vec<usize> {
        segments.iter().map(Vec::len).collect()
    }

    #[test]
    fn a_line_has_a_gap_where_readings_are_missing() {
        let every_second = (0..40).filter(|n| !(10..20).contains(n));
        let readings: Vec<_> = every_second.map(|n| (n * 1000, 1.0)).collect();
        let series = series(&readings);
        assert_eq!(series.interval(), Some(1000));
        let segments = series.segments(-20_000, 40_000, &[]);
        assert_eq!(lengths(&segments), [10, 20]);
        assert_eq!(segments[0][0], (-40.0, 1.0));
    }

    #[test]
    fn a_short_outage_makes_a_gap_unless_the_readings_arrive_later() {
        let mut series = series(&[(0, 1.0), (1000, 2.0), (3000, 4.0), (4000, 5.0)]);
        let outage = [(1500, 2500)];
        assert_eq!(lengths(&series.segments(0, 5000, &outage)), [2, 2]);
        assert_eq!(lengths(&series.segments(0, 5000, &[])), [4]);
        series.add(2000, 3.0, 5000);
        let segments = series.segments(0, 5000, &outage);
        assert_eq!(lengths(&segments), [5]);
        let values: Vec<_> = segments[0].iter().map(|(_, value)| *value).collect();
        assert_eq!(values, [1.0, 2.0, 3.0, 4.0, 5.0]);
        assert_eq!(series.last, Some((4000, 5.0)));
    }

    #[test]
    fn the_line_starts_at_the_last_reading_before_the_window() {
        let series = series(&[(0, 1.0), (1000, 2.0), (2000, 3.0)]);
        let segments = series.segments(1500, 2000, &[]);
        assert_eq!(segments, [vec![(-1.0, 2.0), (0.0, 3.0)]]);
        let stats = series.stats(1500, 2000).unwrap();
        assert_eq!((stats.min.to_bits(), stats.count), (3f64.to_bits(), 1));
        assert!(series.segments(2500, 3000, &[]).is_empty());
    }

    #[test]
    fn a_peak_between_a_thousand_others_is_kept_in_every_window() {
        let mut series = Series::new();
        for at in 0..MINUTE {
            series.add(at, if at == 30_123 { 99.0 } else { 1.0 }, at);
        }
        for span in [MINUTE, 5 * MINUTE, 24 * 60 * MINUTE] {
            let stats = series.stats(MINUTE - span, MINUTE).unwrap();
            assert_eq!(stats.max.to_bits(), 99f64.to_bits());
            assert_eq!(stats.count, 60_000);
            let segments = series.segments(MINUTE - span, MINUTE, &[]);
            assert_eq!(segments.len(), 1, "{span}");
            assert!(segments[0].iter().any(|(_, value)| *value > 98.0));
        }
    }

    proptest! {
        #[test]
        fn memory_is_bounded_and_time_goes_forward(
            readings in proptest::collection::vec((0i64..200_000, -1e100f64..1e100, 0i64..90_000_000), 1..300)
        ) {
            let mut series = Series::new();
            let mut now = 0;
            for (later, value, late) in readings {
                now += later;
                series.add(now - late, value, now);
            }
            for tier in &series.tiers {
                prop_assert!(i64::try_from(tier.buckets.len()).unwrap() <= tier.keep / tier.width + 3);
            }
            for span in [MINUTE, 60 * MINUTE, MAX_WINDOW] {
                let points: Vec<_> = series.segments(now - span, now, &[(now - 5, now)]).concat();
                prop_assert!(points.is_sorted_by(|(a, _), (b, _)| a <= b));
                if let Some(stats) = series.stats(now - span, now) {
                    prop_assert!(stats.min <= stats.mean && stats.mean <= stats.max);
                }
            }
        }
    }
}
