//! Counts messages and follows the connection, for the chart and the table alike. PURE. Its memory is bounded.

use std::time::Instant;

use super::connection_history::ConnectionHistory;
use super::ms::{Ms, duration_to_ms};
use super::rate_meter::RateMeter;
use super::run_status::{LogLine, MessageRate, RunStatus};
use crate::common::connection::state::ConnectionStateMachine;
use crate::common::escape::one_line;

#[derive(Debug)]
pub struct StatusTracker {
    broker: String,
    started: Instant,
    received: u64,
    without_value: u64,
    missing: u64,
    rate: RateMeter,
    pub connection: ConnectionHistory,
    revision: u64,
}

impl StatusTracker {
    pub fn new(broker: &str, now: Instant) -> Self {
        Self {
            broker: one_line(broker),
            started: now,
            received: 0,
            without_value: 0,
            missing: 0,
            rate: RateMeter::default(),
            connection: ConnectionHistory::default(),
            revision: 0,
        }
    }

    /// Another number means that another frame is due.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub fn record_change(&mut self) {
        self.revision += 1;
    }

    pub fn count_reading(&mut self, has_value: bool, now: Ms) {
        self.revision += 1;
        self.received += 1;
        self.without_value += u64::from(!has_value);
        self.rate.count(now);
    }

    pub fn update_connection(&mut self, connection: &ConnectionStateMachine, now: Instant) {
        let ms = self.ms(now);
        self.revision += u64::from(self.connection.update(connection, ms));
    }

    pub fn set_missing_count(&mut self, missing: u64) {
        self.revision += u64::from(self.missing != missing);
        self.missing = missing;
    }

    pub fn status(&self, at: Instant, log: Option<LogLine>) -> RunStatus {
        let now = self.ms(at);
        RunStatus {
            now: at,
            broker: self.broker.clone(),
            connection: self.connection.state,
            why_offline: self.connection.why_offline.clone(),
            elapsed: at.saturating_duration_since(self.started),
            received: self.received,
            without_value: self.without_value,
            missing: self.missing,
            reconnects: self.connection.reconnects,
            rate: MessageRate {
                per_second: self.rate.per_second(now),
                per_minute: self.rate.per_minute(now),
            },
            log,
            ended: None,
        }
    }

    pub fn ms(&self, at: Instant) -> Ms {
        duration_to_ms(at.saturating_duration_since(self.started))
    }
}
