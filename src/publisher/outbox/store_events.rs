//! What the outbox hears of its messages from the queue's store. PURE.

use super::Outbox;
use super::ledger::Receipt;
use crate::publisher::queue::News;
use crate::publisher::queue::requests::Outcome;

impl Outbox {
    /// Takes what the queue's store has come to.
    pub fn hear(&mut self, news: &News) {
        match news {
            News::Safe { id } => self.ledger.accept(*id),
            News::Numbered { id, seq } => self.ledger.number(*id, *seq),
            News::Dropped { id, seq } => {
                let receipt = Receipt::ended(*seq, Outcome::NEWEST_FOR_DISK);
                self.ledger.end(*id, receipt);
            }
            News::Displaced { id, seq } => {
                let receipt = Receipt::ended(*seq, Outcome::OLDEST_IN_QUEUE);
                self.ledger.end(id.unwrap_or_default(), receipt);
            }
            News::Gone(_) => self.ledger.release(),
            News::Buried { id } => self.ledger.bury(*id),
            News::Evicted(message) => {
                let receipt = Receipt::ended(message.seq, Outcome::OLDEST_ON_DISK);
                self.ledger.end(message.id, receipt);
            }
            News::Ended { id, seq, outcome } => {
                self.ledger.end(*id, Receipt::ended(*seq, outcome.clone()));
            }
            _ => {}
        }
    }
}
