//! The input as the event loop sees it: starts the source, requests as much from it as the outbox
//! can take, holds what was read and not yet taken, and knows when the next timed reading is due.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::log;

use super::batch::{Batcher, Reading};
use super::config::{InputConfig, SourceKind};
use super::simulated::SimulatedSensor;
use super::source::{Emit, InputChunk, InputError, SourceEvent, SourceThread};
use crate::common::runtime::logging::level_of;
use crate::common::runtime::repeat_filter::RepeatFilter;
use crate::publisher::queue::limits::ReadAllowance;

/// Bytes of a line of JSON beside its payload: topic and the other fields.
const JSON_OVERHEAD: usize = 1 << 20;

/// The most messages requested at once from a source that can wait. With batches it is
/// `MAX_REQUEST_BATCHED` readings more than fit into one message.
const MAX_REQUEST: usize = 1_024;
const MAX_REQUEST_BATCHED: usize = 16 * MAX_REQUEST;

#[derive(Debug)]
enum Source {
    Thread(SourceThread),
    Simulated(SimulatedSensor),
    /// A message that is published `left` times more, each time `--interval` after the one before.
    Repeated {
        payload: Vec<u8>,
        left: u64,
        next_at: Instant,
    },
}

#[derive(Debug)]
pub struct SourceReader {
    source: Source,
    /// Read, at this Unix time, and not yet parsed, because the outbox is full.
    unparsed: VecDeque<(InputChunk, Duration)>,
    unparsed_readings: usize,
    unparsed_bytes: u64,
    /// Parsed and not yet taken.
    pub batches: Batcher,
    readings_per_message: usize,
    /// Lines wait for the first connection as well: the broker says how large a batch may be, and
    /// without a queue file one that is too large is lost.
    waits_for_limits: bool,
    left: Option<u64>,
    /// How often the whole of standard input is published.
    repeat: u64,
    repeated: u64,
    interval: Duration,
    next_reading_at: Option<Instant>,
    started: bool,
    is_busy: bool,
    busy_warnings: RepeatFilter,
    open: bool,
}

impl SourceReader {
    pub fn start(
        config: &InputConfig,
        durable: bool,
        emit: impl Emit,
        now: Instant,
    ) -> io::Result<Self> {
        let max = config.max_payload;
        let source = match &config.source {
            SourceKind::Simulated => Source::Simulated(SimulatedSensor::default()),
            SourceKind::Command(command) => {
                Source::Thread(SourceThread::command(command.clone(), max, emit)?)
            }
            SourceKind::Lines => {
                // Base64 takes a third more than the bytes, text seldom twice as much.
                let json = max.saturating_mul(2) + JSON_OVERHEAD;
                let longest = if config.json { json } else { max };
                let together = config.has_batches();
                Source::Thread(SourceThread::stdin_lines(longest, together, emit)?)
            }
            SourceKind::Stdin => Source::Thread(SourceThread::whole_stdin(max, emit)?),
            SourceKind::Message(payload) => Source::Repeated {
                payload: payload.clone(),
                left: config.repeat,
                next_at: now,
            },
        };
        Ok(Self {
            source,
            unparsed: VecDeque::new(),
            unparsed_readings: 0,
            unparsed_bytes: 0,
            batches: Batcher::new(config.batch),
            readings_per_message: usize::try_from(config.batch.readings).unwrap_or(usize::MAX),
            waits_for_limits: config.has_batches() && !durable,
            left: config.count,
            repeat: config.repeat,
            repeated: 0,
            interval: config.interval,
            // The first reading waits for the first connection, so that it need not be queued;
            // but not longer than one interval.
            next_reading_at: config.source.is_timed().then_some(now + config.interval),
            started: false,
            is_busy: false,
            busy_warnings: RepeatFilter::default(),
            open: true,
        })
    }

    /// Whether more may come than is held.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Messages read and not yet taken. What has not been parsed counts as full batches.
    pub fn pending_messages(&self) -> usize {
        self.batches.pending_batches() + self.unparsed_readings.div_ceil(self.readings_per_message)
    }

    pub fn wake_at(&self) -> Option<Instant> {
        let reading = self.next_reading_at.filter(|_| self.open);
        let repeat = match &self.source {
            // While one waits for the outbox, no time is due.
            Source::Repeated { next_at, .. } if self.open && self.holds_nothing() => Some(*next_at),
            _ => None,
        };
        let times = [reading, repeat, self.batches.wake_at()];
        times.into_iter().flatten().min()
    }

    /// The first timed reading is due now, and lines that waited for the broker's limits are read.
    pub fn handle_connect_attempt_ended(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.started, true) {
            self.next_reading_at = self.next_reading_at.map(|at| at.min(now));
        }
    }

    pub fn request_readings(
        &mut self,
        now: Instant,
        time: impl FnOnce() -> SystemTime,
        space: ReadAllowance,
    ) {
        if !self.open {
            return;
        }
        if self.next_reading_at.is_some() {
            return self.read_when_due(now, time);
        }
        match &mut self.source {
            Source::Thread(thread) if self.started || !self.waits_for_limits => {
                let per_message = self.readings_per_message;
                let most = match per_message {
                    1 => MAX_REQUEST,
                    several => several.saturating_add(MAX_REQUEST_BATCHED),
                };
                let left = self.left.and_then(|n| usize::try_from(n).ok());
                let wanted = space.messages.saturating_mul(per_message);
                let wanted = wanted.min(left.unwrap_or(most)).min(most);
                let parsed = usize::try_from(self.batches.pending_readings()).unwrap_or(usize::MAX);
                let bytes = self.unparsed_bytes + self.batches.bytes();
                thread.request(
                    wanted.saturating_sub(self.unparsed_readings.saturating_add(parsed)),
                    space.bytes.saturating_sub(bytes),
                );
            }
            Source::Repeated { .. } => self.repeat_when_due(now, time),
            Source::Thread(_) | Source::Simulated(_) => {}
        }
    }

    fn holds_nothing(&self) -> bool {
        self.unparsed.is_empty() && !self.batches.has_closed_batch()
    }

    fn repeat_when_due(&mut self, now: Instant, time: impl FnOnce() -> SystemTime) {
        // A repetition that is due waits until the one before has been taken; none is skipped.
        let is_free = self.holds_nothing();
        let interval = self.interval;
        if let Source::Repeated {
            payload,
            left,
            next_at,
        } = &mut self.source
            && now >= *next_at
            && is_free
        {
            *left -= 1;
            *next_at = now + interval;
            self.open = *left > 0;
            let payload = if self.open {
                payload.clone()
            } else {
                std::mem::take(payload)
            };
            self.repeated += 1;
            let line = self.repeated;
            self.push_unparsed(InputChunk::Message { line, payload }, unix_time(time()));
        }
    }

    /// With the Unix time at which it was read.
    pub fn pop_unparsed_chunk(&mut self) -> Option<(InputChunk, Duration)> {
        let (chunk, read_at) = self.unparsed.pop_front()?;
        self.unparsed_readings -= chunk.reading_count();
        self.unparsed_bytes -= chunk.bytes();
        Some((chunk, read_at))
    }

    pub fn push_reading(&mut self, reading: Reading<'_>, line: u64, now: Instant) {
        self.batches.push(reading, line, now);
        let readings = self.batches.pending_readings();
        if self.left.is_some_and(|left| readings >= left) {
            self.batches.close_batch();
        }
    }

    /// Call it when all chunks have been parsed.
    pub fn close_due_batch(&mut self, now: Instant) {
        if self.open {
            self.batches.handle_time(now);
        } else {
            self.batches.close_batch();
        }
    }

    pub fn deduct_from_count(&mut self, readings: u32) {
        self.left = self.left.map(|n| n.saturating_sub(readings.into()));
        if self.left == Some(0) {
            self.stop();
        }
    }

    /// `read_at` is the Unix time at which it was read.
    pub fn handle_event(
        &mut self,
        event: SourceEvent,
        read_at: Duration,
        now: Instant,
    ) -> Result<(), InputError> {
        if let Source::Thread(thread) = &mut self.source {
            thread.deduct_received(&event);
        }
        if !self.open {
            return Ok(());
        }
        match event {
            SourceEvent::InputChunk(InputChunk::Message { payload, .. }) if self.repeat > 1 => {
                let left = self.repeat;
                self.source = Source::Repeated {
                    payload,
                    left,
                    next_at: now,
                };
            }
            SourceEvent::InputChunk(chunk) => self.push_unparsed(chunk, read_at),
            // The last repetition ends the input.
            SourceEvent::End if matches!(self.source, Source::Repeated { .. }) => {}
            SourceEvent::End => self.open = false,
            SourceEvent::Failed(error) => {
                self.open &= !matches!(error, InputError::ReadFailed(_));
                return Err(error);
            }
        }
        Ok(())
    }

    pub fn stop(&mut self) {
        self.open = false;
        if let Source::Thread(thread) = &mut self.source {
            thread.stop_commands();
        }
    }

    pub fn discard(&mut self) {
        self.unparsed.clear();
        (self.unparsed_readings, self.unparsed_bytes) = (0, 0);
        self.batches.clear();
    }

    /// Readings that were missed (the machine was suspended, or the command is still running) are left out.
    fn read_when_due(&mut self, now: Instant, time: impl FnOnce() -> SystemTime) {
        let Some(due) = self.next_reading_at.filter(|at| *at <= now) else {
            return;
        };
        self.started = true;
        let missed = due + self.interval <= now;
        self.next_reading_at = Some(if missed { now } else { due } + self.interval);
        // One that waits for the outbox is enough.
        if !self.unparsed.is_empty() || self.batches.has_closed_batch() {
            return;
        }
        match &mut self.source {
            Source::Simulated(sensor) => {
                let at = time();
                let payload = sensor.read(at);
                let line = sensor.sequence;
                self.push_unparsed(InputChunk::Message { line, payload }, unix_time(at));
            }
            Source::Thread(thread) if !thread.has_outstanding_demand() => {
                self.is_busy = false;
                thread.request(1, u64::MAX);
            }
            Source::Thread(_) if !std::mem::replace(&mut self.is_busy, true) => {
                let line = "--exec: the command runs longer than --interval; waiting for it to end";
                let repetition = self.busy_warnings.filter(line, now);
                log!(level_of(repetition), "{line}{repetition}");
            }
            Source::Thread(_) | Source::Repeated { .. } => {}
        }
    }

    fn push_unparsed(&mut self, chunk: InputChunk, read_at: Duration) {
        self.unparsed_readings += chunk.reading_count();
        self.unparsed_bytes += chunk.bytes();
        self.unparsed.push_back((chunk, read_at));
    }
}

fn unix_time(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}
