//! What has been received and not yet dealt with.
//!
//! The client library acknowledges a message when its callback returns, and until then it does
//! nothing else, pings included. So the callback only hands over, and what passes between the
//! broker and the library is held back here instead: *acknowledgements*, until their messages have
//! been dealt with, and *messages*, while too many bytes wait. The bridge of the connection asks,
//! whoever deals with messages answers.
//!
//! * `framing` finds the packets in the stream, `books` knows what is due.

pub mod books;
pub mod framing;

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

use books::Books;
use framing::Head;

/// Bytes that may wait before no more are taken from the broker.
const LIMIT: u64 = 1 << 20;

/// How much waits, over all connections of a run.
#[derive(Debug, Default)]
pub struct Backlog {
    bytes: AtomicU64,
    /// The connection that is to hear when there is room again.
    current: Mutex<Weak<Flow>>,
}

impl Backlog {
    /// So many bytes more wait.
    pub fn add(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// So many bytes less wait.
    pub fn remove(&self, bytes: u64) {
        let before = self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        let after = before.saturating_sub(bytes);
        if before > LIMIT / 2 && after <= LIMIT / 2 {
            let current = lock(&self.current).upgrade();
            if let Some(flow) = current {
                flow.rouse();
            }
        }
    }

    /// Whether so much waits that what the broker says may not be heard.
    #[must_use]
    pub fn may_be_full(&self) -> bool {
        self.bytes.load(Ordering::Acquire) > LIMIT / 2
    }

    /// The flow of a new connection, on which something is to be said every `keep_alive`.
    ///
    /// # Errors
    ///
    /// The operating system's, if there is no descriptor to be had.
    pub fn flow(self: &Arc<Self>, keep_alive: Duration) -> io::Result<Arc<Flow>> {
        let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
        let flow = Arc::new(Flow {
            books: Mutex::default(),
            backlog: Arc::clone(self),
            bell: EventFd::from_value_and_flags(0, flags)?,
            listening: AtomicBool::new(false),
            keep_alive: AtomicU64::new(keep_alive.as_secs()),
        });
        *lock(&self.current) = Arc::downgrade(&flow);
        Ok(flow)
    }
}

/// What has been received on one connection and not yet dealt with.
#[derive(Debug)]
pub struct Flow {
    books: Mutex<Books>,
    backlog: Arc<Backlog>,
    /// Wakes the bridge.
    bell: EventFd,
    /// The bridge waits for the bell.
    listening: AtomicBool,
    /// In seconds.
    keep_alive: AtomicU64,
}

impl Flow {
    /// These packets are on their way to the client library.
    pub fn arrived(&self, heads: &[Head]) {
        if !heads.is_empty() {
            let mut books = lock(&self.books);
            for head in heads {
                books.arrived(*head);
            }
        }
    }

    /// How many acknowledgements may have gone out since the beginning.
    pub fn due(&self) -> u64 {
        lock(&self.books).due()
    }

    /// Whether to take no more from the broker; `was` is what was answered last.
    pub fn is_full(&self, was: bool) -> bool {
        let limit = if was { LIMIT / 2 } else { LIMIT };
        self.backlog.bytes.load(Ordering::Acquire) > limit
    }

    /// How often something is to be said to the broker.
    pub fn keep_alive(&self) -> Duration {
        Duration::from_secs(self.keep_alive.load(Ordering::Relaxed))
    }

    /// The broker wants to hear from us so often.
    pub fn keep_alive_wanted(&self, keep_alive: Duration) {
        self.keep_alive
            .store(keep_alive.as_secs(), Ordering::Relaxed);
    }

    /// The bell is to ring from now on when something changes. Ask once more before sleeping.
    pub fn listen(&self) {
        // What rang before has been seen to.
        let _ = self.bell.read();
        self.listening.store(true, Ordering::SeqCst);
    }

    /// The client library hands over a message.
    #[must_use]
    pub fn ticket(self: &Arc<Self>, acknowledged: bool) -> Ticket {
        let (number, mid) = if acknowledged {
            lock(&self.books).hand_over()
        } else {
            (0, 0)
        };
        Ticket {
            flow: Arc::clone(self),
            number,
            mid,
        }
    }

    fn settle(&self, numbers: std::ops::RangeInclusive<u64>) {
        lock(&self.books).settle(numbers);
        self.rouse();
    }

    fn rouse(&self) {
        if self.listening.swap(false, Ordering::SeqCst) {
            // A counter that is full has rung.
            let _ = self.bell.write(1);
        }
    }
}

impl AsFd for Flow {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// A message that waits to be dealt with. Dropped, it stays unacknowledged: the broker sends it
/// again to a session that outlives the connection.
#[derive(Clone, Debug)]
pub struct Ticket {
    flow: Arc<Flow>,
    /// Its number on the connection; 0 where nobody acknowledges.
    number: u64,
    mid: u16,
}

impl Ticket {
    /// The packet identifier; 0 at QoS 0.
    #[must_use]
    pub fn mid(&self) -> u16 {
        self.mid
    }

    /// It has been dealt with.
    pub fn settle(&self) {
        if self.number > 0 {
            self.flow.settle(self.number..=self.number);
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
                Arc::ptr_eq(&mine.flow, &first.flow) && *end + 1 == first.number
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
            first.flow.settle(first.number..=last);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
