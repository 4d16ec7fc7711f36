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

impl Receipt {
    pub fn ended(seq: u64, outcome: Outcome) -> Self {
        Self::Ended {
            seq,
            outcome,
            message: None,
        }
    }
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
    /// Receipts of messages that are not among the dead letters on disk yet.
    held: BTreeMap<u64, Receipt>,
    receipts: Vec<Receipt>,
}

impl Ledger {
    /// A new message, of this number of readings.
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

    /// It is accepted, and has got this number.
    pub fn number(&mut self, id: u64, seq: u64) {
        if let Some(entry) = self.entry(id) {
            entry.seq = seq;
        }
        self.accept(id);
    }

    /// A message that is delivered or among the dead letters counts as accepted; one that is dropped
    /// or expired before never is.
    pub fn end(&mut self, id: u64, receipt: Receipt) {
        match self.entry(id) {
            Some(entry) => {
                let Receipt::Ended { outcome, .. } = &receipt else {
                    return;
                };
                entry.accepted |= matches!(outcome, Outcome::Delivered | Outcome::Dead(_));
                entry.end = Some(receipt);
                self.flush();
            }
            None => self.receipts.push(receipt),
        }
    }

    /// The receipt of a dead letter waits until [`release`](Self::release).
    pub fn hold(&mut self, id: u64, receipt: Receipt) {
        self.held.insert(id, receipt);
    }

    pub fn release(&mut self, id: u64) {
        if let Some(receipt) = self.held.remove(&id) {
            self.end(id, receipt);
        }
    }

    /// No dead letter will be written any more.
    pub fn release_all(&mut self) {
        for (id, receipt) in std::mem::take(&mut self.held) {
            self.end(id, receipt);
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
        let delivered = |seq| Receipt::ended(seq, Outcome::Delivered);
        ledger.end(2, delivered(12));
        ledger.accept(4);
        assert!(ledger.take().is_empty(), "1 comes first");
        ledger.accept(1);
        let accepted = |seq| Receipt::Accepted { seq, readings: 1 };
        assert_eq!(ledger.take(), [accepted(11), accepted(12), delivered(12)]);
        let dropped = Receipt::ended(13, Outcome::NEWEST_FOR_QUEUE);
        ledger.end(3, dropped.clone());
        assert_eq!(ledger.take(), [dropped, accepted(14)], "never accepted");
        ledger.end(4, delivered(14));
        assert_eq!(ledger.take(), [delivered(14)]);
    }
}
