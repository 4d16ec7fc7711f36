//! What the outbox asks of a durable queue. PURE.

use std::sync::Arc;
use std::time::Instant;

use super::{DISK_RETRY, DurableQueue, UNWRITTEN_BYTES, UNWRITTEN_MAX};
use crate::common::mqtt::message::Message;
use crate::publisher::queue::journal::{self, LEAST_BYTES};
use crate::publisher::queue::requests::{Outcome, StoreRequest, StoreResult};
use crate::publisher::queue::{
    Admission, DropBehavior, Gone, Limits, News, Pushed, Queue, Room, Ticket, size,
};

impl Queue for DurableQueue {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn len(&self) -> usize {
        let (head, tail) = (self.head.items.len(), self.tail.items.len());
        head + self.arriving.items.len() + self.on_disk_only() + tail
    }

    fn bytes(&self) -> u64 {
        let on_disk_only = self.counts.bytes.saturating_sub(self.known_bytes);
        let at_hand = self.head.bytes + self.arriving.bytes + self.tail.bytes;
        on_disk_only + at_hand + self.counts.dead_bytes
    }

    fn room(&self, now: Instant) -> usize {
        if self.disk_is_full(now) && self.limits.behavior == DropBehavior::Block {
            return 0;
        }
        self.limits.room(self.len(), self.bytes())
    }

    fn next_ticket(&self) -> Ticket {
        Ticket {
            id: self.last_id + 1,
            stream: Arc::clone(&self.stream),
            seq: if self.drains { self.next_seq } else { 0 },
        }
    }

    fn take_ticket(&mut self) {
        self.last_id += 1;
        if self.drains {
            self.next_seq += 1;
        }
    }

    fn push(&mut self, message: Arc<Message>, due: Option<Instant>, now: Instant) -> Pushed {
        let size = size(&message);
        let mut evicted = Vec::new();
        if self.disk_is_full(now) {
            match self.limits.behavior {
                DropBehavior::Block => return Pushed::Full { evicted },
                DropBehavior::Oldest if self.tail.items.len() < UNWRITTEN_MAX => {}
                DropBehavior::Oldest | DropBehavior::Newest => {
                    self.journal.dropped();
                    return Pushed::Dropped;
                }
            }
        }
        let limits = self.limits_beside_the_dead();
        loop {
            let bytes = self.bytes() - self.counts.dead_bytes;
            match limits.admit(self.len(), bytes, size) {
                Admission::Stored => break,
                Admission::AfterTheOldest if !self.drains => {
                    self.journal.keep_within(self.limits);
                    break;
                }
                Admission::AfterTheOldest => match self.take_first() {
                    Some(oldest) => evicted.push(oldest),
                    // It is being read.
                    None => return Pushed::Full { evicted },
                },
                Admission::Dropped => {
                    self.journal.dropped();
                    return Pushed::Dropped;
                }
                Admission::Wait => return Pushed::Full { evicted },
                Admission::Disabled => return Pushed::Disabled,
            }
        }
        self.journal.add(Arc::clone(&message), due);
        self.tail.push(message);
        Pushed::Stored { evicted }
    }

    fn pop(&mut self) -> Option<Arc<Message>> {
        self.take_first()
    }

    fn has_next(&self) -> bool {
        self.drains && (!self.head.items.is_empty() || self.tail_is_next())
    }

    fn unwritten(&self) -> Option<usize> {
        Some(self.journal.unwritten())
    }

    fn gone(&self) -> Option<Gone> {
        self.gone
    }

    fn pass(&mut self, message: &Arc<Message>, due: Instant) {
        self.journal.add(Arc::clone(message), Some(due));
    }

    fn settle(&mut self, message: &Arc<Message>, outcome: Outcome, now: Instant) {
        self.end(message, outcome, now);
    }

    fn attempted(&mut self, message: &Arc<Message>, attempts: u32) {
        if let Some(row) = self.rows.get(&message.id) {
            self.journal.attempted(*row, attempts);
        }
    }

    fn set_window(&mut self, window: usize) {
        // A quarter of it: the others are on the wire, or on their way, while these are taken off the
        // disk. Half of a small one: flash memory wears out by transactions.
        self.journal.set_group((window / 4).max(25).min(window / 2));
    }

    fn press(&mut self, pressed: bool) {
        self.journal.press(pressed);
    }

    fn keep_all(&mut self) {
        self.journal.hurry();
    }

    fn unsettled(&self) -> usize {
        // If nothing can be taken off the disk, going on is worth more than few repeats.
        if self.stuck || self.gone.is_some() {
            0
        } else {
            self.journal.unsettled()
        }
    }

    fn entrusted(&self) -> Option<usize> {
        let mine = self.watch.len() + self.entrusted.len() + self.tail.items.len();
        (!self.drains).then_some(mine)
    }

    fn unwritten_room(&self) -> Room {
        Room {
            messages: UNWRITTEN_MAX.saturating_sub(self.tail.items.len()),
            bytes: UNWRITTEN_BYTES.saturating_sub(self.tail.bytes),
        }
    }

    fn close(&mut self) {
        self.closing = true;
        self.journal.retry_now();
    }

    fn wake_at(&self, now: Instant) -> Option<Instant> {
        if self.gone.is_some() {
            return None;
        }
        let space = self.full_until.filter(|at| *at > now);
        self.journal.wake_at().into_iter().chain(space).min()
    }

    fn order(&mut self, now: Instant) -> Option<StoreRequest> {
        if self.closed {
            return None;
        }
        if self.gone.is_some() {
            if self.closing {
                self.closed = true;
                return Some(StoreRequest::Close { next_seq: None });
            }
            return self.load();
        }
        if let Some(batch) = self.journal.take(now, self.closing) {
            self.last_attempt = self.closing;
            return Some(StoreRequest::Commit(batch));
        }
        if self.closing {
            self.closed = self.journal.is_idle();
            let next_seq = self.drains.then_some(self.next_seq);
            return self.closed.then_some(StoreRequest::Close { next_seq });
        }
        if let Some(load) = self.load() {
            return Some(load);
        }
        let waits = !self.watch.is_empty() || !self.entrusted.is_empty();
        if !self.drains && waits && self.ask && !self.asking {
            self.ask = false;
            self.asking = true;
            return Some(StoreRequest::AskOutcomes {
                numbered: self.numbered,
            });
        }
        None
    }

    fn handle(&mut self, report: StoreResult, now: Instant) -> Vec<News> {
        match report {
            StoreResult::Committed {
                ids,
                evicted,
                counts,
            } => self.committed(&ids, &evicted, counts, now),
            StoreResult::DiskFull { batch, why } => {
                if journal::bytes(&batch) > LEAST_BYTES && batch.inserts.len() > 1 {
                    // Not all of it; perhaps a part.
                    self.journal.refused(batch, now, now);
                    return Vec::new();
                }
                self.stuck = batch.inserts.is_empty();
                self.full_since = Some(now);
                self.full_until = Some(now + DISK_RETRY);
                self.journal.refused(batch, now, now + DISK_RETRY);
                self.full(why, now)
            }
            StoreResult::Loaded {
                rows,
                last,
                damaged,
                counts,
            } => {
                self.counts = counts;
                self.loaded(rows, last);
                if damaged > 0 {
                    vec![News::Damaged(damaged)]
                } else {
                    Vec::new()
                }
            }
            StoreResult::Outcomes {
                numbered,
                ends,
                oldest,
            } => self.answered(numbered, ends, oldest),
            StoreResult::Changed { counts } => {
                self.counts = counts;
                self.searched = false;
                self.ask = true;
                Vec::new()
            }
            // What others have left is for whoever comes next: this run is ending, and answers for its
            // own messages alone.
            StoreResult::TookOver(_) if self.closing => Vec::new(),
            StoreResult::TookOver(opened) => {
                self.drains = true;
                self.stream = opened.stream;
                self.next_seq = opened.next_seq;
                self.counts = opened.counts;
                // Its own numbered rows are read again like all others.
                self.entrusted.clear();
                vec![News::Ours]
            }
            StoreResult::FileMissing { fault, exists } => {
                self.gone = Some(if exists { Gone::Elsewhere } else { Gone::Lost });
                let mut news = self.admit_arriving();
                news.push(News::Gone(fault));
                news
            }
            StoreResult::Failed(fault) => vec![News::Broken(fault)],
            StoreResult::Closed => vec![News::Closed],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publisher::queue::Capacity;
    use crate::publisher::queue::requests::{Counts, Opened};

    fn opened(drains: bool) -> Opened {
        let rows = 3;
        Opened {
            drains,
            stream: "s".into(),
            next_seq: 7,
            counts: Counts {
                rows,
                ..Counts::default()
            },
        }
    }

    /// The last drainer has gone just as this run, which has delivered all that was its own, ends.
    #[test]
    fn a_run_that_is_ending_takes_nothing_over() {
        let limits = Limits {
            capacity: Capacity::Unlimited,
            max_bytes: 1 << 20,
            behavior: DropBehavior::Block,
        };
        let mut queue = DurableQueue::new(limits, opened(false));
        queue.close();
        #[allow(clippy::disallowed_methods, reason = "an origin")]
        let now = Instant::now();
        assert!(
            queue
                .handle(StoreResult::TookOver(opened(true)), now)
                .is_empty()
        );
        assert_eq!(queue.entrusted(), Some(0));
        assert_eq!(
            queue.order(now),
            Some(StoreRequest::Close { next_seq: None })
        );
    }
}
