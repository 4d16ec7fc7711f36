//! The books of a queue that lies on disk. PURE: it gives orders to a store and takes its
//! reports; the file itself is the store's.
//!
//! What waits, in order: the *head*, read and at hand; rows that are *on disk only*; and the
//! *tail*, not yet written. Few messages are in memory, however many wait.
//!
//! One process *drains*: it holds the file's lock, sends, and gives every message its
//! number. Others only *add* rows without numbers, and watch what becomes of them.

mod duties;
mod pile;
mod store_results;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pile::Pile;

use super::journal::Journal;
use super::requests::{Counts, Opened, Outcome, RowId, StoreRequest};
use super::{Gone, Limits, size};
use crate::common::mqtt::message::Message;

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
    last_id: u64,
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
    /// When it was found to be full last.
    full_since: Option<Instant>,
    /// The user knows.
    full_told: bool,
    /// There is not even space to delete.
    stuck: bool,
    /// How often the oldest were dropped while still there was no space.
    evicted_in_vain: u32,
    closing: bool,
    /// What is being written since is the last attempt.
    last_attempt: bool,
    closed: bool,
    /// The file is gone.
    gone: Option<Gone>,
}

impl DurableQueue {
    /// The queue in a file that has been opened.
    pub fn new(limits: Limits, opened: Opened) -> Self {
        Self {
            limits,
            drains: opened.drains,
            stream: opened.stream,
            next_seq: opened.next_seq,
            last_id: 0,
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
            full_since: None,
            full_told: false,
            stuck: false,
            evicted_in_vain: 0,
            closing: false,
            last_attempt: false,
            closed: false,
            gone: None,
        }
    }

    fn on_disk_only(&self) -> usize {
        usize::try_from(self.counts.rows)
            .unwrap_or(usize::MAX)
            .saturating_sub(self.known.len())
    }

    fn know(&mut self, message: &Message, row: RowId) {
        self.rows.insert(message.id, row);
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

    /// Reads on, if few are at hand and more are on disk.
    fn load(&mut self) -> Option<StoreRequest> {
        let low = self.head.items.len() <= PAGE / 2
            && self.head.bytes <= PAGE_BYTES / 2
            && self.arriving.items.is_empty();
        let wanted = self.drains && low && !self.loading && !self.searched;
        if !wanted || self.on_disk_only() == 0 {
            return None;
        }
        self.loading = true;
        Some(StoreRequest::Load {
            after: self.cursor,
            rows: PAGE,
            bytes: PAGE_BYTES,
        })
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

    fn end(&mut self, message: &Arc<Message>, outcome: Outcome, now: Instant) {
        let row = self.rows.remove(&message.id);
        if self.gone.is_some() {
            // Nobody writes that any more.
            return self.journal.settle(message, None, Outcome::Delivered, now);
        }
        self.journal.settle(message, row, outcome, now);
    }
}
