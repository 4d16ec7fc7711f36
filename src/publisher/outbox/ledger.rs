//! What becomes of each message, in the order in which the user is told. PURE.
//!
//! A message is *accepted* once the publisher answers for it: at once if the queue is in
//! memory; with a queue on disk when it is synced there or acknowledged by the broker. These
//! lines come in the order of the input, so what is known of a message earlier than that
//! waits for its turn.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::common::mqtt::message::Message;

/// One line of news about one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// The publisher answers for it.
    Accepted {
        /// Its number.
        seq: u64,
        readings: u32,
    },
    /// It arrived.
    Delivered(Arc<Message>),
    /// It arrived; another publisher on the same queue sent it.
    DeliveredElsewhere {
        /// Its number.
        seq: u64,
    },
    /// It was lost to a full queue.
    Dropped {
        /// Its number.
        seq: u64,
        /// In which way.
        reason: &'static str,
    },
    /// It was too old to be sent.
    Expired {
        /// Its number.
        seq: u64,
    },
    /// It never will arrive.
    Dead {
        /// Its number.
        seq: u64,
        /// Its topic, if this process has it at hand.
        topic: Option<Arc<str>>,
        /// Why.
        reason: String,
    },
}

#[derive(Debug)]
struct Entry {
    key: u64,
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
    pub fn enter(&mut self, key: u64, seq: u64, readings: u32) {
        self.entries.push_back(Entry {
            key,
            seq,
            readings,
            safe: false,
            end: None,
        });
    }

    /// The publisher answers for it from here on.
    pub fn accept(&mut self, key: u64) {
        if let Some(entry) = self.entry(key) {
            entry.safe = true;
            self.tell();
        }
    }

    /// It is safe, and this is the number it was given.
    pub fn number(&mut self, key: u64, seq: u64) {
        if let Some(entry) = self.entry(key) {
            entry.seq = seq;
        }
        self.accept(key);
    }

    /// It has come to its end. What was delivered or is among the dead letters was accepted
    /// as well; what was dropped or expired before that never is.
    pub fn end(&mut self, key: u64, receipt: Receipt) {
        match self.entry(key) {
            Some(entry) => {
                let kept = !matches!(receipt, Receipt::Dropped { .. } | Receipt::Expired { .. });
                entry.safe |= kept;
                entry.end = Some(receipt);
                self.tell();
            }
            None => self.told.push(receipt),
        }
    }

    /// It goes to the dead letters, which is told once it is there: see [`bury`](Self::bury).
    pub fn hold(&mut self, key: u64, receipt: Receipt) {
        self.held.insert(key, receipt);
    }

    /// It is among the dead letters.
    pub fn bury(&mut self, key: u64) {
        if let Some(receipt) = self.held.remove(&key) {
            self.end(key, receipt);
        }
    }

    /// None of them will ever get there.
    pub fn release(&mut self) {
        for (key, receipt) in std::mem::take(&mut self.held) {
            self.end(key, receipt);
        }
    }

    /// What is to be told, in order.
    pub fn take(&mut self) -> Vec<Receipt> {
        std::mem::take(&mut self.told)
    }

    fn entry(&mut self, key: u64) -> Option<&mut Entry> {
        let index = self.entries.binary_search_by_key(&key, |e| e.key).ok()?;
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
        for key in 1..=4 {
            ledger.enter(key, key + 10, 1);
        }
        let delivered = |seq| Receipt::DeliveredElsewhere { seq };
        ledger.end(2, delivered(12));
        ledger.accept(4);
        assert!(ledger.take().is_empty(), "1 comes first");
        ledger.accept(1);
        let accepted = |seq| Receipt::Accepted { seq, readings: 1 };
        assert_eq!(ledger.take(), [accepted(11), accepted(12), delivered(12)]);
        let dropped = Receipt::Dropped {
            seq: 13,
            reason: "full",
        };
        ledger.end(3, dropped.clone());
        assert_eq!(ledger.take(), [dropped, accepted(14)], "never accepted");
        ledger.end(4, delivered(14));
        assert_eq!(ledger.take(), [delivered(14)]);
    }
}
