//! Which received messages have not been acknowledged, and when they may be.
//!
//! The bridge of a connection hands each message over with a [`Ticket`], and sends the acknowledgement once the
//! ticket has been settled. If that is after the connection has ended, the message is acknowledged on the next
//! connection of the same session, once the broker has sent it again. While too many bytes wait to be processed,
//! the bridge reads no more from the broker.

pub mod owed_acks;

use std::io;
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use nix::sys::eventfd::{EfdFlags, EventFd};
use parking_lot::Mutex;

use super::metrics::histogram::Histogram;
use super::mqtt::publish::Publish;
use super::mqtt::qos::Qos;
use owed_acks::{OwedAcks, PublishKey, Qos2ExchangeKey, ReceivedPublishKind, ReceivedPubrelKind};

/// Bytes that may wait before no more are read from the broker.
const LIMIT: u64 = 1 << 20;

#[derive(Debug, Default)]
pub struct SessionAcks {
    bytes: AtomicU64,
    session: Mutex<SessionAckState>,
}

#[derive(Debug, Default)]
struct SessionAckState {
    pending: OwedAcks,
    current: Option<Arc<ConnectionAcks>>,
    connections: u64,
}

impl SessionAcks {
    pub fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    pub fn remove_bytes(&self, bytes: u64) {
        let before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        let after = before.saturating_sub(bytes);
        if before > LIMIT / 2
            && after <= LIMIT / 2
            && let Some(acks) = self.current_acks()
        {
            acks.wake();
        }
    }

    /// Whether anything waits to be output.
    pub fn has_backlog(&self) -> bool {
        self.bytes.load(Ordering::Acquire) > 0
    }

    pub fn backlog_bytes(&self) -> u64 {
        self.bytes.load(Ordering::Acquire)
    }

    pub fn is_backlog_high(&self) -> bool {
        self.bytes.load(Ordering::Acquire) > LIMIT / 2
    }

    /// From now on the time from the arrival of each message to its acknowledgement is put into `times`, in seconds.
    pub fn start_timing(&self, times: Histogram) {
        self.session.lock().pending.ack_times = Some(times);
    }

    pub fn ack_times(&self) -> Option<Histogram> {
        self.session.lock().pending.ack_times.clone()
    }

    pub fn restore_exchanges(&self, exchanges: impl IntoIterator<Item = Qos2ExchangeKey>) {
        self.session.lock().pending.restore_exchanges(exchanges);
    }

    /// Nothing is acknowledged on an earlier connection any more. Fails if there is no descriptor.
    pub fn begin_connection(self: &Arc<Self>) -> io::Result<Arc<ConnectionAcks>> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let wake_up = EventFd::from_value_and_flags(0, flags)?;
        let mut session = self.session.lock();
        session.connections += 1;
        session.pending.begin_connection();
        let acks = Arc::new(ConnectionAcks {
            session_acks: Arc::clone(self),
            number: session.connections,
            wake_up,
            wants_wake_up: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        });
        session.current = Some(Arc::clone(&acks));
        Ok(acks)
    }

    /// Whether a settled message can only be acknowledged on a later connection, or once it has come again.
    pub fn has_ack_for_later_connection(&self, is_connected: bool) -> bool {
        self.session.lock().pending.has_unsent_ack(is_connected)
    }

    /// Whether a QoS 2 message that was settled in this run waits for its PUBREC to go out, or for its PUBREL.
    pub fn has_open_exchange(&self) -> bool {
        self.session.lock().pending.has_open_exchange()
    }

    /// The connection is to end in order: everything that has been settled is acknowledged, and DISCONNECT follows.
    pub fn request_disconnect(&self) {
        if let Some(acks) = self.current_acks() {
            acks.ending.store(true, Ordering::SeqCst);
            acks.make_readable();
        }
    }

    fn current_acks(&self) -> Option<Arc<ConnectionAcks>> {
        self.session.lock().current.clone()
    }

    fn settle(&self, numbers: RangeInclusive<u64>) {
        let mut session = self.session.lock();
        session.pending.mark_settled(numbers);
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
    session_acks: Arc<SessionAcks>,
    number: u64,
    wake_up: EventFd,
    wants_wake_up: AtomicBool,
    ending: AtomicBool,
}

impl ConnectionAcks {
    /// None if there is a later connection by now.
    fn access_owed_acks<T>(&self, act: impl FnOnce(&mut OwedAcks) -> T) -> Option<T> {
        let mut session = self.session_acks.session.lock();
        (session.connections == self.number).then(|| act(&mut session.pending))
    }

    /// The broker has no session of an earlier connection: forgets what came on one.
    pub fn forget_session(&self) {
        self.access_owed_acks(OwedAcks::forget_session);
    }

    /// Without a ticket the message is not to be handed over.
    pub fn handle_publish(
        &self,
        publish: &Publish<'_>,
        now: Instant,
    ) -> Result<Ticket, ReceivedPublishKind> {
        let mut ticket = Ticket {
            session_acks: Arc::clone(&self.session_acks),
            number: 0,
            exchange: None,
        };
        if publish.message.qos != Qos::AtMostOnce {
            let key = PublishKey::of(publish);
            ticket.number = match self.access_owed_acks(|pending| pending.handle_publish(key, now))
            {
                Some(ReceivedPublishKind::New(number)) => number,
                known => return Err(known.unwrap_or(ReceivedPublishKind::Repeated)),
            };
            ticket.exchange = (key.qos == Qos::ExactlyOnce).then_some(key.exchange);
        }
        Ok(ticket)
    }

    /// The message could not be handed over: it is to come again.
    pub fn forget_publish(&self, packet_id: u16) {
        self.access_owed_acks(|pending| pending.withdraw(packet_id));
    }

    pub fn handle_pubrel(&self, packet_id: u16) -> ReceivedPubrelKind {
        self.access_owed_acks(|pending| pending.handle_pubrel(packet_id))
            .unwrap_or(ReceivedPubrelKind::OldConnection)
    }

    pub fn append_acks(&self, out: &mut Vec<u8>, now: Instant) {
        self.access_owed_acks(|pending| pending.append_acks(out, now));
    }

    pub fn has_unacknowledged(&self) -> bool {
        self.access_owed_acks(|pending| pending.has_unacknowledged()) == Some(true)
    }

    pub fn is_any_pubrel_due(&self) -> bool {
        self.access_owed_acks(|pending| pending.is_any_pubrel_due()) == Some(true)
    }

    /// Whether to read no more from the broker; `was_full` is the last answer.
    pub fn is_backlog_full(&self, was_full: bool) -> bool {
        let limit = if was_full { LIMIT / 2 } else { LIMIT };
        self.session_acks.bytes.load(Ordering::Acquire) > limit
    }

    /// Whether the connection is to end. The descriptor becomes readable when that changes.
    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// Makes the descriptor readable once messages are settled. Poll for acknowledgements again before sleeping.
    pub fn request_wake_up(&self) {
        self.wants_wake_up.store(true, Ordering::SeqCst);
    }

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
    session_acks: Arc<SessionAcks>,
    /// Its number in the run; 0 at QoS 0.
    number: u64,
    exchange: Option<Qos2ExchangeKey>,
}

impl Ticket {
    /// What is to be remembered of it until PUBREL; none below QoS 2.
    pub fn exchange(&self) -> Option<Qos2ExchangeKey> {
        self.exchange
    }

    pub fn settle(&self) {
        if self.number > 0 {
            self.session_acks.settle(self.number..=self.number);
        }
    }
}

/// Many tickets of one run, in the order in which the messages came: runs of a first ticket and a last number.
#[derive(Debug, Default)]
pub struct TicketRanges(Vec<(Ticket, u64)>);

impl TicketRanges {
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
            first.session_acks.settle(first.number..=last);
        }
    }
}
