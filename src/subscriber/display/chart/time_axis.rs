//! The time axis: clock times at ticks that are the same number of columns apart. PURE.

use std::time::Duration;

/// In seconds. Each divides a day.
const STEPS: [i64; 19] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 14_400, 21_600, 43_200,
    86_400,
];

const MIN_COLUMNS_PER_TICK: u16 = 12;

/// The columns show more than the window, because the distance of two ticks is a whole number of columns: at most a part
/// of it, the divisor.
pub(super) const MAX_EXCESS_DIVISOR: i64 = MIN_COLUMNS_PER_TICK as i64 - 1;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct TimeTick {
    pub(super) column: u16,
    pub(super) label: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TimeScale {
    dots: u32,
    dots_per_column: u16,
    columns_per_tick: u16,
    /// In seconds.
    step: i64,
    /// In seconds: the chart moves by whole dots, otherwise the lines would flicker. It shows a time up to one dot after
    /// now.
    rest: f64,
}

impl TimeScale {
    /// `elapsed` is the time since any moment, always the same one.
    pub(super) fn new(
        span: Duration,
        columns: u16,
        dots_per_column: u16,
        elapsed: Duration,
    ) -> Self {
        let (columns, dots_per_column) = (columns.max(1), dots_per_column.max(1));
        let dots = u32::from(columns) * u32::from(dots_per_column);
        // From the first dot to the last one.
        let wide = f64::from(dots - 1).max(1.0) / f64::from(dots_per_column);
        let per_tick = |step: &i64| {
            #[allow(clippy::cast_precision_loss, reason = "seconds of a day")]
            let columns = wide * *step as f64 / span.as_secs_f64().max(1e-3);
            truncate_to_u16(columns)
        };
        let is_wide = |step: &i64| per_tick(step) >= MIN_COLUMNS_PER_TICK;
        let step = STEPS.into_iter().find(is_wide).unwrap_or(86_400);
        let mut scale = Self {
            dots,
            dots_per_column,
            columns_per_tick: per_tick(&step).max(1),
            step,
            rest: 0.0,
        };
        let dot = scale.seconds_per_dot();
        scale.rest = dot - elapsed.as_secs_f64() % dot;
        scale
    }

    /// From the left, a fraction between two dots. `at`: seconds before now, negative.
    pub(super) fn dot(&self, at: f64) -> f64 {
        f64::from(self.dots - 1) + (at - self.rest) / self.seconds_per_dot()
    }

    /// The nearest column.
    pub(super) fn column(&self, at: f64) -> u16 {
        let dot = self.dot(at).round().clamp(0.0, f64::from(self.dots - 1));
        truncate_to_u16(dot / f64::from(self.dots_per_column))
    }

    /// From right to left. `clock`: the time now by the clock on the wall, in milliseconds since a midnight.
    pub(super) fn ticks(&self, clock: i64) -> Vec<TimeTick> {
        let newest = clock.div_euclid(self.step * 1000);
        #[allow(clippy::cast_precision_loss, reason = "milliseconds of a day")]
        let age = clock.rem_euclid(self.step * 1000) as f64 / 1e3;
        let dot = self.dot(-age).round();
        if dot < 0.0 {
            return Vec::new();
        }
        let right = truncate_to_u16(dot / f64::from(self.dots_per_column));
        // Counted in whole columns, so that all distances are equal.
        let ticks = (0..=right).rev().step_by(self.columns_per_tick.into());
        ticks
            .zip(0i64..)
            .map(|(column, number)| {
                let second = (newest - number) * self.step;
                let label = clock_label(second.rem_euclid(86_400), self.step < 60);
                TimeTick { column, label }
            })
            .collect()
    }

    #[allow(clippy::cast_precision_loss, reason = "seconds of a day")]
    fn seconds_per_dot(&self) -> f64 {
        let dots = f64::from(self.columns_per_tick) * f64::from(self.dots_per_column);
        self.step as f64 / dots
    }
}

fn clock_label(second: i64, with_seconds: bool) -> String {
    let (hour, minute) = (second / 3600, second / 60 % 60);
    if with_seconds {
        format!("{hour:02}:{minute:02}:{:02}", second % 60)
    } else {
        format!("{hour:02}:{minute:02}")
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a column"
)]
fn truncate_to_u16(number: f64) -> u16 {
    number as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scale(seconds: u64, columns: u16) -> TimeScale {
        TimeScale::new(Duration::from_secs(seconds), columns, 2, Duration::ZERO)
    }

    fn labels(seconds: u64, columns: u16, clock: i64) -> Vec<String> {
        let ticks = scale(seconds, columns).ticks(clock);
        ticks.into_iter().rev().map(|tick| tick.label).collect()
    }

    #[test]
    fn ticks_are_round_clock_times() {
        let midnight = 20_000 * 86_400_000 + 7_250;
        assert_eq!(
            labels(60, 50, midnight),
            ["23:59:15", "23:59:30", "23:59:45", "00:00:00"]
        );
        assert_eq!(
            labels(13, 76, midnight),
            ["23:59:55", "00:00:00", "00:00:05"]
        );
        assert_eq!(
            labels(1800, 40, midnight),
            ["23:30", "23:40", "23:50", "00:00"]
        );
        assert_eq!(
            labels(86_400, 75, midnight),
            [
                "00:00", "04:00", "08:00", "12:00", "16:00", "20:00", "00:00"
            ]
        );
    }

    #[test]
    fn a_reading_at_the_time_of_a_tick_is_in_its_column() {
        for elapsed in 0..200 {
            let span = Duration::from_secs(60);
            let elapsed = Duration::from_millis(elapsed * 37);
            let scale = TimeScale::new(span, 76, 2, elapsed);
            let ticks = scale.ticks(7_250);
            assert_eq!(scale.column(-7.25), ticks[0].column);
            assert_eq!(scale.column(-17.25), ticks[1].column);
        }
    }

    proptest! {
        #[test]
        fn ticks_are_equally_far_apart_in_columns_and_the_window_is_shown(
            seconds in 1u64..=86_400, columns in 0u16..300, clock in any::<i64>(),
            dots in 1u16..3, elapsed in 0u64..1_000_000,
        ) {
            let clock = clock / 2;
            let span = Duration::from_secs(seconds);
            let scale = TimeScale::new(span, columns, dots, Duration::from_millis(elapsed));
            let ticks = scale.ticks(clock);
            prop_assert!(ticks.iter().all(|tick| tick.column < columns.max(1)), "{ticks:?}");
            for pair in ticks.windows(2) {
                let distance = pair[0].column - pair[1].column;
                prop_assert_eq!(distance, scale.columns_per_tick, "{:?}", ticks);
            }
            #[allow(clippy::cast_precision_loss)]
            let span = seconds as f64;
            if columns > 12 {
                prop_assert!(scale.columns_per_tick >= MIN_COLUMNS_PER_TICK);
                prop_assert!(scale.dot(-span) >= -1.001, "{scale:?}");
                #[allow(clippy::cast_precision_loss)]
                let longest = span * (1.0 + 1.0 / MAX_EXCESS_DIVISOR as f64);
                prop_assert!(scale.dot(-longest) <= 0.001, "{scale:?}");
            }
        }
    }
}
