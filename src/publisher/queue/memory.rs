//! The queue in memory: it outlives connections, not the process. PURE.

use std::sync::Arc;
use std::time::Instant;

use super::limits::{Admission, Limits};
use super::sized::SizedQueue;
use super::{MessageIdentity, Queue};
use crate::common::mqtt::outgoing_message::OutgoingMessage;

#[derive(Debug)]
pub struct MemoryQueue {
    limits: Limits,
    waiting: SizedQueue,
    next: MessageIdentity,
}

impl MemoryQueue {
    pub fn new(limits: Limits, stream: Arc<str>) -> Self {
        Self {
            limits,
            waiting: SizedQueue::default(),
            next: MessageIdentity {
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

    fn peek_identity(&self) -> MessageIdentity {
        self.next.clone()
    }

    fn advance_identity(&mut self) {
        self.next.id += 1;
        self.next.seq += 1;
    }

    fn make_room(
        &mut self,
        size: u64,
        _now: Instant,
        evicted: &mut Vec<Arc<OutgoingMessage>>,
    ) -> Admission {
        loop {
            match self.limits.admit(self.len(), self.bytes(), size) {
                Admission::EvictOldest => evicted.extend(self.pop()),
                admission => return admission,
            }
        }
    }

    fn push(&mut self, message: Arc<OutgoingMessage>, _due: Option<Instant>) {
        self.waiting.push(message);
    }

    fn pop(&mut self) -> Option<Arc<OutgoingMessage>> {
        self.waiting.pop().map(|(_, message)| message)
    }

    fn first(&self) -> Option<&Arc<OutgoingMessage>> {
        self.waiting.first()
    }
}
