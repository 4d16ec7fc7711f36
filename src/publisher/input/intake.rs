//! The near end of the source: what has been read and not yet accepted, when the next timed
//! reading is due, how much to ask for, and when there is no more to come.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant, SystemTime};

use log::warn;

use super::batch::{Batch, Batcher, Reading};
use super::simulated::Thermometer;
use super::source::{Emit, Feed, Input, Piece};
use crate::publisher::config::{Config, SourceKind};
use crate::publisher::queue::Room;

/// Bytes of a line of JSON beside its payload: topic and the other fields.
const JSON_AROUND: usize = 1 << 20;

/// A source that can wait is asked for so many messages at most; where several readings go
/// into one, for so many readings beside those of one message.
const DEMAND: usize = 1_024;
const DEMAND_TOGETHER: usize = 16 * DEMAND;

/// Something from the source that is not a message.
#[derive(Debug)]
pub enum Trouble {
    /// A line longer than allowed was skipped.
    TooLong { line: u64 },
    /// The command failed this time.
    Failed(String),
    /// Nothing more can be read.
    Broken(io::Error),
}

#[derive(Debug)]
enum Origin {
    Feed(Feed),
    Thermometer(Thermometer),
    /// One message, until it is taken.
    AtHand(Option<Vec<u8>>),
}

/// The source as the event loop sees it.
#[derive(Debug)]
pub struct Intake {
    origin: Origin,
    /// Read, and not looked at yet: the outbox had no room.
    held: VecDeque<Piece>,
    held_readings: usize,
    held_bytes: u64,
    /// Looked at, and not accepted yet.
    batches: Batcher,
    /// Readings in a message, at most.
    together: usize,
    /// Lines wait for the first connection as well: it says how large a batch may be, and what
    /// is too large is lost.
    waits: bool,
    /// Readings that may still come.
    left: Option<u64>,
    interval: Duration,
    /// When the next timed reading is due.
    tick_at: Option<Instant>,
    begun: bool,
    readings: u64,
    warned_busy: bool,
    open: bool,
}

impl Intake {
    /// Starts the source. `emit` gives its inputs to the event loop.
    ///
    /// # Errors
    ///
    /// The operating system's, if there are no more threads to be had.
    pub fn start(config: &Config, emit: impl Emit, now: Instant) -> io::Result<Self> {
        let max = config.max_payload;
        let origin = match &config.source {
            SourceKind::Simulated => Origin::Thermometer(Thermometer::default()),
            SourceKind::Command(command) => {
                Origin::Feed(Feed::command(command.clone(), max, emit)?)
            }
            SourceKind::Lines => {
                // Base64 takes a third more than the bytes, text seldom twice as much.
                let longest = if config.json {
                    max.saturating_mul(2) + JSON_AROUND
                } else {
                    max
                };
                Origin::Feed(Feed::lines(longest, config.batches(), emit)?)
            }
            SourceKind::Stdin => Origin::Feed(Feed::whole(max, emit)?),
            SourceKind::Message(payload) => Origin::AtHand(Some(payload.clone())),
        };
        Ok(Self {
            origin,
            held: VecDeque::new(),
            held_readings: 0,
            held_bytes: 0,
            batches: Batcher::new(config.batch),
            together: usize::try_from(config.batch.readings).unwrap_or(usize::MAX),
            waits: config.batches() && config.queue.is_none(),
            left: config.count,
            interval: config.interval,
            // The first reading waits for the first connection, so that it need not queue;
            // but not for long.
            tick_at: config.source.is_timed().then_some(now + config.interval),
            begun: false,
            readings: 0,
            warned_busy: false,
            open: true,
        })
    }

    /// Whether more may come than is held.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Messages read and not yet accepted; of what has not been looked at, as few as it can be.
    pub fn held(&self) -> usize {
        self.batches.messages() + self.held_readings.div_ceil(self.together)
    }

    /// When the next timed reading is due, or a batch.
    pub fn wake_at(&self) -> Option<Instant> {
        let tick = self.tick_at.filter(|_| self.open);
        tick.into_iter().chain(self.batches.wake_at()).min()
    }

    /// The broker takes packets of so many bytes.
    pub fn fit(&mut self, packet: usize) {
        self.batches.fit(packet);
    }

    /// The first attempt to connect has come to its end, one way or the other: what waits for
    /// that begins.
    pub fn begin(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.begun, true) {
            self.tick_at = self.tick_at.map(|at| at.min(now));
        }
    }

    /// Takes what is due or at hand, and asks a source that can wait for as much as the
    /// outbox has room for.
    pub fn fill(&mut self, now: Instant, time: impl FnOnce() -> SystemTime, room: Room) {
        if !self.open {
            return;
        }
        if self.tick_at.is_some() {
            self.take_reading(now, time);
        } else {
            match &mut self.origin {
                Origin::Feed(_) if self.waits && !self.begun => {}
                Origin::Feed(feed) => {
                    let left = self.left.and_then(|n| usize::try_from(n).ok());
                    let demand = if self.together > 1 {
                        self.together.saturating_add(DEMAND_TOGETHER)
                    } else {
                        DEMAND
                    };
                    let most = room.messages.saturating_mul(self.together);
                    let most = most.min(left.unwrap_or(demand)).min(demand);
                    let gathered = usize::try_from(self.batches.readings()).unwrap_or(usize::MAX);
                    let bytes = self.held_bytes + self.batches.bytes();
                    feed.want(
                        most.saturating_sub(self.held_readings.saturating_add(gathered)),
                        room.bytes.saturating_sub(bytes),
                    );
                }
                Origin::AtHand(message) => {
                    if let Some(payload) = message.take() {
                        self.hold(Piece::Message { line: 1, payload });
                    }
                    self.open = false;
                }
                Origin::Thermometer(_) => {}
            }
        }
    }

    /// The next that the source gave, to be made readings of.
    pub fn next_piece(&mut self) -> Option<Piece> {
        let piece = self.held.pop_front()?;
        self.held_readings -= piece.messages();
        self.held_bytes -= piece.bytes();
        Some(piece)
    }

    /// Takes one of the readings that came of it.
    pub fn gather(&mut self, reading: Reading<'_>, line: u64, now: Instant) {
        self.batches.push(reading, line, now);
        if self
            .left
            .is_some_and(|left| self.batches.readings() >= left)
        {
            self.batches.close();
        }
    }

    /// All that was read has been gathered: closes the batch that is due, or can get no more.
    pub fn settle(&mut self, now: Instant) {
        if self.open {
            self.batches.tick(now);
        } else {
            self.batches.close();
        }
    }

    /// Whether a message can be offered.
    pub fn has_batch(&self) -> bool {
        self.batches.has_batch()
    }

    /// The next message to offer.
    pub fn next_batch(&mut self) -> Option<Batch> {
        self.batches.next_batch()
    }

    /// There was no room for it: it comes first again.
    pub fn put_back(&mut self, batch: Batch) {
        self.batches.put_back(batch);
    }

    /// So many readings less to come.
    pub fn count(&mut self, readings: u32) {
        self.left = self.left.map(|n| n.saturating_sub(readings.into()));
        if self.left == Some(0) {
            self.close();
        }
    }

    /// Takes what the source has sent.
    pub fn receive(&mut self, input: Input) -> Option<Trouble> {
        if let Origin::Feed(feed) = &mut self.origin {
            feed.received(&input);
        }
        if !self.open {
            return None;
        }
        match input {
            Input::Piece(piece) => self.hold(piece),
            Input::TooLong { line } => return Some(Trouble::TooLong { line }),
            Input::Failed(why) => return Some(Trouble::Failed(why)),
            Input::End => self.open = false,
            Input::Broken(cause) => {
                self.open = false;
                return Some(Trouble::Broken(cause));
            }
        }
        None
    }

    /// No more from here on; a running command is ended. What is held stays.
    pub fn close(&mut self) {
        self.open = false;
        if let Origin::Feed(feed) = &mut self.origin {
            feed.stop();
        }
    }

    /// Forgets what was read and never accepted.
    pub fn forget_held(&mut self) {
        self.held.clear();
        (self.held_readings, self.held_bytes) = (0, 0);
        self.batches.clear();
    }

    /// A timed reading, if it is due. One that a stopped clock has missed is not made up
    /// for, and a command still running is not started again.
    fn take_reading(&mut self, now: Instant, time: impl FnOnce() -> SystemTime) {
        let Some(due) = self.tick_at.filter(|at| *at <= now) else {
            return;
        };
        self.begun = true;
        let next = due + self.interval;
        self.tick_at = Some(if next > now {
            next
        } else {
            now + self.interval
        });
        // One that waits for room is enough: this source can be asked to wait as well.
        if !self.held.is_empty() || self.has_batch() {
            return;
        }
        match &mut self.origin {
            Origin::Thermometer(thermometer) => {
                self.readings += 1;
                let (line, payload) = (self.readings, thermometer.read(time()));
                self.hold(Piece::Message { line, payload });
            }
            Origin::Feed(feed) if !feed.is_busy() => {
                self.warned_busy = false;
                feed.want(1, u64::MAX);
            }
            Origin::Feed(_) if !std::mem::replace(&mut self.warned_busy, true) => {
                warn!("--exec: the command runs longer than --interval; waiting for it to end");
            }
            Origin::Feed(_) | Origin::AtHand(_) => {}
        }
    }

    fn hold(&mut self, piece: Piece) {
        self.held_readings += piece.messages();
        self.held_bytes += piece.bytes();
        self.held.push_back(piece);
    }
}
