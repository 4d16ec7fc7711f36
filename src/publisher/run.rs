//! The publisher's event loop: source → outbox → link, and the outcomes back.
//!
//! The only place of the publisher that reads the clock. What to do is decided in the
//! outbox and the connection; this carries it out.

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use log::{error, warn};

use super::args::Config;
use super::broker;
use super::intake::{Intake, Trouble};
use super::outbox::{Offered, Outbox, Outcome, Settled};
use super::report::{Lines, Report};
use super::source::Input;
use super::verdict::Verdict;
use crate::common::client::{self, Client, Delivery};
use crate::common::event_loop::{clock, send, wait, wall_clock};
use crate::common::fault::{Exit, Fault};
use crate::common::link::{Change, Heard, Link};
use crate::common::message::Draft;
use crate::common::pacing::Drain;
use crate::common::queue::OfflineQueue;
use crate::common::signals::{self, ExitNow};

/// Everything the loop hears.
#[derive(Debug)]
enum Event {
    Client(client::Event),
    Input(Vec<Input>),
    Stop,
}

/// Events handled before the outbox is looked at again.
const BURST: usize = 64;

/// MQTT 5's reason code.
const NOT_AUTHORIZED: u8 = 0x87;

/// What the loop has to come to its end by itself once the deadline has passed.
const GRACE: Duration = Duration::from_secs(1);

/// Publishes until the work is done, and says how it went.
///
/// # Errors
///
/// What kept it from starting. What goes wrong later is logged, and in the code.
pub fn run(config: &Config) -> anyhow::Result<Exit> {
    let (events, inbox) = mpsc::channel();
    let stop = events.clone();
    let exit_now = signals::watch(config.stop_timeout, move || send(&stop, Event::Stop))
        .context("signals cannot be handled")?;
    if let Some(deadline) = config.deadline {
        signals::end_at_latest(deadline + GRACE, exit_now.clone()).context("no more threads")?;
    }
    let mut publisher =
        Publisher::start(config, &events, exit_now).context("threads cannot be started")?;
    loop {
        publisher.step(clock());
        if publisher.is_finished() {
            break;
        }
        if let Some(event) = wait(&inbox, publisher.wake_at()) {
            publisher.handle(event, clock());
        }
        for event in inbox.try_iter().take(BURST) {
            publisher.handle(event, clock());
        }
    }
    Ok(publisher.finish(&inbox))
}

struct Publisher<'a> {
    config: &'a Config,
    link: Link,
    outbox: Outbox,
    report: Report,
    exit_now: ExitNow,
    intake: Intake,
    started: Instant,
    /// When to stop trying; set once no more input comes.
    flush_until: Option<Instant>,
    deadline: Option<Instant>,
    now: Instant,
    /// What ends the run before its work is done.
    fault: Option<Fault>,
    /// The worst of what was refused on the way.
    refused: Exit,
}

impl<'a> Publisher<'a> {
    fn start(
        config: &'a Config,
        events: &Sender<Event>,
        exit_now: ExitNow,
    ) -> std::io::Result<Self> {
        let now = clock();
        let to_loop = events.clone();
        let client = Client::start(
            config
                .connection
                .client(config.max_in_flight, config.stream.clone()),
            None,
            move |event| send(&to_loop, Event::Client(event)),
        )?;
        let to_loop = events.clone();
        let emit = move |inputs| to_loop.send(Event::Input(inputs)).is_ok();
        let intake = Intake::start(config, emit, now)?;
        let connection = config.connection.connection(config.run());
        let queue = OfflineQueue::new(config.capacity, config.queue_bytes, config.drop_behavior);
        let mut publisher = Self {
            link: Link::new(connection, client),
            outbox: Outbox::new(
                config.max_in_flight,
                config.connection.operation_timeout,
                config.stream.clone(),
                queue,
                Drain::new(config.drain_rate, config.drain_by_hand),
            ),
            report: Report::new(Lines {
                receipts: config.receipts,
                verbose: config.verbose,
                summary: config.summary,
            }),
            exit_now,
            intake,
            started: now,
            flush_until: None,
            deadline: config.deadline.map(|after| now + after),
            now,
            fault: None,
            refused: Exit::Success,
            config,
        };
        if let Some(deadline) = publisher.deadline {
            publisher.outbox.finish_by(deadline);
        }
        publisher.link.start(now);
        Ok(publisher)
    }

    /// One turn: what time does, what the source has, what can be sent.
    fn step(&mut self, now: Instant) {
        self.now = now;
        let change = self.link.tick(now);
        self.apply(change);
        if self.outbox.overdue(now) {
            let fault = Fault::passing(
                Exit::Unavailable,
                format!(
                    "{}: no PUBACK within --operation-timeout {:?}: the link is taken for dead",
                    self.config.connection.endpoint, self.config.connection.operation_timeout
                ),
            );
            let change = self.link.condemn(fault, now);
            self.apply(change);
        }
        self.pump();
        if let Some(growing) = self.outbox.review(now) {
            self.report.growing(&growing);
        }
        // Before the write: it may block, and then this is what the run came to.
        self.exit_now.set(self.verdict().exit());
        self.report.flush();
    }

    fn handle(&mut self, event: Event, now: Instant) {
        self.now = now;
        match event {
            Event::Client(event) => {
                let change = self.link.handle(&event, now);
                self.apply(change);
                // Of whichever connection: what has been acknowledged has been acknowledged.
                if let client::Event::Deliveries { settled, .. } = event {
                    self.settle(settled);
                }
            }
            Event::Input(inputs) => {
                for input in inputs {
                    self.receive(input);
                }
            }
            Event::Stop => {
                let patience = self.config.stop_timeout;
                self.intake.close();
                self.intake.forget_held();
                // What is left of it is for saying goodbye.
                self.flush_by(now + patience.mul_f64(0.95));
            }
        }
    }

    fn apply(&mut self, change: Option<Change>) {
        match change {
            Some(Change::Up(accepted)) => match broker::limits(self.config, accepted) {
                Ok(limits) => {
                    self.outbox.connected(limits, self.now);
                    self.intake.begin(self.now);
                    self.report.outage_over();
                }
                Err(fault) => {
                    let change = self.link.condemn(fault, self.now);
                    self.apply(change);
                }
            },
            Some(Change::Down) => {
                self.outbox.disconnected();
                self.intake.begin(self.now);
            }
            Some(Change::GaveUp(fault)) => {
                self.outbox.disconnected();
                self.fault = Some(fault);
            }
            Some(Change::Closed) | None => {}
        }
    }

    fn settle(&mut self, settled: Vec<(u64, Delivery)>) {
        for (seq, delivery) in settled {
            let outcome = match delivery {
                Delivery::Done => Outcome::Delivered,
                Delivery::NotNow => Outcome::NotNow,
                Delivery::Refused(refusal) => {
                    // Anything but "not authorised" is about the message.
                    if refusal.code == NOT_AUTHORIZED {
                        self.refused = self.refused.or_worse(Exit::Refused);
                    }
                    Outcome::Refused(refusal.reason)
                }
            };
            let settled = self.outbox.settle(seq, outcome, self.now);
            self.record(settled);
        }
    }

    fn record(&mut self, settled: Option<Settled>) {
        match settled {
            Some(Settled::Delivered(message)) => self.report.delivered(&message),
            Some(Settled::Dead(message, reason)) => self.report.dead(&message, &reason),
            None => {}
        }
    }

    fn receive(&mut self, input: Input) {
        match self.intake.receive(input) {
            Some(Trouble::TooLong { line }) => self.report.too_long(line, self.config.max_payload),
            Some(Trouble::Failed(why)) => warn!("{why}"),
            Some(Trouble::Broken(cause)) => {
                error!("standard input cannot be read: {cause}");
                self.refused = self.refused.or_worse(Exit::Io);
            }
            None => {}
        }
    }

    /// From the source into the outbox and out of it, until one of them is satisfied.
    fn pump(&mut self) {
        loop {
            let room = self.outbox.room();
            self.intake.fill(self.now, wall_clock, room);
            while let Some((line, payload)) = self.intake.next_item() {
                if let Some(back) = self.offer(line, payload) {
                    self.intake.put_back((line, back));
                    break;
                }
            }
            if !self.dispatch() {
                break;
            }
        }
        if !self.intake.is_open() && self.flush_until.is_none() {
            self.flush_by(self.now + self.config.flush_timeout);
        }
    }

    /// Offers one message to the outbox; it comes back if the source has to wait.
    fn offer(&mut self, line: u64, payload: Vec<u8>) -> Option<Vec<u8>> {
        if payload.len() > self.config.max_payload {
            self.report.too_long(line, self.config.max_payload);
            return None;
        }
        let draft = Draft {
            topic: Arc::clone(&self.config.topic),
            payload,
            qos: self.config.qos,
            retain: self.config.retain,
        };
        let accepted_ms = wall_clock()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            });
        match self.outbox.offer(draft, accepted_ms) {
            Offered::Full(draft) => return Some(draft.payload),
            Offered::Accepted { seq, evicted } => {
                self.report.accepted(seq);
                for old in evicted {
                    self.report.dropped(old.seq, "oldest in a full queue");
                }
            }
            Offered::Dropped { seq } => self.report.dropped(seq, "newest for a full queue"),
            Offered::Refused => self.report.refused_offline(line),
        }
        self.intake.count_one();
        None
    }

    /// No more input comes; what is left has to go by then. A signal may shorten a flush,
    /// never lengthen it.
    fn flush_by(&mut self, until: Instant) {
        let earlier = self.flush_until.into_iter().chain(self.deadline).min();
        let until = earlier.map_or(until, |earlier| earlier.min(until));
        self.flush_until = Some(until);
        self.outbox.finish_by(until);
    }

    /// Hands to the client what may go; whether there was anything.
    fn dispatch(&mut self) -> bool {
        let (messages, dead) = self.outbox.dispatch(self.now);
        let moved = !messages.is_empty() || !dead.is_empty();
        for settled in dead {
            self.record(Some(settled));
        }
        if !messages.is_empty() {
            let generation = self.link.generation();
            self.link.client().publish(generation, messages);
        }
        moved
    }

    /// When the next turn is due without an event.
    fn wake_at(&self) -> Option<Instant> {
        [
            self.link.connection().wake_at(),
            self.outbox.wake_at(),
            self.intake.wake_at(),
            self.flush_until,
            self.deadline,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn is_finished(&self) -> bool {
        let done = self.flush_until.is_some() && self.undelivered() == 0;
        let late = |at: Option<Instant>| at.is_some_and(|at| self.now >= at);
        self.fault.is_some() || done || late(self.flush_until) || late(self.deadline)
    }

    fn undelivered(&self) -> usize {
        self.outbox.outstanding() + self.intake.held()
    }

    /// How the run went, as things stand.
    fn verdict(&self) -> Verdict<'_> {
        Verdict {
            counters: &self.report.counters,
            undelivered: self.undelivered(),
            offline: self.link.connection().why_offline(),
            ended_by: self.fault.as_ref(),
            refused: self.refused,
        }
    }

    /// Says goodbye, says what is lost, and sums up.
    fn finish(mut self, inbox: &Receiver<Event>) -> Exit {
        self.intake.close();
        let exit = self.verdict().exit();
        if let Some(words) = self.verdict().last_words() {
            error!("{words}");
        }
        let reconnects = self.link.connection().reconnects();
        let patience = self.config.connection.connect_timeout;
        self.link.close(inbox, patience, |event| match event {
            Event::Client(event) => Heard::Client(event),
            Event::Input(_) | Event::Stop => Heard::Other,
        });
        let elapsed = clock().saturating_duration_since(self.started);
        let queued = self.outbox.outstanding() as u64;
        if self.report.finish(reconnects, queued, elapsed) {
            exit
        } else {
            exit.or_worse(Exit::Io)
        }
    }
}
