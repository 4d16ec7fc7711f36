//! What has been received and not yet dealt with.
//!
//! The bridge of a connection hands each message over with a [`Ticket`]; whoever deals with messages settles the
//! ticket, and only then does the bridge send the acknowledgement, by the message's own packet
//! identifier. While too many bytes wait, the bridge reads no more from the broker.
//!
//! * `pending` knows what is due.

pub mod pending;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::message::Qos;
use pending::{Arrival, Pending, Release};

/// Bytes that may wait before no more are taken from the broker.
const LIMIT: u64 = 1 << 20;

/// How much waits, over all connections of a run.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: AtomicU64,
    /// The connection that is woken when there is room again, and whose session the next one may
    /// go on with.
    current: Mutex<Option<Arc<Acks>>>,
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
            let current = lock(&self.current).clone();
            if let Some(acks) = current {
                acks.wake();
            }
        }
    }

    /// Whether the bridge may have stopped reading from the broker, because too many bytes wait.
    #[must_use]
    pub fn may_be_full(&self) -> bool {
        self.bytes.load(Ordering::Acquire) > LIMIT / 2
    }

    /// The acknowledgements of a new connection.
    ///
    /// # Errors
    ///
    /// The operating system's, if there is no descriptor to be had.
    pub fn connection(self: &Arc<Self>) -> io::Result<Arc<Acks>> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let acks = Arc::new(Acks {
            pending: Mutex::default(),
            backlog: Arc::clone(self),
            wake_up: EventFd::from_value_and_flags(0, flags)?,
            listening: AtomicBool::new(false),
        });
        let mut current = lock(&self.current);
        if let Some(before) = &*current {
            let before = lock(&before.pending);
            lock(&acks.pending).resume(before.received());
        }
        *current = Some(Arc::clone(&acks));
        Ok(acks)
    }
}

/// What has been received on one connection and not yet dealt with.
#[derive(Debug)]
pub struct Acks {
    pending: Mutex<Pending>,
    backlog: Arc<Backlog>,
    /// Wakes the bridge.
    wake_up: EventFd,
    /// The bridge waits for it.
    listening: AtomicBool,
}

impl Acks {
    /// The broker has no session of an earlier connection: forgets what came on one.
    pub fn begin_session(&self) {
        *lock(&self.pending) = Pending::default();
    }

    /// A PUBLISH has come: a ticket for it, if it is to be handed over.
    ///
    /// # Errors
    ///
    /// What else is to be done with it: it has come before.
    pub fn arrived(self: &Arc<Self>, id: u16, qos: Qos) -> Result<Ticket, Arrival> {
        let number = if qos == Qos::AtMostOnce {
            0
        } else {
            match lock(&self.pending).arrived(id, qos) {
                Arrival::New(number) => number,
                known => return Err(known),
            }
        };
        Ok(Ticket {
            acks: Arc::clone(self),
            number,
            id,
        })
    }

    /// A PUBREL has come.
    pub fn released(&self, id: u16) -> Release {
        lock(&self.pending).released(id)
    }

    /// Appends the acknowledgements that may go out.
    pub fn take_due(&self, out: &mut Vec<u8>) {
        lock(&self.pending).take_due(out);
    }

    /// Whether messages wait to be acknowledged.
    pub fn are_due_later(&self) -> bool {
        !lock(&self.pending).is_empty()
    }

    /// Whether to take no more from the broker; `was` is what was answered last.
    pub fn is_full(&self, was: bool) -> bool {
        let limit = if was { LIMIT / 2 } else { LIMIT };
        self.backlog.bytes.load(Ordering::Acquire) > limit
    }

    /// The descriptor becomes readable from now on when something changes. Look once more before
    /// sleeping.
    pub fn listen(&self) {
        // An earlier change has been looked at.
        let _ = self.wake_up.read();
        self.listening.store(true, Ordering::SeqCst);
    }

    fn settle(&self, numbers: std::ops::RangeInclusive<u64>) {
        lock(&self.pending).settle(numbers);
        self.wake();
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
/// again to a session that outlives the connection.
#[derive(Clone, Debug)]
pub struct Ticket {
    acks: Arc<Acks>,
    /// Its number on the connection; 0 where nobody acknowledges.
    number: u64,
    id: u16,
}

impl Ticket {
    /// The packet identifier; 0 at QoS 0.
    #[must_use]
    pub fn id(&self) -> u16 {
        self.id
    }

    /// It has been dealt with.
    pub fn settle(&self) {
        if self.number > 0 {
            self.acks.settle(self.number..=self.number);
        }
    }
}

/// Many tickets, in the order in which they came.
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
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds those that came behind.
    pub fn append(&mut self, other: Self) {
        for (first, last) in other.0 {
            let follows = self.0.last_mut().filter(|(mine, end)| {
                Arc::ptr_eq(&mine.acks, &first.acks) && *end + 1 == first.number
            });
            match follows {
                Some((_, end)) => *end = last,
                None => self.0.push((first, last)),
            }
        }
    }

    /// All of them have been dealt with.
    pub fn settle(self) {
        for (first, last) in self.0 {
            first.acks.settle(first.number..=last);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
