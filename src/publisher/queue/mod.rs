//! The offline queue: messages that were taken and cannot be sent now, in order, within a limit in messages and one
//! in bytes. PURE.
//!
//! [`Queue`] is what the outbox needs of it. [`memory::MemoryQueue`] ends with the process. [`durable::DurableQueue`]
//! manages a queue in a file: it gives requests to a store and handles the results (see [`store_requests`]), and does no I/O
//! itself. Connections, windows and rates belong to [`outbox`](super::outbox).

pub mod durable;
pub mod journal;
pub mod limits;
pub mod memory;
pub mod sized;
pub mod store_requests;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::common::fault::Fault;
use crate::common::mqtt::outgoing_message::OutgoingMessage;
use limits::{Admission, Limits, ReadAllowance};
use store_requests::{MessageOutcome, StoreRequest, StoreResult};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageIdentity {
    pub id: u64,
    pub stream: Arc<str>,
    /// The number in the stream; 0 if another process will assign it.
    pub seq: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub enum QueueEvent {
    Stored {
        id: u64,
    },
    Numbered {
        id: u64,
        seq: u64,
    },
    /// `id` is 0 for a message of another run; `seq` is 0 for one that had no number yet.
    Ended {
        id: u64,
        seq: u64,
        outcome: MessageOutcome,
    },
    DeadLetterStored {
        id: u64,
    },
    Store(StoreStatusChange),
}

#[derive(Clone, Debug, PartialEq)]
pub enum StoreStatusChange {
    Damaged(usize),
    /// The disk is full; the system's message.
    DiskFull(String),
    DiskRecovered,
    /// The publisher that drained has ended: this process drains from now on.
    TookOver,
    /// The file is not at its path any more: nothing more can be stored. It can still be read.
    FileMissing(Fault),
    Failed(Fault),
    Closed,
}

/// What became of a queue file that is not at its path any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostOrMoved {
    /// No later run will find it.
    Lost,
    /// The file still exists elsewhere, with everything that was stored.
    Moved,
}

/// What the outbox needs of a queue. The methods with a default are for queues that outlive the process.
pub trait Queue: fmt::Debug {
    fn limits(&self) -> Limits;

    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn bytes(&self) -> u64;

    /// Without dead letters, which count against the limit as well.
    fn backlog_bytes(&self) -> u64 {
        self.bytes()
    }

    fn free_message_slots(&self, _now: Instant) -> usize {
        self.limits().remaining_messages(self.len(), self.bytes())
    }

    fn peek_identity(&self) -> MessageIdentity;

    fn advance_identity(&mut self);

    /// Makes space for a message of `size` bytes as the limits say; dropped messages are added to
    /// `evicted`. After `Fits`, the message has to be pushed.
    fn make_room(
        &mut self,
        size: u64,
        now: Instant,
        evicted: &mut Vec<Arc<OutgoingMessage>>,
    ) -> Admission;

    /// Adds a message at the tail. It has to be on disk by `due`, or at once, unless it is acknowledged before.
    fn push(&mut self, message: Arc<OutgoingMessage>, due: Option<Instant>);

    /// Takes the message at the head, if it is in memory.
    fn pop(&mut self) -> Option<Arc<OutgoingMessage>>;

    /// The message at the head, if it is in memory.
    fn first(&self) -> Option<&Arc<OutgoingMessage>>;

    /// Whether nothing can be stored because the disk is full.
    fn is_disk_full(&self) -> bool {
        false
    }

    /// Whether the message at the head is in memory.
    fn is_head_loaded(&self) -> bool {
        !self.is_empty()
    }

    /// Messages that are not on disk yet; `None` if none is ever written.
    fn unwritten(&self) -> Option<usize> {
        None
    }

    fn missing_file(&self) -> Option<LostOrMoved> {
        None
    }

    /// A file that was missing, but still existed, has been removed as well.
    fn handle_file_removed(&mut self) {}

    /// A message is sent at once, past the queue, and written if it is not acknowledged by `due`.
    fn store_unless_acked(&mut self, _message: &Arc<OutgoingMessage>, _due: Instant) {}

    /// A message that left by [`pop`](Self::pop) or [`store_unless_acked`](Self::store_unless_acked) has its outcome.
    fn finish_message(
        &mut self,
        _message: &Arc<OutgoingMessage>,
        _outcome: &MessageOutcome,
        _now: Instant,
    ) {
    }

    fn record_connection_losses(&mut self, _message: &Arc<OutgoingMessage>, _attempts: u32) {}

    fn adapt_deletes_to_window(&mut self, _window: usize) {}

    /// Whether more could be sent if fewer messages were [`undeleted`](Self::undeleted).
    fn set_deletes_urgent(&mut self, _blocked: bool) {}

    fn make_all_writes_due(&mut self) {}

    /// Nothing that is not on disk is due there later than this.
    fn bring_writes_forward(&mut self, _until: Instant) {}

    /// Messages that have their outcome and would be sent again after a crash.
    fn undeleted(&self) -> usize {
        0
    }

    /// Messages of this run that another publisher is to send; `None` if this one sends.
    fn count_for_other_sender(&self) -> Option<usize> {
        None
    }

    fn unwritten_space(&self) -> ReadAllowance {
        ReadAllowance {
            messages: usize::MAX,
            bytes: u64::MAX,
        }
    }

    /// The run ends: what is due is written, then [`QueueEvent::Store`] with [`StoreStatusChange::Closed`] follows.
    fn begin_close(&mut self) {}

    fn wake_at(&self, _now: Instant) -> Option<Instant> {
        None
    }

    fn next_request(&mut self, _now: Instant) -> Option<StoreRequest> {
        None
    }

    fn handle_store_result(&mut self, _result: StoreResult, _now: Instant) -> Vec<QueueEvent> {
        Vec::new()
    }
}
