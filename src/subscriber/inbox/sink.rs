//! Where received messages go: looked at in order, taken apart, and handed to whoever deals with
//! them. Called on the connection's thread, which it never keeps waiting: [`acks`](crate::common::acks)
//! bounds how much may wait, and sees to it that a message is acknowledged only once it has been
//! dealt with.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use log::{info, warn};

use super::retained::Verdict;
use super::{Arrival, Inbox, Noted};
use crate::common::acks::pending::Exchange;
use crate::common::acks::{Ticket, Tickets};
use crate::common::escape::shortened;
use crate::common::mqtt::message::Received;
use crate::common::runtime::clock::wall_clock;
use crate::common::transport::bridge::{OutOfMemory, Skipped};
use crate::subscriber::output::consumer::{Outlet, Prepared};
use crate::subscriber::sequence::streams::Told;
use crate::subscriber::session::state_file::State;

/// What the sink tells the event loop.
#[derive(Debug)]
pub enum Notice {
    /// All messages that were wanted have been dealt with.
    Done,
    /// No more can be dealt with.
    Broken(Broken),
}

/// What went wrong.
#[derive(Debug)]
pub enum Broken {
    /// The output cannot be written.
    Output(io::Error),
    /// It was to be opened anew, and cannot be.
    Opening(io::Error),
    /// The state cannot be.
    State(io::Error),
}

/// What has been dealt with, or is to be.
#[derive(Debug, Default)]
pub struct Done {
    /// The messages, to be acknowledged.
    pub tickets: Tickets,
    /// What is to be remembered of them.
    pub noted: Vec<Noted>,
    /// Those at QoS 2, to be known until PUBREL.
    pub exchanges: Vec<Exchange>,
    /// Their readings.
    pub readings: u64,
    /// No further ones are wanted.
    pub last: bool,
}

impl Done {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.tickets.is_empty() && self.noted.is_empty() && self.readings == 0 && !self.last
    }

    /// Adds what comes behind it.
    pub fn append(&mut self, mut other: Self) {
        self.tickets.append(other.tickets);
        self.noted.append(&mut other.noted);
        self.exchanges.append(&mut other.exchanges);
        self.readings += other.readings;
        self.last |= other.last;
    }
}

/// What was received, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Readings that were dealt with.
    pub received: u64,
    /// Messages that had been received before.
    pub duplicates: u64,
    /// Numbers that are missing.
    pub gaps: u64,
    /// Messages that could not be handed over.
    pub skipped: u64,
    /// Commands that failed, where there is one.
    pub failed: Option<u64>,
    /// The last write has not come to its end.
    pub stuck: bool,
}

/// Deals with what has been dealt with: remembers it, and lets it be acknowledged.
pub struct Finish {
    state: Option<Arc<Mutex<State>>>,
    readings: Arc<AtomicU64>,
    notify: Box<dyn Fn(Notice) + Send>,
}

impl Finish {
    /// What is done with messages of this run. `state` is what outlives it.
    pub fn new(state: Option<Arc<Mutex<State>>>, notify: impl Fn(Notice) + Send + 'static) -> Self {
        Self {
            state,
            readings: Arc::default(),
            notify: Box::new(notify),
        }
    }

    /// How many readings have been dealt with, to be looked at later.
    pub fn readings(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.readings)
    }

    /// These have been dealt with, but it is not their turn to be acknowledged. `false` if that cannot be remembered.
    pub fn remember(&mut self, done: &mut Done) -> bool {
        if let Some(state) = &self.state {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(cause) = state.record(&done.noted, &done.exchanges) {
                (self.notify)(Notice::Broken(Broken::State(cause)));
                return false;
            }
            done.noted.clear();
            done.exchanges.clear();
        }
        true
    }

    /// These are dealt with.
    /// `false` if that cannot be remembered: then they are not acknowledged, and no others either.
    pub fn finish(&mut self, mut done: Done) -> bool {
        if !self.remember(&mut done) {
            return false;
        }
        self.readings.fetch_add(done.readings, Ordering::Relaxed);
        done.tickets.settle();
        if done.last {
            (self.notify)(Notice::Done);
        }
        true
    }
}

impl std::fmt::Debug for Finish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Finish").finish_non_exhaustive()
    }
}

/// The near end of the line.
pub struct Sink {
    front: Mutex<Front>,
    outlet: Outlet,
    ways: Ways,
}

/// What else a sink is to do.
#[derive(Debug)]
pub struct Ways {
    /// Numbers are remembered beyond the run.
    pub remembers: bool,
    pub keeps_session: bool,
    /// Gaps are told as they are found.
    pub tells_gaps: bool,
    /// How many readings have been dealt with.
    pub readings: Arc<AtomicU64>,
}

struct Front {
    inbox: Inbox,
    /// No further message is wanted.
    closed: bool,
    /// Messages that were skipped.
    skipped: u64,
    /// Topics whose messages were skipped, and that the user was warned of.
    warned: BTreeSet<Vec<u8>>,
}

/// Topics that the user is warned of, one by one, at most.
const MAX_WARNED: usize = 100;

impl Sink {
    /// A sink that has received nothing.
    pub fn new(inbox: Inbox, outlet: Outlet, ways: Ways) -> Self {
        Self {
            front: Mutex::new(Front {
                inbox,
                closed: false,
                skipped: 0,
                warned: BTreeSet::new(),
            }),
            outlet,
            ways,
        }
    }

    /// Looks at a message, and hands it on.
    ///
    /// # Errors
    ///
    /// There is no memory to hold on to it. Then it is not acknowledged.
    pub fn receive(&self, message: &Received<'_>, ticket: Ticket) -> Result<(), OutOfMemory> {
        let mut front = self.front();
        if front.closed {
            return Ok(());
        }
        let mut done = Done::default();
        let mut whole = true;
        let mut fingerprint = None;
        let verdict = front.inbox.judge(message.retained);
        if verdict == Verdict::Stop {
            whole = false;
            done.last = true;
            front.closed = true;
        } else if verdict == Verdict::Print {
            // Before it counts as received: without memory it comes again.
            let prepared = self.outlet.prepare(message)?;
            let arrival = front.inbox.arrive(message);
            whole = self.take(&mut front, message, prepared, &arrival, &mut done);
            fingerprint = arrival.fingerprint;
            front.closed |= done.last;
        } else {
            front.inbox.pass_over(message);
        }
        // What was not taken whole comes again.
        if whole {
            if self.ways.remembers && self.ways.keeps_session {
                done.exchanges.extend(ticket.exchange());
            }
            done.tickets.push(ticket);
            if self.ways.remembers {
                done.noted.extend(Noted::of(message, fingerprint));
            }
        }
        self.outlet.end(done);
        Ok(())
    }

    /// Takes the readings that are wanted of a message; whether these are all.
    fn take(
        &self,
        front: &mut Front,
        message: &Received<'_>,
        prepared: Prepared<'_>,
        arrival: &Arrival,
        done: &mut Done,
    ) -> bool {
        if !matches!(arrival.told, Told::Next) {
            self.tell(&arrival.told, message);
            self.outlet.missing(front.inbox.gaps());
        }
        if !arrival.wanted {
            return true;
        }
        let now = wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default();
        let count = prepared.readings.total();
        let wanted = front.inbox.take(count);
        done.readings = wanted as u64;
        self.outlet.put(message, prepared, wanted, now);
        done.last = front.inbox.is_full();
        wanted == count
    }

    /// A message that cannot be handed over.
    pub fn skip(&self, skipped: Skipped<'_>) {
        let mut front = self.front();
        front.skipped += 1;
        if front.warned.len() >= MAX_WARNED || !front.warned.insert(skipped.topic.to_owned()) {
            return;
        }
        let topic = shortened(&skipped.topic.escape_ascii().to_string());
        let defect = skipped.defect.describe();
        warn!("topic \"{topic}\": messages are acknowledged and skipped: {defect}");
        if front.warned.len() == MAX_WARNED {
            warn!("further topics whose messages are skipped are not named");
        }
    }

    fn tell(&self, told: &Told, message: &Received<'_>) {
        let Some(seq) = message.seq.as_ref().filter(|_| self.ways.tells_gaps) else {
            return;
        };
        let (stream, topic) = (&seq.stream, message.topic);
        match told {
            Told::Gap(gaps) => {
                for (from, until) in gaps {
                    if from == until {
                        warn!("gap: {from} of stream {stream} is missing ({topic})");
                    } else {
                        warn!("gap: {from} to {until} of stream {stream} are missing ({topic})");
                    }
                }
            }
            Told::InPart(width) => warn!(
                "stream {stream}: numbers are missing evenly, all but one of {width}, and none comes late: the \
                 others seem to be sent to topics that no --topic matches ({topic} is matched), and are \
                 not counted as missing; for --gaps subscribe to all topics of a publisher, or have \
                 a publisher for each topic. If all are matched, messages are lost all the time"
            ),
            Told::Late => info!("{} of stream {stream} came late ({topic})", seq.seq),
            Told::Next | Told::Known => {}
        }
    }

    /// The outlet, to be opened anew.
    pub fn reopen(&self) {
        self.outlet.reopen();
    }

    /// The process ends now: no command is left behind.
    pub fn abandon(&self) {
        self.outlet.abandon();
    }

    /// Takes no more messages, waits until those that are here have been dealt with, for as long
    /// as `patience` at most, and says what was received.
    pub fn close(&self, patience: Duration) -> Counts {
        self.front().closed = true;
        let stuck = !self.outlet.close(patience);
        let front = self.front();
        Counts {
            received: self.ways.readings.load(Ordering::Relaxed),
            duplicates: front.inbox.duplicates(),
            gaps: front.inbox.gaps(),
            skipped: front.skipped,
            failed: self.outlet.failed(),
            stuck,
        }
    }

    fn front(&self) -> MutexGuard<'_, Front> {
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
