//! The publisher's event loop: source → outbox → link, and the outcomes back.
//!
//! The only place of the publisher that reads the clock. What to do is decided in the
//! outbox and the connection; this carries it out.

mod ending;
mod events;
mod offering;
pub mod queue_handle;

use std::io::IsTerminal as _;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use log::{error, info};

use crate::common::client::{Client, ClientEvent, TransferProgress};
use crate::common::connection::diagnosis::CloseDiagnosis;
use crate::common::connection::driver::{ConnectionDriver, ConnectionUpdate};
use crate::common::connection::state::ConnectionState;
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::affinity;
use crate::common::runtime::channel::{receive_until, send};
use crate::common::runtime::clock::clock;
use crate::common::runtime::signals::{self, CurrentExit};
use crate::publisher::config::Config;
use crate::publisher::input::buffer::{InputBuffer, InputError};
use crate::publisher::input::config::SourceKind;
use crate::publisher::input::draft;
use crate::publisher::input::source::SourceEvent;
use crate::publisher::outbox::broker_limits;
use crate::publisher::outbox::pacing::Drain;
use crate::publisher::outbox::{Loss, Outbox, Rules};
use crate::publisher::queue::requests;
use crate::publisher::report::progress::DrainProgress;
use crate::publisher::report::{ReportOptions, Reporter};
use crate::publisher::run::queue_handle::{Keeper, Opening};

/// Everything the loop hears.
#[derive(Debug)]
enum Event {
    Client(ClientEvent),
    Input(Vec<SourceEvent>),
    Store(requests::StoreResult),
    Stop,
}

/// Events handled before the outbox is looked at again.
const BURST: usize = 64;

/// A run that has lasted so long is not about one message.
const BRIEF: Duration = Duration::from_secs(1);

/// What the loop has to come to its end by itself once the deadline has passed.
const GRACE: Duration = Duration::from_secs(1);

/// Publishes until the work is done, and says how it went.
///
/// # Errors
///
/// What kept it from starting. What goes wrong later is logged, and in the code.
pub fn run(config: &Config) -> anyhow::Result<Exit> {
    affinity::pin();
    let opening = Opening::new(config)?;
    let (events, inbox) = mpsc::channel();
    let stop = events.clone();
    let exit_now = signals::handle_stop_signals(
        config.stop_timeout,
        move || send(&stop, Event::Stop),
        None,
        None,
    )
    .context("signals cannot be handled")?;
    if let Some(deadline) = config.deadline {
        signals::exit_after(deadline + GRACE, exit_now.clone()).context("no more threads")?;
    }
    let mut publisher = Publisher::start(config, opening, &events, exit_now)
        .context("threads cannot be started")?;
    loop {
        publisher.step(clock());
        if publisher.is_finished() {
            break;
        }
        if let Some(event) = receive_until(&inbox, publisher.wake_at()) {
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
    keeper: Keeper,
    driver: ConnectionDriver,
    outbox: Outbox,
    report: Reporter,
    progress: DrainProgress,
    exit_now: CurrentExit,
    diagnosis: CloseDiagnosis,
    /// Messages delivered before the present connection.
    delivered_before: u64,
    input: InputBuffer,
    started: Instant,
    /// When to stop trying; set once no more input comes.
    flush_until: Option<Instant>,
    /// That time has passed, and this message is still let through.
    flushing_last: Option<u64>,
    /// A signal has come.
    stopping: bool,
    deadline: Option<Instant>,
    now: Instant,
    /// What ends the run before its work is done.
    fault: Option<Fault>,
    /// The worst of what was refused on the way.
    refused: Exit,
    /// Nothing more can be kept on disk, or everything is.
    store_done: bool,
    /// The connection, if there is one, speaks MQTT 5.
    v5: bool,
    /// That receivers cannot tell batches has been said.
    warned_older: bool,
    /// This thread has not been let off the core of those who it sends through.
    together: bool,
}

impl<'a> Publisher<'a> {
    fn start(
        config: &'a Config,
        opening: Opening,
        events: &Sender<Event>,
        exit_now: CurrentExit,
    ) -> std::io::Result<Self> {
        let now = clock();
        let to_loop = events.clone();
        let client = Client::start(
            config
                .connection
                .client(config.max_in_flight, config.sequence),
            None,
            move |event| send(&to_loop, Event::Client(event)),
        )?;
        let to_loop = events.clone();
        let emit = move |inputs| to_loop.send(Event::Input(inputs)).is_ok();
        let input = InputBuffer::start(&config.input, config.queue.is_some(), emit, now)?;
        let connection = config.connection.connection(config.run());
        let to_loop = events.clone();
        let (keeper, queue) = opening.start(move |report| send(&to_loop, Event::Store(report)))?;
        let rules = Rules {
            max_in_flight: config.max_in_flight,
            operation_timeout: config.connection.operation_timeout,
            expiry: config.expiry,
            max_attempts: config.max_attempts,
            sequence: config.sequence,
            profile: config.connection.profile,
        };
        let drain = Drain::new(config.drain_rate, config.drain_by_hand);
        let mut publisher = Self {
            store_done: !keeper.is_durable(),
            keeper,
            driver: ConnectionDriver::new(connection, client),
            outbox: Outbox::new(rules, queue, drain),
            report: Reporter::new(ReportOptions {
                receipts: config.receipts,
                verbose: config.verbose,
                summary: config.summary,
                readings: config.input.has_batches(),
                commands: matches!(config.input.source, SourceKind::Command(_)),
            }),
            progress: DrainProgress::new(
                (config.receipts || config.verbose) && std::io::stdout().is_terminal(),
            ),
            exit_now,
            diagnosis: config.connection.close_diagnosis(),
            delivered_before: 0,
            input,
            started: now,
            flush_until: None,
            flushing_last: None,
            stopping: false,
            deadline: config.deadline.map(|after| now + after),
            now,
            fault: None,
            refused: Exit::Success,
            v5: true,
            warned_older: false,
            together: true,
            config,
        };
        if let Some(deadline) = publisher.deadline {
            publisher.outbox.finish_by(deadline);
        }
        if publisher.outbox.queue().entrusted().is_none() {
            publisher.outbox.expect_connection(now);
            publisher.driver.start(now);
        } else {
            info!("another publisher drains the queue; this one adds to it and waits");
            publisher.input.handle_first_attempt(now);
        }
        Ok(publisher)
    }

    /// One turn: what time does, what the source has, what can be sent.
    fn step(&mut self, now: Instant) {
        self.now = now;
        self.spread(now);
        let change = self.driver.handle_timeout(now);
        self.apply(change);
        if self.outbox.overdue(now) {
            // Silence is the network's: no message is to blame for it.
            self.outbox.disconnected(Loss::Unrelated, now);
            let fault = Fault::passing(
                Exit::Unavailable,
                format!(
                    "{}: no PUBACK within --operation-timeout {:?}: the link is taken for dead",
                    self.config.connection.endpoint, self.config.connection.operation_timeout
                ),
            );
            let change = self.driver.fail_connection(fault, now);
            self.apply(change);
        }
        self.extend_flush();
        self.pump();
        self.keeper.carry(&mut self.outbox, now);
        if let Some(growing) = self.outbox.review(now) {
            self.report.growing(&growing);
        }
        self.tell();
        let online = matches!(
            self.driver.connection().state(),
            ConnectionState::Online { .. }
        );
        let delivered = self.report.summary.delivered;
        self.progress
            .update(online, self.outbox.backlog(), delivered, now);
        // Before the write: it may block, and then this is what the run came to.
        self.exit_now.set(self.exit_status().exit());
        self.report.flush();
    }

    /// A single message is over before other cores are awake; a stream is faster with them.
    fn spread(&mut self, now: Instant) {
        let streams = self.report.summary.delivered >= self.config.max_in_flight as u64;
        if self.together && (streams || now > self.started + BRIEF) {
            self.together = false;
            affinity::unpin();
        }
    }

    fn handle(&mut self, event: Event, now: Instant) {
        self.now = now;
        match event {
            Event::Client(event) => {
                let change = self.driver.handle_event(&event, now);
                self.apply(change);
                match event {
                    // Of whichever connection: what has been acknowledged has been acknowledged.
                    ClientEvent::Deliveries { deliveries, .. } => self.settle(deliveries),
                    ClientEvent::Progress {
                        generation,
                        direction,
                    } if generation == self.driver.generation() => match direction {
                        TransferProgress::PartArrived => self.outbox.line_moved(false, now),
                        TransferProgress::AllArrived => self.outbox.line_moved(true, now),
                        TransferProgress::Received => {}
                    },
                    _ => {}
                }
            }
            Event::Input(inputs) => {
                for event in inputs {
                    self.receive(event);
                }
            }
            Event::Store(report) => self.stored(report),
            Event::Stop => {
                self.stopping = true;
                let patience = self.config.stop_timeout;
                self.input.stop();
                self.offer_gathered();
                self.input.discard();
                self.outbox.queue_mut().keep_all();
                // What is left of it is for saying goodbye, and for the disk.
                let share = if self.keeper.is_durable() { 0.8 } else { 0.95 };
                self.flush_by(now + patience.mul_f64(share));
            }
        }
    }

    fn apply(&mut self, change: Option<ConnectionUpdate>) {
        match change {
            Some(ConnectionUpdate::Connected(info)) => {
                match broker_limits::limits(self.config, &info) {
                    Ok(limits) => {
                        self.v5 = info.is_v5;
                        self.delivered_before = self.report.summary.delivered;
                        self.input.set_max_packet(limits.maximum_packet_size);
                        self.outbox.connected(limits, self.now);
                        self.input.handle_first_attempt(self.now);
                        self.report.outage_over();
                    }
                    Err(fault) => {
                        let change = self.driver.fail_connection(fault, self.now);
                        self.apply(change);
                    }
                }
            }
            Some(ConnectionUpdate::Disconnected(disconnection)) => {
                self.hint(&disconnection);
                self.dropped(&disconnection);
                self.input.handle_first_attempt(self.now);
            }
            Some(ConnectionUpdate::GaveUp(fault)) => {
                self.outbox.disconnected(Loss::Unrelated, self.now);
                if self.fault.is_some() {
                    // The queue is gone, and now nothing can be sent either.
                    self.store_done = true;
                }
                self.fault.get_or_insert(fault);
                if self.keeper.is_durable() {
                    // What can be read in this time is kept for a later run.
                    self.input.handle_first_attempt(self.now);
                    self.flush_by(self.now + self.config.flush_timeout);
                }
            }
            Some(ConnectionUpdate::Closed) | None => {}
        }
    }

    fn receive(&mut self, event: SourceEvent) {
        match self.input.handle_event(event) {
            Err(InputError::LineTooLong { line }) => {
                let profile = self.config.connection.profile;
                let why = draft::too_long(&self.config.input, profile);
                self.report.rejected(line, &why);
            }
            Err(InputError::CommandFailed(why)) => self.report.command_failed(&why, self.now),
            Err(InputError::ReadFailed(cause)) => {
                error!("standard input cannot be read: {cause}");
                self.refused = self.refused.or_worse(Exit::Io);
            }
            Ok(()) => {}
        }
    }

    /// When the next turn is due without an event.
    fn wake_at(&self) -> Option<Instant> {
        [
            self.driver.connection().wake_at(),
            self.outbox.wake_at(self.now),
            self.progress.wake_at(),
            self.input.wake_at(),
            self.flush_until,
            self.deadline,
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
