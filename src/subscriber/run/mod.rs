//! The subscriber's event loop: link up, subscribe, and wait; the messages themselves go
//! from the connection's thread straight into the sink.
//!
//! The loop never deals with messages and never calls Paho, so neither a blocked reader nor a
//! silent name server keeps it from ending.

mod ending;
mod start;

use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use log::{debug, error, info, warn};

use crate::common::acks::Backlog;
use crate::common::client::{
    Client, ClientConfig, ClientEvent, Direction, MessageHandlers, Refusal, Request,
};
use crate::common::connection::diagnosis::{CloseDiagnosis, PendingRequest};
use crate::common::connection::driver::{ConnectionDriver, ConnectionUpdate};
use crate::common::connection::state::{ConnectionState, RunKind};
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::channel::{receive_until, send};
use crate::common::runtime::clock::clock;
use crate::common::runtime::signals;
use crate::common::transport::bridge::{END_TIMEOUT, Ended};
use crate::subscriber::config::{Config, Outlet as Wish};
use crate::subscriber::inbox::sink::{Broken, Notice, Sink};
use crate::subscriber::plot::model::Chart;
use crate::subscriber::plot::screen::Screen;
use crate::subscriber::session::state_file::State;
use crate::subscriber::session::subscriptions::{Due, Subscriptions};
use crate::subscriber::session::{Resumption, Session};
use ending::{broken, exit_of, summarise, told};

/// Everything the loop hears.
#[derive(Debug)]
enum Event {
    Client(ClientEvent),
    Sink(Notice),
    Stop,
}

/// How long to stay after a signal.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long what has been received may take to be dealt with in the end.
const PATIENCE: Duration = Duration::from_secs(3);

/// How long what has been dealt with may wait in the end for a connection, or at QoS 2 for PUBREL, and how often to
/// look.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(2);
const ACKNOWLEDGE_PAUSE: Duration = Duration::from_millis(10);

/// How long the end of a connection may take to be told of.
const GRACE: Duration = Duration::from_millis(100);

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
    if let Some(state) = &state {
        let exchanges = lock(state).exchanges(&session_name(config))?;
        if config.session_expiry.is_some() {
            backlog.restore(exchanges);
        }
    }
    let started = clock();
    let chart = Chart::new(&config.connection.endpoint.to_string(), started);
    let chart = Arc::new(Mutex::new(chart));
    let sink = start::start(config, state.clone(), &backlog, &events, &chart)?;
    let sink = Arc::new(sink);
    let stop = events.clone();
    let at_sink = |call: fn(&Sink)| -> signals::Callback {
        let sink = Arc::clone(&sink);
        Box::new(move || call(&sink))
    };
    let hang_up = matches!(config.outlet, Wish::File(..)).then(|| at_sink(Sink::reopen));
    let leave = Some(at_sink(Sink::abandon));
    let stop = move || send(&stop, Event::Stop);
    let exit_now = signals::handle_stop_signals(STOP_TIMEOUT, stop, hang_up, leave)
        .context("signals cannot be handled")?;
    exit_now.set(Exit::Success);
    // Its keys raise signals: not before they are handled.
    let mut screen = match &config.outlet {
        Wish::Chart(_) => Some(Screen::start(Arc::clone(&chart), started)?),
        _ => None,
    };
    let (to_sink, to_skip) = (Arc::clone(&sink), Arc::clone(&sink));
    let (to_loop, forgetful) = (events.clone(), state.clone());
    let client = Client::start(
        ClientConfig {
            session_expiry: config.session_expiry,
            retain_as_published: config.retain_as_published,
            ..config.connection.client(DEFAULT_WINDOW, false)
        },
        Some(MessageHandlers {
            on_message: Arc::new(move |message, ticket| to_sink.receive(message, ticket)),
            on_skipped: Arc::new(move |skipped| to_skip.skip(skipped)),
            on_ended: Arc::new(move |ended| forget(forgetful.as_deref(), ended, &events)),
            backlog: Arc::clone(&backlog),
        }),
        move |event| send(&to_loop, Event::Client(event)),
    )
    .context("threads cannot be started")?;
    let kept = state.clone();
    let mut subscriber = Subscriber::start(config, client, backlog, state, started)?;
    while subscriber.exit.is_none() {
        subscriber.step(clock());
        if let Some(screen) = &mut screen {
            let connection = subscriber.driver.connection();
            lock(&chart).follow(connection, clock());
            if let Err(cause) = screen.tick(clock()) {
                subscriber.end(broken(None, &cause));
                break;
            }
        }
        let drawn = screen.as_ref().map(Screen::wake_at);
        let until = subscriber.wake_at().into_iter().chain(drawn).min();
        if let Some(event) = receive_until(&inbox, until) {
            subscriber.handle(event, clock());
        }
    }
    if let Some(screen) = screen {
        screen.finish(clock());
    }
    // Standard output may be blocked, the end included.
    exit_now.set(subscriber.exit.unwrap_or(Exit::Success));
    signals::exit_after(STOP_TIMEOUT, exit_now).context("threads cannot be started")?;
    // What has been received is dealt with, and acknowledged, before DISCONNECT.
    let all_by = clock() + PATIENCE;
    let counts = sink.close(PATIENCE);
    let until = clock() + ACKNOWLEDGE_TIMEOUT;
    subscriber.acknowledge(&inbox, until, all_by);
    if let Some(state) = kept.as_ref().and_then(|state| state.try_lock().ok()) {
        state.gather();
    }
    let (mut exit, reconnects) = subscriber.finish(&inbox);
    exit = exit.or_worse(exit_of(config, counts));
    if config.summary {
        exit = exit.or_worse(summarise(counts, reconnects, started));
    }
    Ok(exit)
}

/// What the state calls the session.
fn session_name(config: &Config) -> String {
    let connection = &config.connection;
    format!("{} {}", connection.endpoint, connection.client_id)
}

/// The broker has ended this: it is not remembered any longer. `false` if that cannot be written.
fn forget(state: Option<&Mutex<State>>, ended: Ended<'_>, events: &Sender<Event>) -> bool {
    let Some(state) = state else { return true };
    let forgotten = match ended {
        Ended::Session => lock(state).forget_exchanges(),
        Ended::Exchanges(ids) => lock(state).end_exchanges(ids),
    };
    let broken = forgotten.map_err(|cause| Notice::Broken(Broken::State(cause)));
    broken
        .map_err(|broken| send(events, Event::Sink(broken)))
        .is_ok()
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The subscriber sends nothing that fills a window.
const DEFAULT_WINDOW: usize = 100;

struct Subscriber<'a> {
    config: &'a Config,
    driver: ConnectionDriver,
    subscriptions: Subscriptions,
    diagnosis: CloseDiagnosis,
    deadline: Option<Instant>,
    exit: Option<Exit>,
    session: Session,
    backlog: Arc<Backlog>,
    state: Option<Arc<Mutex<State>>>,
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
        let name = session_name(config);
        let left = match &state {
            Some(state) => lock(state).session(&name)?,
            None => None,
        };
        let persistent = config.session_expiry.is_some();
        let mut driver = ConnectionDriver::new(connection, client);
        driver.start(now);
        Ok(Self {
            driver,
            subscriptions: Subscriptions::new(
                config.filters.clone(),
                config.connection.policy,
                config.connection.operation_timeout,
                now,
            ),
            diagnosis: config.connection.close_diagnosis(),
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
        let change = self.driver.handle_timeout(now);
        self.apply(change, now);
        match self.subscriptions.due(now, self.backlog.may_be_full()) {
            Due::Ask(filters) => {
                for filter in filters {
                    let text = self.subscriptions.filter(filter).to_owned();
                    let generation = self.driver.generation();
                    self.driver
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
                let change = self.driver.fail_connection(fault, now);
                self.apply(change, now);
            }
        }
        if self.deadline.is_some_and(|at| now >= at) {
            // Without any connection, or with a broker that breaks the protocol, it is not the messages
            // that were late.
            let connection = self.driver.connection();
            let unreached = !connection.was_ever_online();
            let is_cause = |fault: &Fault| matches!(fault.exit, Exit::Protocol | Exit::Io);
            let why = connection.why_offline();
            let why = why.filter(|fault| unreached || is_cause(fault));
            if let Some(fault) = &why {
                error!("{fault}");
            }
            let exit = why.map_or(Exit::TimedOut, |fault| fault.exit);
            self.end(exit);
        }
    }

    fn handle(&mut self, event: Event, now: Instant) {
        match event {
            Event::Client(ClientEvent::Subscribed {
                generation,
                filter,
                answer,
            }) => {
                if generation == self.driver.generation() {
                    match answer {
                        Ok(qos) => self.granted(filter, qos),
                        Err(refusal) => self.refused(filter, &refusal, now),
                    }
                }
            }
            Event::Client(ClientEvent::Progress {
                generation,
                direction: Direction::Received,
            }) => {
                if generation == self.driver.generation() {
                    self.subscriptions.extend(now);
                }
            }
            Event::Client(event) => {
                let change = self.driver.handle_event(&event, now);
                self.apply(change, now);
            }
            Event::Sink(Notice::Done) | Event::Stop => self.end(Exit::Success),
            Event::Sink(Notice::Broken(broken)) => self.end(told(self.config, &broken)),
        }
    }

    fn apply(&mut self, change: Option<ConnectionUpdate>, now: Instant) {
        match change {
            Some(ConnectionUpdate::Connected(info)) => {
                self.subscriptions.connected(now);
                let resumption = self.session.connected(info.connack.session_present);
                self.resume(resumption);
            }
            Some(ConnectionUpdate::Disconnected(disconnection)) => {
                let unanswered = self.subscriptions.unanswered();
                let pending = unanswered.map_or(PendingRequest::Nothing, PendingRequest::Subscribe);
                if let Some(hint) = self
                    .diagnosis
                    .connection_ended(disconnection.closed_after, pending)
                {
                    warn!("{hint}");
                }
                self.subscriptions.disconnected();
            }
            Some(ConnectionUpdate::GaveUp(fault)) => {
                error!("{fault}");
                self.end(fault.exit);
            }
            Some(ConnectionUpdate::Closed) | None => {}
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
                    self.driver
                        .client()
                        .unsubscribe(self.driver.generation(), stale);
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
            self.exit = Some(told(self.config, &Broken::State(cause)));
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
        let endpoint = &self.config.connection.endpoint;
        let what = format!(
            "{endpoint}: the broker refused the subscription to {:?}: {}; {}",
            self.subscriptions.filter(filter),
            refusal.reason,
            refusal.remedy(endpoint.profile, Request::Subscribe)
        );
        if self.config.run() == RunKind::Finite {
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
            self.driver.connection().wake_at(),
            self.subscriptions.wake_at(),
            self.deadline,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Waits, until then at most, for a connection on which what has been dealt with can be acknowledged: the last
    /// one may have ended meanwhile, and a session that is kept has it still. Until `completed_by` it also waits for
    /// PUBREL, while there is a connection too: if that ends before, the exchange is completed on the next one,
    /// and the next run does not get the message again.
    fn acknowledge(&mut self, inbox: &Receiver<Event>, until: Instant, completed_by: Instant) {
        self.deadline = None;
        while self.config.session_expiry.is_some() && clock() < until {
            let (connected, hopeless) = match self.driver.connection().state() {
                ConnectionState::Online { .. } => (true, false),
                ConnectionState::Waiting { until: at } => (false, at >= until),
                ConnectionState::Connecting { .. } => (false, false),
                ConnectionState::Idle | ConnectionState::Stopped => (false, true),
            };
            let owes = self.backlog.owes_acknowledgement(connected)
                || (clock() < completed_by && self.backlog.has_open_exchange());
            if hopeless || !owes {
                return;
            }
            self.step(clock());
            // Nobody says when the bridge has sent it.
            if let Some(event) = receive_until(inbox, Some(clock() + ACKNOWLEDGE_PAUSE)) {
                self.handle(event, clock());
            }
        }
    }

    /// Says goodbye, if anybody can.
    fn finish(mut self, inbox: &Receiver<Event>) -> (Exit, u64) {
        let reconnects = self.driver.connection().reconnects();
        let patience = END_TIMEOUT + GRACE;
        self.driver.close(inbox, patience, |event| match event {
            Event::Client(event) => Some(event),
            Event::Sink(_) | Event::Stop => None,
        });
        (self.exit.unwrap_or(Exit::Success), reconnects)
    }
}
