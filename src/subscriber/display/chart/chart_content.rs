//! The contents of one frame of the chart. Texts have no control characters. PURE.

use std::time::Duration;

use super::axis_division::Axis;
pub use super::series::{Point, Stats};

#[derive(Clone, Debug, PartialEq)]
pub struct ChartCurve {
    pub label: String,
    /// The readings in order of time, from some time before the window on; there is a gap between two segments.
    pub segments: Vec<Vec<Point>>,
    pub last: f64,
    pub age: Duration,
    pub decimal_places: usize,
    /// Of the readings in the window, if there are any.
    pub stats: Option<Stats>,
    pub is_hidden: bool,
    /// None if no reading of it is shown.
    pub axis: Option<Axis>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ChartContent {
    pub span: Duration,
    /// The time now by the clock on the wall, in milliseconds since a midnight.
    pub clock: i64,
    pub curves: Vec<ChartCurve>,
    /// Topics, or values of topics, that have no line.
    pub more_lines: usize,
    /// Start and end in seconds before now, negative.
    pub outages: Vec<(f64, f64)>,
}

impl ChartContent {
    pub fn has_two_axes(&self) -> bool {
        self.curves
            .iter()
            .any(|curve| curve.axis == Some(Axis::Right))
    }
}
