//! Until when an acknowledgement is waited for before the connection counts as dead. PURE.
//!
//! A slow connection with a full window, or with one large message, is not a dead one: the time
//! starts again with each acknowledgement in order and with each progress of the bytes in flight.

use std::time::{Duration, Instant};

use crate::publisher::queue::sized::SizedQueue;

/// The slowest connection that counts as alive, in bytes per second: 64 kbit/s.
const SLOW_RATE: u64 = 8 << 10;

/// The slowest connection that one large message gets through, in bytes per second, and the longest
/// time that it may stay in buffers on the way.
const SLOWEST_RATE: u64 = 1 << 10;
const LONGEST_IN_BUFFERS: Duration = Duration::from_secs(60);

/// A broker closes a connection because of a message this soon after it has received it.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);

fn transfer_time(bytes: u64, rate: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1_000) / rate)
}

#[derive(Debug)]
pub struct AckDeadline {
    operation_timeout: Duration,
    /// When the first message was sent, or the oldest one in flight was acknowledged.
    acknowledged_at: Option<Instant>,
    progress_at: Option<Instant>,
    /// How long the messages in flight had taken when the last of their bytes arrived.
    took: Duration,
}

impl AckDeadline {
    pub fn new(operation_timeout: Duration) -> Self {
        Self {
            operation_timeout,
            acknowledged_at: None,
            progress_at: None,
            took: Duration::ZERO,
        }
    }

    pub fn reset(&mut self) {
        *self = Self::new(self.operation_timeout);
    }

    pub fn handle_first_sent(&mut self, now: Instant) {
        self.acknowledged_at = Some(now);
    }

    pub fn handle_ack(&mut self, now: Instant) {
        self.acknowledged_at = Some(now);
        self.took = Duration::ZERO;
    }

    /// The peer's system has acknowledged bytes of the messages in flight. With `all_received` it has
    /// all of them. They may still be in a buffer on the way: the answer has as long again, or as long
    /// as the slowest connection takes for the first message.
    pub fn handle_progress(&mut self, all_received: bool, in_flight: &SizedQueue, now: Instant) {
        let Some((since, first)) = self.acknowledged_at.zip(in_flight.first()) else {
            return;
        };
        self.progress_at = Some(now);
        self.took = if all_received {
            let buffered =
                transfer_time(first.draft.content_size(), SLOWEST_RATE).min(LONGEST_IN_BUFFERS);
            now.saturating_duration_since(since).max(buffered)
        } else {
            Duration::ZERO
        };
    }

    pub fn last_ack_time(&self, in_flight: &SizedQueue) -> Option<Instant> {
        self.acknowledged_at.filter(|_| !in_flight.is_empty())
    }

    pub fn due(&self, in_flight: &SizedQueue) -> Option<Instant> {
        let since = self.moved_at(in_flight)?;
        let slow = transfer_time(in_flight.bytes(), SLOW_RATE).max(self.took);
        Some(since + self.operation_timeout + slow)
    }

    /// The same on a connection whose bytes were seen to make progress.
    pub fn due_if_progressing(&self, in_flight: &SizedQueue) -> Option<Instant> {
        self.progress_at.and_then(|_| self.due(in_flight))
    }

    /// Whether the messages in flight were sent so recently that a close may be the answer to them.
    pub fn has_just_sent(&self, in_flight: &SizedQueue, now: Instant) -> bool {
        let slow = transfer_time(in_flight.bytes(), SLOW_RATE);
        self.moved_at(in_flight)
            .is_some_and(|at| now < at + CLOSES_WITHIN + slow)
    }

    fn moved_at(&self, in_flight: &SizedQueue) -> Option<Instant> {
        let moved_at = self.acknowledged_at.max(self.progress_at);
        moved_at.filter(|_| !in_flight.is_empty())
    }
}
