//! What a durable queue and its store say to each other. PURE.
//!
//! At most one [`StoreRequest::Commit`] is under way at a time, so that what comes in meanwhile
//! shares the next transaction and its one sync. Reports come in the order of the orders.

use std::sync::Arc;

use crate::common::fault::Fault;
use crate::common::mqtt::message::Message;
use crate::publisher::queue::Limits;

/// The number of a row in the file; never used twice.
pub type RowId = i64;

/// What finally became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has acknowledged it; at QoS 0 it has been written to the connection.
    Delivered,
    /// It was dropped, as which message of what.
    Dropped(&'static str),
    /// It was too old to be sent.
    Expired,
    /// Nobody can deliver it, and why: it goes to the dead letters.
    Dead(String),
}

impl Outcome {
    pub const OLDEST_IN_QUEUE: Self = Self::Dropped("oldest in a full queue");
    pub const NEWEST_FOR_QUEUE: Self = Self::Dropped("newest for a full queue");
    pub const OLDEST_ON_DISK: Self = Self::Dropped("oldest on a full disk");
    pub const NEWEST_FOR_DISK: Self = Self::Dropped("newest for a full disk");
    pub const DROPPED_ELSEWHERE: Self = Self::Dropped("by another publisher on the queue");
}

/// What one transaction writes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteBatch {
    /// New rows, in order.
    pub inserts: Vec<Arc<Message>>,
    /// Rows that get their stream and number.
    pub numbers: Vec<(RowId, Arc<Message>)>,
    /// Rows whose messages have come to their end, but for the dead ones.
    pub ends: Vec<(RowId, Outcome)>,
    /// Messages that go to the dead letters.
    pub dead: Vec<DeadLetter>,
    /// How many connections were lost with this row at the head.
    pub attempts: Vec<(RowId, u32)>,
    /// Messages dropped that were never on disk, to be counted.
    pub dropped: u64,
    /// Messages expired that were never on disk, to be counted.
    pub expired: u64,
    /// The oldest rows are to be dropped, whosever they are, until these limits hold.
    pub within: Option<Limits>,
}

/// A message for the dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its row, if it is on disk.
    pub row: Option<RowId>,
    pub message: Arc<Message>,
    /// Why nobody can deliver it.
    pub reason: String,
}

impl WriteBatch {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What is in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages waiting or in flight.
    pub rows: u64,
    /// Their topics and payloads, in bytes.
    pub bytes: u64,
    /// Dead letters' topics and payloads, in bytes: they count against the limit as well.
    pub dead_bytes: u64,
}

/// A row as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredMessage {
    /// Its number in the file.
    pub row: RowId,
    /// The message; its id is not set yet, and its number is 0 if it has none.
    pub message: Message,
}

/// What the store is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreRequest {
    /// Write this, and sync it.
    Commit(WriteBatch),
    /// Read rows behind `after`, in order: so many, and no further one after so many bytes.
    Load {
        /// The last row that was read.
        after: RowId,
        rows: usize,
        bytes: u64,
    },
    /// Say what has become of this process's rows.
    AskOutcomes {
        /// The last one whose number is known.
        numbered: RowId,
    },
    /// Note that the run ended in order, so that the next one goes on with this number.
    Close {
        /// The next number of the stream; none for a process that did not drain.
        next_seq: Option<u64>,
    },
}

/// What the store says.
#[derive(Clone, Debug, PartialEq)]
pub enum StoreResult {
    /// The batch is on disk and synced.
    Committed {
        /// The rows of its inserts, in order.
        ids: Vec<RowId>,
        /// Rows that had to make room, with their numbers: 0 if they had none yet.
        evicted: Vec<(RowId, u64)>,
        /// What is in the file now.
        counts: Counts,
    },
    /// There is no space on disk; nothing was written.
    DiskFull {
        /// What was to be written.
        batch: WriteBatch,
        /// What the system says.
        why: String,
    },
    /// Rows in their order.
    Loaded {
        /// What was read.
        rows: Vec<StoredMessage>,
        /// The last row that was looked at.
        last: Option<RowId>,
        /// Rows that were found damaged.
        damaged: usize,
        /// What is in the file now.
        counts: Counts,
    },
    /// What has become of this process's rows.
    Outcomes {
        /// Those that have got a number since the last time.
        numbered: Vec<(RowId, u64)>,
        /// Those that have come to an end, as far as it was noted.
        ends: Vec<(RowId, u64, Outcome)>,
        /// The oldest that is still there.
        oldest: Option<RowId>,
    },
    /// Another process has written.
    Changed {
        /// What is in the file now.
        counts: Counts,
    },
    /// The process that drained has gone: this one drains now.
    TookOver(Opened),
    /// The file is not at its name any more: nothing more is written, what is in it can still be read.
    FileMissing {
        /// What has happened to it.
        fault: Fault,
        /// It still exists somewhere, with all that was committed.
        exists: bool,
    },
    /// The file must not be written any more.
    Failed(Fault),
    /// The last order is carried out.
    Closed,
}

/// What a queue file holds when it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Whether this process drains it, or another does.
    pub drains: bool,
    /// The stream that numbers its messages.
    pub stream: Arc<str>,
    /// The next number of that stream.
    pub next_seq: u64,
    pub counts: Counts,
}
