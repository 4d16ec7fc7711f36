//! What has been received and not yet dealt with.
//!
//! The bridge of a connection hands each message over with a [`Ticket`]; whoever deals with messages settles the
//! ticket, and only then does the bridge send the acknowledgement, by the message's own packet
//! identifier. A message that is settled after its connection has ended is acknowledged on the next connection of the same
//! session, once the broker has sent it again. While too many bytes wait, the bridge reads no more from the broker.
//!
//! * `pending` knows what is due.

pub mod pending;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::mqtt::message::Qos;
use pending::{Arrival, Exchange, Pending, PublishKey, Release};

/// Bytes that may wait before no more are taken from the broker.
const LIMIT: u64 = 1 << 20;

/// How much waits, and what is to be acknowledged, over all connections of a run.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: AtomicU64,
    session: Mutex<Session>,
}

/// What the connections of a run have in common.
#[derive(Debug, Default)]
struct Session {
    pending: Pending,
    /// The connection that there is now, or was last.
    current: Option<Arc<Acks>>,
    /// How many there have been.
    connections: u64,
}

impl Backlog {
    /// Counts bytes that wait.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Counts bytes that have been dealt with.
    pub fn remove(&self, bytes: u64) {
        let before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        let after = before.saturating_sub(bytes);
        if before > LIMIT / 2 && after <= LIMIT / 2 {
            let current = self.lock().current.clone();
            if let Some(acks) = current {
                acks.wake();
            }
        }
    }

    /// Whether the bridge may have stopped reading from the broker, because too many bytes wait.
    pub fn may_be_full(&self) -> bool {
        self.bytes.load(Ordering::Acquire) > LIMIT / 2
    }

    /// The session goes on from an earlier run, which has left these exchanges.
    pub fn restore(&self, exchanges: impl IntoIterator<Item = Exchange>) {
        self.lock().pending.restore(exchanges);
    }

    /// The acknowledgements of a new connection. Nothing is acknowledged on an earlier one any more.
    ///
    /// # Errors
    ///
    /// The operating system's, if there is no descriptor to be had.
    pub fn connection(self: &Arc<Self>) -> io::Result<Arc<Acks>> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let wake_up = EventFd::from_value_and_flags(0, flags)?;
        let mut session = self.lock();
        session.connections += 1;
        session.pending.begin_connection();
        let acks = Arc::new(Acks {
            backlog: Arc::clone(self),
            number: session.connections,
            wake_up,
            listening: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        });
        session.current = Some(Arc::clone(&acks));
        Ok(acks)
    }

    /// Whether a message has been dealt with that can only be acknowledged on a later connection, or once the broker has
    /// sent it again. `connected` is whether there is a connection.
    pub fn owes_acknowledgement(&self, connected: bool) -> bool {
        self.lock().pending.has_settled(connected)
    }

    /// Whether a QoS 2 message that has been dealt with in this run waits for its PUBREC to go out, or for its PUBREL.
    pub fn is_uncompleted(&self) -> bool {
        self.lock().pending.is_uncompleted()
    }

    /// The connection that there is now is to end in order: everything that has been dealt with is acknowledged,
    /// and DISCONNECT follows.
    pub fn end_connection(&self) {
        let current = self.lock().current.clone();
        if let Some(acks) = current {
            acks.ending.store(true, Ordering::SeqCst);
            // A counter that is full is readable too.
            let _ = acks.wake_up.write(1);
        }
    }

    fn settle(&self, numbers: std::ops::RangeInclusive<u64>) {
        let mut session = self.lock();
        session.pending.settle(numbers);
        let current = session.current.clone();
        drop(session);
        if let Some(acks) = current {
            acks.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection: what is to be acknowledged on it, and what wakes its bridge.
#[derive(Debug)]
pub struct Acks {
    backlog: Arc<Backlog>,
    /// The number of the connection in the run.
    number: u64,
    /// Wakes the bridge.
    wake_up: EventFd,
    /// The bridge waits for messages to be dealt with.
    listening: AtomicBool,
    /// The connection is to end.
    ending: AtomicBool,
}

impl Acks {
    /// What waits, unless there is a later connection by now.
    fn current(&self) -> Option<MutexGuard<'_, Session>> {
        let session = self.backlog.lock();
        (session.connections == self.number).then_some(session)
    }

    /// The broker has no session of an earlier connection: forgets what came on one.
    pub fn begin_session(&self) {
        if let Some(mut session) = self.current() {
            session.pending.begin_session();
        }
    }

    /// A PUBLISH has come: a ticket for it, if it is to be handed over.
    ///
    /// # Errors
    ///
    /// What else is to be done with it: it has come before, or will come again on a later connection.
    pub fn arrived(&self, key: PublishKey) -> Result<Ticket, Arrival> {
        let mut number = 0;
        if key.qos != Qos::AtMostOnce {
            let Some(mut session) = self.current() else {
                return Err(Arrival::Repeat);
            };
            number = match session.pending.arrived(key) {
                Arrival::New(number) => number,
                known => return Err(known),
            };
        }
        Ok(Ticket {
            backlog: Arc::clone(&self.backlog),
            number,
            key,
        })
    }

    /// The message with this identifier could not be handed over: it is to come again.
    pub fn withdraw(&self, id: u16) {
        if let Some(mut session) = self.current() {
            session.pending.withdraw(id);
        }
    }

    /// A PUBREL has come.
    pub fn released(&self, id: u16) -> Release {
        let session = self.current();
        session.map_or(Release::Late, |mut session| session.pending.released(id))
    }

    /// Appends the acknowledgements that may go out.
    pub fn take_due(&self, out: &mut Vec<u8>) {
        if let Some(mut session) = self.current() {
            session.pending.take_due(out);
        }
    }

    /// Whether messages wait to be acknowledged.
    pub fn are_due_later(&self) -> bool {
        let session = self.current();
        session.is_some_and(|session| session.pending.are_due_later())
    }

    /// Whether PUBRELs are due.
    pub fn awaits_pubrel(&self) -> bool {
        let session = self.current();
        session.is_some_and(|session| session.pending.awaits_pubrel())
    }

    /// Whether to take no more from the broker; `was` is what was answered last.
    pub fn is_full(&self, was: bool) -> bool {
        let limit = if was { LIMIT / 2 } else { LIMIT };
        self.backlog.bytes.load(Ordering::Acquire) > limit
    }

    /// Whether the connection is to end. The descriptor becomes readable when that changes.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// The descriptor becomes readable from now on when messages have been dealt with, too. Look once more
    /// before sleeping.
    pub fn listen(&self) {
        self.listening.store(true, Ordering::SeqCst);
    }

    /// The descriptor was readable: it is not any more.
    pub fn heard(&self) {
        let _ = self.wake_up.read();
    }

    fn wake(&self) {
        if self.listening.swap(false, Ordering::SeqCst) {
            // A counter that is full is readable too.
            let _ = self.wake_up.write(1);
        }
    }
}

impl AsFd for Acks {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake_up.as_fd()
    }
}

/// A message that waits to be dealt with. Dropped, it stays unacknowledged: the broker sends it
/// again to a session that outlives the run.
#[derive(Clone, Debug)]
pub struct Ticket {
    backlog: Arc<Backlog>,
    /// Its number in the run; 0 where nobody acknowledges.
    number: u64,
    key: PublishKey,
}

impl Ticket {
    /// The packet identifier; 0 at QoS 0.
    pub fn id(&self) -> u16 {
        self.key.id
    }

    /// What is to be remembered of it until PUBREL; none below QoS 2.
    pub fn exchange(&self) -> Option<Exchange> {
        let PublishKey {
            id,
            qos,
            fingerprint,
            ..
        } = self.key;
        (qos == Qos::ExactlyOnce).then_some(Exchange { id, fingerprint })
    }

    /// It has been dealt with.
    pub fn settle(&self) {
        if self.number > 0 {
            self.backlog.settle(self.number..=self.number);
        }
    }
}

/// Many tickets of one run, in the order in which they came.
#[derive(Debug, Default)]
pub struct Tickets(Vec<(Ticket, u64)>);

impl Tickets {
    /// One more.
    pub fn push(&mut self, ticket: Ticket) {
        if ticket.number == 0 {
            return;
        }
        let number = ticket.number;
        self.append(Self(vec![(ticket, number)]));
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds those that came behind.
    pub fn append(&mut self, other: Self) {
        for (first, last) in other.0 {
            let follows = self
                .0
                .last_mut()
                .filter(|(_, end)| *end + 1 == first.number);
            match follows {
                Some((_, end)) => *end = last,
                None => self.0.push((first, last)),
            }
        }
    }

    /// All of them have been dealt with.
    pub fn settle(self) {
        for (first, last) in self.0 {
            first.backlog.settle(first.number..=last);
        }
    }
}
