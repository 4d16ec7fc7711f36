//! What to accept, send, settle and drop next. PURE: events and the time in, messages out.
//!
//! Three shelves, each in the order of the sequence numbers:
//!
//! * *ready*: to go out before anything else. Taken online while the window had room, or in
//!   flight when a connection ended: then nobody knows whether it arrived, and it is sent
//!   again. At most a window of them; they count against no limit and are never dropped.
//! * the *queue*: accepted while offline, while draining, or while the window was full.
//! * *in flight*: handed to the client on the present connection.
//!
//! A message is on exactly one shelf from its acceptance to its one final outcome.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shelf::Shelf;
use crate::common::limits;
use crate::common::message::{Draft, Message, SeqProperty};
use crate::common::pacing::{Drain, Growing};
use crate::common::queue::{DropBehavior, OfflineQueue, Pushed, size};

/// What the broker allows on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Unacknowledged QoS 1 and 2 messages.
    pub receive_maximum: usize,
    /// The largest packet, in bytes.
    pub maximum_packet_size: usize,
}

impl SessionLimits {
    /// What the protocol allows where the broker says nothing.
    pub const PROTOCOL: SessionLimits = SessionLimits {
        receive_maximum: 65_535,
        maximum_packet_size: limits::MAX_REMAINING_LENGTH,
    };
}

/// How much more the outbox takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// So many messages.
    pub messages: usize,
    /// So many bytes of topics and payloads, but for the last message, which may overshoot.
    pub bytes: u64,
}

/// What became of a draft that was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// The publisher answers for it; older ones may have had to go for it.
    Accepted {
        /// Its number.
        seq: u64,
        /// Dropped from the head of the queue, oldest first.
        evicted: Vec<Arc<Message>>,
    },
    /// It got a number but no place: the queue is full and keeps what it has.
    Dropped {
        /// Its number: the receiver sees the gap.
        seq: u64,
    },
    /// It cannot go out now, and the queue is off.
    Refused,
    /// The source has to wait; the draft comes back.
    Full(Draft),
}

/// What the client reports of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged; at QoS 0, written to the connection.
    Delivered,
    /// Refused by the broker, for good.
    Refused(String),
    /// Refused for now: to be sent again a little later.
    NotNow,
}

/// The end of one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It arrived.
    Delivered(Arc<Message>),
    /// It never will, and why.
    Dead(Arc<Message>, String),
}

/// The outbox.
#[derive(Debug)]
pub struct Outbox {
    max_in_flight: usize,
    operation_timeout: Duration,
    stream: Option<Arc<str>>,
    queue: OfflineQueue,
    drain: Drain,
    online: Option<SessionLimits>,
    ready: Shelf,
    in_flight: Shelf,
    last_seq: u64,
    progress_at: Option<Instant>,
    held_until: Option<Instant>,
}

/// The slowest line that is not taken for a dead one, in bytes per second: 64 kbit/s.
const SLOW_LINE: u64 = 8 << 10;

/// How long so many bytes may take.
fn time_on_the_line(bytes: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1_000) / SLOW_LINE)
}

/// How long to wait after the broker said "not now" (quota exceeded, for one).
const HOLD: Duration = Duration::from_secs(1);

impl Outbox {
    /// An empty outbox, offline. `stream` is the name that goes into the `seq` property of
    /// each message, if it has one.
    #[must_use]
    pub fn new(
        max_in_flight: usize,
        operation_timeout: Duration,
        stream: Option<Arc<str>>,
        queue: OfflineQueue,
        drain: Drain,
    ) -> Self {
        Self {
            max_in_flight,
            operation_timeout,
            stream,
            queue,
            drain,
            online: None,
            ready: Shelf::default(),
            in_flight: Shelf::default(),
            last_seq: 0,
            progress_at: None,
            held_until: None,
        }
    }

    /// Messages accepted and not yet settled.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.ready.len() + self.queue.len() + self.in_flight.len()
    }

    /// Messages in flight on the present connection.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The offline queue, to look at.
    #[must_use]
    pub fn queue(&self) -> &OfflineQueue {
        &self.queue
    }

    /// How much a source that can wait should read now. Offline, a queue that drops takes
    /// all there is; on a connection even its sources wait.
    #[must_use]
    pub fn room(&self) -> Room {
        let drops = self.queue.behavior() != DropBehavior::Block;
        let messages = if drops && self.online.is_none() {
            usize::MAX
        } else {
            self.straight_room().saturating_add(self.queue.room())
        };
        let under_way = self.queue.bytes() + self.ready.bytes() + self.in_flight.bytes();
        Room {
            messages,
            bytes: if drops && self.online.is_none() {
                self.queue.max_bytes()
            } else {
                self.queue.max_bytes().saturating_sub(under_way)
            },
        }
    }

    /// Takes a draft. `accepted_ms` is the Unix time in milliseconds.
    pub fn offer(&mut self, draft: Draft, accepted_ms: u64) -> Offered {
        let seq = self.last_seq + 1;
        let message = Arc::new(Message {
            seq,
            accepted_ms,
            draft,
        });
        if self.straight_room() > 0 {
            self.last_seq = seq;
            self.ready.insert(message);
            return Offered::Accepted {
                seq,
                evicted: Vec::new(),
            };
        }
        self.make_room(size(&message));
        match self.queue.push(Arc::clone(&message)) {
            Pushed::Stored { evicted } => {
                self.last_seq = seq;
                self.drain.arrived();
                Offered::Accepted { seq, evicted }
            }
            Pushed::Dropped => {
                self.last_seq = seq;
                self.drain.arrived();
                Offered::Dropped { seq }
            }
            Pushed::Disabled if self.queue.behavior() != DropBehavior::Block => Offered::Refused,
            Pushed::Full | Pushed::Disabled => Offered::Full(
                Arc::try_unwrap(message).map_or_else(|shared| shared.draft.clone(), |m| m.draft),
            ),
        }
    }

    /// A connection is up: first what is ready, then the queue, then what is new.
    pub fn connected(&mut self, limits: SessionLimits, now: Instant) {
        self.online = Some(limits);
        self.held_until = None;
        self.drain.begin(now, self.queue.len());
    }

    /// The connection is gone; what was in flight is sent again on the next one.
    pub fn disconnected(&mut self) {
        self.online = None;
        self.drain.stop();
        self.progress_at = None;
        self.ready.append(&mut self.in_flight);
    }

    /// No more drafts will come, and what is left has to go by `deadline`.
    pub fn finish_by(&mut self, deadline: Instant) {
        self.drain.finish_by(deadline);
    }

    /// What to hand to the client now, in order, and what can never be sent to this broker.
    pub fn dispatch(&mut self, now: Instant) -> (Vec<Arc<Message>>, Vec<Settled>) {
        let mut send = Vec::new();
        let mut dead = Vec::new();
        let Some(limits) = self.online else {
            return (send, dead);
        };
        if self.held_until.is_some_and(|until| now < until) {
            return (send, dead);
        }
        self.held_until = None;
        while self.free() > 0 {
            let Some(message) = self.next_waiting(now) else {
                break;
            };
            let (packet, max) = (self.packet_size(&message), limits.maximum_packet_size);
            if packet > max {
                dead.push(Settled::Dead(
                    message,
                    format!("{packet} bytes are above the broker's maximum packet size of {max}"),
                ));
                continue;
            }
            if self.in_flight.is_empty() {
                self.progress_at = Some(now);
            }
            self.in_flight.insert(Arc::clone(&message));
            send.push(message);
        }
        (send, dead)
    }

    /// The client has heard of a message. `None` if it is to be sent again, or unknown. An
    /// acknowledgement that is heard of after the end of its connection still counts.
    pub fn settle(&mut self, seq: u64, outcome: Outcome, now: Instant) -> Option<Settled> {
        let oldest = self.in_flight.first() == Some(seq);
        let message = match self.in_flight.remove(seq) {
            Some(message) => message,
            None => self.ready.remove(seq)?,
        };
        if oldest {
            self.progress_at = Some(now);
        }
        match outcome {
            Outcome::Delivered => Some(Settled::Delivered(message)),
            Outcome::Refused(reason) => Some(Settled::Dead(message, reason)),
            Outcome::NotNow => {
                self.held_until = Some(now + HOLD);
                self.ready.insert(message);
                None
            }
        }
    }

    /// Whether the oldest message in flight has waited for its acknowledgement longer than
    /// the operation timeout and the time that a slow line takes for what is under way. The
    /// clock starts anew with each in-order acknowledgement: a slow link with a full window
    /// is not a dead one.
    #[must_use]
    pub fn overdue(&self, now: Instant) -> bool {
        self.acknowledgement_due().is_some_and(|due| now >= due)
    }

    /// When something here changes by time alone.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        self.online?;
        let send = if self.free() == 0 {
            None
        } else {
            self.held_until.or(self.drain.wake_at())
        };
        self.acknowledgement_due().into_iter().chain(send).min()
    }

    /// Looks whether a draining backlog shrinks; says so if it does not.
    pub fn review(&mut self, now: Instant) -> Option<Growing> {
        self.drain.review(now, self.queue.len())
    }

    fn acknowledgement_due(&self) -> Option<Instant> {
        self.in_flight.first()?;
        Some(self.progress_at? + self.operation_timeout + time_on_the_line(self.in_flight.bytes()))
    }

    /// The size of the PUBLISH packet, in bytes.
    fn packet_size(&self, message: &Message) -> usize {
        let property = self.stream.as_ref().map(|stream| {
            let seq = SeqProperty::of(stream, message).to_string();
            SeqProperty::NAME.len() + seq.len()
        });
        let draft = &message.draft;
        limits::publish_size(draft.topic.len(), draft.payload.len(), property)
    }

    /// How many new drafts may go out at once, past the queue, without overtaking anything.
    fn straight_room(&self) -> usize {
        if self.held_until.is_none() && !self.drain.is_active() && self.queue.is_empty() {
            self.free().saturating_sub(self.ready.len())
        } else {
            0
        }
    }

    /// On a connection a full queue makes room by sending sooner than its rate, unless that
    /// was set by hand: what is taken online is not dropped while the window is open.
    fn make_room(&mut self, bytes: u64) {
        if self.drain.is_by_hand() || self.held_until.is_some() {
            return;
        }
        while !self.queue.fits(bytes)
            && self.free() > self.ready.len()
            && let Some(head) = self.queue.pop()
        {
            self.ready.insert(head);
        }
    }

    /// Places left in the window; none while offline, or while as many bytes are under way
    /// as may wait in the queue.
    fn free(&self) -> usize {
        let window = self
            .online
            .map_or(0, |limits| self.max_in_flight.min(limits.receive_maximum));
        if self.in_flight.bytes() >= self.queue.max_bytes() && !self.in_flight.is_empty() {
            return 0;
        }
        window.saturating_sub(self.in_flight.len())
    }

    fn next_waiting(&mut self, now: Instant) -> Option<Arc<Message>> {
        if let Some(message) = self.ready.pop_first() {
            return Some(message);
        }
        if !self.drain.permits(now, self.queue.len()) {
            return None;
        }
        let message = self.queue.pop()?;
        self.drain.sent(now, self.queue.len());
        Some(message)
    }
}
