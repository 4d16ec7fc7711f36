//! What the publisher is to do, checked: what the flags came to.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::input::batch::Rule;
use crate::common::cli::config::ConnectionConfig;
use crate::common::connection::state::Run;
use crate::common::mqtt::message::Qos;
use crate::common::runtime::process::Command;
use crate::publisher::outbox::pacing::DrainRate;
use crate::publisher::queue::Limits;

/// Where messages come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A made-up temperature at every interval.
    Simulated,
    /// What a command prints, at every interval.
    Command(Command),
    /// Each line of standard input.
    Lines,
    /// All of standard input.
    Stdin,
    /// One message that is already known.
    Message(Vec<u8>),
}

impl SourceKind {
    /// Whether messages come by the clock, and cannot wait.
    pub fn is_timed(&self) -> bool {
        matches!(self, SourceKind::Simulated | SourceKind::Command(_))
    }
}

/// What the publisher is to do, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// How to reach the broker.
    pub connection: ConnectionConfig,
    /// The topic name; none if each message brings its own.
    pub topic: Option<Arc<str>>,
    /// Whether a line of standard input is JSON.
    pub json: bool,
    /// The quality of service.
    pub qos: Qos,
    /// Whether the broker keeps the messages.
    pub retain: bool,
    /// Where messages come from.
    pub source: SourceKind,
    /// Between timed readings.
    pub interval: Duration,
    /// How many readings go into a message, and how long they wait for each other.
    pub batch: Rule,
    /// Readings until the source is treated as ended.
    pub count: Option<u64>,
    /// The largest payload in bytes.
    pub max_payload: usize,
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
    /// Whether a message may hold several readings.
    pub fn batches(&self) -> bool {
        self.batch.readings > 1
    }

    /// Whether the run has an end of its own.
    pub fn run(&self) -> Run {
        if self.source.is_timed() && self.count.is_none() {
            Run::Endless
        } else {
            Run::Finite
        }
    }
}
