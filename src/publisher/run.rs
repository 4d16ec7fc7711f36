//! The publisher's event loop: source → outbox → link, and the outcomes back.
//!
//! The only place of the publisher that reads the clock. What to do is decided in the
//! outbox and the connection; this carries it out.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant, SystemTime};

use log::{error, warn};

use super::args::{Config, SourceKind};
use super::outbox::{Offered, Outbox, Outcome, SessionLimits, Settled};
use super::reading::Thermometer;
use super::report::{Lines, Report};
use super::source::{Feed, Input};
use crate::common::client::{self, Accepted, Client, Delivery};
use crate::common::event_loop::{clock, send, wait, wall_clock};
use crate::common::fault::{Exit, Fault};
use crate::common::link::{Change, Link};
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

/// A source that can wait is asked for so many messages at most.
const DEMAND: usize = 1_024;

/// How long DISCONNECT may take; it is a courtesy, nothing is lost without it.
const GOODBYE: Duration = Duration::from_secs(1);

/// Publishes until the work is done, and says how it went.
///
/// # Errors
///
/// A fault that kept it from starting. What goes wrong later is logged, and in the code.
pub fn run(config: &Config) -> Result<Exit, Fault> {
    let (events, inbox) = mpsc::channel();
    let stop = events.clone();
    let exit_now = signals::watch(config.stop_timeout, move || send(&stop, Event::Stop))
        .map_err(|e| Fault::permanent(Exit::Io, format!("signals cannot be handled: {e}")))?;
    let mut publisher = Publisher::start(config, &events, exit_now)
        .map_err(|e| Fault::permanent(Exit::Io, format!("threads cannot be started: {e}")))?;
    while !publisher.is_finished() {
        publisher.step(clock());
        if let Some(event) = wait(&inbox, publisher.wake_at()) {
            publisher.handle(event, clock());
        }
        for event in inbox.try_iter().take(BURST) {
            publisher.handle(event, clock());
        }
    }
    Ok(publisher.finish(&inbox))
}

/// Where timed readings come from.
enum Origin {
    Feed(Feed),
    Thermometer(Thermometer),
    /// One message, until it is taken.
    AtHand(Option<Vec<u8>>),
}

struct Publisher<'a> {
    config: &'a Config,
    link: Link,
    outbox: Outbox,
    report: Report,
    exit_now: ExitNow,
    origin: Origin,
    /// When the next timed reading is due.
    tick_at: Option<Instant>,
    /// Messages the source may still give.
    left: Option<u64>,
    /// Read, but the outbox had no room: the source waits.
    held: VecDeque<(u64, Vec<u8>)>,
    started: Instant,
    /// When to stop trying; set once no more input comes.
    flush_until: Option<Instant>,
    deadline: Option<Instant>,
    now: Instant,
    /// What ends the run before its work is done.
    fault: Option<Fault>,
    /// The worst of what was refused on the way.
    refused: Exit,
    warned_growing: bool,
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
        let max = config.max_payload;
        let origin = match &config.source {
            SourceKind::Simulated => Origin::Thermometer(Thermometer::default()),
            SourceKind::Command(argv) => Origin::Feed(Feed::command(argv.clone(), max, emit)?),
            SourceKind::Lines => Origin::Feed(Feed::lines(max, emit)?),
            SourceKind::Stdin => Origin::Feed(Feed::whole(max, emit)?),
            SourceKind::Message(payload) => Origin::AtHand(Some(payload.clone())),
        };
        let connection = config.connection.connection(config.run());
        let queue = OfflineQueue::new(config.capacity, config.queue_bytes, config.drop_behavior);
        let mut publisher = Self {
            link: Link::new(connection, client, config.connection.endpoint.to_string()),
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
            origin,
            tick_at: config.source.is_timed().then_some(now),
            left: config.count,
            held: VecDeque::new(),
            started: now,
            flush_until: None,
            deadline: config.deadline.map(|after| now + after),
            now,
            fault: None,
            refused: Exit::Success,
            warned_growing: false,
            config,
        };
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
        self.take_from_source();
        self.dispatch();
        self.review();
        self.report.flush();
        self.exit_now.set(self.exit());
    }

    fn handle(&mut self, event: Event, now: Instant) {
        self.now = now;
        match event {
            Event::Client(event) => {
                let change = self.link.handle(&event, now);
                self.apply(change);
                if let client::Event::Deliveries {
                    generation,
                    settled,
                } = event
                    && generation == self.link.generation()
                {
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
                // What is left of it is for saying goodbye.
                self.end_of_input(now + patience.mul_f64(0.95));
                self.held.clear();
            }
        }
    }

    fn apply(&mut self, change: Option<Change>) {
        match change {
            Some(Change::Up(accepted)) => match self.unsuitable(accepted) {
                Some(fault) => {
                    let change = self.link.condemn(fault, self.now);
                    self.apply(change);
                }
                None => self.outbox.connected(limits(accepted), self.now),
            },
            Some(Change::Down) => self.outbox.disconnected(),
            Some(Change::GaveUp(fault)) => {
                self.outbox.disconnected();
                self.fault = Some(fault);
            }
            Some(Change::Closed) | None => {}
        }
    }

    /// Why this broker can never take what we send.
    fn unsuitable(&self, accepted: Accepted) -> Option<Fault> {
        let host = &self.config.connection.endpoint;
        let message = match accepted.maximum_qos {
            Some(max) if self.config.qos.level() > max => {
                format!("{host}: the broker takes QoS 0 to {max}; give --qos {max}")
            }
            _ if self.config.retain && !accepted.retain_available => {
                format!("{host}: the broker keeps no retained messages; leave --retain out")
            }
            _ => return None,
        };
        Some(Fault::permanent(Exit::Protocol, message))
    }

    fn settle(&mut self, settled: Vec<(u64, Delivery)>) {
        for (seq, delivery) in settled {
            let outcome = match delivery {
                Delivery::Done => Outcome::Delivered,
                Delivery::NotNow => Outcome::NotNow,
                Delivery::Refused(refusal) => {
                    // Anything but "not authorised" is about the message.
                    if refusal.exit() == Exit::Refused {
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
            Some(Settled::Dead(message, reason)) => {
                warn!(
                    "{}: message {} cannot be delivered: {reason}",
                    self.config.topic, message.seq
                );
                self.report.dead(message.seq, &reason);
            }
            None => {}
        }
    }

    fn receive(&mut self, input: Input) {
        if let Origin::Feed(feed) = &mut self.origin {
            feed.received();
        }
        if self.flush_until.is_some() {
            return;
        }
        match input {
            Input::Message { line, payload } => self.held.push_back((line, payload)),
            Input::TooLong { line } => self.reject_too_long(line),
            Input::Failed(why) => warn!("{why}"),
            Input::End => self.end_of_input(self.now + self.config.flush_timeout),
            Input::Broken(cause) => {
                error!("standard input cannot be read: {cause}");
                self.refused = self.refused.or_worse(Exit::Io);
                self.end_of_input(self.now + self.config.flush_timeout);
            }
        }
    }

    fn reject_too_long(&mut self, line: u64) {
        let reason = format!("longer than {} bytes", self.config.max_payload);
        warn!("message {line} is rejected: {reason}");
        self.report.rejected(line, &reason);
    }

    /// Takes what is due or at hand, as far as the outbox has room, and asks for more.
    fn take_from_source(&mut self) {
        while let Some((line, payload)) = self.held.pop_front() {
            if let Some(back) = self.offer(line, payload) {
                self.held.push_front((line, back));
                return;
            }
        }
        if self.flush_until.is_some() {
            return;
        }
        if self.left == Some(0) {
            return self.end_of_input(self.now + self.config.flush_timeout);
        }
        match &mut self.origin {
            Origin::AtHand(message) => {
                if let Some(payload) = message.take() {
                    self.held.push_back((1, payload));
                    self.end_of_input(self.now + self.config.flush_timeout);
                    self.take_from_source();
                }
            }
            Origin::Feed(feed) if self.tick_at.is_none() => {
                let most = self
                    .left
                    .map_or(DEMAND, |n| usize::try_from(n).unwrap_or(DEMAND));
                feed.want(self.outbox.room().min(DEMAND).min(most));
            }
            Origin::Feed(_) | Origin::Thermometer(_) => self.take_reading(),
        }
    }

    /// A timed reading, if it is due. One that a stopped clock has missed is not made up
    /// for, and a command still running is not started again.
    fn take_reading(&mut self) {
        let Some(due) = self.tick_at.filter(|at| *at <= self.now) else {
            return;
        };
        let next = due + self.config.interval;
        self.tick_at = Some(if next > self.now {
            next
        } else {
            self.now + self.config.interval
        });
        match &mut self.origin {
            Origin::Thermometer(thermometer) => {
                let payload = thermometer.read(wall_clock());
                self.held.push_back((1, payload));
                self.take_from_source();
            }
            Origin::Feed(feed) if !feed.is_busy() => feed.want(1),
            Origin::Feed(_) | Origin::AtHand(_) => {}
        }
    }

    /// Offers one message to the outbox; it comes back if the source has to wait.
    fn offer(&mut self, line: u64, payload: Vec<u8>) -> Option<Vec<u8>> {
        if payload.len() > self.config.max_payload {
            self.reject_too_long(line);
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
            Offered::Dropped { seq } => self.report.dropped(seq, "the queue is full"),
            Offered::Refused => self
                .report
                .rejected(line, "offline and the queue is disabled"),
        }
        self.left = self.left.map(|n| n.saturating_sub(1));
        None
    }

    fn end_of_input(&mut self, until: Instant) {
        self.tick_at = None;
        if let Origin::Feed(feed) = &mut self.origin {
            feed.stop();
        }
        // A signal may shorten a flush, never lengthen it.
        let until = self.flush_until.map_or(until, |earlier| earlier.min(until));
        self.flush_until = Some(until);
        self.outbox.finish_by(until);
    }

    fn dispatch(&mut self) {
        let (messages, dead) = self.outbox.dispatch(self.now);
        for settled in dead {
            self.record(Some(settled));
        }
        if !messages.is_empty() {
            self.link.client().publish(self.link.generation(), messages);
        }
    }

    fn review(&mut self) {
        if let Some(growing) = self.outbox.review(self.now)
            && (growing.raised || !self.warned_growing)
        {
            self.warned_growing = true;
            warn!(
                "the queue grows while it drains: {:.1} readings a second arrive; draining {:.1} a \
                 second{}",
                growing.arrivals_per_s,
                growing.drains_per_s,
                if growing.raised {
                    " from now on"
                } else {
                    ", as --drain-rate says"
                }
            );
        }
    }

    /// When the next turn is due without an event.
    fn wake_at(&self) -> Option<Instant> {
        [
            self.link.connection().wake_at(),
            self.outbox.wake_at(),
            self.tick_at,
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
        self.outbox.outstanding() + self.held.len()
    }

    /// The exit code as things stand.
    fn exit(&self) -> Exit {
        let counters = &self.report.counters;
        let mut exit = self.refused;
        if counters.dropped + counters.rejected + counters.dead > 0 {
            exit = exit.or_worse(Exit::Data);
        }
        if self.undelivered() > 0 {
            let why = self.link.connection().last_fault();
            exit = exit.or_worse(why.map_or(Exit::Unavailable, |fault| fault.exit));
        }
        match &self.fault {
            Some(fault) => exit.or_worse(fault.exit),
            None => exit,
        }
    }

    /// Says goodbye, says what is lost, and sums up.
    fn finish(mut self, inbox: &Receiver<Event>) -> Exit {
        if let Origin::Feed(feed) = &mut self.origin {
            feed.stop();
        }
        let exit = self.exit();
        let lost = self.undelivered();
        if let Some(fault) = &self.fault {
            error!("{fault}");
        }
        if lost > 0 {
            let why = self.link.connection().last_fault();
            error!(
                "{lost} message{} not delivered and lost, as the queue was in memory only{}",
                if lost == 1 { " was" } else { "s were" },
                why.map_or_else(String::new, |fault| format!(": {fault}"))
            );
        }
        let reconnects = self.link.connection().reconnects();
        if self.link.stop() {
            let until = clock() + GOODBYE.min(self.config.connection.connect_timeout);
            while let Some(event) = wait(inbox, Some(until)) {
                if let Event::Client(event) = event
                    && self.link.handle(&event, clock()) == Some(Change::Closed)
                {
                    break;
                }
            }
        }
        let elapsed = clock().saturating_duration_since(self.started);
        let queued = self.outbox.outstanding() as u64;
        match self.report.finish(reconnects, queued, elapsed) {
            Ok(()) => exit,
            Err(cause) => {
                error!("standard output cannot be written: {cause}");
                exit.or_worse(Exit::Io)
            }
        }
    }
}

/// What the broker allows, where it says so.
fn limits(accepted: Accepted) -> SessionLimits {
    let protocol = SessionLimits::PROTOCOL;
    SessionLimits {
        receive_maximum: accepted
            .receive_maximum
            .map_or(protocol.receive_maximum, usize::from),
        maximum_packet_size: accepted
            .maximum_packet_size
            .and_then(|size| usize::try_from(size).ok())
            .unwrap_or(protocol.maximum_packet_size),
    }
}
