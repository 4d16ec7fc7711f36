//! The contents of one frame: everything that [`draw`](super::draw) needs. Texts have no control characters. PURE.

use std::time::{Duration, Instant};

pub use super::series::{Point, Stats};
use crate::common::connection::state::ConnectionState;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warning,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub level: LogLevel,
    pub text: String,
    pub age: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ChartCurve {
    pub topic: String,
    /// The readings in order of time; there is a gap between two segments.
    pub segments: Vec<Vec<Point>>,
    pub last: f64,
    pub age: Duration,
    pub decimal_places: usize,
    /// Of the readings in the window, if there are any.
    pub stats: Option<Stats>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MessageRate {
    pub per_second: f64,
    pub per_minute: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ChartContent {
    pub now: Instant,
    pub broker: String,
    pub connection: ConnectionState,
    /// Why there is no connection, or why the attempt before this one failed.
    pub why_offline: Option<String>,
    pub elapsed: Duration,
    pub span: Duration,
    pub lines: Vec<ChartCurve>,
    /// Topics with a value that have no line.
    pub more_topics: usize,
    pub received: u64,
    pub without_value: u64,
    pub missing: u64,
    pub reconnects: u64,
    pub rate: MessageRate,
    /// Start and end in seconds before now, negative.
    pub outages: Vec<(f64, f64)>,
    pub log: Option<LogLine>,
    /// When the chart was closed, in UTC; until then the keys are shown.
    pub ended: Option<String>,
}
