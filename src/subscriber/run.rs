//! The subscriber's event loop: link up, subscribe, and wait; the messages themselves go
//! from Paho's thread straight into the sink.
//!
//! The loop never writes messages and never calls Paho, so neither a blocked reader nor a
//! silent name server keeps it from ending.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use log::{debug, error, warn};
use serde::Serialize;

use super::args::Config;
use super::inbox::Inbox;
use super::sink::{Notice, Sink};
use super::subscriptions::{Due, Subscriptions};
use crate::common::client::{self, Client, Refusal};
use crate::common::connection::Run;
use crate::common::event_loop::{clock, send, wait};
use crate::common::fault::{Exit, Fault};
use crate::common::link::{Change, GOODBYE, Heard, Link};
use crate::common::message::Received;
use crate::common::pattern::Patterns;
use crate::common::signals;

/// Everything the loop hears.
#[derive(Debug)]
enum Event {
    Client(client::Event),
    Sink(Notice),
    Stop,
}

/// How long to stay after a signal: there is nothing to flush.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// What `--summary` prints.
#[derive(Serialize)]
struct Summary {
    received: u64,
    duplicates: u64,
    gaps: u64,
    reconnects: u64,
    elapsed_s: f64,
}

/// Receives until the work is done, and says how it went.
///
/// # Errors
///
/// What kept it from starting. What goes wrong later is logged, and in the code.
pub fn run(config: &Config) -> anyhow::Result<Exit> {
    let (events, inbox) = mpsc::channel();
    let stop = events.clone();
    let exit_now = signals::watch(STOP_TIMEOUT, move || send(&stop, Event::Stop))
        .context("signals cannot be handled")?;
    exit_now.set(Exit::Success);
    let to_loop = events.clone();
    let notify = move |notice| send(&to_loop, Event::Sink(notice));
    let sink = Sink::stdout(config.style.clone(), Inbox::new(config.count), notify)
        .context("standard output cannot be used")?;
    let sink = Arc::new(sink);
    let to_sink = Arc::clone(&sink);
    let to_loop = events;
    let client = Client::start(
        config.connection.client(DEFAULT_WINDOW, false),
        Some(Arc::new(move |message: &Received<'_>| {
            to_sink.receive(message);
        })),
        move |event| send(&to_loop, Event::Client(event)),
    )
    .context("threads cannot be started")?;
    let started = clock();
    let mut subscriber = Subscriber::start(config, client, started);
    while subscriber.exit.is_none() {
        subscriber.step(clock());
        if let Some(event) = wait(&inbox, subscriber.wake_at()) {
            subscriber.handle(event, clock());
        }
    }
    let counts = sink.close(|inbox| (inbox.received(), inbox.duplicates(), inbox.gaps()));
    let (exit, reconnects) = subscriber.finish(&inbox);
    if config.summary {
        return Ok(exit.or_worse(summarise(counts, reconnects, started)));
    }
    Ok(exit)
}

/// The subscriber sends nothing that fills a window.
const DEFAULT_WINDOW: usize = 100;

fn summarise(counts: Option<(u64, u64, u64)>, reconnects: u64, started: Instant) -> Exit {
    let Some((received, duplicates, gaps)) = counts else {
        warn!("no summary: standard output is blocked");
        return Exit::Success;
    };
    let elapsed = clock().saturating_duration_since(started);
    let summary = Summary {
        received,
        duplicates,
        gaps,
        reconnects,
        elapsed_s: (elapsed.as_secs_f64() * 1e3).round() / 1e3,
    };
    let line = serde_json::to_string(&summary).unwrap_or_default() + "\n";
    match io::stdout().write_all(line.as_bytes()) {
        Ok(()) => Exit::Success,
        Err(cause) => broken(&cause),
    }
}

/// What the end of standard output means. A reader that has seen enough and left is a clean
/// end: what could not be written has not been acknowledged.
fn broken(cause: &io::Error) -> Exit {
    if cause.kind() == io::ErrorKind::BrokenPipe {
        debug!("standard output was closed");
        return Exit::Success;
    }
    error!("standard output cannot be written: {cause}; what was not written was not acknowledged");
    Exit::Io
}

struct Subscriber<'a> {
    config: &'a Config,
    link: Link,
    subscriptions: Subscriptions,
    patterns: Patterns,
    deadline: Option<Instant>,
    exit: Option<Exit>,
    /// Paho is blocked by a message held back: it cannot say goodbye.
    holding: bool,
}

impl<'a> Subscriber<'a> {
    fn start(config: &'a Config, client: Client, now: Instant) -> Self {
        let connection = config.connection.connection(config.run());
        let mut link = Link::new(connection, client);
        link.start(now);
        Self {
            link,
            subscriptions: Subscriptions::new(
                config.filters.clone(),
                config.connection.policy,
                config.connection.operation_timeout,
                now,
            ),
            patterns: config.connection.patterns(),
            deadline: config.timeout.map(|after| now + after),
            exit: None,
            holding: false,
            config,
        }
    }

    fn step(&mut self, now: Instant) {
        let change = self.link.tick(now);
        self.apply(change, now);
        match self.subscriptions.due(now) {
            Due::Ask(filters) => {
                for filter in filters {
                    let text = self.subscriptions.filter(filter).to_owned();
                    let generation = self.link.generation();
                    self.link
                        .client()
                        .subscribe(generation, filter, text, self.config.qos);
                }
            }
            Due::Dead { filter } => {
                let message = format!(
                    "{}: no SUBACK for {:?} within --operation-timeout {:?}, three times: the link \
                     is taken for dead",
                    self.config.connection.endpoint,
                    self.subscriptions.filter(filter),
                    self.config.connection.operation_timeout
                );
                let fault = Fault::passing(Exit::Unavailable, message);
                let change = self.link.condemn(fault, now);
                self.apply(change, now);
            }
        }
        if self.deadline.is_some_and(|at| now >= at) {
            // Without any connection it is not the messages that were late.
            let connection = self.link.connection();
            let unreached = !connection.ever_accepted();
            let why = connection.why_offline().filter(|_| unreached);
            if let Some(fault) = &why {
                error!("{fault}");
            }
            let exit = why.map_or(Exit::TimedOut, |fault| fault.exit);
            self.end(exit);
        }
    }

    fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Client(client::Event::Subscribed {
                generation,
                filter,
                answer,
            }) => {
                if generation == self.link.generation() {
                    match answer {
                        Ok(qos) => self.granted(filter, qos),
                        Err(refusal) => self.refused(filter, &refusal, now),
                    }
                }
            }
            Event::Client(event) => {
                let change = self.link.handle(&event, now);
                self.apply(change, now);
            }
            Event::Sink(Notice::Done) | Event::Stop => self.end(Exit::Success),
            Event::Sink(Notice::Broken(cause)) => self.end(broken(&cause)),
            Event::Sink(Notice::Holding) => self.holding = true,
        }
    }

    fn apply(&mut self, change: Option<Change>, now: Instant) {
        match change {
            Some(Change::Up(_)) => self.subscriptions.connected(now),
            Some(Change::Down(down)) => {
                self.subscriptions.disconnected();
                let hint = down.dropped.and_then(|d| self.patterns.dropped(d, None));
                if let Some(hint) = hint {
                    warn!("{hint}");
                }
            }
            Some(Change::GaveUp(fault)) => {
                error!("{fault}");
                self.end(fault.exit);
            }
            Some(Change::Closed) | None => {}
        }
    }

    fn granted(&mut self, filter: usize, qos: u8) {
        self.subscriptions.granted(filter, qos);
        let text = self.subscriptions.filter(filter);
        if qos < self.config.qos.level() {
            warn!("{text}: subscribed with QoS {qos}, the broker grants no more");
        } else {
            debug!("{text}: subscribed with QoS {qos}");
        }
    }

    /// A finite run ends; an endless one asks again, on the same connection.
    fn refused(&mut self, filter: usize, refusal: &Refusal, now: Instant) {
        let delay = self.subscriptions.refused(filter, now);
        let what = format!(
            "{}: the broker refused the subscription to {:?}: {}; check what its policy allows this \
             client",
            self.config.connection.endpoint,
            self.subscriptions.filter(filter),
            refusal.reason
        );
        if self.config.run() == Run::Finite {
            error!("{what}");
            self.end(refusal.exit());
        } else {
            warn!("{what}; trying again in {:.1} s", delay.as_secs_f64());
        }
    }

    fn end(&mut self, exit: Exit) {
        self.exit = Some(self.exit.map_or(exit, |earlier| earlier.or_worse(exit)));
    }

    fn wake_at(&self) -> Option<Instant> {
        [
            self.link.connection().wake_at(),
            self.subscriptions.wake_at(),
            self.deadline,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Says goodbye, if anybody can.
    fn finish(mut self, inbox: &Receiver<Event>) -> (Exit, u64) {
        let reconnects = self.link.connection().reconnects();
        if !self.holding {
            let patience = self.config.connection.connect_timeout.min(GOODBYE);
            self.link.close(inbox, patience, |event| match event {
                Event::Client(event) => Heard::Client(event),
                Event::Sink(Notice::Holding) => Heard::Hopeless,
                Event::Sink(_) | Event::Stop => Heard::Other,
            });
        }
        (self.exit.unwrap_or(Exit::Success), reconnects)
    }
}
