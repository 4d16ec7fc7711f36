//! Receipts, in the order in which the user gets them. PURE.
//!
//! A message is *accepted* once the publisher is responsible for it: at once if the queue is in
//! memory, and with a queue on disk when it is synced there or acknowledged by the broker. These
//! receipts come in the order of the input, so an outcome that is known earlier has to wait.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::publisher::queue::store_requests::MessageOutcome;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UserReceipt {
    Accepted {
        seq: u64,
        readings: u32,
    },
    Ended {
        seq: u64,
        outcome: MessageOutcome,
        /// The message, if this process has sent it, or has given it up.
        message: Option<Arc<OutgoingMessage>>,
    },
}

#[derive(Debug)]
struct UnreportedMessage {
    id: u64,
    seq: u64,
    readings: u32,
    accepted: bool,
    end: Option<UserReceipt>,
}

#[derive(Debug, Default)]
pub struct UserReceipts {
    /// Messages that are not accepted yet, and those that wait for them. Ids ascend.
    entries: VecDeque<UnreportedMessage>,
    held: BTreeMap<u64, (Arc<OutgoingMessage>, MessageOutcome)>,
    receipts: Vec<UserReceipt>,
}

impl UserReceipts {
    pub fn enter(&mut self, id: u64, seq: u64, readings: u32) {
        self.entries.push_back(UnreportedMessage {
            id,
            seq,
            readings,
            accepted: false,
            end: None,
        });
    }

    pub fn mark_accepted(&mut self, id: u64) {
        if let Some(entry) = self.entry(id) {
            entry.accepted = true;
            self.release_receipts();
        }
    }

    pub fn handle_numbered(&mut self, id: u64, seq: u64) {
        if let Some(entry) = self.entry(id) {
            entry.seq = seq;
        }
        self.mark_accepted(id);
    }

    /// A message that is delivered or among the dead letters counts as accepted; one that is dropped
    /// or expired before never is.
    pub fn end_message(
        &mut self,
        id: u64,
        seq: u64,
        outcome: MessageOutcome,
        message: Option<Arc<OutgoingMessage>>,
    ) {
        let accepted = matches!(outcome, MessageOutcome::Delivered | MessageOutcome::Dead(_));
        let receipt = UserReceipt::Ended {
            seq,
            outcome,
            message,
        };
        match self.entry(id) {
            Some(entry) => {
                entry.accepted |= accepted;
                entry.end = Some(receipt);
                self.release_receipts();
            }
            None => self.receipts.push(receipt),
        }
    }

    /// The receipt of a dead letter waits until [`release_held_receipt`](Self::release_held_receipt).
    pub fn hold_dead_receipt(&mut self, message: Arc<OutgoingMessage>, outcome: MessageOutcome) {
        self.held.insert(message.id, (message, outcome));
    }

    pub fn release_held_receipt(&mut self, id: u64) {
        if let Some((message, outcome)) = self.held.remove(&id) {
            self.end_message(id, message.seq, outcome, Some(message));
        }
    }

    pub fn release_held_receipts(&mut self) {
        while let Some((&id, _)) = self.held.first_key_value() {
            self.release_held_receipt(id);
        }
    }

    pub fn take_receipts(&mut self) -> Vec<UserReceipt> {
        std::mem::take(&mut self.receipts)
    }

    fn entry(&mut self, id: u64) -> Option<&mut UnreportedMessage> {
        let index = self.entries.binary_search_by_key(&id, |e| e.id).ok()?;
        self.entries.get_mut(index)
    }

    fn release_receipts(&mut self) {
        let known = |entry: &UnreportedMessage| entry.accepted || entry.end.is_some();
        while self.entries.front().is_some_and(known)
            && let Some(entry) = self.entries.pop_front()
        {
            if entry.accepted {
                let (seq, readings) = (entry.seq, entry.readings);
                self.receipts.push(UserReceipt::Accepted { seq, readings });
            }
            self.receipts.extend(entry.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acceptance_is_reported_in_the_order_of_the_input() {
        let mut receipts = UserReceipts::default();
        for id in 1..=4 {
            receipts.enter(id, id + 10, 1);
        }
        let ended = |seq, outcome| UserReceipt::Ended {
            seq,
            outcome,
            message: None,
        };
        let delivered = |seq| ended(seq, MessageOutcome::Delivered);
        receipts.end_message(2, 12, MessageOutcome::Delivered, None);
        receipts.mark_accepted(4);
        assert!(receipts.take_receipts().is_empty(), "1 comes first");
        receipts.mark_accepted(1);
        let accepted = |seq| UserReceipt::Accepted { seq, readings: 1 };
        assert_eq!(
            receipts.take_receipts(),
            [accepted(11), accepted(12), delivered(12)]
        );
        let dropped = ended(13, MessageOutcome::NEWEST_FOR_QUEUE);
        receipts.end_message(3, 13, MessageOutcome::NEWEST_FOR_QUEUE, None);
        assert_eq!(
            receipts.take_receipts(),
            [dropped, accepted(14)],
            "never accepted"
        );
        receipts.end_message(4, 14, MessageOutcome::Delivered, None);
        assert_eq!(receipts.take_receipts(), [delivered(14)]);
    }
}
