//! Writes what has been received, on a thread of its own, in pieces as large as they have become
//! by the time it gets to them; then what is in them may be acknowledged. PUBACK therefore always
//! comes after the write, and a reader that is slow holds up nobody but the broker.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::debug;

use super::destination::Destination;
use crate::common::acks::Backlog;
use crate::common::runtime::clock::{clock, sleep};
use crate::common::transport::bridge::OutOfMemory;
use crate::subscriber::inbox::sink::{Broken, Done, Finish, Notice};

/// While messages pour in, how long to wait for one more before writing, and for how long in all,
/// and how many bytes are enough: one write for many costs a fraction.
const GATHER_PAUSE: Duration = Duration::from_micros(200);
const GATHER: Duration = Duration::from_millis(2);
const ENOUGH: usize = 64 << 10;

/// What a message takes while it waits beside what is written of it, about: a message that
/// leaves no trace must not wait without limit either.
const OVERHEAD: u64 = 64;

/// From this size on, in bytes, a buffer does not grow ahead of what it needs.
const LARGE: usize = 1 << 20;

/// What waits to be written.
#[derive(Debug, Default)]
struct Pending {
    bytes: Vec<u8>,
    /// Where each message ends in them.
    ends: Vec<usize>,
    /// What all of it counts in the backlog.
    counted: u64,
    done: Done,
    /// The last message in them is not complete.
    open: bool,
    reopen: bool,
    /// Nothing more will come.
    closed: bool,
    /// The thread is at work.
    busy: bool,
    /// The thread sleeps until it is woken.
    asleep: bool,
    /// The thread has ended.
    dead: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.done.is_empty() && !self.reopen
    }

    /// Whether it can be taken: what is written before its message is complete could not be
    /// acknowledged with it.
    fn is_due(&self) -> bool {
        !self.is_empty() && !self.open
    }
}

#[derive(Debug, Default)]
struct Shared {
    pending: Mutex<Pending>,
    /// There is something to write.
    ready: Condvar,
    /// All has been written.
    idle: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The writer as others see it.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    backlog: Arc<Backlog>,
}

impl Writer {
    /// Starts the thread. `finish` hears what has been written, `notify` why no more can be.
    ///
    /// # Errors
    ///
    /// The operating system's, if there are no more threads to be had.
    pub fn start(
        destination: Destination,
        backlog: Arc<Backlog>,
        finish: Finish,
        notify: impl Fn(Notice) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let work = Work {
            shared: Arc::clone(&shared),
            destination,
            backlog: Arc::clone(&backlog),
            finish,
        };
        std::thread::Builder::new()
            .name("writer".into())
            .spawn(move || {
                let shared = Arc::clone(&work.shared);
                if let Err(broken) = work.run() {
                    notify(Notice::Broken(broken));
                }
                shared.lock().dead = true;
                shared.idle.notify_all();
            })?;
        Ok(Self { shared, backlog })
    }

    /// Sees to it that there is memory for this number of bytes more, and for others while they are rendered.
    /// A large message gets what it needs and no more, so that it costs its own size once.
    ///
    /// # Errors
    ///
    /// There is none.
    pub fn make_room(&self, bytes: usize, meanwhile: usize) -> Result<(), OutOfMemory> {
        if meanwhile > LARGE {
            // It is asked for in a way that cannot fail, so it is looked for before.
            let tried = Vec::<u8>::new().try_reserve_exact(meanwhile + bytes);
            tried.map_err(|_| OutOfMemory)?;
        }
        let mut pending = self.shared.lock();
        let reserved = if pending.bytes.len() + bytes > LARGE {
            pending.bytes.try_reserve_exact(bytes)
        } else {
            pending.bytes.try_reserve(bytes)
        };
        reserved.map_err(|_| OutOfMemory)
    }

    /// Adds a reading. `render` appends it.
    pub fn write<T>(&self, render: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut pending = self.shared.lock();
        pending.open = true;
        let before = pending.bytes.len();
        let remark = render(&mut pending.bytes);
        let end = pending.bytes.len();
        pending.ends.push(end);
        pending.counted += (end - before) as u64;
        self.backlog.add((end - before) as u64);
        remark
    }

    /// A message is complete.
    pub fn end(&self, done: Done) {
        let mut pending = self.shared.lock();
        pending.done.append(done);
        pending.counted += OVERHEAD;
        self.backlog.add(OVERHEAD);
        pending.open = false;
        let asleep = std::mem::take(&mut pending.asleep);
        drop(pending);
        if asleep {
            self.shared.ready.notify_one();
        }
    }

    /// Opens the destination anew.
    pub fn reopen(&self) {
        self.shared.lock().reopen = true;
        self.shared.ready.notify_one();
    }

    /// Waits until all has been written, but not for ever; `false` if it is stuck.
    pub fn close(&self, patience: Duration) -> bool {
        let mut pending = self.shared.lock();
        pending.closed = true;
        self.shared.ready.notify_one();
        // What takes longer stays unacknowledged.
        let (_pending, waited) = self
            .shared
            .idle
            .wait_timeout_while(pending, patience, |p| !p.dead && (p.busy || !p.is_empty()))
            .unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }
}

/// The thread.
struct Work {
    shared: Arc<Shared>,
    destination: Destination,
    backlog: Arc<Backlog>,
    finish: Finish,
}

impl Work {
    fn run(mut self) -> Result<(), Broken> {
        let mut spare = Pending::default();
        let mut last = clock();
        loop {
            let Some(batch) = self.next(spare, last) else {
                return Ok(());
            };
            let Some(written) = self.write(batch)? else {
                return Ok(());
            };
            spare = written;
            last = clock();
        }
    }

    /// Waits for something to write, and takes it, leaving `spare` in its place.
    fn next(&self, spare: Pending, last: Instant) -> Option<Pending> {
        let mut pending = self.shared.lock();
        pending.busy = false;
        let mut seen = 0;
        loop {
            while !pending.is_due() {
                if pending.is_empty() {
                    self.shared.idle.notify_all();
                    if pending.closed {
                        return None;
                    }
                }
                pending.asleep = true;
                let woken = self.shared.ready.wait(pending);
                pending = woken.unwrap_or_else(PoisonError::into_inner);
            }
            let enough = pending.bytes.len() <= seen || pending.bytes.len() >= ENOUGH;
            if enough || pending.closed || clock().saturating_duration_since(last) >= GATHER {
                break;
            }
            seen = pending.bytes.len();
            drop(pending);
            sleep(GATHER_PAUSE);
            pending = self.shared.lock();
        }
        pending.busy = true;
        let closed = pending.closed;
        Some(std::mem::replace(
            &mut *pending,
            Pending {
                closed,
                busy: true,
                ..spare
            },
        ))
    }

    /// Writes; none if that is the end.
    fn write(&mut self, mut batch: Pending) -> Result<Option<Pending>, Broken> {
        if batch.reopen {
            self.destination.reopen().map_err(Broken::Opening)?;
            debug!("{}: opened anew", self.destination);
        }
        let written = self.destination.write(&batch.bytes, &batch.ends);
        written.map_err(Broken::Output)?;
        if !self.finish.finish(std::mem::take(&mut batch.done)) {
            return Ok(None);
        }
        self.backlog.remove(std::mem::take(&mut batch.counted));
        batch.bytes.clear();
        batch.bytes.shrink_to(2 * ENOUGH);
        batch.ends.clear();
        batch.ends.shrink_to(ENOUGH);
        batch.reopen = false;
        Ok(Some(batch))
    }
}
