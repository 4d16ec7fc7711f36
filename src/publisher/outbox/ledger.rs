//! Receipts, in the order in which the user gets them. PURE.
//!
//! A message is *accepted* once the publisher is responsible for it: at once if the queue is in
//! memory, and with a queue on disk when it is synced there or acknowledged by the broker. These
//! receipts come in the order of the input, so an outcome that is known earlier has to wait.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::common::mqtt::message::Message;
use crate::publisher::queue::requests::Outcome;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receipt {
    Accepted {
        seq: u64,
        readings: u32,
    },
    Ended {
        seq: u64,
        outcome: Outcome,
        /// The message, if this process has sent it, or has given it up.
        message: Option<Arc<Message>>,
    },
}

#[derive(Debug)]
struct Entry {
    id: u64,
    seq: u64,
    readings: u32,
    accepted: bool,
    end: Option<Receipt>,
}

#[derive(Debug, Default)]
pub struct Ledger {
    /// Messages that are not accepted yet, and those that wait for them. Ids ascend.
    entries: VecDeque<Entry>,
    held: BTreeMap<u64, (Arc<Message>, Outcome)>,
    receipts: Vec<Receipt>,
}

impl Ledger {
    pub fn enter(&mut self, id: u64, seq: u64, readings: u32) {
        self.entries.push_back(Entry {
            id,
            seq,
            readings,
            accepted: false,
            end: None,
        });
    }

    pub fn accept(&mut self, id: u64) {
        if let Some(entry) = self.entry(id) {
            entry.accepted = true;
            self.flush();
        }
    }

    pub fn number(&mut self, id: u64, seq: u64) {
        if let Some(entry) = self.entry(id) {
            entry.seq = seq;
        }
        self.accept(id);
    }

    /// A message that is delivered or among the dead letters counts as accepted; one that is dropped
    /// or expired before never is.
    pub fn end(&mut self, id: u64, seq: u64, outcome: Outcome, message: Option<Arc<Message>>) {
        let accepted = matches!(outcome, Outcome::Delivered | Outcome::Dead(_));
        let receipt = Receipt::Ended {
            seq,
            outcome,
            message,
        };
        match self.entry(id) {
            Some(entry) => {
                entry.accepted |= accepted;
                entry.end = Some(receipt);
                self.flush();
            }
            None => self.receipts.push(receipt),
        }
    }

    /// The receipt of a dead letter waits until [`release`](Self::release).
    pub fn hold(&mut self, message: Arc<Message>, outcome: Outcome) {
        self.held.insert(message.id, (message, outcome));
    }

    pub fn release(&mut self, id: u64) {
        if let Some((message, outcome)) = self.held.remove(&id) {
            self.end(id, message.seq, outcome, Some(message));
        }
    }

    pub fn release_all(&mut self) {
        while let Some((&id, _)) = self.held.first_key_value() {
            self.release(id);
        }
    }

    pub fn take(&mut self) -> Vec<Receipt> {
        std::mem::take(&mut self.receipts)
    }

    fn entry(&mut self, id: u64) -> Option<&mut Entry> {
        let index = self.entries.binary_search_by_key(&id, |e| e.id).ok()?;
        self.entries.get_mut(index)
    }

    fn flush(&mut self) {
        let known = |entry: &Entry| entry.accepted || entry.end.is_some();
        while self.entries.front().is_some_and(known)
            && let Some(entry) = self.entries.pop_front()
        {
            if entry.accepted {
                let (seq, readings) = (entry.seq, entry.readings);
                self.receipts.push(Receipt::Accepted { seq, readings });
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
        let mut ledger = Ledger::default();
        for id in 1..=4 {
            ledger.enter(id, id + 10, 1);
        }
        let ended = |seq, outcome| Receipt::Ended {
            seq,
            outcome,
            message: None,
        };
        let delivered = |seq| ended(seq, Outcome::Delivered);
        ledger.end(2, 12, Outcome::Delivered, None);
        ledger.accept(4);
        assert!(ledger.take().is_empty(), "1 comes first");
        ledger.accept(1);
        let accepted = |seq| Receipt::Accepted { seq, readings: 1 };
        assert_eq!(ledger.take(), [accepted(11), accepted(12), delivered(12)]);
        let dropped = ended(13, Outcome::NEWEST_FOR_QUEUE);
        ledger.end(3, 13, Outcome::NEWEST_FOR_QUEUE, None);
        assert_eq!(ledger.take(), [dropped, accepted(14)], "never accepted");
        ledger.end(4, 14, Outcome::Delivered, None);
        assert_eq!(ledger.take(), [delivered(14)]);
    }
}
