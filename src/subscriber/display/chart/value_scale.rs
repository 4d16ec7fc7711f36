//! The value axis, with round numbers at its ticks. PURE.

use crate::subscriber::display::number_format::format_number;

/// A smaller number is taken for 0.
const SMALLEST: f64 = 1e-100;

const FLAT: f64 = 1e-9;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    pub low: f64,
    pub high: f64,
    step: f64,
}

impl Scale {
    pub fn new(min: f64, max: f64, wanted: usize) -> Self {
        let magnitude = min.abs().max(max.abs());
        let (min, max) = if magnitude < SMALLEST {
            (-1.0, 1.0)
        } else if max - min <= magnitude * FLAT {
            (min - magnitude * 0.1, max + magnitude * 0.1)
        } else {
            (min, max)
        };
        #[allow(clippy::cast_precision_loss, reason = "some ticks")]
        let step = round_up((max - min) / wanted.max(1) as f64);
        Self {
            low: (min / step).floor() * step,
            high: (max / step).ceil() * step,
            step,
        }
    }

    pub fn ticks(&self) -> Vec<(f64, String)> {
        let places = places_for_step(self.step);
        // Counted in whole steps, so that errors do not add up.
        (0..100)
            .map(|n| self.low + f64::from(n) * self.step)
            .take_while(|value| *value <= self.high + self.step / 2.0)
            .map(|value| {
                let is_near_zero = value.abs() < self.step / 1e3;
                let shown = if is_near_zero { 0.0 } else { value };
                (value, format_number(shown, places))
            })
            .collect()
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

    fn labels(min: f64, max: f64, wanted: usize) -> Vec<String> {
        let ticks = Scale::new(min, max, wanted).ticks();
        ticks.into_iter().map(|(_, label)| label).collect()
    }

    #[test]
    fn ticks_are_round_numbers_that_enclose_the_values() {
        assert_eq!(labels(20.2, 22.9, 4), ["20", "21", "22", "23"]);
        assert_eq!(labels(-0.3, 0.25, 4), ["-0.4", "-0.2", "0.0", "0.2", "0.4"]);
        assert_eq!(labels(0.0, 1.0, 2), ["0.0", "0.5", "1.0"]);
        assert_eq!(
            labels(99_990.0, 100_010.0, 2),
            ["99990", "100000", "100010"]
        );
        assert_eq!(labels(0.0, 3e12, 3), ["0", "1e12", "2e12", "3e12"]);
        assert_eq!(labels(1e-12, 3e-12, 2), ["1e-12", "2e-12", "3e-12"]);
    }

    #[test]
    fn a_flat_line_has_space_on_both_sides() {
        assert_eq!(labels(21.5, 21.5, 3), ["18", "20", "22", "24"]);
        assert_eq!(labels(0.0, 0.0, 2), ["-1", "0", "1"]);
        assert_eq!(labels(-5e-320, 0.0, 2), ["-1", "0", "1"]);
        let flat = Scale::new(-1e100, -1e100, 4);
        assert!(flat.low < -1e100 && flat.high > -1e100);
    }

    proptest! {
        #[test]
        fn every_scale_encloses_its_values_with_few_ticks(
            a in -1e100f64..1e100, exponent in -330i32..0, factor in -1.0f64..1.0, wanted in 1usize..12
        ) {
            let b = a + a * 10f64.powi(exponent) * factor;
            for (min, max) in [(a.min(b), a.max(b)), (a.min(0.0), a.max(0.0)), (a, a)] {
                let scale = Scale::new(min, max, wanted);
                prop_assert!(scale.low <= min && scale.high >= max, "{scale:?}");
                prop_assert!(scale.low < scale.high);
                let ticks = scale.ticks();
                prop_assert!((2..=wanted + 3).contains(&ticks.len()), "{ticks:?}");
                prop_assert!(ticks.iter().all(|(_, label)| label.len() <= 18), "{ticks:?}");
            }
        }
    }
}
