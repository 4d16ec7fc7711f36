//! A queue in a file, as one process sees it. PURE: it gives requests to a store and handles the results; the store
//! does the I/O.
//!
//! What waits, in order: the *head*, read and in memory; rows that are *on disk only*; the *tail*, not yet written.
//! Memory holds few messages, however many wait. One process *drains*: it holds the file's lock, sends, and gives every
//! message its number. Other processes only add rows without numbers, and watch what becomes of them.
//!
//! Why nothing is lost: a message is reported as accepted when it is delivered or when the transaction that inserts it
//! is synced ([`QueueEvent::Stored`]), and its row is deleted only after the message has its outcome. Between the two
//! it is in the file at any moment, so the process that drains next reads it. A dead letter is inserted by the
//! transaction that deletes its row.
//!
//! What a crash repeats: messages in flight, and those that are acknowledged and not yet deleted. The outbox counts
//! both against its window (see [`Queue::undeleted`]), so it is one window at most. A row has its number on disk before
//! it is sent, so a repeat carries the same number, whichever process sends it.

mod disk_full;
mod loaded_rows;
mod rows_for_other_sender;

use std::sync::Arc;
use std::time::Instant;

use disk_full::{DISK_RETRY, DiskFullState};
use loaded_rows::{LoadedRowIndex, PAGE, PAGE_BYTES, RowCursor};
use rows_for_other_sender::RowsForOtherSender;

use super::journal::{Journal, MIN_INSERT_BYTES};
use super::limits::{Admission, DropBehavior, Limits, ReadAllowance};
use super::sized::SizedQueue;
use super::store_requests::{
    Counts, MessageOutcome, OpenedQueue, RowId, StoreRequest, StoreResult, StoredMessage,
    WriteBatch,
};
use super::{LostOrMoved, MessageIdentity, Queue, QueueEvent, StoreStatusChange};
use crate::common::fault::{Exit, Fault};
use crate::common::mqtt::outgoing_message::OutgoingMessage;

/// The most messages that wait to be written, and their bytes.
const MAX_UNWRITTEN: usize = 4_096;
const MAX_UNWRITTEN_BYTES: u64 = 4 << 20;

/// On a full disk this many bytes of the oldest messages are dropped at once, and at least twice the size of the next
/// message: only whole pages of the file become free. Not many more, because deleting needs space first.
const EVICTION_BYTES: u64 = 2 * MIN_INSERT_BYTES;

#[derive(Debug)]
pub struct DurableQueue {
    limits: Limits,
    file: OpenedQueue,
    last_id: u64,
    head: SizedQueue,
    /// Read, but the numbers of some of them have to be written first.
    unnumbered: SizedQueue,
    tail: SizedQueue,
    journal: Journal,
    known: LoadedRowIndex,
    reader: RowCursor,
    delegated: RowsForOtherSender,
    disk: DiskFullState,
    closing: bool,
    last_attempt: bool,
    closed: bool,
    missing_file: Option<LostOrMoved>,
}

impl DurableQueue {
    pub fn new(limits: Limits, opened: OpenedQueue) -> Self {
        Self {
            limits,
            file: opened,
            last_id: 0,
            head: SizedQueue::default(),
            unnumbered: SizedQueue::default(),
            tail: SizedQueue::default(),
            journal: Journal::default(),
            known: LoadedRowIndex::default(),
            reader: RowCursor::default(),
            delegated: RowsForOtherSender::default(),
            disk: DiskFullState::default(),
            closing: false,
            last_attempt: false,
            closed: false,
            missing_file: None,
        }
    }

    fn on_disk_only(&self) -> usize {
        usize::try_from(self.file.counts.rows)
            .unwrap_or(usize::MAX)
            .saturating_sub(self.known.len())
    }

    /// Whether nothing lies between head and tail, and the tail can be sent.
    fn is_tail_next(&self) -> bool {
        let has_number = self.tail.first().is_some_and(|message| message.seq > 0);
        let is_between = !self.unnumbered.is_empty() || self.reader.is_reading;
        has_number && !is_between && self.on_disk_only() == 0
    }

    /// Reads on if few messages are in memory and more are on disk.
    fn next_load(&mut self) -> Option<StoreRequest> {
        let is_low = self.head.len() <= PAGE / 2
            && self.head.bytes() <= PAGE_BYTES / 2
            && self.unnumbered.is_empty();
        if !self.file.drains || !is_low || self.on_disk_only() == 0 {
            return None;
        }
        self.reader.next_request()
    }

    fn handle_committed(
        &mut self,
        rows: &[RowId],
        evicted: Vec<(RowId, u64)>,
        counts: Counts,
        now: Instant,
    ) -> Vec<QueueEvent> {
        let mut events = Vec::new();
        self.reader.is_done = false;
        let written = self.journal.handle_committed(rows, now);
        let deleted = !written.deleted.is_empty();
        if self.disk.handle_committed(!rows.is_empty(), deleted, now) {
            events.push(QueueEvent::Store(StoreStatusChange::DiskRecovered));
        }
        for row in written.deleted {
            self.known.remove(row);
        }
        let dead = written.dead.into_iter();
        events.extend(dead.map(|id| QueueEvent::DeadLetterStored { id }));
        for (message, row) in written.ended {
            self.known.insert_ended_row(&message, row);
        }
        self.file.counts = counts;
        // Rows that only the disk knows come before those that were just written.
        let mut before = self.on_disk_only().saturating_sub(written.stored.len());
        for (message, row) in written.stored {
            let id = message.id;
            let is_waiting = self.tail.first_position() == Some(id) && self.tail.pop().is_some();
            if message.seq == 0 {
                // It needs a number first: also this process, should it take over, reads it again.
                self.delegated.insert_unnumbered(row, id);
                before += 1;
                continue;
            }
            events.push(QueueEvent::Stored { id });
            let is_head_full = self.head.len() >= PAGE || self.head.bytes() >= PAGE_BYTES;
            let is_behind = before > 0 || self.reader.is_reading || !self.unnumbered.is_empty();
            if is_waiting && (is_behind || is_head_full) {
                before += 1;
                continue;
            }
            self.known.insert(&message, row);
            if is_waiting {
                self.head.push(message);
            }
        }
        for (row, seq) in evicted {
            let id = self.delegated.remove(row).unwrap_or_default();
            let outcome = MessageOutcome::OLDEST_IN_QUEUE;
            events.push(QueueEvent::Ended { id, seq, outcome });
        }
        if self.journal.next.numbers.is_empty() {
            events.extend(self.move_numbered_to_head());
        }
        events
    }

    fn move_numbered_to_head(&mut self) -> Vec<QueueEvent> {
        let mut events = Vec::new();
        while let Some((_, message)) = self.unnumbered.pop() {
            let row = self.known.row_of(&message);
            if let Some(id) = row.and_then(|row| self.delegated.unnumbered.remove(&row)) {
                let seq = message.seq;
                events.push(QueueEvent::Numbered { id, seq });
            }
            self.head.push(message);
        }
        events
    }

    fn handle_loaded_rows(&mut self, rows: Vec<StoredMessage>, last: Option<RowId>) {
        self.reader.handle_page(last);
        self.reader.found_unnumbered = rows.iter().any(|row| row.message.seq == 0);
        for StoredMessage { row, mut message } in rows {
            if self.known.contains(row) {
                continue;
            }
            self.reader.found_new = true;
            self.last_id += 1;
            message.id = self.last_id;
            let needs_number = message.seq == 0;
            if needs_number {
                message.stream = Arc::clone(&self.file.stream);
                message.seq = self.file.next_seq;
                self.file.next_seq += 1;
            }
            let message = Arc::new(message);
            self.known.insert(&message, row);
            let has_to_wait = needs_number && self.missing_file.is_none();
            if has_to_wait {
                let numbers = &mut self.journal.next.numbers;
                numbers.push((row, Arc::clone(&message)));
            }
            if has_to_wait || !self.unnumbered.is_empty() {
                self.unnumbered.push(message);
            } else {
                self.head.push(message);
            }
        }
    }

    fn handle_disk_full(
        &mut self,
        batch: WriteBatch,
        why: String,
        now: Instant,
    ) -> Vec<QueueEvent> {
        if batch.insert_bytes() > MIN_INSERT_BYTES && batch.inserts.len() > 1 {
            // There is no space for all of it; perhaps for a part.
            self.journal.handle_disk_full(batch, now, now);
            return Vec::new();
        }
        self.disk.handle_full(batch.inserts.is_empty(), now);
        self.journal.handle_disk_full(batch, now, now + DISK_RETRY);
        if self.closing {
            if !self.last_attempt {
                self.journal.retry_at = None;
                return Vec::new();
            }
            let event = match self.journal.unwritten() {
                // Nothing is lost; rows that could not be deleted are sent again.
                0 => StoreStatusChange::Closed,
                count => {
                    let message = format!("{why}; no space for {count} messages: free some");
                    StoreStatusChange::Failed(Fault::permanent(Exit::Io, message))
                }
            };
            return vec![QueueEvent::Store(event)];
        }
        self.disk.mark_reported();
        // Each time: the log decides how often that is said.
        let mut events = vec![QueueEvent::Store(StoreStatusChange::DiskFull(why))];
        match self.limits.behavior {
            DropBehavior::Block => {}
            DropBehavior::Oldest if self.disk.request_eviction() => {
                let next = self
                    .tail
                    .first()
                    .map_or(0, |message| message.draft.content_size());
                let mut wanted = next.saturating_mul(2).max(EVICTION_BYTES);
                while wanted > 0
                    && let Some((_, message)) = self.head.pop()
                {
                    wanted = wanted.saturating_sub(message.draft.content_size());
                    let outcome = MessageOutcome::OLDEST_ON_DISK;
                    self.finish_message(&message, &outcome, now);
                    let (id, seq) = (message.id, message.seq);
                    events.push(QueueEvent::Ended { id, seq, outcome });
                }
                // Inserts follow the batch that makes space.
                self.journal.inserts_after = Some(now);
            }
            DropBehavior::Oldest | DropBehavior::Newest => {
                while let Some((id, message)) = self.tail.pop() {
                    self.journal.cancel_insert(id);
                    self.journal.next.dropped += 1;
                    let (seq, outcome) = (message.seq, MessageOutcome::NEWEST_FOR_DISK);
                    events.push(QueueEvent::Ended { id, seq, outcome });
                }
            }
        }
        events
    }
}

impl Queue for DurableQueue {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn len(&self) -> usize {
        self.head.len() + self.unnumbered.len() + self.on_disk_only() + self.tail.len()
    }

    fn bytes(&self) -> u64 {
        let counts = &self.file.counts;
        let on_disk_only = counts.bytes.saturating_sub(self.known.bytes());
        let in_memory = self.head.bytes() + self.unnumbered.bytes() + self.tail.bytes();
        on_disk_only + in_memory + counts.dead_bytes
    }

    fn free_message_slots(&self, now: Instant) -> usize {
        if self.disk.full_until(now).is_some() && self.limits.behavior == DropBehavior::Block {
            return 0;
        }
        self.limits.remaining_messages(self.len(), self.bytes())
    }

    fn peek_identity(&self) -> MessageIdentity {
        MessageIdentity {
            id: self.last_id + 1,
            stream: Arc::clone(&self.file.stream),
            seq: if self.file.drains {
                self.file.next_seq
            } else {
                0
            },
        }
    }

    fn advance_identity(&mut self) {
        self.last_id += 1;
        self.file.next_seq += u64::from(self.file.drains);
    }

    fn make_room(
        &mut self,
        size: u64,
        now: Instant,
        evicted: &mut Vec<Arc<OutgoingMessage>>,
    ) -> Admission {
        if self.disk.full_until(now).is_some() {
            match self.limits.behavior {
                DropBehavior::Block => return Admission::Wait,
                DropBehavior::Oldest if self.tail.len() < MAX_UNWRITTEN => {}
                DropBehavior::Oldest | DropBehavior::Newest => {
                    self.journal.next.dropped += 1;
                    return Admission::Drop;
                }
            }
        }
        let dead_bytes = self.file.counts.dead_bytes;
        let limits = Limits {
            max_bytes: self.limits.max_bytes.saturating_sub(dead_bytes),
            ..self.limits
        };
        loop {
            match limits.admit(self.len(), self.bytes() - dead_bytes, size) {
                Admission::EvictOldest if !self.file.drains => {
                    self.journal.next.within = Some(self.limits);
                    return Admission::Fits;
                }
                Admission::EvictOldest => {
                    let Some(oldest) = self.pop() else {
                        // It is being read.
                        self.reader.makes_room = true;
                        return Admission::EvictOldest;
                    };
                    evicted.push(oldest);
                }
                admission => {
                    let is_dropped = admission == Admission::Drop;
                    self.journal.next.dropped += u64::from(is_dropped);
                    return admission;
                }
            }
        }
    }

    fn push(&mut self, message: Arc<OutgoingMessage>, due: Option<Instant>) {
        self.journal.insert(Arc::clone(&message), due);
        self.tail.push(message);
    }

    fn pop(&mut self) -> Option<Arc<OutgoingMessage>> {
        if !self.file.drains {
            return None;
        }
        let source = if self.head.is_empty() && self.is_tail_next() {
            &mut self.tail
        } else {
            &mut self.head
        };
        source.pop().map(|(_, message)| message)
    }

    fn first(&self) -> Option<&Arc<OutgoingMessage>> {
        let loaded = self.head.first().or_else(|| self.unnumbered.first());
        // Rows that only the disk knows come before the tail.
        let is_tail_first = self.on_disk_only() == 0;
        loaded.or_else(|| self.tail.first().filter(|_| is_tail_first))
    }

    fn backlog_bytes(&self) -> u64 {
        self.bytes().saturating_sub(self.file.counts.dead_bytes)
    }

    fn is_disk_full(&self) -> bool {
        self.disk.is_full()
    }

    fn is_head_loaded(&self) -> bool {
        self.file.drains && (!self.head.is_empty() || self.is_tail_next())
    }

    fn unwritten(&self) -> Option<usize> {
        Some(self.journal.unwritten())
    }

    fn missing_file(&self) -> Option<LostOrMoved> {
        self.missing_file
    }

    fn handle_file_removed(&mut self) {
        self.missing_file = Some(LostOrMoved::Lost);
    }

    fn store_unless_acked(&mut self, message: &Arc<OutgoingMessage>, due: Instant) {
        self.journal.insert(Arc::clone(message), Some(due));
    }

    fn finish_message(
        &mut self,
        message: &Arc<OutgoingMessage>,
        outcome: &MessageOutcome,
        now: Instant,
    ) {
        let (row, outcome) = match (self.known.take_row_of(message), self.missing_file) {
            (row, None) => (row, outcome.clone()),
            // Outcomes are not written any more.
            (_, Some(_)) => (None, MessageOutcome::Delivered),
        };
        self.journal.finish_message(message, row, outcome, now);
    }

    fn record_connection_losses(&mut self, message: &Arc<OutgoingMessage>, attempts: u32) {
        if let Some(row) = self.known.row_of(message) {
            self.journal.next.attempts.push((row, attempts));
        }
    }

    fn adapt_deletes_to_window(&mut self, window: usize) {
        // A quarter of the window: the others are in flight while these are deleted. Half of a small
        // one: flash memory wears out by transactions.
        self.journal.delete_group = (window / 4).max(25).min(window / 2).max(1);
    }

    fn set_deletes_urgent(&mut self, blocked: bool) {
        self.journal.is_blocked = blocked;
    }

    fn make_all_writes_due(&mut self) {
        self.journal.make_all_due();
    }

    fn bring_writes_forward(&mut self, until: Instant) {
        self.journal.bring_forward(until);
    }

    fn undeleted(&self) -> usize {
        // If nothing can be deleted, sending is worth more than avoiding repeats.
        if self.disk.cannot_delete || self.missing_file.is_some() {
            0
        } else {
            self.journal.undeleted()
        }
    }

    fn count_for_other_sender(&self) -> Option<usize> {
        (!self.file.drains).then_some(self.delegated.len() + self.tail.len())
    }

    fn unwritten_space(&self) -> ReadAllowance {
        ReadAllowance {
            messages: MAX_UNWRITTEN.saturating_sub(self.tail.len()),
            bytes: MAX_UNWRITTEN_BYTES.saturating_sub(self.tail.bytes()),
        }
    }

    fn begin_close(&mut self) {
        self.closing = true;
        self.journal.retry_at = None;
    }

    fn wake_at(&self, now: Instant) -> Option<Instant> {
        if self.missing_file.is_some() {
            return None;
        }
        let space = self.disk.full_until(now);
        self.journal.wake_at().into_iter().chain(space).min()
    }

    fn next_request(&mut self, now: Instant) -> Option<StoreRequest> {
        if self.closed {
            return None;
        }
        if self.missing_file.is_some() {
            self.closed = self.closing;
            let close = self
                .closing
                .then_some(StoreRequest::Close { next_seq: None });
            return close.or_else(|| self.next_load());
        }
        if let Some(batch) = self.journal.next_batch(now, self.closing) {
            self.last_attempt = self.closing;
            return Some(StoreRequest::Commit(batch));
        }
        if self.closing {
            self.closed = self.journal.is_idle();
            let next_seq = self.file.drains.then_some(self.file.next_seq);
            return self.closed.then_some(StoreRequest::Close { next_seq });
        }
        if self.file.drains {
            self.next_load()
        } else {
            self.delegated.next_request()
        }
    }

    fn handle_store_result(&mut self, result: StoreResult, now: Instant) -> Vec<QueueEvent> {
        let event = match result {
            StoreResult::Committed {
                ids,
                evicted,
                counts,
            } => return self.handle_committed(&ids, evicted, counts, now),
            StoreResult::DiskFull { batch, why } => return self.handle_disk_full(batch, why, now),
            StoreResult::Loaded {
                rows,
                last,
                damaged,
                counts,
            } => {
                self.file.counts = counts;
                self.handle_loaded_rows(rows, last);
                match damaged {
                    0 => return Vec::new(),
                    _ => StoreStatusChange::Damaged(damaged),
                }
            }
            StoreResult::Outcomes {
                numbered,
                ends,
                oldest,
            } => return self.delegated.handle_outcomes(numbered, ends, oldest),
            StoreResult::Changed { counts } => {
                self.file.counts = counts;
                self.reader.is_done = false;
                self.delegated.is_due = true;
                return Vec::new();
            }
            // A run that is ending takes nothing over: it is responsible for its own messages alone.
            StoreResult::TookOver(_) if self.closing => return Vec::new(),
            StoreResult::TookOver(opened) => {
                self.file = opened;
                // It reads the numbered rows like all others.
                self.delegated.numbered.clear();
                StoreStatusChange::TookOver
            }
            StoreResult::FileMissing { fault, exists } => {
                self.missing_file = Some(if exists {
                    LostOrMoved::Moved
                } else {
                    LostOrMoved::Lost
                });
                let mut events = self.move_numbered_to_head();
                events.push(QueueEvent::Store(StoreStatusChange::FileMissing(fault)));
                return events;
            }
            StoreResult::Failed(fault) => StoreStatusChange::Failed(fault),
            StoreResult::Closed => StoreStatusChange::Closed,
        };
        vec![QueueEvent::Store(event)]
    }
}

#[cfg(test)]
mod tests;
