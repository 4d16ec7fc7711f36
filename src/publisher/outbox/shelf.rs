//! Messages in the order in which they left the queue, and how many bytes they are. PURE.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::common::mqtt::message::{Message, Qos};
use crate::publisher::queue::size;

/// A message with its place in the order of sending, which it keeps when it is sent again.
/// Its id says nothing of that: what another run has left is read late and goes first.
#[derive(Clone, Debug)]
pub struct Placed {
    /// From 1; no other message of this run has it.
    pub place: u64,
    pub message: Arc<Message>,
}

/// A shelf of the outbox.
#[derive(Debug, Default)]
pub struct Shelf {
    messages: BTreeMap<u64, Arc<Message>>,
    bytes: u64,
    exactly_once: usize,
}

impl Shelf {
    /// Messages on it.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Bytes of topics and payloads on it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Messages of `QoS` 2 on it.
    pub fn exactly_once(&self) -> usize {
        self.exactly_once
    }

    /// The first place on it that is taken.
    pub fn first_place(&self) -> Option<u64> {
        self.messages.keys().next().copied()
    }

    /// The message in the first place.
    pub fn first(&self) -> Option<Placed> {
        let (place, message) = self.messages.iter().next()?;
        Some(Placed {
            place: *place,
            message: Arc::clone(message),
        })
    }

    /// Puts a message in its place.
    pub fn insert(&mut self, Placed { place, message }: Placed) {
        self.bytes += size(&message);
        self.exactly_once += usize::from(message.draft.qos == Qos::ExactlyOnce);
        self.messages.insert(place, message);
    }

    /// Takes the message in this place.
    pub fn remove(&mut self, place: u64) -> Option<Placed> {
        let message = self.messages.remove(&place)?;
        self.bytes -= size(&message);
        self.exactly_once -= usize::from(message.draft.qos == Qos::ExactlyOnce);
        Some(Placed { place, message })
    }

    /// Takes the message in the first place.
    pub fn pop_first(&mut self) -> Option<Placed> {
        self.remove(self.first_place()?)
    }

    /// Moves everything of the other one here.
    pub fn append(&mut self, other: &mut Shelf) {
        self.messages.append(&mut other.messages);
        self.bytes += std::mem::take(&mut other.bytes);
        self.exactly_once += std::mem::take(&mut other.exactly_once);
    }
}
