//! What the outbox hears of its messages from the queue's store. PURE.

use super::Outbox;
use super::ledger::Receipt;
use crate::publisher::queue::News;
use crate::publisher::queue::requests::End;

impl Outbox {
    /// Takes what the queue's store has come to.
    pub fn hear(&mut self, news: &News) {
        match news {
            News::Safe { key } => self.ledger.accept(*key),
            News::Numbered { key, seq } => self.ledger.number(*key, *seq),
            News::Dropped { key, seq } => {
                let (seq, reason) = (*seq, "newest for a full disk");
                self.ledger.end(*key, Receipt::Dropped { seq, reason });
            }
            News::Displaced { key, seq } => {
                let (seq, reason) = (*seq, "oldest in a full queue");
                let receipt = Receipt::Dropped { seq, reason };
                self.ledger.end(key.unwrap_or_default(), receipt);
            }
            News::Gone(_) => self.ledger.release(),
            News::Buried { key } => self.ledger.bury(*key),
            News::Evicted(message) => {
                let (seq, reason) = (message.seq, "oldest on a full disk");
                self.ledger
                    .end(message.key, Receipt::Dropped { seq, reason });
            }
            News::Ended { key, seq, end } => {
                let seq = *seq;
                let receipt = match end {
                    End::Delivered => Receipt::DeliveredElsewhere { seq },
                    End::Expired => Receipt::Expired { seq },
                    End::Dropped => {
                        let reason = "by another publisher on the queue";
                        Receipt::Dropped { seq, reason }
                    }
                    End::Dead(reason) => Receipt::Dead {
                        seq,
                        topic: None,
                        reason: reason.clone(),
                    },
                };
                self.ledger.end(*key, receipt);
            }
            _ => {}
        }
    }
}
