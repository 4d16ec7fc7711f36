//! A value axis, with round numbers at ticks that are the same number of rows apart. PURE.

use std::ops::RangeInclusive;

use crate::subscriber::display::number_format::format_number;

/// A smaller number is taken for 0.
const SMALLEST: f64 = 1e-100;

const FLAT: f64 = 1e-9;

const MAX_STEPS: u16 = 12;

const MAX_TRIES: u32 = 20;

#[derive(Clone, Debug, PartialEq)]
pub struct ValueTick {
    pub row: u16,
    pub label: String,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Ticks {
    rows_between: u16,
    step: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    rows: u16,
    dots_per_row: u16,
    /// The value at the lowest tick, which is in the last row.
    lowest: f64,
    per_dot: f64,
    /// Too few rows have none.
    ticks: Option<Ticks>,
}

impl Scale {
    /// The finest scale for these values. Each row consists of as many dots as `dots_per_row`.
    pub fn new(min: f64, max: f64, rows: u16, dots_per_row: u16) -> Self {
        let (min, max) = widen_flat(min, max);
        let (rows, dots_per_row) = (rows.max(1), dots_per_row.max(1));
        let distances = rows_between_ticks(rows).into_iter().flatten();
        let candidates = distances.filter_map(|rows_between| {
            let per_row = (max - min) / f64::from(rows);
            let mut step = round_up(per_row * f64::from(rows_between) / 2.0);
            // Each is at least one and a half times the one before.
            for _ in 0..MAX_TRIES {
                let scale = Self {
                    rows,
                    dots_per_row,
                    lowest: (min / step).floor() * step,
                    per_dot: step / f64::from(rows_between * dots_per_row),
                    ticks: Some(Ticks { rows_between, step }),
                };
                if scale.high() >= max {
                    return Some(scale);
                }
                step = round_up(step * 1.5);
            }
            None
        });
        let finest = candidates.min_by(|a, b| a.per_dot.total_cmp(&b.per_dot));
        finest.unwrap_or_else(|| {
            let mut scale = Self {
                rows,
                dots_per_row,
                lowest: min,
                per_dot: 1.0,
                ticks: None,
            };
            scale.per_dot = (max - min) / scale.dot_of_lowest().max(1.0);
            scale
        })
    }

    /// From the top. It is a fraction between two dots.
    pub fn dot(&self, value: f64) -> f64 {
        // The values of one dot alone are all in it.
        let last = f64::from(self.rows * self.dots_per_row - 1);
        if last < 1.0 {
            return 0.0;
        }
        let dot = self.dot_of_lowest() - (value - self.lowest) / self.per_dot;
        // Of the values that the scale encloses, rounding may move the outermost.
        if (-0.1..=last + 0.1).contains(&dot) {
            dot.clamp(0.0, last)
        } else {
            dot
        }
    }

    /// From the bottom upwards.
    pub fn ticks(&self) -> Vec<ValueTick> {
        let Some(Ticks { rows_between, step }) = self.ticks else {
            return Vec::new();
        };
        let places = places_for_step(step);
        // Counted in whole steps, so that errors do not add up.
        let heights = (0..self.rows).step_by(rows_between.into());
        heights
            .zip(0u16..)
            .map(|(height, number)| {
                let value = self.lowest + f64::from(number) * step;
                let is_near_zero = value.abs() < step / 1e3;
                let shown = if is_near_zero { 0.0 } else { value };
                ValueTick {
                    row: self.rows - 1 - height,
                    label: format_number(shown, places),
                }
            })
            .collect()
    }

    /// A tick is in the middle of its row.
    fn dot_of_lowest(&self) -> f64 {
        f64::from((self.rows - 1) * self.dots_per_row + self.dots_per_row / 2)
    }

    fn high(&self) -> f64 {
        self.lowest + self.dot_of_lowest() * self.per_dot
    }
}

/// The distances to choose from: with at least two ticks, or three if there are seven rows.
fn rows_between_ticks(rows: u16) -> Option<RangeInclusive<u16>> {
    let least = match rows {
        ..3 => return None,
        3 => 1,
        4..12 => 2,
        12.. => rows.div_ceil(MAX_STEPS).max(3),
    };
    let most = (least * 2 - 1).min((rows - 1) / 2).max(least);
    Some(least..=most)
}

fn widen_flat(min: f64, max: f64) -> (f64, f64) {
    let magnitude = min.abs().max(max.abs());
    if magnitude < SMALLEST {
        (-1.0, 1.0)
    } else if max - min <= magnitude * FLAT {
        (min - magnitude * 0.1, max + magnitude * 0.1)
    } else {
        (min, max)
    }
}

/// To 1, 2 or 5 times a power of ten.
fn round_up(width: f64) -> f64 {
    let power = 10f64.powf(width.log10().floor());
    let factor = width / power;
    let rounded = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|f| factor <= f * 1.000_001);
    rounded.unwrap_or(10.0) * power
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "0 to 100"
)]
fn places_for_step(step: f64) -> usize {
    (-(step.log10() + 1e-9).floor()).clamp(0.0, 100.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn labels(min: f64, max: f64, rows: u16) -> Vec<String> {
        let ticks = Scale::new(min, max, rows, 4).ticks();
        ticks.into_iter().map(|tick| tick.label).collect()
    }

    #[test]
    fn ticks_are_round_numbers() {
        assert_eq!(labels(20.2, 22.9, 15), ["20", "21", "22"]);
        assert_eq!(labels(-0.3, 0.25, 15), ["-0.4", "-0.2", "0.0", "0.2"]);
        assert_eq!(labels(0.0, 1.0, 7), ["0.0", "0.5", "1.0"]);
        let large = ["99990", "99995", "100000", "100005", "100010"];
        assert_eq!(labels(99_990.0, 100_010.0, 15), large);
        assert_eq!(labels(0.0, 3e12, 10), ["0", "1e12", "2e12", "3e12"]);
        assert_eq!(labels(1e-12, 3e-12, 7), ["1e-12", "2e-12", "3e-12"]);
    }

    #[test]
    fn a_flat_line_has_space_on_both_sides() {
        assert_eq!(labels(21.5, 21.5, 10), ["19", "20", "21", "22", "23"]);
        assert_eq!(labels(0.0, 0.0, 7), ["-1", "0", "1"]);
        assert_eq!(labels(-5e-320, 0.0, 7), ["-1", "0", "1"]);
        let flat = Scale::new(-1e100, -1e100, 10, 4).dot(-1e100);
        assert!((4.0..36.0).contains(&flat), "{flat}");
    }

    #[test]
    fn a_value_at_a_tick_is_in_its_row() {
        for dots_per_row in [1, 4] {
            let scale = Scale::new(0.0, 100.0, 15, dots_per_row);
            for tick in scale.ticks() {
                let dot = scale.dot(tick.label.parse().unwrap());
                let row = dot / f64::from(dots_per_row);
                assert!((row.floor() - f64::from(tick.row)).abs() < 0.1, "{tick:?}");
            }
        }
    }

    proptest! {
        #[test]
        fn ticks_are_equally_far_apart_in_rows_and_in_value_and_the_values_are_enclosed(
            a in -1e100f64..1e100, exponent in -330i32..0, factor in -1.0f64..1.0,
            rows in 1u16..100, dots in prop_oneof![Just(1u16), Just(4)],
        ) {
            let b = a + a * 10f64.powi(exponent) * factor;
            for (min, max) in [(a.min(b), a.max(b)), (a.min(0.0), a.max(0.0)), (a, a)] {
                let scale = Scale::new(min, max, rows, dots);
                let last = f64::from(rows * dots - 1);
                for value in [min, max] {
                    prop_assert!((0.0..=last).contains(&scale.dot(value)), "{scale:?}");
                }
                let ticks = scale.ticks();
                let Some(Ticks { rows_between, step }) = scale.ticks else {
                    prop_assert!(rows < 3 && ticks.is_empty(), "{scale:?}");
                    continue;
                };
                let least = if rows < 7 { 2 } else { 3 };
                prop_assert!((least..=MAX_STEPS.into()).contains(&ticks.len()), "{ticks:?}");
                prop_assert!(ticks.iter().all(|tick| tick.label.len() <= 18), "{ticks:?}");
                prop_assert_eq!(ticks[0].row, rows - 1);
                for pair in ticks.windows(2) {
                    prop_assert_eq!(pair[0].row - pair[1].row, rows_between, "{:?}", ticks);
                }
                let power = step / 10f64.powf((step.log10() + 1e-9).floor());
                prop_assert!([1.0, 2.0, 5.0].iter().any(|f| (power - f).abs() < 1e-6), "{scale:?}");
                let whole = scale.lowest / step;
                prop_assert!((whole - whole.round()).abs() < 1e-3, "{scale:?}");
            }
        }

        #[test]
        fn at_least_a_third_of_the_rows_is_used(
            min in -1e6f64..1e6, width in 1e-3f64..1e6, rows in 7u16..60,
        ) {
            let scale = Scale::new(min, min + width, rows, 4);
            let used = scale.dot(min) - scale.dot(min + width);
            prop_assert!(used >= f64::from(rows) * 4.0 / 3.0, "{scale:?} {used}");
        }
    }
}
