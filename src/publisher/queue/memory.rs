//! The queue in memory: it outlives connections, not the process. PURE.

use std::sync::Arc;
use std::time::Instant;

use super::limits::{Admission, Limits};
use super::sized::SizedQueue;
use super::{Numbers, Queue};
use crate::common::mqtt::message::Message;

#[derive(Debug)]
pub struct MemoryQueue {
    limits: Limits,
    waiting: SizedQueue,
    stream: Arc<str>,
    last: u64,
}

impl MemoryQueue {
    pub fn new(limits: Limits, stream: Arc<str>) -> Self {
        Self {
            limits,
            waiting: SizedQueue::default(),
            stream,
            last: 0,
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.waiting.iter()
    }
}

impl Queue for MemoryQueue {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn len(&self) -> usize {
        self.waiting.len()
    }

    fn bytes(&self) -> u64 {
        self.waiting.bytes()
    }

    fn next_numbers(&self) -> Numbers {
        Numbers {
            id: self.last + 1,
            stream: Arc::clone(&self.stream),
            seq: self.last + 1,
        }
    }

    fn use_numbers(&mut self) {
        self.last += 1;
    }

    fn admit(&mut self, size: u64, _now: Instant, evicted: &mut Vec<Arc<Message>>) -> Admission {
        loop {
            match self.limits.admit(self.len(), self.bytes(), size) {
                Admission::EvictOldest => evicted.extend(self.pop()),
                admission => return admission,
            }
        }
    }

    fn push(&mut self, message: Arc<Message>, _due: Option<Instant>) {
        self.waiting.push(message);
    }

    fn pop(&mut self) -> Option<Arc<Message>> {
        self.waiting.pop().map(|(_, message)| message)
    }
}
