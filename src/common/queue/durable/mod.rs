//! The books of a queue that lies on disk. PURE: it gives orders to a store and takes its
//! reports; the file itself is the store's.
//!
//! What waits, in order: the *head*, read and at hand; rows that are *on disk only*; and the
//! *tail*, not yet written. Few messages are in memory, however many wait.
//!
//! One process *drains*: it holds the file's lock, sends, and gives every message its
//! number. Others only *add* rows without numbers, and watch what becomes of them.

mod pile;
mod reports;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pile::Pile;

use super::journal::Journal;
use super::order::{Counts, End, Opened, Order, Report, RowId};
use super::{Admission, DropBehavior, Limits, News, Pushed, Queue, Room, Ticket, size};
use crate::common::message::Message;

/// So many rows are read at once, and the next ones when half of them are left.
const PAGE: usize = 512;

/// No further row is read after so many bytes.
const PAGE_BYTES: u64 = 1 << 20;

/// How long a full disk is left alone before the next attempt.
const DISK_RETRY: Duration = Duration::from_secs(1);

/// Messages that may wait to be written, at most, and their bytes.
const UNWRITTEN_MAX: usize = 4_096;
const UNWRITTEN_BYTES: u64 = 4 << 20;

/// A queue on disk, as the process that uses it sees it.
#[derive(Debug)]
pub struct DurableQueue {
    limits: Limits,
    drains: bool,
    stream: Arc<str>,
    next_seq: u64,
    last_key: u64,
    head: Pile,
    /// Read, but some of them get their numbers first.
    arriving: Pile,
    tail: Pile,
    journal: Journal,
    counts: Counts,
    /// The rows of messages in memory, those included that have come to their end and are
    /// not off the disk yet; and their sizes.
    rows: HashMap<u64, RowId>,
    known: HashMap<RowId, u64>,
    known_bytes: u64,
    cursor: RowId,
    loading: bool,
    /// This pass over the rows has met some that were not in memory.
    met_new: bool,
    /// The last pass has not: there is no use in another one before something changes.
    searched: bool,
    /// Rows of this run without a number, and the keys under which they entered.
    watch: BTreeMap<RowId, u64>,
    /// Rows of this run with a number that another process is to send.
    entrusted: BTreeMap<RowId, (u64, u64)>,
    numbered: RowId,
    ask: bool,
    asking: bool,
    /// The disk is full: nothing is to be tried before then.
    full_until: Option<Instant>,
    /// The user knows.
    full_told: bool,
    evicted_in_vain: bool,
    closing: bool,
    closed: bool,
}

impl DurableQueue {
    /// The queue in a file that has been opened.
    #[must_use]
    pub fn new(limits: Limits, opened: Opened) -> Self {
        Self {
            limits,
            drains: opened.drains,
            stream: opened.stream,
            next_seq: opened.next_seq,
            last_key: 0,
            head: Pile::default(),
            arriving: Pile::default(),
            tail: Pile::default(),
            journal: Journal::default(),
            counts: opened.counts,
            rows: HashMap::new(),
            known: HashMap::new(),
            known_bytes: 0,
            cursor: 0,
            loading: false,
            met_new: false,
            searched: false,
            watch: BTreeMap::new(),
            entrusted: BTreeMap::new(),
            numbered: 0,
            ask: false,
            asking: false,
            full_until: None,
            full_told: false,
            evicted_in_vain: false,
            closing: false,
            closed: false,
        }
    }

    /// Whether this process sends what is in it.
    #[must_use]
    pub fn drains(&self) -> bool {
        self.drains
    }

    fn on_disk_only(&self) -> usize {
        usize::try_from(self.counts.rows)
            .unwrap_or(usize::MAX)
            .saturating_sub(self.known.len())
    }

    fn know(&mut self, message: &Message, row: RowId) {
        self.rows.insert(message.key, row);
        self.known.insert(row, size(message));
        self.known_bytes += size(message);
    }

    fn forget_row(&mut self, row: RowId) {
        if let Some(size) = self.known.remove(&row) {
            self.known_bytes -= size;
        }
    }

    /// Takes from the head, or from the tail if nothing lies between.
    fn take_first(&mut self) -> Option<Arc<Message>> {
        if !self.drains {
            return None;
        }
        if let Some(message) = self.head.pop() {
            return Some(message);
        }
        self.tail_is_next().then(|| self.tail.pop()).flatten()
    }

    fn disk_is_full(&self, now: Instant) -> bool {
        self.full_until.is_some_and(|until| now < until)
    }

    /// The limits for what is not a dead letter.
    fn limits_beside_the_dead(&self) -> Limits {
        let dead = self.counts.dead_bytes;
        Limits {
            max_bytes: self.limits.max_bytes.saturating_sub(dead),
            ..self.limits
        }
    }

    fn tail_is_next(&self) -> bool {
        let has_number = self.tail.items.front().is_some_and(|m| m.seq > 0);
        has_number && self.arriving.items.is_empty() && !self.loading && self.on_disk_only() == 0
    }

    fn end(&mut self, message: &Arc<Message>, end: End, now: Instant) {
        let row = self.rows.remove(&message.key);
        self.journal.settle(message, row, end, now);
    }
}

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
            key: self.last_key + 1,
            stream: Arc::clone(&self.stream),
            seq: if self.drains { self.next_seq } else { 0 },
        }
    }

    fn take_ticket(&mut self) {
        self.last_key += 1;
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

    fn pass(&mut self, message: &Arc<Message>, due: Instant) {
        self.journal.add(Arc::clone(message), Some(due));
    }

    fn settle(&mut self, message: &Arc<Message>, end: End, now: Instant) {
        self.end(message, end, now);
    }

    fn attempted(&mut self, message: &Arc<Message>, attempts: u32) {
        if let Some(row) = self.rows.get(&message.key) {
            self.journal.attempted(*row, attempts);
        }
    }

    fn set_window(&mut self, window: usize) {
        // Half of it: the other half is on the wire while these are taken off the disk.
        self.journal.set_group(window / 2);
    }

    fn keep_all(&mut self) {
        self.journal.hurry();
    }

    fn unsettled(&self) -> usize {
        // With a full disk nothing can be taken off it: going on is worth more than few repeats.
        if self.full_until.is_some() {
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
        let space = self.full_until.filter(|at| *at > now);
        self.journal.wake_at().into_iter().chain(space).min()
    }

    fn order(&mut self, now: Instant) -> Option<Order> {
        if self.closed {
            return None;
        }
        if let Some(batch) = self.journal.take(now, self.closing) {
            return Some(Order::Commit(batch));
        }
        if self.closing {
            self.closed = self.journal.is_idle();
            let next_seq = self.drains.then_some(self.next_seq);
            return self.closed.then_some(Order::Close { next_seq });
        }
        let low = self.head.items.len() <= PAGE / 2
            && self.head.bytes <= PAGE_BYTES / 2
            && self.arriving.items.is_empty();
        if self.drains && low && !self.loading && !self.searched && self.on_disk_only() > 0 {
            self.loading = true;
            return Some(Order::Load {
                after: self.cursor,
                rows: PAGE,
                bytes: PAGE_BYTES,
            });
        }
        let waits = !self.watch.is_empty() || !self.entrusted.is_empty();
        if !self.drains && waits && self.ask && !self.asking {
            self.ask = false;
            self.asking = true;
            return Some(Order::Ask {
                numbered: self.numbered,
            });
        }
        None
    }

    fn handle(&mut self, report: Report, now: Instant, wall_ms: u64) -> Vec<News> {
        match report {
            Report::Committed {
                ids,
                evicted,
                counts,
            } => self.committed(&ids, &evicted, counts, now),
            Report::Full { batch, why } => {
                self.journal.refused(batch, now, now + DISK_RETRY);
                self.full_until = Some(now + DISK_RETRY);
                self.full(why, now)
            }
            Report::Loaded {
                rows,
                last,
                damaged,
                counts,
            } => {
                self.counts = counts;
                self.loaded(rows, last, now, wall_ms);
                if damaged > 0 {
                    vec![News::Damaged(damaged)]
                } else {
                    Vec::new()
                }
            }
            Report::Answer {
                numbered,
                ends,
                oldest,
            } => self.answered(numbered, ends, oldest),
            Report::Changed { counts } => {
                self.counts = counts;
                self.searched = false;
                self.ask = true;
                Vec::new()
            }
            Report::Ours(opened) => {
                self.drains = true;
                self.stream = opened.stream;
                self.next_seq = opened.next_seq;
                self.counts = opened.counts;
                // Its own numbered rows are read again like all others.
                self.entrusted.clear();
                vec![News::Ours]
            }
            Report::Broken(fault) => vec![News::Broken(fault)],
            Report::Closed => vec![News::Closed],
        }
    }
}
