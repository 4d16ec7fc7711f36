//! Messages in order, and how many bytes they are. PURE.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::common::mqtt::message::Message;
use crate::publisher::queue::size;

/// Messages with the number of their bytes.
#[derive(Debug, Default)]
pub(super) struct Pile {
    pub(super) items: VecDeque<Arc<Message>>,
    pub(super) bytes: u64,
}

impl Pile {
    pub(super) fn push(&mut self, message: Arc<Message>) {
        self.bytes += size(&message);
        self.items.push_back(message);
    }

    pub(super) fn pop(&mut self) -> Option<Arc<Message>> {
        let message = self.items.pop_front()?;
        self.bytes -= size(&message);
        Some(message)
    }

    pub(super) fn starts_with(&self, id: u64) -> bool {
        self.items.front().is_some_and(|m| m.id == id)
    }
}
