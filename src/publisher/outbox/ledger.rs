//! What becomes of each message, in the order in which the user is told. PURE.
//!
//! A message is *accepted* once the publisher answers for it: at once if the queue is in
//! memory; with a queue on disk when it is synced there or acknowledged by the broker. These
//! lines come in the order of the input, so what is known of a message earlier than that
//! waits for its turn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::common::mqtt::message::Message;
use crate::publisher::queue::requests::Outcome;

/// What the user is told of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// The publisher answers for it.
    Accepted { seq: u64, readings: u32 },
    /// Nothing more will happen to it.
    Ended {
        seq: u64,
        outcome: Outcome,
        /// The message, if this process has sent it, or has given it up.
        message: Option<Arc<Message>>,
    },
}

impl Receipt {
    pub fn ended(seq: u64, outcome: Outcome) -> Self {
        let message = None;
        Self::Ended {
            seq,
            outcome,
            message,
        }
    }
}

#[derive(Debug)]
struct Entry {
    id: u64,
    seq: u64,
    readings: u32,
    safe: bool,
    end: Option<Receipt>,
}

/// Messages that have entered and are not accepted yet, and what is to be told.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: VecDeque<Entry>,
    /// Ends of messages that are on their way to the dead letters.
    held: BTreeMap<u64, Receipt>,
    told: Vec<Receipt>,
}

impl Ledger {
    /// A message of so many readings has entered. Keys ascend.
    pub fn enter(&mut self, id: u64, seq: u64, readings: u32) {
        self.entries.push_back(Entry {
            id,
            seq,
            readings,
            safe: false,
            end: None,
        });
    }

    /// The publisher answers for it from here on.
    pub fn accept(&mut self, id: u64) {
        if let Some(entry) = self.entry(id) {
            entry.safe = true;
            self.tell();
        }
    }

    /// It is safe, and this is the number it was given.
    pub fn number(&mut self, id: u64, seq: u64) {
        if let Some(entry) = self.entry(id) {
            entry.seq = seq;
        }
        self.accept(id);
    }

    /// It has come to its end. What was delivered or is among the dead letters was accepted
    /// as well; what was dropped or expired before that never is.
    pub fn end(&mut self, id: u64, receipt: Receipt) {
        match self.entry(id) {
            Some(entry) => {
                let Receipt::Ended { outcome, .. } = &receipt else {
                    return;
                };
                entry.safe |= matches!(outcome, Outcome::Delivered | Outcome::Dead(_));
                entry.end = Some(receipt);
                self.tell();
            }
            None => self.told.push(receipt),
        }
    }

    /// It goes to the dead letters, which is told once it is there: see [`bury`](Self::bury).
    pub fn hold(&mut self, id: u64, receipt: Receipt) {
        self.held.insert(id, receipt);
    }

    /// It is among the dead letters.
    pub fn bury(&mut self, id: u64) {
        if let Some(receipt) = self.held.remove(&id) {
            self.end(id, receipt);
        }
    }

    /// None of them will ever get there.
    pub fn release(&mut self) {
        for (id, receipt) in std::mem::take(&mut self.held) {
            self.end(id, receipt);
        }
    }

    /// What is to be told, in order.
    pub fn take(&mut self) -> Vec<Receipt> {
        std::mem::take(&mut self.told)
    }

    fn entry(&mut self, id: u64) -> Option<&mut Entry> {
        let index = self.entries.binary_search_by_key(&id, |e| e.id).ok()?;
        self.entries.get_mut(index)
    }

    fn tell(&mut self) {
        let known = |entry: &Entry| entry.safe || entry.end.is_some();
        while self.entries.front().is_some_and(known)
            && let Some(entry) = self.entries.pop_front()
        {
            if entry.safe {
                let (seq, readings) = (entry.seq, entry.readings);
                self.told.push(Receipt::Accepted { seq, readings });
            }
            self.told.extend(entry.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acceptance_is_told_in_the_order_of_the_input() {
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
