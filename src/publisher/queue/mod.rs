//! The offline queue: what was accepted and cannot go out now, in order, within a limit in
//! messages and one in bytes. PURE.
//!
//! [`Queue`] is what the outbox asks of it. [`memory::MemoryQueue`] dies with the process.
//! [`durable::DurableQueue`] keeps the books of a queue that lies on disk: it gives orders to
//! a store and takes its reports (see [`requests`]), and touches no file itself.
//!
//! It knows nothing of connections, windows or rates; see `publisher::outbox` for those.

pub mod durable;
pub mod journal;
pub mod memory;
pub mod requests;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::common::mqtt::message::Message;
use requests::{Outcome, StoreRequest, StoreResult};

/// How many messages may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// The queue is off: a message taken while offline is refused.
    Disabled,
    Messages(usize),
    /// As many as the byte limit allows.
    Unlimited,
}

impl Capacity {
    /// Reads the SDK's convention: 0 is disabled, any negative number unlimited.
    pub fn from_signed(size: i64) -> Self {
        match usize::try_from(size) {
            Ok(0) => Capacity::Disabled,
            Ok(n) => Capacity::Messages(n),
            Err(_) if size < 0 => Capacity::Unlimited,
            Err(_) => Capacity::Messages(usize::MAX),
        }
    }
}

/// What a full queue does with one message more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropBehavior {
    /// Keeps what it has, drops the newcomer.
    Newest,
    /// Drops from its head until the newcomer fits.
    Oldest,
    /// Takes nothing until there is room: for sources that can wait.
    Block,
}

/// How much a queue holds, and what it does when it is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// In messages.
    pub capacity: Capacity,
    /// In bytes of topics and payloads.
    pub max_bytes: u64,
    /// What a full queue does.
    pub behavior: DropBehavior,
}

impl Limits {
    /// How many messages more fit beside so many and so many bytes, as far as their number
    /// goes.
    pub fn room(&self, len: usize, bytes: u64) -> usize {
        match self.capacity {
            _ if bytes >= self.max_bytes => 0,
            Capacity::Disabled => 0,
            Capacity::Messages(n) => n.saturating_sub(len),
            Capacity::Unlimited => usize::MAX,
        }
    }

    /// What is to be done with a message of `size` bytes more.
    pub fn admit(&self, len: usize, bytes: u64, size: u64) -> Admission {
        let fits = self.room(len, bytes) > 0 && bytes.saturating_add(size) <= self.max_bytes;
        match (self.capacity, self.behavior) {
            (Capacity::Disabled, _) => Admission::Disabled,
            _ if fits => Admission::Stored,
            (_, DropBehavior::Block) => Admission::Wait,
            (_, DropBehavior::Newest) => Admission::Dropped,
            (_, DropBehavior::Oldest) if size > self.max_bytes => Admission::Dropped,
            (_, DropBehavior::Oldest) => Admission::AfterTheOldest,
        }
    }
}

/// What a queue does with one message more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It takes it.
    Stored,
    /// It takes it once the oldest has gone; ask again then.
    AfterTheOldest,
    Dropped,
    /// It does once there is room.
    Wait,
    /// It takes nothing at all.
    Disabled,
}

/// What became of a pushed message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It waits at the tail; these older ones had to go for it.
    Stored {
        /// Dropped from the head, oldest first.
        evicted: Vec<Arc<Message>>,
    },
    /// There was no room for it.
    Dropped,
    /// There is no room for it yet; these older ones have gone for it already.
    Full {
        /// Dropped from the head, oldest first.
        evicted: Vec<Arc<Message>>,
    },
    /// The queue is off.
    Disabled,
}

/// How much more is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub messages: usize,
    /// So many bytes of topics and payloads, but for the last message, which may overshoot.
    pub bytes: u64,
}

/// The name and the numbers that a message gets when it enters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// A name for this run; higher than any before.
    pub id: u64,
    /// The stream that numbers it.
    pub stream: Arc<str>,
    /// Its number there; 0 if somebody else will give it one.
    pub seq: u64,
}

/// Something that the store's reports came to.
#[derive(Clone, Debug, PartialEq)]
pub enum News {
    /// This message is on disk.
    Safe { id: u64 },
    /// This message, which another publisher sends, is on disk and has its number now.
    Numbered {
        id: u64,
        /// Its number.
        seq: u64,
    },
    /// This message, which another publisher sends, has come to its end.
    Ended {
        id: u64,
        /// Its number.
        seq: u64,
        outcome: Outcome,
    },
    /// There is no space on disk for this message, and it may not wait for it.
    Dropped {
        id: u64,
        /// Its number.
        seq: u64,
    },
    /// This message had to make room on a full disk.
    Evicted(Arc<Message>),
    /// This message had to make room in a queue that another publisher drains.
    Displaced {
        /// Its id, if it is one of this run's.
        id: Option<u64>,
        /// Its number; 0 if it had none yet.
        seq: u64,
    },
    /// This message is among the dead letters on disk.
    Buried { id: u64 },
    /// So many messages were found damaged, and were put with the dead letters.
    Damaged(usize),
    /// The disk is full, as the system says.
    DiskFull(String),
    /// There is space again.
    DiskRecovered,
    /// It is this process that drains from now on.
    Ours,
    /// The file is not at its name any more: nothing more can be stored. What is at hand, or can still
    /// be read, can be sent.
    Gone(crate::common::fault::Fault),
    /// Nothing can be stored any more, ever.
    Broken(crate::common::fault::Fault),
    /// The queue is closed, and nothing is left to do.
    Closed,
}

/// What has become of a queue whose file is not at its name any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// Nothing of it will be found by a later run.
    Lost,
    /// What was stored before still exists somewhere.
    Elsewhere,
}

/// What the outbox asks of a queue. The second half is for queues that outlive the process;
/// one in memory has nothing to do there.
pub trait Queue: fmt::Debug {
    /// How much it holds.
    fn limits(&self) -> Limits;

    /// Messages waiting.
    fn len(&self) -> usize;

    /// Whether nothing waits.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of topics and payloads waiting.
    fn bytes(&self) -> u64;

    /// How many messages more it takes now, as far as their number goes.
    fn room(&self, _now: Instant) -> usize {
        self.limits().room(self.len(), self.bytes())
    }

    /// Whether a message of this size fits without dropping anything.
    fn fits(&self, size: u64) -> bool {
        self.limits().admit(self.len(), self.bytes(), size) == Admission::Stored
    }

    /// What the next message that enters will be called.
    fn next_ticket(&self) -> Ticket;

    /// A message with that ticket has entered, or was dropped at the door.
    fn take_ticket(&mut self);

    /// Puts a message at the tail, or does what a full queue does. It has to be kept by `due`
    /// unless it has been acknowledged before; none is at once.
    fn push(&mut self, message: Arc<Message>, due: Option<Instant>, now: Instant) -> Pushed;

    /// Takes the message at the head, if it is at hand.
    fn pop(&mut self) -> Option<Arc<Message>>;

    /// Whether the message at the head is at hand.
    fn has_next(&self) -> bool {
        !self.is_empty()
    }

    /// Messages that are not on disk yet; none if it never writes any.
    fn unwritten(&self) -> Option<usize> {
        None
    }

    /// Whether its file is gone, and nothing is stored any more.
    fn gone(&self) -> Option<Gone> {
        None
    }

    /// A message goes out at once, past the queue. It has to be kept all the same if nobody
    /// has acknowledged it by `due`.
    fn pass(&mut self, _message: &Arc<Message>, _due: Instant) {}

    /// A message that has left by [`pop`](Self::pop) or [`pass`](Self::pass) has come to its
    /// end.
    fn settle(&mut self, _message: &Arc<Message>, _outcome: Outcome, _now: Instant) {}

    /// A connection was lost for the nth time with this message at the head.
    fn attempted(&mut self, _message: &Arc<Message>, _attempts: u32) {}

    /// So many messages are in flight at the same time from now on, at most.
    fn set_window(&mut self, _window: usize) {}

    /// Whether others could be sent if there were fewer [`unsettled`](Self::unsettled).
    fn press(&mut self, _pressed: bool) {}

    /// Everything has to be kept without further delay.
    fn keep_all(&mut self) {}

    /// Messages that have come to their end and would be sent again after a crash.
    fn unsettled(&self) -> usize {
        0
    }

    /// Messages of this run that another publisher is to send; none if this one sends.
    fn entrusted(&self) -> Option<usize> {
        None
    }

    /// How much more may wait in memory to be written.
    fn unwritten_room(&self) -> Room {
        Room {
            messages: usize::MAX,
            bytes: u64::MAX,
        }
    }

    /// The run ends: what is due is written, then comes [`News::Closed`].
    fn close(&mut self) {}

    /// When the next order falls due by time alone.
    fn wake_at(&self, _now: Instant) -> Option<Instant> {
        None
    }

    /// The next order for the store.
    fn order(&mut self, _now: Instant) -> Option<StoreRequest> {
        None
    }

    /// Takes a report of the store.
    fn handle(&mut self, _report: StoreResult, _now: Instant) -> Vec<News> {
        Vec::new()
    }
}

/// What a message counts against the byte limit: topic and payload.
pub fn size(message: &Message) -> u64 {
    (message.draft.topic.len() + message.draft.payload.len()) as u64
}
