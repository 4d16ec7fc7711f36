//! The work, a file for each kind, and how much of it.

pub(crate) mod batch;
pub(crate) mod bytes;
pub(crate) mod idle;
pub(crate) mod keep;
pub(crate) mod lines;
pub(crate) mod receive;
pub(crate) mod single;
pub(crate) mod trips;

use std::time::Duration;

use crate::contest::Standing;
use crate::report::Bound::{AtLeast, AtMost};
use crate::report::Goal;

/// The distance at which windows show, there and back, in milliseconds.
const FAR: u64 = 50;

fn over(distance: u64) -> String {
    match distance {
        0 => String::new(),
        ms => format!(", {ms} ms round trip"),
    }
}

fn speed(ours: &Standing, theirs: &Standing, bound: f64) -> Goal {
    let what = format!("× {}", theirs.name);
    Goal::new(ours.rate() / theirs.rate(), what, AtLeast(bound))
}

fn cost(ours: &Standing, theirs: &Standing, bound: f64) -> Goal {
    Goal::new(ours.cpu() / theirs.cpu(), "× its CPU", AtMost(bound))
}

/// How much of everything.
pub(crate) struct Plan {
    pub(crate) rounds: u32,
    /// For what takes less than a second, and so depends on the moment.
    pub(crate) brief_rounds: u32,
    /// Lines of a run. `mosquitto_pub` gets never more than 65,535: when its packet identifiers wrap
    /// round it takes an early PUBACK for the last one, leaves the rest unsent and exits 0.
    pub(crate) lines: u32,
    /// Lines of a run, for what waits for each.
    pub(crate) few: u32,
    /// Lines of a run over a distance.
    pub(crate) distant: u32,
    /// Messages to be received.
    pub(crate) received: u32,
    /// Lines of the run that is to show how memory grows.
    pub(crate) many: u32,
    pub(crate) backlog: u32,
    /// How long a backlog is drained.
    pub(crate) span: Duration,
    /// For how many seconds programs are idle.
    pub(crate) idle: u64,
    /// For how many readings, one per second, the bytes written are counted: two of the intervals below.
    pub(crate) readings: u64,
    /// What `--commit-interval` is then.
    pub(crate) commit_interval: &'static str,
    /// The round trips of the plot, in milliseconds.
    pub(crate) round_trips: &'static [u64],
    /// How long a run of the plot is to take, about, on loopback.
    pub(crate) run: Duration,
}

impl Plan {
    pub(crate) fn new(quick: bool, rounds: Option<u32>, backlog: Option<u32>) -> Self {
        let full = Self {
            rounds: rounds.unwrap_or(5),
            brief_rounds: rounds.unwrap_or(5) * 4,
            lines: 60_000,
            few: 10_000,
            distant: 10_000,
            received: 200_000,
            many: 1_000_000,
            backlog: backlog.unwrap_or(10_000_000),
            span: Duration::from_secs(10),
            idle: 60,
            readings: 120,
            commit_interval: "60s",
            round_trips: &[0, 1, 2, 3, 5, 10, 20, 50, 100, 200],
            run: Duration::from_secs(1),
        };
        if !quick {
            return full;
        }
        Self {
            rounds: rounds.unwrap_or(1),
            brief_rounds: rounds.unwrap_or(1) * 4,
            lines: 20_000,
            few: 1000,
            distant: 2000,
            received: 20_000,
            many: 100_000,
            backlog: backlog.unwrap_or(1_000_000),
            span: Duration::from_secs(3),
            idle: 10,
            readings: 10,
            commit_interval: "5s",
            round_trips: &[0, 10, 50],
            run: Duration::from_millis(400),
        }
    }
}
