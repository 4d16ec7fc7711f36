//! What a durable queue still has to write, and when. PURE.
//!
//! A message is sent and handed to the journal at the same time. If it is acknowledged before it is due
//! on disk, it is never written. Rows of finished messages are deleted in groups. One batch is under
//! way at a time: what becomes due meanwhile shares the next transaction and its one sync.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::store_requests::{DeadLetter, MessageOutcome, RowId, WriteBatch};
use crate::common::mqtt::outgoing_message::OutgoingMessage;

/// How long the row of a finished message may stay if there are too few for a group.
const DELETE_DELAY: Duration = Duration::from_millis(50);

/// The same while no other message can be sent for these rows: the rest of a burst of
/// acknowledgements is less than a group.
const DELETE_DELAY_BLOCKED: Duration = Duration::from_millis(1);

/// If there is no space for a number of messages, half of them is tried next, and so on: a part may
/// fit. The disk is full if this many bytes do not fit.
pub(super) const MIN_INSERT_BYTES: u64 = 8 << 10;

#[derive(Debug, Default)]
struct Writing {
    inserts: Vec<Arc<OutgoingMessage>>,
    ended: BTreeMap<u64, MessageOutcome>,
    rows: Vec<RowId>,
    /// The ids of its dead letters, and how many of them were never written.
    dead: Vec<u64>,
    unwritten_dead: usize,
}

#[derive(Debug, Default)]
pub struct Written {
    pub stored: Vec<(Arc<OutgoingMessage>, RowId)>,
    /// Messages that got their outcome while they were being written: to be deleted again.
    pub ended: Vec<(Arc<OutgoingMessage>, RowId)>,
    pub deleted: Vec<RowId>,
    /// The ids of messages that are among the dead letters now.
    pub dead: Vec<u64>,
}

#[derive(Debug, Default)]
pub struct Journal {
    /// Messages that are not on disk, and when each is due there; `None` is at once.
    pending: BTreeMap<u64, (Arc<OutgoingMessage>, Option<Instant>)>,
    due_now: Option<u64>,
    /// No other message is due earlier.
    due_next: Option<Instant>,
    pub next: WriteBatch,
    ends_since: Option<Instant>,
    /// The window is full, with rows that are to be deleted among it, and more is to be sent.
    pub is_blocked: bool,
    /// This number of rows is deleted together.
    pub delete_group: usize,
    writing: Option<Writing>,
    /// There was no space for more: the most bytes that are inserted at once.
    max_insert_bytes: Option<u64>,
    /// There was no space for inserts: none before then, and not in the batch that gives space back.
    pub inserts_after: Option<Instant>,
    /// There was no space for anything else either: nothing before then.
    pub retry_at: Option<Instant>,
}

impl Journal {
    pub fn insert(&mut self, message: Arc<OutgoingMessage>, due: Option<Instant>) {
        match due {
            None => self.due_now = self.due_now.max(Some(message.id)),
            Some(at) => self.due_next = Some(self.due_next.map_or(at, |next| next.min(at))),
        }
        self.pending.insert(message.id, (message, due));
    }

    pub fn make_all_due(&mut self) {
        self.due_now = self.pending.last_key_value().map(|(id, _)| *id);
    }

    /// Nothing is due later than this.
    pub fn bring_forward(&mut self, until: Instant) {
        for (_, due) in self.pending.values_mut() {
            *due = due.map(|at| at.min(until));
        }
        self.due_next = self.due_next.map(|next| next.min(until));
    }

    pub fn finish_message(
        &mut self,
        message: &Arc<OutgoingMessage>,
        row: Option<RowId>,
        outcome: MessageOutcome,
        now: Instant,
    ) {
        let id = message.id;
        if row.is_none()
            && let Some(writing) = &mut self.writing
            && writing.inserts.binary_search_by_key(&id, |m| m.id).is_ok()
        {
            writing.ended.insert(id, outcome);
            return;
        }
        self.pending.remove(&id);
        self.record_outcome(message, row, outcome, now);
    }

    fn record_outcome(
        &mut self,
        message: &Arc<OutgoingMessage>,
        row: Option<RowId>,
        outcome: MessageOutcome,
        now: Instant,
    ) {
        match (outcome, row) {
            (MessageOutcome::Dead(reason), row) => self.next.dead.push(DeadLetter {
                row,
                message: Arc::clone(message),
                reason,
            }),
            (outcome, Some(row)) => {
                self.next.ends.push((row, outcome));
                self.ends_since.get_or_insert(now);
            }
            (MessageOutcome::Dropped(_), None) => self.next.dropped += 1,
            (MessageOutcome::Expired, None) => self.next.expired += 1,
            (MessageOutcome::Delivered, None) => {}
        }
    }

    pub fn is_idle(&self) -> bool {
        self.writing.is_none() && self.pending.is_empty() && self.next.is_empty()
    }

    pub fn unwritten(&self) -> usize {
        let writing = self.writing.as_ref();
        let inserts = writing.map_or(0, |w| w.inserts.len() - w.ended.len() + w.unwritten_dead);
        self.pending.len() + inserts + self.next.count_dead_without_row()
    }

    pub fn undeleted(&self) -> usize {
        let writing = self.writing.as_ref();
        self.next.ends.len() + writing.map_or(0, |w| w.rows.len() + w.ended.len())
    }

    pub fn wake_at(&self) -> Option<Instant> {
        if self.writing.is_some() || self.is_idle() {
            return None;
        }
        let due = [self.inserts_due_at(), self.outcomes_due_at()];
        self.retry_at.max(due.into_iter().flatten().min())
    }

    pub fn next_batch(&mut self, now: Instant, closing: bool) -> Option<WriteBatch> {
        if self.writing.is_some() || self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        // What failed is tried again, whatever it is: so it shows that there is space.
        let again = self.retry_at.take().is_some();
        if closing {
            self.make_all_due();
        }
        // What makes space belongs to the inserts that need it.
        let within = self.next.within.take().filter(|_| !self.pending.is_empty());
        let is_tight = self.inserts_after.is_some();
        let has_to_wait = self.inserts_after.is_some_and(|at| now < at) && !closing;
        let last = (!has_to_wait).then(|| self.last_due(now)).flatten();
        let ends = closing
            || self.next.ends.len() >= self.delete_group
            || self.outcomes_due_at().is_some_and(|due| now >= due);
        let others = !self.next.numbers.is_empty()
            || !self.next.dead.is_empty()
            || !self.next.attempts.is_empty();
        if last.is_none() && !others && (!ends && !again || self.next.is_empty()) {
            self.next.within = within;
            return None;
        }
        self.ends_since = None;
        let mut batch = std::mem::take(&mut self.next);
        if let Some(last) = last.filter(|_| !is_tight || batch.is_empty()) {
            batch.within = within;
            let most = self.max_insert_bytes;
            let end = most.map_or(last, |most| self.last_pending_within(last, most));
            let later = self.pending.split_off(&(end + 1));
            let due = std::mem::replace(&mut self.pending, later);
            self.due_now = (end < last).then_some(last);
            batch.inserts = due.into_values().map(|(message, _)| message).collect();
        } else {
            self.next.within = within;
        }
        let dead = batch.dead.iter().filter_map(|dead| dead.row);
        self.writing = Some(Writing {
            inserts: batch.inserts.clone(),
            ended: BTreeMap::new(),
            rows: batch.ends.iter().map(|(row, _)| *row).chain(dead).collect(),
            dead: batch.dead.iter().map(|dead| dead.message.id).collect(),
            unwritten_dead: batch.count_dead_without_row(),
        });
        Some(batch)
    }

    fn outcomes_due_at(&self) -> Option<Instant> {
        let delay = if self.is_blocked {
            DELETE_DELAY_BLOCKED
        } else {
            DELETE_DELAY
        };
        self.ends_since.map(|since| since + delay)
    }

    fn inserts_due_at(&self) -> Option<Instant> {
        let due = self.due_next.filter(|_| !self.pending.is_empty());
        let Some(after) = self.inserts_after else {
            return due;
        };
        let has_due = |last: u64| self.pending.range(..=last).next().is_some();
        if self.due_now.is_some_and(has_due) {
            return Some(after);
        }
        due.map(|due| due.max(after))
    }

    /// The last message that is tried if there may be too little space for all up to `last`.
    fn last_pending_within(&self, last: u64, max_bytes: u64) -> u64 {
        let mut bytes = 0;
        let due = self.pending.range(..=last);
        let some = due.take_while(|(_, (message, _))| {
            let is_first = bytes == 0;
            bytes += message.draft.content_size();
            is_first || bytes <= max_bytes
        });
        some.last().map_or(last, |(id, _)| *id)
    }

    /// The last message that is due. All that were taken before it are written with it.
    fn last_due(&mut self, now: Instant) -> Option<u64> {
        if self.due_next.is_some_and(|at| at <= now) {
            let is_due = |due: Option<Instant>| due.is_some_and(|at| at <= now);
            let late = self.pending.iter().rev().find(|(_, (_, at))| is_due(*at));
            self.due_now = self.due_now.max(late.map(|(id, _)| *id));
            let later = self.pending.values().filter_map(|(_, at)| *at);
            self.due_next = later.filter(|at| *at > now).min();
        }
        // It may have been acknowledged meanwhile.
        let last = self.due_now?;
        self.pending.range(..=last).next_back().map(|(id, _)| *id)
    }

    /// `rows` are those of the inserts.
    pub fn handle_committed(&mut self, rows: &[RowId], now: Instant) -> Written {
        let Some(mut writing) = self.writing.take() else {
            return Written::default();
        };
        if !writing.inserts.is_empty() {
            self.inserts_after = None;
            let most = self.max_insert_bytes.map(|most| most.saturating_mul(2));
            self.max_insert_bytes = most.filter(|_| !self.pending.is_empty());
        }
        let mut written = Written {
            deleted: writing.rows,
            dead: writing.dead,
            ..Written::default()
        };
        for (message, row) in writing.inserts.into_iter().zip(rows.iter().copied()) {
            match writing.ended.remove(&message.id) {
                Some(outcome) => {
                    self.record_outcome(&message, Some(row), outcome, now);
                    written.ended.push((message, row));
                }
                None => written.stored.push((message, row)),
            }
        }
        written
    }

    /// Nothing of the batch was written. Its inserts are tried again, not before `retry_at`, and the
    /// rest at once without them; if there were none, all of it waits.
    pub fn handle_disk_full(&mut self, mut batch: WriteBatch, now: Instant, retry_at: Instant) {
        let Some(mut writing) = self.writing.take() else {
            return;
        };
        self.inserts_after = Some(retry_at);
        if batch.inserts.is_empty() {
            self.retry_at = Some(retry_at);
        } else {
            self.max_insert_bytes = Some((batch.insert_bytes() / 2).max(MIN_INSERT_BYTES));
        }
        let inserts = std::mem::take(&mut batch.inserts);
        let later = std::mem::replace(&mut self.next, batch);
        self.next.numbers.extend(later.numbers);
        self.next.ends.extend(later.ends);
        self.next.dead.extend(later.dead);
        self.next.attempts.extend(later.attempts);
        self.next.dropped += later.dropped;
        self.next.expired += later.expired;
        self.next.within = later.within.or(self.next.within);
        if !self.next.ends.is_empty() {
            self.ends_since = Some(now);
        }
        for message in inserts {
            match writing.ended.remove(&message.id) {
                Some(outcome) => self.record_outcome(&message, None, outcome, now),
                None => self.insert(message, None),
            }
        }
    }

    pub fn cancel_insert(&mut self, id: u64) {
        self.pending.remove(&id);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an origin")]
mod tests {
    use super::*;

    fn message(id: u64) -> Arc<OutgoingMessage> {
        Arc::new(OutgoingMessage {
            id,
            ..OutgoingMessage::default()
        })
    }

    #[test]
    fn after_a_full_disk_a_part_is_tried_before_the_whole() {
        let now = Instant::now();
        let mut journal = Journal::default();
        for id in 1..=100 {
            let mut message = message(id);
            Arc::make_mut(&mut message).draft.payload = vec![0; 999];
            journal.insert(message, None);
        }
        for expected in [100, 50] {
            let batch = journal.next_batch(now, false).unwrap();
            assert_eq!(batch.inserts.len(), expected);
            journal.handle_disk_full(batch, now, now);
        }
        let some = journal.next_batch(now, false).unwrap();
        assert_eq!(some.inserts.len(), 25);
        let ids: Vec<RowId> = (1..=25).collect();
        journal.handle_committed(&ids, now);
        let more = journal.next_batch(now, false).unwrap();
        assert_eq!((more.inserts.len(), more.inserts[0].id), (50, 26));
    }

    #[test]
    fn rows_are_deleted_in_groups_but_soon_if_the_window_is_full() {
        let now = Instant::now();
        let mut journal = Journal {
            delete_group: 2,
            ..Journal::default()
        };
        journal.finish_message(&message(1), Some(1), MessageOutcome::Delivered, now);
        journal.is_blocked = true;
        let soon = now + DELETE_DELAY_BLOCKED;
        assert_eq!(journal.wake_at(), Some(soon));
        assert!(journal.next_batch(soon, false).is_some());
        journal.handle_committed(&[], now);
        journal.finish_message(&message(2), Some(2), MessageOutcome::Delivered, now);
        journal.finish_message(&message(3), Some(3), MessageOutcome::Delivered, now);
        assert!(journal.next_batch(now, false).is_some(), "a group");
    }
}
