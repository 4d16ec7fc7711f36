//! Where received messages end: counted, rendered, written. Called on Paho's receiving
//! thread; the broker gets its acknowledgement when the call returns, so a message is
//! acknowledged only once it has been written, and a slow reader slows the broker down.
//!
//! A message that must not be acknowledged (it could not be written, or it came after the
//! last one wanted) is kept by not returning. That holds Paho's global lock: from then on
//! the process can only end.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::{Duration, UNIX_EPOCH};

use log::warn;

use super::inbox::Inbox;
use super::output::{Style, render};
use crate::common::escape::quoted;
use crate::common::event_loop::wall_clock;
use crate::common::message::Received;

/// What the sink tells the event loop.
#[derive(Debug)]
pub enum Notice {
    /// All messages that were wanted have been written.
    Done,
    /// Standard output cannot be written any more.
    Broken(io::Error),
    /// A message is being held back; Paho is blocked.
    Holding,
}

/// How long to wait for a write to end: 200 ms in all.
const CLOSE_TRIES: u32 = 40;
const CLOSE_PAUSE: Duration = Duration::from_millis(5);

/// The end of the line.
#[derive(Debug)]
pub struct Sink<F> {
    style: Style,
    state: Mutex<State>,
    /// No further message is wanted, or can be written.
    closed: AtomicBool,
    notify: F,
}

#[derive(Debug)]
struct State {
    inbox: Inbox,
    /// Standard output without the standard library's line buffer: one write a message.
    out: File,
    buffer: Vec<u8>,
}

impl<F: Fn(Notice) + Send + Sync> Sink<F> {
    /// A sink on standard output.
    ///
    /// # Errors
    ///
    /// The operating system's, if there is no descriptor to be had.
    pub fn stdout(style: Style, inbox: Inbox, notify: F) -> io::Result<Self> {
        let out = io::stdout().as_fd().try_clone_to_owned()?;
        Ok(Self {
            style,
            state: Mutex::new(State {
                inbox,
                out: out.into(),
                buffer: Vec::new(),
            }),
            closed: AtomicBool::new(false),
            notify,
        })
    }

    /// Writes a message and returns, or keeps it and does not.
    pub fn receive(&self, message: &Received<'_>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.closed.load(Ordering::Relaxed) {
            match state.write(message, &self.style) {
                Ok(()) => {
                    state.inbox.take(message.seq.as_ref());
                    let done = state.inbox.is_full();
                    self.closed.fetch_or(done, Ordering::Relaxed);
                    // The loop looks into the sink as soon as it hears of this.
                    drop(state);
                    if done {
                        (self.notify)(Notice::Done);
                    }
                    return;
                }
                Err(error) => {
                    self.closed.store(true, Ordering::Relaxed);
                    (self.notify)(Notice::Broken(error));
                }
            }
        }
        drop(state);
        (self.notify)(Notice::Holding);
        loop {
            std::thread::park();
        }
    }

    /// Takes no more messages, and shows what was received; `None` if a write is stuck.
    pub fn close<T>(&self, look: impl FnOnce(&Inbox) -> T) -> Option<T> {
        self.closed.store(true, Ordering::Relaxed);
        for _ in 0..CLOSE_TRIES {
            match self.state.try_lock() {
                Ok(state) => return Some(look(&state.inbox)),
                Err(TryLockError::Poisoned(poisoned)) => {
                    return Some(look(&poisoned.into_inner().inbox));
                }
                // A write that is under way is let end, one that is stuck is not waited for.
                Err(TryLockError::WouldBlock) => std::thread::park_timeout(CLOSE_PAUSE),
            }
        }
        None
    }
}

impl State {
    fn write(&mut self, message: &Received<'_>, style: &Style) -> io::Result<()> {
        self.buffer.clear();
        let now = wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default();
        if let Some(remark) = render(&mut self.buffer, message, style, now) {
            warn!("{}: {remark}", quoted(message.topic));
        }
        self.out.write_all(&self.buffer)
    }
}
