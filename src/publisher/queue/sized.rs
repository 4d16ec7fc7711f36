//! Messages in order, counted in bytes. PURE.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::common::mqtt::qos::Qos;

/// Messages under ascending positions. In a first-in, first-out queue the position is the message's
/// `id`; in the outbox it is the position in the order of sending.
#[derive(Debug, Default)]
pub struct SizedQueue {
    messages: VecDeque<(u64, Arc<OutgoingMessage>)>,
    bytes: u64,
    exactly_once: usize,
}

impl SizedQueue {
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn exactly_once(&self) -> usize {
        self.exactly_once
    }

    pub fn first(&self) -> Option<&Arc<OutgoingMessage>> {
        self.messages.front().map(|(_, message)| message)
    }

    pub fn first_position(&self) -> Option<u64> {
        self.messages.front().map(|(position, _)| *position)
    }

    pub fn push(&mut self, message: Arc<OutgoingMessage>) {
        self.add_to_totals(&message);
        self.messages.push_back((message.id, message));
    }

    pub fn insert(&mut self, position: u64, message: Arc<OutgoingMessage>) {
        self.add_to_totals(&message);
        let index = self.messages.partition_point(|(at, _)| *at < position);
        self.messages.insert(index, (position, message));
    }

    pub fn pop(&mut self) -> Option<(u64, Arc<OutgoingMessage>)> {
        let (position, message) = self.messages.pop_front()?;
        self.subtract_from_totals(&message);
        Some((position, message))
    }

    pub fn remove(&mut self, position: u64) -> Option<Arc<OutgoingMessage>> {
        let found = self.messages.binary_search_by_key(&position, |(at, _)| *at);
        let (_, message) = self.messages.remove(found.ok()?)?;
        self.subtract_from_totals(&message);
        Some(message)
    }

    pub fn append_queue(&mut self, other: &mut SizedQueue) {
        for (position, message) in std::mem::take(other).messages {
            self.insert(position, message);
        }
    }

    fn add_to_totals(&mut self, message: &OutgoingMessage) {
        self.bytes += message.draft.content_size();
        self.exactly_once += usize::from(message.draft.qos == Qos::ExactlyOnce);
    }

    fn subtract_from_totals(&mut self, message: &OutgoingMessage) {
        self.bytes -= message.draft.content_size();
        self.exactly_once -= usize::from(message.draft.qos == Qos::ExactlyOnce);
    }
}
