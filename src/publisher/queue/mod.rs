//! The offline queue: messages that were accepted and cannot be sent now, in order, within a limit
//! in messages and one in bytes. PURE.
//!
//! [`Queue`] is what the outbox needs of it. [`memory::MemoryQueue`] ends with the process.
//! [`durable::DurableQueue`] manages a queue in a file: it gives requests to a store and handles the
//! results (see [`requests`]), and does no I/O itself. Connections, windows and rates belong to
//! [`outbox`](super::outbox).

pub mod durable;
pub mod journal;
pub mod limits;
pub mod memory;
pub mod requests;
pub mod sized;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::common::fault::Fault;
use crate::common::mqtt::message::Message;
use limits::{Admission, Limits, RemainingCapacity};
use requests::{Outcome, StoreRequest, StoreResult};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
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
        outcome: Outcome,
    },
    DeadLetterStored {
        id: u64,
    },
    Store(StoreCondition),
}

#[derive(Clone, Debug, PartialEq)]
pub enum StoreCondition {
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
pub enum VanishedFile {
    /// No later run will find it.
    Lost,
    /// The file still exists elsewhere, with everything that was stored.
    Moved,
}

/// What the outbox needs of a queue. The methods with a default are for queues that outlive the
/// process.
pub trait Queue: fmt::Debug {
    fn limits(&self) -> Limits;

    fn len(&self) -> usize;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn bytes(&self) -> u64;

    fn remaining_capacity(&self, _now: Instant) -> usize {
        self.limits().remaining_capacity(self.len(), self.bytes())
    }

    fn next_numbers(&self) -> Numbers;

    fn use_numbers(&mut self);

    /// Makes space for a message of `size` bytes as the limits say; dropped messages are added to
    /// `evicted`. After `Fits`, the message has to be pushed.
    fn admit(&mut self, size: u64, now: Instant, evicted: &mut Vec<Arc<Message>>) -> Admission;

    /// Adds a message at the tail. It has to be on disk by `due`, or at once, unless it is
    /// acknowledged before.
    fn push(&mut self, message: Arc<Message>, due: Option<Instant>);

    /// Takes the message at the head, if it is in memory.
    fn pop(&mut self) -> Option<Arc<Message>>;

    /// Whether the message at the head is in memory.
    fn has_next(&self) -> bool {
        !self.is_empty()
    }

    /// Messages that are not on disk yet; `None` if none is ever written.
    fn unwritten(&self) -> Option<usize> {
        None
    }

    fn missing_file(&self) -> Option<VanishedFile> {
        None
    }

    /// A message is sent at once, past the queue, and written if it is not acknowledged by `due`.
    fn track_sent(&mut self, _message: &Arc<Message>, _due: Instant) {}

    /// A message that left by [`pop`](Self::pop) or [`track_sent`](Self::track_sent) has its outcome.
    fn finish(&mut self, _message: &Arc<Message>, _outcome: &Outcome, _now: Instant) {}

    fn record_attempts(&mut self, _message: &Arc<Message>, _attempts: u32) {}

    fn set_window(&mut self, _window: usize) {}

    /// Whether more could be sent if fewer messages were [`undeleted`](Self::undeleted).
    fn set_blocked(&mut self, _blocked: bool) {}

    fn write_all(&mut self) {}

    /// Messages that have their outcome and would be sent again after a crash.
    fn undeleted(&self) -> usize {
        0
    }

    /// Messages of this run that another publisher is to send; `None` if this one sends.
    fn delegated(&self) -> Option<usize> {
        None
    }

    fn unwritten_space(&self) -> RemainingCapacity {
        RemainingCapacity {
            messages: usize::MAX,
            bytes: u64::MAX,
        }
    }

    /// The run ends: what is due is written, then [`StoreCondition::Closed`] follows.
    fn close(&mut self) {}

    fn wake_at(&self, _now: Instant) -> Option<Instant> {
        None
    }

    fn next_request(&mut self, _now: Instant) -> Option<StoreRequest> {
        None
    }

    fn handle_result(&mut self, _result: StoreResult, _now: Instant) -> Vec<QueueEvent> {
        Vec::new()
    }
}
