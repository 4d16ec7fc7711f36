//! The configuration of the publisher: its flags, checked.

use std::path::PathBuf;
use std::time::Duration;

use super::input::config::InputConfig;
use crate::common::cli::connection_config::ConnectionConfig;
use crate::common::connection::state::FiniteOrEndless;
use crate::publisher::outbox::types::OutboxConfig;
use crate::publisher::queue::limits::Limits;

#[derive(Clone, Debug)]
pub struct Config {
    pub connection: ConnectionConfig,
    pub input: InputConfig,
    pub limits: Limits,
    /// In messages per second; infinite is as fast as the window allows.
    pub drain_rate: f64,
    /// The rate was given by the user: it is never raised.
    pub drain_by_hand: bool,
    pub outbox: OutboxConfig,
    /// `outbox.max_in_flight` was given by the user: it holds for every kind of message.
    pub window_by_hand: bool,
    pub flush_timeout: Duration,
    pub deadline: Option<Duration>,
    pub stop_timeout: Duration,
    pub receipts: bool,
    pub summary: bool,
    pub verbose: bool,
    pub queue: Option<PathBuf>,
    pub metrics: Option<PathBuf>,
}

impl Config {
    pub fn finite_or_endless(&self) -> FiniteOrEndless {
        if self.input.source.is_timed() && self.input.count.is_none() {
            FiniteOrEndless::Endless
        } else {
            FiniteOrEndless::Finite
        }
    }
}
