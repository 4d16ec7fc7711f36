//! Divides the lines among a left and a right axis. PURE.

/// Two axes are used if the greatest number of one line is this many times that of another.
const DIVIDE_ABOVE: f64 = 10.0;

/// Two axes are used until it is this, so that lines near the limit do not go back and forth.
const JOIN_BELOW: f64 = 5.0;

/// A division stays while the gap of another one is not wider by more than this.
const KEEP_WITHIN: f64 = 2.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    Left,
    Right,
}

/// The axis of each line, none where no reading of the line is shown.
#[derive(Debug, Default)]
pub struct AxisDivision {
    axes: Vec<Option<Axis>>,
}

impl AxisDivision {
    /// `ranges`: the lowest and the highest reading of each line that is shown. The axis of the first line is left.
    pub fn update(&mut self, ranges: &[Option<(f64, f64)>]) -> &[Option<Axis>] {
        let scales: Vec<_> = ranges.iter().map(|range| range.map(log_scale)).collect();
        let is_shown =
            |axes: &[Option<Axis>]| -> Vec<bool> { axes.iter().map(Option::is_some).collect() };
        let joined: Vec<_> = scales.iter().map(|s| s.map(|_| Axis::Left)).collect();
        let has_same_lines = is_shown(&self.axes) == is_shown(&joined);
        let is_divided = has_same_lines && self.axes.contains(&Some(Axis::Right));
        let limit = if is_divided { JOIN_BELOW } else { DIVIDE_ABOVE };
        if ratio(&scales) <= limit.log10() {
            self.axes = joined;
            return &self.axes;
        }
        let best = divide_at_widest_gap(&scales);
        let stays =
            is_divided && gap(&scales, &self.axes) >= gap(&scales, &best) - KEEP_WITHIN.log10();
        if !stays {
            self.axes = best;
        }
        &self.axes
    }
}

/// The power of ten of the greatest number. A line that is always 0, such as a switch that is off, counts as 1.
fn log_scale((min, max): (f64, f64)) -> f64 {
    let magnitude = min.abs().max(max.abs());
    if magnitude > 0.0 {
        magnitude.log10()
    } else {
        0.0
    }
}

fn extremes(scales: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    let extremes = scales.map(|scale| (scale, scale));
    extremes.reduce(|all, one| (all.0.min(one.0), all.1.max(one.1)))
}

/// How much the lines differ, as a power of ten.
fn ratio(scales: &[Option<f64>]) -> f64 {
    let extremes = extremes(scales.iter().copied().flatten());
    extremes.map_or(0.0, |(least, most)| most - least)
}

/// How much greater the least of the one axis is than the greatest of the other, as a power of ten.
fn gap(scales: &[Option<f64>], axes: &[Option<Axis>]) -> f64 {
    let of = |axis| {
        let lines = scales.iter().zip(axes);
        let on_axis = lines.filter(move |(_, line)| **line == Some(axis));
        extremes(on_axis.filter_map(|(scale, _)| *scale))
    };
    match (of(Axis::Left), of(Axis::Right)) {
        (Some(left), Some(right)) => (right.0 - left.1).max(left.0 - right.1),
        _ => f64::NEG_INFINITY,
    }
}

fn divide_at_widest_gap(scales: &[Option<f64>]) -> Vec<Option<Axis>> {
    let first = scales.iter().flatten().next().copied().unwrap_or_default();
    let divide_above = |limit: f64| -> Vec<Option<Axis>> {
        let axis = |scale| {
            if (scale > limit) == (first > limit) {
                Axis::Left
            } else {
                Axis::Right
            }
        };
        scales.iter().map(|scale| scale.map(axis)).collect()
    };
    let limits = scales.iter().flatten();
    let divisions = limits.map(|limit| divide_above(*limit));
    let widest = divisions.max_by(|a, b| gap(scales, a).total_cmp(&gap(scales, b)));
    widest.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `l` left, `r` right, `-` not shown.
    fn letters(axes: &[Option<Axis>]) -> String {
        let letter = |axis: &Option<Axis>| match axis {
            Some(Axis::Left) => 'l',
            Some(Axis::Right) => 'r',
            None => '-',
        };
        axes.iter().map(letter).collect()
    }

    fn divided(ranges: &[Option<(f64, f64)>]) -> String {
        letters(AxisDivision::default().update(ranges))
    }

    const TEMPERATURE: Option<(f64, f64)> = Some((20.0, 25.0));
    const PRESSURE: Option<(f64, f64)> = Some((101_290.0, 101_300.0));
    const HUMIDITY: Option<(f64, f64)> = Some((40.0, 80.0));
    const SWITCH: Option<(f64, f64)> = Some((0.0, 1.0));
    const CURRENT: Option<(f64, f64)> = Some((0.01, 0.03));
    const OFF: Option<(f64, f64)> = Some((0.0, 0.0));

    #[test]
    fn lines_whose_scales_differ_by_more_than_ten_have_two_axes() {
        for (ranges, axes) in [
            (&[][..], ""),
            (&[TEMPERATURE], "l"),
            (&[TEMPERATURE, HUMIDITY], "ll"),
            (&[TEMPERATURE, PRESSURE], "lr"),
            (&[PRESSURE, TEMPERATURE], "lr"),
            (&[PRESSURE, TEMPERATURE, PRESSURE, HUMIDITY], "lrlr"),
            (&[Some((0.5, 1.0)), Some((9.0, 10.0))], "ll"),
            (&[Some((0.5, 1.0)), Some((9.0, 10.1))], "lr"),
            (&[Some((-101_300.0, 0.0)), TEMPERATURE], "lr"),
            (&[TEMPERATURE, SWITCH], "lr"),
            (&[TEMPERATURE, OFF], "lr"),
            (&[SWITCH, OFF], "ll"),
            (&[OFF, OFF], "ll"),
            (&[OFF, SWITCH, TEMPERATURE, PRESSURE], "lllr"),
            // Equal quantities stay together.
            (&[TEMPERATURE, PRESSURE, HUMIDITY, CURRENT], "lrll"),
            (&[CURRENT, TEMPERATURE, CURRENT, HUMIDITY], "lrlr"),
        ] {
            assert_eq!(divided(ranges), axes, "{ranges:?}");
        }
    }

    #[test]
    fn lines_that_are_not_shown_do_not_count() {
        assert_eq!(divided(&[None, PRESSURE]), "-l");
        assert_eq!(divided(&[TEMPERATURE, None, HUMIDITY]), "l-l");
        assert_eq!(divided(&[None, TEMPERATURE, PRESSURE]), "-lr");
        assert_eq!(divided(&[None, None]), "--");
    }

    #[test]
    fn a_division_does_not_go_back_and_forth() {
        let mut division = AxisDivision::default();
        for (most, axes) in [
            (9.9, "ll"),
            (10.1, "lr"),
            (9.9, "lr"),
            (5.1, "lr"),
            (4.9, "ll"),
            (9.9, "ll"),
        ] {
            let ranges = [Some((0.0, 1.0)), Some((0.0, most))];
            assert_eq!(letters(division.update(&ranges)), axes, "{most}");
        }
        // The middle line could be on either axis: the gaps are 90 and 111, then 140 and 71, and so on.
        let mut division = AxisDivision::default();
        for (middle, axes) in [
            (90.0, "llr"),
            (140.0, "llr"),
            (190.0, "lrr"),
            (80.0, "lrr"),
            (60.0, "llr"),
        ] {
            let ranges = [Some((0.0, 1.0)), Some((0.0, middle)), Some((0.0, 1e4))];
            assert_eq!(letters(division.update(&ranges)), axes, "{middle}");
        }
        // Other lines are divided again.
        let ranges = [Some((0.0, 1.0)), Some((0.0, 9.0)), None];
        assert_eq!(letters(division.update(&ranges)), "ll-");
    }

    proptest! {
        #[test]
        fn two_axes_are_used_only_if_needed_and_no_division_has_a_wider_gap(
            lines in proptest::collection::vec(
                proptest::option::of((-1e100f64..1e100, -330i32..0)), 0..8),
        ) {
            let ranges: Vec<_> = lines.iter().map(|line| line.map(|(value, exponent)| {
                let value = value * 10f64.powi(exponent);
                (value.min(0.0), value.max(0.0))
            })).collect();
            let mut division = AxisDivision::default();
            let axes = division.update(&ranges).to_vec();
            let shown = axes.iter().map(Option::is_some);
            prop_assert!(shown.eq(ranges.iter().map(Option::is_some)));
            let first = axes.iter().flatten().next();
            prop_assert!(first.is_none_or(|axis| *axis == Axis::Left));
            let scales: Vec<_> = ranges.iter().map(|range| range.map(log_scale)).collect();
            let is_divided = axes.contains(&Some(Axis::Right));
            prop_assert_eq!(is_divided, ratio(&scales) > 1.0);
            for number in 0u32..1 << scales.len() {
                let other: Vec<_> = scales.iter().enumerate().map(|(n, scale)| scale.map(|_| {
                    if number >> n & 1 == 0 { Axis::Left } else { Axis::Right }
                })).collect();
                prop_assert!(!is_divided || gap(&scales, &axes) >= gap(&scales, &other) - 1e-9);
            }
            prop_assert_eq!(division.update(&ranges), &axes[..]);
        }
    }
}
