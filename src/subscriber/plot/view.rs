//! The contents of one frame: everything that [`draw`](super::draw) needs, with all times relative
//! to the moment of the frame. Texts have no control characters. PURE.

use std::time::Duration;

pub use super::series::{Point, Stats};

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionStatus {
    /// An attempt is under way; `why` the previous one failed.
    Connecting {
        why: Option<String>,
    },
    Connected {
        uptime: Duration,
    },
    /// Between two attempts.
    Waiting {
        why: String,
        left: Duration,
    },
    Ended,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warning,
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub level: LogLevel,
    /// Without control characters.
    pub text: String,
    pub age: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ChartLine {
    /// The topic.
    pub label: String,
    /// The readings in order of time; there is a gap between two segments.
    pub segments: Vec<Vec<Point>>,
    /// The latest reading.
    pub last: f64,
    pub age: Duration,
    /// Decimal places of the readings.
    pub places: usize,
    /// Of the readings in the window, if there are any.
    pub stats: Option<Stats>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MessageRate {
    /// Over the last seconds.
    pub per_second: f64,
    /// Messages in the last minute.
    pub per_minute: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ChartView {
    pub broker: String,
    pub connection: ConnectionStatus,
    /// The age of the chart.
    pub elapsed: Duration,
    /// The length of the time axis.
    pub span: Duration,
    /// In the order in which their topics were first seen.
    pub lines: Vec<ChartLine>,
    /// Topics with a value that have no line.
    pub more: usize,
    /// Messages.
    pub received: u64,
    /// Messages without a number.
    pub without_value: u64,
    /// Readings that are missing.
    pub missing: u64,
    pub reconnects: u64,
    pub rate: MessageRate,
    /// Start and end in seconds before now, negative.
    pub outages: Vec<(f64, f64)>,
    /// The last line of the log.
    pub log: Option<LogLine>,
    /// When the chart was closed, in UTC; until then the keys are shown.
    pub ended: Option<String>,
}
