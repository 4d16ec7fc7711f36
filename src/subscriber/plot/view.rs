//! What one frame shows: everything [`draw`](super::draw) needs, and nothing that changes
//! under its hands. PURE.

use std::time::Duration;

pub use super::series::{Point, Stats};

/// How the connection is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// An attempt is under way.
    Connecting {
        /// Why the one before it failed; harmless on a terminal.
        why: Option<String>,
    },
    /// The broker has accepted.
    Connected {
        /// So long ago.
        since: Duration,
    },
    /// Between two attempts.
    Waiting {
        /// Why there is no connection; harmless on a terminal.
        why: String,
        /// Until the next attempt.
        left: Duration,
    },
    /// Over.
    Ended,
}

/// How grave a line of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gravity {
    Error,
    Warning,
    /// Anything else.
    Note,
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// How grave it is.
    pub gravity: Gravity,
    /// What it says; harmless on a terminal.
    pub text: String,
    /// How long ago it was written.
    pub age: Duration,
}

/// One line of the chart.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// The topic, harmless on a terminal.
    pub label: String,
    /// Its readings, in order of time; the line is interrupted between two segments.
    pub segments: Vec<Vec<Point>>,
    /// The latest reading.
    pub last: f64,
    /// How long ago it was taken.
    pub age: Duration,
    /// The decimal places that its readings have.
    pub places: usize,
    /// Of the readings in the window, if there are any.
    pub stats: Option<Stats>,
}

/// How many messages come.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rate {
    /// In a second, of late.
    pub per_second: f64,
    /// In the last minute.
    pub per_minute: u64,
}

/// A frame.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    pub broker: String,
    /// How the connection to it is.
    pub link: Link,
    /// How long the chart has been there.
    pub elapsed: Duration,
    /// How far back it looks.
    pub span: Duration,
    /// The lines, in the order in which their topics were first seen.
    pub lines: Vec<Line>,
    /// Topics with a value for which there was no line left.
    pub more: usize,
    /// Messages.
    pub received: u64,
    /// Messages without a number.
    pub without_value: u64,
    /// Readings that are missing.
    pub missing: u64,
    /// Connections after the first.
    pub reconnects: u64,
    /// How many messages come.
    pub rate: Rate,
    /// When there was no connection: from and to, in seconds before now, less than nought.
    pub outages: Vec<(f64, f64)>,
    /// The last line of the log.
    pub log: Option<Note>,
    /// When the chart was closed, in UTC. Until then keys work, and are shown.
    pub ended: Option<String>,
}
