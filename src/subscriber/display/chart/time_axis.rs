//! The ticks of the time axis: clock times at equal steps. PURE.

use std::time::Duration;

/// In seconds. Each divides a day.
const STEPS: [i64; 19] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 14_400, 21_600, 43_200,
    86_400,
];

const MIN_COLUMNS_PER_TICK: f64 = 12.0;

/// Seconds before now (negative) and the labels of the ticks of an axis with this number of columns. `clock`: the time
/// now by the clock on the wall, in milliseconds since a midnight.
pub(super) fn ticks(span: Duration, columns: u16, clock: i64) -> Vec<(f64, String)> {
    let per_column = span.as_secs_f64() / f64::from(columns.max(1));
    #[allow(clippy::cast_precision_loss, reason = "seconds of a day")]
    let is_wide = |step: &i64| *step as f64 >= per_column * MIN_COLUMNS_PER_TICK;
    let step = STEPS.into_iter().find(is_wide).unwrap_or(86_400);
    let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    let first = clock.saturating_sub(span).div_euclid(step * 1000) + 1;
    let last = clock.div_euclid(step * 1000);
    // Never more than there are columns.
    let ticks = (first..=last).take(columns.into()).map(|number| {
        let at = number * step;
        #[allow(clippy::cast_precision_loss, reason = "milliseconds of a day")]
        let before = (at * 1000 - clock) as f64 / 1e3;
        (before, clock_label(at.rem_euclid(86_400), step < 60))
    });
    ticks.collect()
}

fn clock_label(second: i64, with_seconds: bool) -> String {
    let (hour, minute) = (second / 3600, second / 60 % 60);
    if with_seconds {
        format!("{hour:02}:{minute:02}:{:02}", second % 60)
    } else {
        format!("{hour:02}:{minute:02}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(seconds: u64, columns: u16, clock: i64) -> Vec<String> {
        let ticks = ticks(Duration::from_secs(seconds), columns, clock);
        ticks.into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_clock_times() {
        let midnight = 20_000 * 86_400_000 + 7_250;
        assert_eq!(
            labels(60, 50, midnight),
            ["23:59:15", "23:59:30", "23:59:45", "00:00:00"]
        );
        assert_eq!(
            labels(13, 75, midnight),
            ["23:59:55", "00:00:00", "00:00:05"]
        );
        assert_eq!(labels(1800, 40, midnight), ["23:40", "23:50", "00:00"]);
        assert_eq!(
            labels(86_400, 75, midnight),
            ["04:00", "08:00", "12:00", "16:00", "20:00", "00:00"]
        );
    }

    proptest! {
        #[test]
        fn the_steps_are_equal_and_the_ticks_inside(
            seconds in 1u64..100_000, columns in 0u16..300, clock in any::<i64>(),
        ) {
            let ticks = ticks(Duration::from_secs(seconds), columns, clock / 2);
            #[allow(clippy::cast_precision_loss)]
            let span = seconds as f64;
            prop_assert!(ticks.iter().all(|(at, _)| (-span..=0.0).contains(at)), "{ticks:?}");
            let steps: Vec<_> = ticks.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
            prop_assert!(steps.iter().all(|step| (step - steps[0]).abs() < 1e-6), "{ticks:?}");
        }
    }
}
