//! Keeps the event loop on one core with the threads that it sends through, as long as that is faster.

use std::time::{Duration, Instant};

use crate::common::runtime::affinity;

/// A run that lasts this long is not about one message.
const BRIEF: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct CorePinning {
    is_pinned: bool,
    started: Instant,
}

impl CorePinning {
    /// This thread has been pinned.
    pub(super) fn new(started: Instant) -> Self {
        Self {
            is_pinned: true,
            started,
        }
    }

    /// A single message is faster on one core; a stream is faster on several.
    pub(super) fn update(&mut self, is_stream: bool, now: Instant) {
        if self.is_pinned && (is_stream || now > self.started + BRIEF) {
            self.is_pinned = false;
            affinity::unpin();
        }
    }
}
