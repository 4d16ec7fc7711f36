//! Writes readings on a separate thread, all that have accumulated at once, and then lets their messages be
//! acknowledged. PUBACK therefore always follows the write, and a slow reader of the output delays only the broker.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::completion::{Acknowledger, FinishedMessages, OutputError, OutputEvent};
use super::destination::WriterDestination;
use crate::common::acks::SessionAcks;
use crate::common::runtime::clock::{instant_now, sleep};
use crate::common::transport::bridge::OutOfMemory;

/// While messages keep coming, how long to wait for one more before a write, the longest time
/// between writes, and the bytes that suffice for one: a write of many costs a fraction. If one of
/// them has to be acknowledged after it, the broker may be waiting for that; otherwise the thread waits for that longest
/// time at once.
const BATCH_PAUSE: Duration = Duration::from_micros(200);
const BATCH_TIME: Duration = Duration::from_millis(2);
const BATCH_BYTES: usize = 64 << 10;

/// What a waiting message takes beside its readings, about: messages without output are limited too.
const OVERHEAD: u64 = 64;

/// From this size on, in bytes, a buffer does not grow ahead of need.
const LARGE: usize = 1 << 20;

#[derive(Default)]
struct WriteBatch {
    bytes: Vec<u8>,
    /// Where each reading ends in `bytes`.
    ends: Vec<usize>,
    counted: u64,
    completion: FinishedMessages,
    reopen: bool,
}

impl WriteBatch {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.completion.is_empty() && !self.reopen
    }
}

#[derive(Default)]
struct WriterState {
    batch: WriteBatch,
    /// More readings of the last message may come, which must be acknowledged together.
    is_message_open: bool,
    is_closed: bool,
    is_writing: bool,
    is_waiting: bool,
    has_ended: bool,
}

#[derive(Default)]
struct WriterShared {
    state: Mutex<WriterState>,
    ready: Condvar,
    idle: Condvar,
}

pub struct Writer {
    shared: Arc<WriterShared>,
    session_acks: Arc<SessionAcks>,
}

impl Writer {
    pub fn start(
        destination: WriterDestination,
        session_acks: Arc<SessionAcks>,
        acknowledger: Acknowledger,
    ) -> io::Result<Self> {
        let shared = Arc::new(WriterShared::default());
        let mut thread = WriterThread {
            shared: Arc::clone(&shared),
            destination,
            session_acks: Arc::clone(&session_acks),
            acknowledger,
        };
        let builder = std::thread::Builder::new().name("writer".into());
        builder.spawn(move || {
            if let Err(error) = thread.run() {
                (thread.acknowledger.notify)(OutputEvent::Failed(error));
            }
            thread.shared.state.lock().has_ended = true;
            thread.shared.idle.notify_all();
        })?;
        Ok(Self {
            shared,
            session_acks,
        })
    }

    /// Reserves memory for `bytes` of output; checks that `meanwhile` more can be allocated while
    /// it is rendered. For a large message the buffer grows by no more than it needs.
    pub fn reserve_memory(&self, bytes: usize, meanwhile: usize) -> Result<(), OutOfMemory> {
        if meanwhile > LARGE {
            // The allocations themselves cannot report failure.
            let tried = Vec::<u8>::new().try_reserve_exact(meanwhile + bytes);
            tried.map_err(|_| OutOfMemory)?;
        }
        let buffer = &mut self.shared.state.lock().batch.bytes;
        let reserved = if buffer.len() + bytes > LARGE {
            buffer.try_reserve_exact(bytes)
        } else {
            buffer.try_reserve(bytes)
        };
        reserved.map_err(|_| OutOfMemory)
    }

    pub fn write<T>(&self, render: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut state = self.shared.state.lock();
        state.is_message_open = true;
        let batch = &mut state.batch;
        let before = batch.bytes.len();
        let result = render(&mut batch.bytes);
        let end = batch.bytes.len();
        batch.ends.push(end);
        let added = (end - before) as u64;
        batch.counted += added;
        self.session_acks.add_bytes(added);
        result
    }

    pub fn finish_message(&self, completion: FinishedMessages) {
        let mut state = self.shared.state.lock();
        // A message of QoS 0 that was left out leaves nothing for the thread to do, which would not wake for it.
        if !completion.is_empty() {
            state.batch.completion.append(completion);
            state.batch.counted += OVERHEAD;
            self.session_acks.add_bytes(OVERHEAD);
        }
        state.is_message_open = false;
        let is_waiting = std::mem::take(&mut state.is_waiting);
        drop(state);
        if is_waiting {
            self.shared.ready.notify_one();
        }
    }

    pub fn reopen(&self) {
        self.shared.state.lock().batch.reopen = true;
        self.shared.ready.notify_one();
    }

    /// Waits until all is written; `false` after `grace_period`: the rest stays unacknowledged.
    pub fn close(&self, grace_period: Duration) -> bool {
        let mut state = self.shared.state.lock();
        state.is_closed = true;
        self.shared.ready.notify_one();
        let is_busy = |s: &mut WriterState| !s.has_ended && (s.is_writing || !s.batch.is_empty());
        let idle = &self.shared.idle;
        idle.wait_while_for(&mut state, is_busy, grace_period);
        !is_busy(&mut state)
    }
}

struct WriterThread {
    shared: Arc<WriterShared>,
    destination: WriterDestination,
    session_acks: Arc<SessionAcks>,
    acknowledger: Acknowledger,
}

impl WriterThread {
    fn run(&mut self) -> Result<(), OutputError> {
        let mut batch = WriteBatch::default();
        let mut last_write = instant_now();
        while self.next_batch(&mut batch, last_write) && self.write_batch(&mut batch)? {
            last_write = instant_now();
        }
        Ok(())
    }

    /// Waits for something to write, and exchanges it for `batch`, which is empty. `false` once the writer is closed.
    fn next_batch(&self, batch: &mut WriteBatch, last_write: Instant) -> bool {
        let mut state = self.shared.state.lock();
        state.is_writing = false;
        let mut seen = 0;
        loop {
            while state.batch.is_empty() || state.is_message_open {
                if state.batch.is_empty() {
                    self.shared.idle.notify_all();
                    if state.is_closed {
                        return false;
                    }
                }
                state.is_waiting = true;
                self.shared.ready.wait(&mut state);
            }
            let bytes = state.batch.bytes.len();
            let waited = instant_now().saturating_duration_since(last_write);
            if bytes <= seen || bytes >= BATCH_BYTES || state.is_closed || waited >= BATCH_TIME {
                break;
            }
            seen = bytes;
            let has_acks = !state.batch.completion.tickets.is_empty();
            drop(state);
            sleep(if has_acks {
                BATCH_PAUSE
            } else {
                BATCH_TIME.saturating_sub(waited)
            });
            state = self.shared.state.lock();
        }
        state.is_writing = true;
        std::mem::swap(&mut state.batch, batch);
        true
    }

    fn write_batch(&mut self, batch: &mut WriteBatch) -> Result<bool, OutputError> {
        if std::mem::take(&mut batch.reopen) {
            self.destination.reopen().map_err(OutputError::Reopen)?;
        }
        let written = self.destination.write(&batch.bytes, &batch.ends);
        written.map_err(OutputError::Write)?;
        let completion = std::mem::take(&mut batch.completion);
        if !self.acknowledger.record_and_acknowledge(completion) {
            return Ok(false);
        }
        self.session_acks
            .remove_bytes(std::mem::take(&mut batch.counted));
        batch.bytes.clear();
        batch.bytes.shrink_to(2 * BATCH_BYTES);
        batch.ends.clear();
        batch.ends.shrink_to(BATCH_BYTES);
        Ok(true)
    }
}
