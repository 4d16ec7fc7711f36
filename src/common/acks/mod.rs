//! Which received messages have not been acknowledged, and when they may be.
//!
//! The bridge of a connection hands each message over with a [`Ticket`]. Whoever processes messages settles the
//! ticket, and only then does the bridge send the acknowledgement, with the message's own packet
//! identifier. A message that is settled after its connection has ended is acknowledged on the next connection of the
//! same session, once the broker has sent it again. While too many bytes wait to be processed, the bridge reads no
//! more from the broker.

pub mod pending;

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::{Mutex, MutexGuard};

use super::mqtt::publish::Publish;
use super::mqtt::qos::Qos;
use pending::{Exchange, PendingAcks, PublishKey, PublishStatus, PubrelStatus};

/// Bytes that may wait before no more are read from the broker.
const LIMIT: u64 = 1 << 20;

/// What waits to be processed or acknowledged, over all connections of a run.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: AtomicU64,
    session: Mutex<Session>,
}

#[derive(Debug, Default)]
struct Session {
    pending: PendingAcks,
    /// The last connection.
    current: Option<Arc<ConnectionAcks>>,
    connections: u64,
}

impl Backlog {
    /// Counts bytes that wait.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// Counts bytes that have been processed.
    pub fn remove(&self, bytes: u64) {
        let before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        let after = before.saturating_sub(bytes);
        if before > LIMIT / 2 && after <= LIMIT / 2 {
            let current = self.session.lock().current.clone();
            if let Some(acks) = current {
                acks.wake();
            }
        }
    }

    /// Whether the bridge may have stopped reading from the broker, because too many bytes wait.
    pub fn may_be_full(&self) -> bool {
        self.bytes.load(Ordering::Acquire) > LIMIT / 2
    }

    /// The session continues one of an earlier run, which has left these exchanges.
    pub fn restore(&self, exchanges: impl IntoIterator<Item = Exchange>) {
        self.session.lock().pending.restore(exchanges);
    }

    /// Begins a connection. Nothing is acknowledged on an earlier one any more. Fails if there is no descriptor.
    pub fn begin_connection(self: &Arc<Self>) -> io::Result<Arc<ConnectionAcks>> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let wake_up = EventFd::from_value_and_flags(0, flags)?;
        let mut session = self.session.lock();
        session.connections += 1;
        session.pending.begin_connection();
        let acks = Arc::new(ConnectionAcks {
            backlog: Arc::clone(self),
            number: session.connections,
            wake_up,
            wants_wake_up: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        });
        session.current = Some(Arc::clone(&acks));
        Ok(acks)
    }

    /// Whether a message has been settled that can only be acknowledged on a later connection, or once the broker has
    /// sent it again.
    pub fn owes_acknowledgement(&self, is_connected: bool) -> bool {
        self.session.lock().pending.has_settled(is_connected)
    }

    /// Whether a QoS 2 message that was settled in this run waits for its PUBREC to go out, or for its PUBREL.
    pub fn has_open_exchange(&self) -> bool {
        self.session.lock().pending.has_open_exchange()
    }

    /// The connection is to end in order: everything that has been settled is acknowledged, and DISCONNECT follows.
    pub fn end_connection(&self) {
        let current = self.session.lock().current.clone();
        if let Some(acks) = current {
            acks.ending.store(true, Ordering::SeqCst);
            acks.make_readable();
        }
    }

    fn settle(&self, numbers: RangeInclusive<u64>) {
        let mut session = self.session.lock();
        session.pending.settle(numbers);
        let current = session.current.clone();
        drop(session);
        if let Some(acks) = current {
            acks.wake();
        }
    }
}

/// The acknowledgements of one connection. The descriptor wakes its bridge.
#[derive(Debug)]
pub struct ConnectionAcks {
    backlog: Arc<Backlog>,
    /// The number of the connection in the run.
    number: u64,
    wake_up: EventFd,
    wants_wake_up: AtomicBool,
    ending: AtomicBool,
}

impl ConnectionAcks {
    /// The session, unless there is a later connection by now.
    fn session(&self) -> Option<MutexGuard<'_, Session>> {
        let session = self.backlog.session.lock();
        (session.connections == self.number).then_some(session)
    }

    /// The broker has no session of an earlier connection: forgets what came on one.
    pub fn begin_session(&self) {
        if let Some(mut session) = self.session() {
            session.pending.begin_session();
        }
    }

    /// A ticket for a PUBLISH that is to be handed over, or else why it is not.
    pub fn handle_publish(&self, publish: &Publish<'_>) -> Result<Ticket, PublishStatus> {
        let mut ticket = Ticket {
            backlog: Arc::clone(&self.backlog),
            number: 0,
            exchange: None,
        };
        if publish.message.qos != Qos::AtMostOnce {
            let key = PublishKey::of(publish);
            let mut session = self.session().ok_or(PublishStatus::Repeated)?;
            ticket.number = match session.pending.handle_publish(key) {
                PublishStatus::New(number) => number,
                known => return Err(known),
            };
            ticket.exchange = (key.qos == Qos::ExactlyOnce).then(|| key.exchange());
        }
        Ok(ticket)
    }

    /// The message with this identifier could not be handed over: it is to come again.
    pub fn withdraw(&self, packet_id: u16) {
        if let Some(mut session) = self.session() {
            session.pending.withdraw(packet_id);
        }
    }

    pub fn handle_pubrel(&self, packet_id: u16) -> PubrelStatus {
        self.session()
            .map_or(PubrelStatus::OldConnection, |mut session| {
                session.pending.handle_pubrel(packet_id)
            })
    }

    /// Appends the acknowledgements that may go out.
    pub fn poll_acks(&self, out: &mut Vec<u8>) {
        if let Some(mut session) = self.session() {
            session.pending.poll_acks(out);
        }
    }

    pub fn has_unacknowledged(&self) -> bool {
        let session = self.session();
        session.is_some_and(|session| session.pending.has_unacknowledged())
    }

    pub fn is_pubrel_due(&self) -> bool {
        let session = self.session();
        session.is_some_and(|session| session.pending.is_pubrel_due())
    }

    /// Whether to read no more from the broker; `was_full` is the last answer.
    pub fn is_full(&self, was_full: bool) -> bool {
        let limit = if was_full { LIMIT / 2 } else { LIMIT };
        self.backlog.bytes.load(Ordering::Acquire) > limit
    }

    /// Whether the connection is to end. The descriptor becomes readable when that changes.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// Makes the descriptor readable as soon as messages are settled. Ask for acknowledgements once more
    /// before sleeping.
    pub fn request_wake_up(&self) {
        self.wants_wake_up.store(true, Ordering::SeqCst);
    }

    /// The descriptor is not readable any more.
    pub fn clear_wake_up(&self) {
        let _ = self.wake_up.read();
    }

    fn wake(&self) {
        if self.wants_wake_up.swap(false, Ordering::SeqCst) {
            self.make_readable();
        }
    }

    fn make_readable(&self) {
        // A counter that is full is readable too.
        let _ = self.wake_up.write(1);
    }
}

impl AsFd for ConnectionAcks {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake_up.as_fd()
    }
}

/// A message that waits to be processed. If it is dropped, the message stays unacknowledged: the broker sends it
/// again to a session that outlives the run.
#[derive(Clone, Debug)]
pub struct Ticket {
    backlog: Arc<Backlog>,
    /// Its number in the run; 0 at QoS 0.
    number: u64,
    exchange: Option<Exchange>,
}

impl Ticket {
    /// What is to be remembered of it until PUBREL; none below QoS 2.
    pub fn exchange(&self) -> Option<Exchange> {
        self.exchange
    }

    /// The message has been processed.
    pub fn settle(&self) {
        if self.number > 0 {
            self.backlog.settle(self.number..=self.number);
        }
    }
}

/// Many tickets of one run, in the order in which the messages came: runs of a first ticket and a last number.
#[derive(Debug, Default)]
pub struct Tickets(Vec<(Ticket, u64)>);

impl Tickets {
    pub fn push(&mut self, ticket: Ticket) {
        if ticket.number > 0 {
            let number = ticket.number;
            self.append(Self(vec![(ticket, number)]));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn append(&mut self, later: Self) {
        for (first, last) in later.0 {
            match self.0.last_mut() {
                Some((_, end)) if *end + 1 == first.number => *end = last,
                _ => self.0.push((first, last)),
            }
        }
    }

    pub fn settle(self) {
        for (first, last) in self.0 {
            first.backlog.settle(first.number..=last);
        }
    }
}
