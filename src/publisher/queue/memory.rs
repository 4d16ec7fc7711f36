//! The offline queue in memory. PURE. It outlives connections, not the process.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::{Admission, Limits, Pushed, Queue, Ticket, size};
use crate::common::mqtt::message::Message;

/// A bounded first-in, first-out queue.
#[derive(Debug)]
pub struct MemoryQueue {
    limits: Limits,
    items: VecDeque<Arc<Message>>,
    bytes: u64,
    stream: Arc<str>,
    last: u64,
}

impl MemoryQueue {
    /// An empty queue. `stream` is this run's name.
    pub fn new(limits: Limits, stream: Arc<str>) -> Self {
        Self {
            limits,
            items: VecDeque::new(),
            bytes: 0,
            stream,
            last: 0,
        }
    }

    /// What waits, head first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.items.iter()
    }
}

impl Queue for MemoryQueue {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn len(&self) -> usize {
        self.items.len()
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn next_ticket(&self) -> Ticket {
        Ticket {
            id: self.last + 1,
            stream: Arc::clone(&self.stream),
            seq: self.last + 1,
        }
    }

    fn take_ticket(&mut self) {
        self.last += 1;
    }

    fn push(&mut self, message: Arc<Message>, _due: Option<Instant>, _now: Instant) -> Pushed {
        let size = size(&message);
        let mut evicted = Vec::new();
        loop {
            match self.limits.admit(self.len(), self.bytes, size) {
                Admission::Stored => break,
                Admission::AfterTheOldest => evicted.extend(self.pop()),
                Admission::Dropped => return Pushed::Dropped,
                Admission::Wait => return Pushed::Full { evicted },
                Admission::Disabled => return Pushed::Disabled,
            }
        }
        self.bytes += size;
        self.items.push_back(message);
        Pushed::Stored { evicted }
    }

    fn pop(&mut self) -> Option<Arc<Message>> {
        let message = self.items.pop_front()?;
        self.bytes -= size(&message);
        Some(message)
    }
}
