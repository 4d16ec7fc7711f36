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
    next: Numbers,
}

impl MemoryQueue {
    pub fn new(limits: Limits, stream: Arc<str>) -> Self {
        Self {
            limits,
            waiting: SizedQueue::default(),
            next: Numbers {
                id: 1,
                stream,
                seq: 1,
            },
        }
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
        self.next.clone()
    }

    fn use_numbers(&mut self) {
        self.next.id += 1;
        self.next.seq += 1;
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
