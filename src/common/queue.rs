//! The offline queue: what was accepted while nothing could be sent, in order, within a
//! limit in messages and one in bytes. PURE. It lives in memory and dies with the process.
//!
//! It knows nothing of connections, windows or rates; see `publisher::outbox` for those.

use std::collections::VecDeque;
use std::sync::Arc;

use super::message::Message;

/// How many messages may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// The queue is off: a message taken while offline is refused.
    Disabled,
    /// So many.
    Messages(usize),
    /// As many as the byte limit allows.
    Unlimited,
}

impl Capacity {
    /// Reads the SDK's convention: 0 is disabled, any negative number unlimited.
    #[must_use]
    pub fn from_signed(size: i64) -> Self {
        match usize::try_from(size) {
            Ok(0) => Capacity::Disabled,
            Ok(n) => Capacity::Messages(n),
            Err(_) if size < 0 => Capacity::Unlimited,
            Err(_) => Capacity::Messages(usize::MAX),
        }
    }
}

/// What a full queue does with one message more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropBehavior {
    /// Keeps what it has, drops the newcomer.
    Newest,
    /// Drops from its head until the newcomer fits.
    Oldest,
    /// Takes nothing until there is room: for sources that can wait.
    Block,
}

/// What became of a pushed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It waits at the tail; these older ones had to go for it.
    Stored {
        /// Dropped from the head, oldest first.
        evicted: Vec<Arc<Message>>,
    },
    /// There was no room for it.
    Dropped,
    /// There is no room for it yet.
    Full,
    /// The queue is off.
    Disabled,
}

/// A bounded first-in, first-out queue.
#[derive(Debug)]
pub struct OfflineQueue {
    items: VecDeque<Arc<Message>>,
    bytes: u64,
    capacity: Capacity,
    max_bytes: u64,
    behavior: DropBehavior,
}

impl OfflineQueue {
    /// An empty queue. `max_bytes` counts topics and payloads.
    #[must_use]
    pub fn new(capacity: Capacity, max_bytes: u64, behavior: DropBehavior) -> Self {
        Self {
            items: VecDeque::new(),
            bytes: 0,
            capacity,
            max_bytes,
            behavior,
        }
    }

    /// Messages waiting.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Bytes of topics and payloads waiting.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that may wait.
    #[must_use]
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// What a full queue does.
    #[must_use]
    pub fn behavior(&self) -> DropBehavior {
        self.behavior
    }

    /// How many more messages fit, as far as their number goes.
    #[must_use]
    pub fn room(&self) -> usize {
        match self.capacity {
            _ if self.bytes >= self.max_bytes => 0,
            Capacity::Disabled => 0,
            Capacity::Messages(n) => n.saturating_sub(self.items.len()),
            Capacity::Unlimited => usize::MAX,
        }
    }

    /// Whether a message of this size fits without dropping anything.
    #[must_use]
    pub fn fits(&self, size: u64) -> bool {
        self.room() > 0 && self.bytes.saturating_add(size) <= self.max_bytes
    }

    /// Puts a message at the tail, or does what a full queue does.
    pub fn push(&mut self, message: Arc<Message>) -> Pushed {
        if self.capacity == Capacity::Disabled {
            return Pushed::Disabled;
        }
        let size = size(&message);
        let mut evicted = Vec::new();
        if !self.fits(size) {
            match self.behavior {
                DropBehavior::Block => return Pushed::Full,
                DropBehavior::Newest => return Pushed::Dropped,
                DropBehavior::Oldest if size > self.max_bytes => return Pushed::Dropped,
                DropBehavior::Oldest => {
                    while !self.fits(size) {
                        evicted.extend(self.pop());
                    }
                }
            }
        }
        self.bytes += size;
        self.items.push_back(message);
        Pushed::Stored { evicted }
    }

    /// Takes the message at the head.
    pub fn pop(&mut self) -> Option<Arc<Message>> {
        let message = self.items.pop_front()?;
        self.bytes -= size(&message);
        Some(message)
    }

    /// What waits, head first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Message>> {
        self.items.iter()
    }
}

/// What a message counts against the byte limit: topic and payload.
#[must_use]
pub fn size(message: &Message) -> u64 {
    (message.draft.topic.len() + message.draft.payload.len()) as u64
}
