//! What to accept, send, settle and drop next. PURE: events and the time in, messages out.
//!
//! Three shelves, each in the order of sending:
//!
//! * *ready*: to go out before anything else. Taken online while the window had room, or in
//!   flight when a connection ended: then nobody knows whether it arrived, and it is sent
//!   again. At most a window of them; they count against no limit and are never dropped.
//! * the *queue*: accepted while offline, while draining, or while the window was full.
//! * *in flight*: handed to the client on the present connection.
//!
//! A message is on exactly one shelf from its acceptance to its one final outcome. What is
//! accepted when, and what is on disk, is the queue's business; the outbox tells it of every
//! message that passes and how it ended.
//!
//! * `terms` are the words in which it is spoken to, `ledger` those in which it answers;
//! * `hearing` is what the store has come to; `sending` is the way to the broker; `shelf` holds messages in order;
//! * `suspect` finds the message that the broker closes connections for, `ack_time` how long
//!   acknowledgements take.

pub mod ack_time;
pub mod broker_limits;
pub mod ledger;
pub mod pacing;
pub mod poison;
mod sending;
pub mod shelf;
mod store_events;
pub mod throttle;
mod types;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub use types::{Loss, Offered, Rules, SessionLimits, TooLarge};

use ack_time::AckTime;
use ledger::{Ledger, Receipt};
use poison::Suspect;
use shelf::{Placed, Shelf};

use crate::common::mqtt::age::Timestamp;
use crate::common::mqtt::message::{Draft, Message};
use crate::publisher::outbox::pacing::{Drain, Growing};
use crate::publisher::outbox::throttle::Throttle;
use crate::publisher::queue::requests::Outcome;
use crate::publisher::queue::{DropBehavior, Gone, Pushed, Queue, Room, size};

#[derive(Debug)]
pub struct Outbox {
    rules: Rules,
    queue: Box<dyn Queue>,
    drain: Drain,
    online: Option<SessionLimits>,
    /// The last place in the order of sending that was given.
    last_place: u64,
    ready: Shelf,
    in_flight: Shelf,
    ledger: Ledger,
    suspect: Suspect,
    ack_time: AckTime,
    throttle: Option<Throttle>,
    /// The broker may end this connection for a message that is not in flight any more: one
    /// that it has refused, or one of QoS 0.
    others_to_blame: bool,
    /// Messages of QoS 0 have gone out on this connection.
    unconfirmed: bool,
    /// Messages handed to the client on this connection.
    sent: u64,
    progress_at: Option<Instant>,
    /// When the line last made progress with what is in flight.
    line_moved_at: Option<Instant>,
    /// For how long a slow line had carried what is in flight when the last of it had arrived.
    carried_for: Duration,
    held_until: Option<Instant>,
    /// Until then the first connection may well come about.
    hopeful_until: Option<Instant>,
    /// The time by both clocks, for the age of what an earlier run has left.
    time: Timestamp,
}

/// A durable queue of so many messages is waited for rather than lengthened.
const SHORT_BACKLOG: usize = 8_192;

/// How many messages are read ahead of a window that is full and moves.
const READ_AHEAD: usize = 256;

fn into_draft(message: Arc<Message>) -> Draft {
    Arc::try_unwrap(message).map_or_else(|shared| shared.draft.clone(), |message| message.draft)
}

impl Outbox {
    /// An empty outbox, offline.
    pub fn new(rules: Rules, queue: Box<dyn Queue>, drain: Drain) -> Self {
        Self {
            suspect: Suspect::new(rules.max_attempts),
            others_to_blame: false,
            unconfirmed: false,
            sent: 0,
            throttle: rules.profile.pace().map(Throttle::new),
            rules,
            queue,
            drain,
            online: None,
            last_place: 0,
            ready: Shelf::default(),
            in_flight: Shelf::default(),
            ledger: Ledger::default(),
            ack_time: AckTime::default(),
            progress_at: None,
            line_moved_at: None,
            carried_for: Duration::ZERO,
            held_until: None,
            hopeful_until: None,
            time: Timestamp::default(),
        }
    }

    /// The time by both clocks, for what is sent next.
    pub fn set_time(&mut self, time: Timestamp) {
        self.time = time;
    }

    /// The first attempt to connect begins: what is taken now need not be on disk at once.
    pub fn expect_connection(&mut self, now: Instant) {
        self.hopeful_until = Some(now + self.ack_time.patience());
    }

    /// Messages that still have to come to their end: what waits, what is in flight, and
    /// what is to be taken off the disk.
    pub fn outstanding(&self) -> usize {
        let waiting = match self.queue.entrusted() {
            Some(entrusted) => entrusted,
            None => self.queue.len() + self.queue.unsettled(),
        };
        self.ready.len() + waiting + self.in_flight.len()
    }

    /// Messages that would be lost if the process ended now.
    pub fn at_risk(&self) -> usize {
        match self.queue.unwritten() {
            Some(unwritten) if self.queue.gone() != Some(Gone::Lost) => unwritten,
            _ => self.outstanding(),
        }
    }

    /// Messages that wait to be sent.
    pub fn backlog(&self) -> usize {
        self.ready.len() + self.queue.len()
    }

    /// Messages in flight on the present connection.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Whether messages have gone out on the present connection that nobody will acknowledge.
    pub fn sends_unconfirmed(&self) -> bool {
        self.online.is_some() && self.unconfirmed
    }

    /// The queue, to look at.
    pub fn queue(&self) -> &dyn Queue {
        &*self.queue
    }

    /// The queue, for the orders to its store.
    pub fn queue_mut(&mut self) -> &mut dyn Queue {
        &mut *self.queue
    }

    /// What has become of messages since the last time.
    pub fn take_receipts(&mut self) -> Vec<Receipt> {
        self.ledger.take()
    }

    /// How much a source that can wait should read now. Offline, a queue that drops takes
    /// all there is; on a connection even its sources wait.
    pub fn room(&self, now: Instant) -> Room {
        let limits = self.queue.limits();
        let drops = limits.behavior != DropBehavior::Block && self.online.is_none();
        let unwritten = self.queue.unwritten_room();
        let under_way = self.queue.bytes() + self.ready.bytes() + self.in_flight.bytes();
        let (messages, bytes) = if drops {
            (usize::MAX, limits.max_bytes)
        } else {
            let places = if self.flows(now) {
                READ_AHEAD
            } else {
                self.queue.room(now)
            };
            let places = self.straight_room().saturating_add(places);
            (places, limits.max_bytes.saturating_sub(under_way))
        };
        Room {
            messages: messages.min(unwritten.messages),
            bytes: bytes.min(unwritten.bytes),
        }
    }

    /// Whether new drafts have to wait behind others whatever the window: a backlog drains, or the broker asked for a
    /// pause. [`dispatch`](Self::dispatch) finds out when that is over.
    pub fn holds_back(&self) -> bool {
        self.held_until.is_some() || self.drain.is_active()
    }

    /// Whether messages flow so well that a source that can wait had better wait a moment:
    /// what does not come until there is a place in the window need not go to disk.
    fn flows(&self, now: Instant) -> bool {
        let durable = self.queue.unwritten().is_some() && self.queue.gone().is_none();
        let waits = self.queue.limits().behavior == DropBehavior::Block;
        let short = self.queue.len() <= SHORT_BACKLOG && !self.drain.is_by_hand();
        let stalled = self.flows_until().is_some_and(|until| until <= now);
        durable && waits && short && self.online.is_some() && !stalled
    }

    /// Nothing more will be sent: what is still offered has to wait in the queue.
    pub fn stop_sending(&mut self, now: Instant) {
        self.disconnected(Loss::Unrelated, now);
    }

    /// Acknowledgements come; if none has come by then, they do not. None if none is due.
    fn flows_until(&self) -> Option<Instant> {
        let since = self.progress_at.filter(|_| !self.in_flight.is_empty())?;
        Some(since + self.ack_time.patience())
    }

    /// Takes a draft; `at` is `now` by both clocks.
    pub fn offer(&mut self, draft: Draft, now: Instant, at: impl Into<Timestamp>) -> Offered {
        let at = at.into();
        let ticket = self.queue.next_ticket();
        let (id, seq) = (ticket.id, ticket.seq);
        let readings = draft.readings;
        let expiry = self.rules.expiry;
        let message = Arc::new(Message {
            id,
            stream: ticket.stream,
            seq,
            accepted_ms: at.wall_ms,
            accepted_boot: at.boot,
            expires_ms: expiry.map(|after| {
                let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                at.wall_ms.saturating_add(after)
            }),
            expires_at: expiry.and_then(|after| now.checked_add(after)),
            attempts: 0,
            draft,
        });
        // A batch may have been gathered before the limit was known: it goes to the dead letters whole.
        if let Some(too_large) = self.too_large(&message)
            && !message.draft.is_batch()
        {
            return Offered::TooLarge(too_large);
        }
        if self.straight_room() > 0 {
            let due = now + self.ack_time.patience();
            self.queue.pass(&message, due);
            let placed = self.place(message);
            self.ready.insert(placed);
            return self.taken(id, seq, readings);
        }
        self.make_room(size(&message));
        if self.flows(now) {
            return Offered::Full(into_draft(message));
        }
        let due = self.hopeful_until.filter(|until| now < *until);
        match self.queue.push(Arc::clone(&message), due, now) {
            Pushed::Stored { evicted } => {
                self.drain.arrived();
                for old in evicted {
                    self.evicted(&old, now);
                }
                self.taken(id, seq, readings)
            }
            Pushed::Dropped => {
                self.drain.arrived();
                self.queue.take_ticket();
                self.ledger.enter(id, seq, readings);
                self.ledger
                    .end(id, Receipt::ended(seq, Outcome::NEWEST_FOR_QUEUE));
                Offered::Dropped { seq }
            }
            Pushed::Disabled if self.queue.limits().behavior != DropBehavior::Block => {
                Offered::Refused
            }
            Pushed::Full { evicted } => {
                for old in evicted {
                    self.evicted(&old, now);
                }
                Offered::Full(into_draft(message))
            }
            Pushed::Disabled => Offered::Full(into_draft(message)),
        }
    }

    /// Gives a message that leaves the queue, or passes it, its place in the order of sending.
    fn place(&mut self, message: Arc<Message>) -> Placed {
        self.last_place += 1;
        Placed {
            place: self.last_place,
            message,
        }
    }

    fn taken(&mut self, id: u64, seq: u64, readings: u32) -> Offered {
        self.queue.take_ticket();
        self.ledger.enter(id, seq, readings);
        if self.queue.unwritten().is_none() {
            self.ledger.accept(id);
        }
        Offered::Taken { seq }
    }

    fn evicted(&mut self, message: &Arc<Message>, now: Instant) {
        self.queue.settle(message, Outcome::OLDEST_IN_QUEUE, now);
        let receipt = Receipt::ended(message.seq, Outcome::OLDEST_IN_QUEUE);
        self.ledger.end(message.id, receipt);
    }

    /// A connection is up: first what is ready, then the queue, then what is new.
    pub fn connected(&mut self, limits: SessionLimits, now: Instant) {
        self.online = Some(limits);
        self.others_to_blame = false;
        self.unconfirmed = false;
        self.sent = 0;
        self.hopeful_until = None;
        self.held_until = None;
        self.drain.begin(now, self.queue.len());
        let window = self.rules.max_in_flight.min(limits.receive_maximum);
        self.queue.set_window(window);
    }

    /// The message that is the first in flight: its topic and the bytes of its payload.
    pub fn head_in_flight(&self) -> Option<(Arc<str>, usize)> {
        let draft = &self.in_flight.first()?.message.draft;
        Some((Arc::clone(&draft.topic), draft.payload.len()))
    }

    /// The connection is gone; what was in flight is sent again on the next one. Whether a message was given up,
    /// because the end was for it.
    pub fn disconnected(&mut self, loss: Loss, now: Instant) -> bool {
        let dead = self
            .in_flight
            .first()
            .is_some_and(|head| self.blame(&head, loss, now));
        self.online = None;
        self.hopeful_until = None;
        self.drain.stop();
        self.progress_at = None;
        self.line_moved_at = None;
        self.carried_for = Duration::ZERO;
        self.ack_time.stop();
        self.ready.append(&mut self.in_flight);
        dead
    }

    /// Looks whether the connection has ended for the first message in flight: only if it was the only one that the
    /// broker had to answer, and had reached it. If there were others, it is sent alone next. Whether it was given up.
    fn blame(&mut self, head: &Placed, loss: Loss, now: Instant) -> bool {
        let Placed { place, message } = head;
        let reached = match &loss {
            Loss::Unrelated => return false,
            Loss::Closed { reached } | Loss::Refused { reached, .. } => *reached,
        };
        self.suspect.suspect(message.id, message.attempts);
        let Some(reached) = reached.filter(|reached| reached.begun == self.sent) else {
            return false;
        };
        if self.in_flight.len() != 1 || self.others_to_blame {
            return false;
        }
        let reason = match loss {
            Loss::Refused { reason, .. } => reason,
            _ if !reached.complete || !self.was_just_sent(now) => return false,
            _ => {
                let attempts = self.suspect.closed();
                if !self.suspect.is_enough(attempts) {
                    self.queue.attempted(message, attempts);
                    return false;
                }
                format!(
                    "{attempts} connections were lost with it at the head; does {} let this client \
                     publish to {:?}, and is it within the limits?",
                    self.rules.profile.access_rules(),
                    message.draft.topic
                )
            }
        };
        self.in_flight.remove(*place);
        self.dead(message, reason, now);
        true
    }

    /// No more drafts will come, and what is left has to go by `deadline`.
    pub fn finish_by(&mut self, deadline: Instant) {
        self.drain.finish_by(deadline);
    }

    /// Looks whether a draining backlog shrinks; says so if it does not.
    pub fn review(&mut self, now: Instant) -> Option<Growing> {
        self.drain.review(now, self.queue.len())
    }

    /// How many new drafts may go out at once, past the queue, without overtaking anything.
    fn straight_room(&self) -> usize {
        if !self.holds_back() && self.queue.is_empty() {
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
            let placed = self.place(head);
            self.ready.insert(placed);
        }
    }
}
