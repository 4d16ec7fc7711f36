//! What a durable queue requests of its store, and the store's results. PURE.
//!
//! At most one [`StoreRequest::Commit`] is under way at a time: what becomes due meanwhile shares the
//! next transaction and its one sync. Results come in the order of the requests.

use std::sync::Arc;

use super::limits::Limits;
use crate::common::fault::Fault;
use crate::common::mqtt::outgoing_message::OutgoingMessage;

/// The number of a row in the file; never used twice.
pub type RowId = i64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MessageOutcome {
    /// The broker has acknowledged it; at QoS 0 it has been written to the connection.
    Delivered,
    Dropped(&'static str),
    Expired,
    /// It goes to the dead letters, for this reason.
    Dead(String),
}

impl MessageOutcome {
    pub const OLDEST_IN_QUEUE: Self = Self::Dropped("oldest in a full queue");
    pub const NEWEST_FOR_QUEUE: Self = Self::Dropped("newest for a full queue");
    pub const OLDEST_ON_DISK: Self = Self::Dropped("oldest on a full disk");
    pub const NEWEST_FOR_DISK: Self = Self::Dropped("newest for a full disk");
    pub const DROPPED_ELSEWHERE: Self = Self::Dropped("by another publisher on the queue");
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteBatch {
    pub inserts: Vec<Arc<OutgoingMessage>>,
    pub numbers: Vec<(RowId, Arc<OutgoingMessage>)>,
    /// Rows to delete, other than dead letters.
    pub ends: Vec<(RowId, MessageOutcome)>,
    pub dead: Vec<DeadLetter>,
    /// How many connections were closed while only this row was in flight.
    pub attempts: Vec<(RowId, u32)>,
    /// Counts of messages that were never on disk.
    pub dropped: u64,
    pub expired: u64,
    /// Drop the oldest rows, whoever inserted them, until these limits hold.
    pub within: Option<Limits>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub row: Option<RowId>,
    pub message: Arc<OutgoingMessage>,
    pub reason: String,
}

impl WriteBatch {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub fn insert_bytes(&self) -> u64 {
        self.inserts.iter().map(|m| m.draft.content_size()).sum()
    }

    pub fn count_dead_without_row(&self) -> usize {
        self.dead.iter().filter(|dead| dead.row.is_none()).count()
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages waiting or in flight.
    pub rows: u64,
    pub bytes: u64,
    /// Bytes of dead letters' topics and payloads, which count against the limit as well.
    pub dead_bytes: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StoredMessage {
    pub row: RowId,
    pub message: OutgoingMessage,
}

#[derive(Clone, Debug, PartialEq)]
pub enum StoreRequest {
    Commit(WriteBatch),
    /// Read at most `rows` rows behind `after`, in order, and none after `bytes` bytes.
    Load {
        after: RowId,
        rows: usize,
        bytes: u64,
    },
    /// What has become of this process's rows? `numbered` is the last one whose number is known.
    AskOutcomes {
        numbered: RowId,
    },
    /// For those who look at the queue: whether this process has a connection.
    RecordConnected(bool),
    /// The next run continues with `next_seq`; `None` from a process that did not drain.
    Close {
        next_seq: Option<u64>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum StoreResult {
    Committed {
        ids: Vec<RowId>,
        /// Rows that had to make space, with their numbers: 0 for those without.
        evicted: Vec<(RowId, u64)>,
        counts: Counts,
    },
    DiskFull {
        batch: WriteBatch,
        why: String,
    },
    Loaded {
        rows: Vec<StoredMessage>,
        /// The last row that was looked at; `None` at the end of the file.
        last: Option<RowId>,
        damaged: usize,
        counts: Counts,
    },
    Outcomes {
        /// Those that have got a number since the last time.
        numbered: Vec<(RowId, u64)>,
        /// Row, number and outcome, as far as it was recorded.
        ends: Vec<(RowId, u64, MessageOutcome)>,
        /// The oldest row that is still there.
        oldest: Option<RowId>,
    },
    Changed {
        counts: Counts,
    },
    TookOver(OpenedQueue),
    /// The file is not at its path any more: nothing more is written; it can still be read.
    FileMissing {
        fault: Fault,
        /// It still exists elsewhere, with everything that was committed.
        exists: bool,
    },
    /// The file must not be written any more.
    Failed(Fault),
    Closed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedQueue {
    /// Whether this process drains it, or another does.
    pub drains: bool,
    pub stream: Arc<str>,
    pub next_seq: u64,
    pub counts: Counts,
}
