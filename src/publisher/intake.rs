//! The near end of the source: what has been read and not yet accepted, when the next timed
//! reading is due, how much to ask for, and when there is no more to come.

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant, SystemTime};

use log::warn;

use super::config::{Config, SourceKind};
use super::reading::Thermometer;
use super::source::{Emit, Feed, Input};
use crate::common::message::Draft;
use crate::common::queue::Room;

/// Bytes of a line of JSON beside its payload: topic and the other fields.
const JSON_AROUND: usize = 1 << 20;

/// A source that can wait is asked for so many messages at most.
const DEMAND: usize = 1_024;

/// A message and its line: of standard input, or the number of the timed reading.
pub type Item = (u64, Content);

/// What is on its way to the outbox.
#[derive(Debug)]
pub enum Content {
    /// As the source gave it.
    Raw(Vec<u8>),
    /// As the outbox gave it back.
    Draft(Draft),
}

impl Content {
    fn bytes(&self) -> u64 {
        let bytes = match self {
            Content::Raw(bytes) => bytes.len(),
            Content::Draft(draft) => draft.payload.len(),
        };
        bytes as u64
    }
}

/// Something from the source that is not a message.
#[derive(Debug)]
pub enum Trouble {
    /// A line longer than allowed was skipped.
    TooLong {
        /// Which.
        line: u64,
    },
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
    /// Read, but the outbox had no room yet.
    held: VecDeque<Item>,
    held_bytes: u64,
    /// Messages that may still come.
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
            SourceKind::Command(argv) => Origin::Feed(Feed::command(argv.clone(), max, emit)?),
            SourceKind::Lines => {
                // Base64 takes a third more than the bytes, text seldom twice as much.
                let longest = if config.json {
                    max.saturating_mul(2) + JSON_AROUND
                } else {
                    max
                };
                Origin::Feed(Feed::lines(longest, emit)?)
            }
            SourceKind::Stdin => Origin::Feed(Feed::whole(max, emit)?),
            SourceKind::Message(payload) => Origin::AtHand(Some(payload.clone())),
        };
        Ok(Self {
            origin,
            held: VecDeque::new(),
            held_bytes: 0,
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
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Messages read and not yet accepted.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// When the next timed reading is due.
    #[must_use]
    pub fn wake_at(&self) -> Option<Instant> {
        self.tick_at.filter(|_| self.open)
    }

    /// The first attempt to connect has come to its end, one way or the other: timed readings
    /// begin.
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
                Origin::Feed(feed) => {
                    let left = self.left.and_then(|n| usize::try_from(n).ok());
                    let most = room.messages.min(left.unwrap_or(DEMAND)).min(DEMAND);
                    feed.want(
                        most.saturating_sub(self.held.len()),
                        room.bytes.saturating_sub(self.held_bytes),
                    );
                }
                Origin::AtHand(message) => {
                    if let Some(payload) = message.take() {
                        self.put_back((1, Content::Raw(payload)));
                    }
                    self.open = false;
                }
                Origin::Thermometer(_) => {}
            }
        }
    }

    /// The next message to offer.
    pub fn next_item(&mut self) -> Option<Item> {
        let item = self.held.pop_front()?;
        self.held_bytes -= item.1.bytes();
        Some(item)
    }

    /// There was no room for it: it comes first again.
    pub fn put_back(&mut self, item: Item) {
        self.held_bytes += item.1.bytes();
        self.held.push_front(item);
    }

    /// One message less to come.
    pub fn count_one(&mut self) {
        self.left = self.left.map(|n| n.saturating_sub(1));
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
            Input::Message { line, payload } => self.hold((line, Content::Raw(payload))),
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
        self.held_bytes = 0;
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
        if !self.held.is_empty() {
            return;
        }
        match &mut self.origin {
            Origin::Thermometer(thermometer) => {
                self.readings += 1;
                let reading = thermometer.read(time());
                self.hold((self.readings, Content::Raw(reading)));
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

    fn hold(&mut self, item: Item) {
        self.held_bytes += item.1.bytes();
        self.held.push_back(item);
    }
}
