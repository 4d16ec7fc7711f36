//! What the publisher is to do, checked: what the flags came to.

use std::path::PathBuf;
use std::time::Duration;

use super::input::config::InputConfig;
use crate::common::cli::config::ConnectionConfig;
use crate::common::connection::state::RunKind;
use crate::publisher::outbox::pacing::DrainRate;
use crate::publisher::queue::Limits;

/// What the publisher is to do, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// How to reach the broker.
    pub connection: ConnectionConfig,
    pub input: InputConfig,
    /// How much may wait, and what a full queue does.
    pub limits: Limits,
    pub drain_rate: DrainRate,
    /// Whether the rate was set by hand: then it is never raised.
    pub drain_by_hand: bool,
    /// Messages in flight, at most.
    pub max_in_flight: usize,
    /// Whether that was set by hand: then it holds for every kind of message.
    pub window_by_hand: bool,
    /// How long to go on after the end of input.
    pub flush_timeout: Duration,
    /// How long to go on at all.
    pub deadline: Option<Duration>,
    /// How long to go on after a signal.
    pub stop_timeout: Duration,
    /// Whether to print receipts.
    pub receipts: bool,
    /// Whether to print the summary.
    pub summary: bool,
    /// Whether to print what is delivered.
    pub verbose: bool,
    /// Whether messages carry the `seq` property.
    pub sequence: bool,
    /// The file of the durable queue.
    pub queue: Option<PathBuf>,
    /// How long a message may wait.
    pub expiry: Option<Duration>,
    /// Connections that the broker closed right after one message before it is given up.
    pub max_attempts: u32,
}

impl Config {
    /// Whether the run has an end of its own.
    pub fn run(&self) -> RunKind {
        if self.input.source.is_timed() && self.input.count.is_none() {
            RunKind::Endless
        } else {
            RunKind::Finite
        }
    }
}
