//! Messages in the order of their keys, and how many bytes they are. PURE.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::common::message::Message;
use crate::common::queue::size;

/// A shelf of the outbox.
#[derive(Debug, Default)]
pub struct Shelf {
    messages: BTreeMap<u64, Arc<Message>>,
    bytes: u64,
}

impl Shelf {
    /// Messages on it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Bytes of topics and payloads on it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The lowest key on it.
    #[must_use]
    pub fn first_key(&self) -> Option<u64> {
        self.messages.keys().next().copied()
    }

    /// The message with the lowest key.
    #[must_use]
    pub fn first(&self) -> Option<Arc<Message>> {
        self.messages.values().next().cloned()
    }

    /// Puts a message in its place.
    pub fn insert(&mut self, message: Arc<Message>) {
        self.bytes += size(&message);
        self.messages.insert(message.key, message);
    }

    /// Takes a message by its key.
    pub fn remove(&mut self, key: u64) -> Option<Arc<Message>> {
        let message = self.messages.remove(&key)?;
        self.bytes -= size(&message);
        Some(message)
    }

    /// Takes the message with the lowest key.
    pub fn pop_first(&mut self) -> Option<Arc<Message>> {
        self.remove(self.first_key()?)
    }

    /// Moves everything of the other one here.
    pub fn append(&mut self, other: &mut Shelf) {
        self.messages.append(&mut other.messages);
        self.bytes += std::mem::take(&mut other.bytes);
    }
}
