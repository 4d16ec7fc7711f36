//! The subscriber's event loop: link up, subscribe, and wait; the messages themselves go
//! from Paho's thread straight into the sink.
//!
//! The loop never deals with messages and never calls Paho, so neither a blocked reader nor a
//! silent name server keeps it from ending.

mod start;

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use log::{debug, error, info, warn};
use serde::Serialize;

use crate::common::client::{self, Client, Listener, Refusal};
use crate::common::connection::Run;
use crate::common::event_loop::{clock, send, wait};
use crate::common::fault::{Exit, Fault};
use crate::common::flow::Backlog;
use crate::common::link::{Change, GOODBYE, Heard, Link};
use crate::common::pattern::Patterns;
use crate::common::signals;
use crate::subscriber::config::{Config, Outlet as Wish};
use crate::subscriber::session::{Resumption, Session};
use crate::subscriber::sink::{Counts, Notice};
use crate::subscriber::state::State;
use crate::subscriber::subscriptions::{Due, Subscriptions};

/// Everything the loop hears.
#[derive(Debug)]
enum Event {
    Client(client::Event),
    Sink(Notice),
    Stop,
}

/// How long to stay after a signal.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long what has been received may take to be dealt with in the end.
const PATIENCE: Duration = Duration::from_secs(3);

/// What `--summary` prints.
#[derive(Serialize)]
struct Summary {
    received: u64,
    duplicates: u64,
    gaps: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<u64>,
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
    let state = match &config.state {
        Some(path) => Some(Arc::new(Mutex::new(State::open(path)?))),
        None => None,
    };
    let backlog = Arc::new(Backlog::default());
    let sink = Arc::new(start::start(config, state.clone(), &backlog, &events)?);
    let stop = events.clone();
    let hang_up: Option<Box<dyn Fn() + Send>> = match &config.outlet {
        Wish::File(..) => {
            let sink = Arc::clone(&sink);
            Some(Box::new(move || sink.reopen()))
        }
        _ => None,
    };
    let exit_now = signals::watch(STOP_TIMEOUT, move || send(&stop, Event::Stop), hang_up)
        .context("signals cannot be handled")?;
    exit_now.set(Exit::Success);
    let to_sink = Arc::clone(&sink);
    let to_loop = events;
    let client = Client::start(
        client::Config {
            session_expiry: config.session_expiry,
            ..config.connection.client(DEFAULT_WINDOW, false)
        },
        Some(Listener {
            on_message: Arc::new(move |message, ticket| to_sink.receive(message, ticket)),
            backlog: Arc::clone(&backlog),
        }),
        move |event| send(&to_loop, Event::Client(event)),
    )
    .context("threads cannot be started")?;
    let started = clock();
    let mut subscriber = Subscriber::start(config, client, backlog, state, started)?;
    while subscriber.exit.is_none() {
        subscriber.step(clock());
        if let Some(event) = wait(&inbox, subscriber.wake_at()) {
            subscriber.handle(event, clock());
        }
    }
    // What has been received is dealt with, and acknowledged, before DISCONNECT.
    let counts = sink.close(PATIENCE);
    let (mut exit, reconnects) = subscriber.finish(&inbox);
    let failed = counts.failed.unwrap_or_default();
    if failed > 0 {
        warn!("--exec: {failed} of {} commands failed", counts.received);
    }
    if failed > 0 || (config.gaps && counts.gaps > 0) {
        exit = exit.or_worse(Exit::Data);
    }
    if config.summary {
        exit = exit.or_worse(summarise(counts, reconnects, started));
    }
    Ok(exit)
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The subscriber sends nothing that fills a window.
const DEFAULT_WINDOW: usize = 100;

fn summarise(counts: Counts, reconnects: u64, started: Instant) -> Exit {
    let elapsed = clock().saturating_duration_since(started);
    let summary = Summary {
        received: counts.received,
        duplicates: counts.duplicates,
        gaps: counts.gaps,
        failed: counts.failed,
        reconnects,
        elapsed_s: (elapsed.as_secs_f64() * 1e3).round() / 1e3,
    };
    let line = serde_json::to_string(&summary).unwrap_or_default() + "\n";
    match io::stdout().write_all(line.as_bytes()) {
        Ok(()) => Exit::Success,
        Err(cause) => broken(None, &cause),
    }
}

/// What it means that no more can be written. A reader that has seen enough and left is a clean
/// end: what could not be written has not been acknowledged.
fn broken(path: Option<&Path>, cause: &io::Error) -> Exit {
    if path.is_none() && cause.kind() == io::ErrorKind::BrokenPipe {
        debug!("standard output was closed");
        return Exit::Success;
    }
    let what = path.map_or("standard output".into(), |path| path.display().to_string());
    error!("{what} cannot be written: {cause}; what was not written was not acknowledged");
    Exit::Io
}

struct Subscriber<'a> {
    config: &'a Config,
    link: Link,
    subscriptions: Subscriptions,
    patterns: Patterns,
    deadline: Option<Instant>,
    exit: Option<Exit>,
    session: Session,
    backlog: Arc<Backlog>,
    state: Option<Arc<Mutex<State>>>,
    /// The name of the session in it.
    session_name: String,
}

impl<'a> Subscriber<'a> {
    fn start(
        config: &'a Config,
        client: Client,
        backlog: Arc<Backlog>,
        state: Option<Arc<Mutex<State>>>,
        now: Instant,
    ) -> io::Result<Self> {
        let connection = config.connection.connection(config.run());
        let name = format!(
            "{} {}",
            config.connection.endpoint, config.connection.client_id
        );
        let left = match &state {
            Some(state) => lock(state).session(&name)?,
            None => None,
        };
        let persistent = config.session_expiry.is_some();
        let mut link = Link::new(connection, client);
        link.start(now);
        Ok(Self {
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
            session: Session::new(persistent, config.filters.clone(), left),
            backlog,
            state,
            session_name: name,
            config,
        })
    }

    fn step(&mut self, now: Instant) {
        let change = self.link.tick(now);
        self.apply(change, now);
        match self.subscriptions.due(now, self.backlog.may_be_full()) {
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
            Event::Sink(Notice::Broken(cause)) => {
                let path = match &self.config.outlet {
                    Wish::File(file, _) => Some(file.path.as_path()),
                    Wish::Command { .. } => self.config.state.as_deref(),
                    Wish::Stdout(_) => None,
                };
                self.end(broken(path, &cause));
            }
        }
    }

    fn apply(&mut self, change: Option<Change>, now: Instant) {
        match change {
            Some(Change::Up(accepted)) => {
                self.subscriptions.connected(now);
                let resumption = self.session.connected(accepted.session_present);
                self.resume(resumption);
            }
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

    fn resume(&mut self, resumption: Resumption) {
        let (endpoint, id) = (
            &self.config.connection.endpoint,
            &self.config.connection.client_id,
        );
        match resumption {
            Resumption::New if self.config.session_expiry.is_some() => {
                info!("{endpoint}: a new session begins for client {id:?}");
            }
            Resumption::New => {}
            Resumption::Lost => warn!(
                "{endpoint}: the broker has lost the session of client {id:?}: what was published while it was \
                 away is missing; look at --session-expiry, and at whether the broker was restarted \
                 without persistence"
            ),
            Resumption::Resumed(stale) => {
                debug!("{endpoint}: the session of client {id:?} goes on");
                if !stale.is_empty() {
                    info!("no longer subscribed: {}", stale.join(" "));
                    self.link
                        .client()
                        .unsubscribe(self.link.generation(), stale);
                }
            }
        }
    }

    /// All filters have been granted: from now on the broker keeps messages for us.
    fn remember_session(&mut self) {
        if self.subscriptions.all_granted()
            && self.session.subscribed()
            && let Some(state) = &self.state
            && let Err(cause) = lock(state).begin_session(&self.session_name, &self.config.filters)
        {
            self.exit = Some(broken(self.config.state.as_deref(), &cause));
        }
    }

    fn granted(&mut self, filter: usize, qos: u8) {
        self.subscriptions.granted(filter, qos);
        self.remember_session();
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
        let patience = self.config.connection.connect_timeout.min(GOODBYE);
        self.link.close(inbox, patience, |event| match event {
            Event::Client(event) => Heard::Client(event),
            Event::Sink(_) | Event::Stop => Heard::Other,
        });
        (self.exit.unwrap_or(Exit::Success), reconnects)
    }
}
