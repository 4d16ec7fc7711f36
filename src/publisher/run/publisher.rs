//! The state of a run, and what it does with each event.

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use log::{Level, error, info, log, warn};

use super::core_pinning::CorePinning;
use super::feeder::OutboxFeeder;
use super::flush_deadline::FlushDeadline;
use super::older_mqtt_warnings::OlderMqttWarnings;
use super::poison_evidence::{NOT_AUTHORIZED, find_poison_evidence};
use super::publisher_metrics::PublisherMetrics;
use super::service::Service;

use crate::common::client::{AnswerProgress, Client, ClientEvent, ClientEventKind, Delivery};
use crate::common::connection::driver::{
    ConnectionDriver, ConnectionUpdate, DISCONNECT_TIMEOUT, Disconnection,
};
use crate::common::connection::reload::Renewable;
use crate::common::connection::unexplained_closes::{PendingRequest, UnexplainedCloses};
use crate::common::fault::{Exit, Fault, FaultCause};
use crate::common::runtime::clock::{instant_now, sleep, two_clock_now, wall_clock};
use crate::common::runtime::service_manager::ServiceManager;
use crate::common::runtime::signals::CurrentExitCode;
use crate::common::runtime::timed_receive::{receive_until, send};
use crate::publisher::config::Config;
use crate::publisher::input::config::SourceKind;
use crate::publisher::input::source::SourceEvent;
use crate::publisher::input::source_reader::SourceReader;
use crate::publisher::outbox::Outbox;
use crate::publisher::outbox::broker_limits::BrokerLimits;
use crate::publisher::outbox::drain_pacer::DrainPacer;
use crate::publisher::outbox::types::PoisonEvidence;
use crate::publisher::queue::limits::MessageCountLimit;
use crate::publisher::queue::store_requests::StoreResult;
use crate::publisher::queue::{LostOrMoved, Queue, StoreStatusChange};
use crate::publisher::report::drain_reporter::DrainReporter;
use crate::publisher::report::exit_status::ExitStatus;
use crate::publisher::report::{ReportOptions, Reporter};
use crate::publisher::store::{QueueFile, StoreThread};

#[derive(Debug)]
pub(super) enum Event {
    Client(ClientEvent),
    Input(Vec<SourceEvent>),
    Store(StoreResult),
    /// The settings that have changed since the start.
    Reload(Result<Vec<String>, Fault>),
    Stop,
}

/// How long the loop has after `--deadline` before the process is ended.
pub(super) const GRACE_PERIOD: Duration = Duration::from_secs(1);

/// How long the disk may take for the rest at the end of the run. After a signal, `--stop-timeout` may end it earlier.
const LAST_WRITE: Duration = Duration::from_secs(30);
/// How long the rest of a queue may take to be removed after its first file, at the end of a run.
const REMOVAL_TIME: Duration = Duration::from_millis(500);

pub(super) struct Publisher<'a> {
    config: &'a Config,
    store: Option<StoreThread>,
    driver: ConnectionDriver,
    outbox: Outbox,
    report: Reporter,
    progress: DrainReporter,
    exit_now: CurrentExitCode,
    diagnosis: UnexplainedCloses,
    delivered_before: u64,
    feeder: OutboxFeeder<'a>,
    started: Instant,
    flush: FlushDeadline,
    now: Instant,
    fault: Option<Fault>,
    refused: Exit,
    store_done: bool,
    v5: bool,
    older_mqtt: OlderMqttWarnings,
    metrics: Option<PublisherMetrics>,
    pinning: CorePinning,
    service: Service,
}

impl<'a> Publisher<'a> {
    pub(super) fn start(
        config: &'a Config,
        file: Option<QueueFile>,
        queue: Box<dyn Queue>,
        events: &Sender<Event>,
        exit_now: CurrentExitCode,
        service: ServiceManager,
    ) -> std::io::Result<Self> {
        let now = instant_now();
        let to_loop = events.clone();
        let notify = move |event| send(&to_loop, Event::Client(event));
        let (connection, window) = (&config.connection, config.outbox.max_in_flight);
        let client_config = connection.client_config(window, config.outbox.sequence);
        let client = Client::start(client_config, None, notify)?;
        let to_loop = events.clone();
        let emit = move |inputs| to_loop.send(Event::Input(inputs)).is_ok();
        let input = SourceReader::start(&config.input, config.queue.is_some(), emit, now)?;
        let to_loop = events.clone();
        let notify = move |result| send(&to_loop, Event::Store(result));
        let store = file.map(|file| file.start(notify)).transpose()?;
        let drain = DrainPacer::new(config.drain_rate, config.drain_by_hand);
        let state_machine = connection.state_machine(config.finite_or_endless());
        let prints = config.receipts || config.verbose;
        let mut publisher = Self {
            store_done: store.is_none(),
            store,
            driver: ConnectionDriver::new(state_machine, client),
            outbox: Outbox::new(config.outbox, queue, drain),
            report: Reporter::new(ReportOptions {
                receipts: config.receipts,
                verbose: config.verbose,
                summary: config.summary,
                readings: config.input.has_batches(),
                commands: matches!(config.input.source, SourceKind::Command(_)),
            }),
            progress: DrainReporter::new(prints && std::io::stdout().is_terminal()),
            exit_now,
            diagnosis: config.connection.close_diagnosis(),
            delivered_before: 0,
            feeder: OutboxFeeder {
                config: &config.input,
                profile: config.connection.profile,
                input,
            },
            started: now,
            flush: FlushDeadline::new(config.deadline.map(|after| now + after)),
            now,
            fault: None,
            refused: Exit::Success,
            v5: true,
            older_mqtt: OlderMqttWarnings::default(),
            metrics: None,
            pinning: CorePinning::new(now),
            service: Service::new(service, connection.operation_timeout),
            config,
        };
        publisher.metrics = PublisherMetrics::start(config, &mut publisher.outbox)?;
        publisher.outbox.drain.finish_by = publisher.flush.earliest();
        if publisher.outbox.queue.count_for_other_sender().is_none() {
            publisher.outbox.expect_connection(now);
            publisher.driver.start(now);
        } else {
            info!("another publisher drains the queue; this one adds to it and waits");
            publisher.feeder.input.handle_connect_attempt_ended(now);
        }
        Ok(publisher)
    }

    pub(super) fn step(&mut self, now: Instant) {
        self.now = now;
        let window = self.config.outbox.max_in_flight as u64;
        let is_stream = self.report.summary.delivered >= window;
        self.pinning.update(is_stream, now);
        let change = self.driver.handle_timeout(now);
        self.handle_connection_update(change);
        if self.outbox.is_ack_overdue(now) {
            // A missing answer is the network's fault: no message is given up for it.
            self.outbox
                .handle_disconnected(PoisonEvidence::Unrelated, now);
            let fault = Fault::passing(
                Exit::Unavailable,
                format!(
                    "{}: no PUBACK within --operation-timeout {:?}; closing the connection",
                    self.config.connection.endpoint, self.config.connection.operation_timeout
                ),
            )
            .with_kind(FaultCause::TimedOut);
            let change = self.driver.fail_connection(fault, now);
            self.handle_connection_update(change);
        }
        self.service
            .renew_connection_if_due(&mut self.driver, &mut self.outbox, now);
        self.flush.extend(&self.outbox, now);
        self.read_and_send();
        self.send_store_requests();
        let backlog = self.outbox.queue.len();
        if let Some(growing) = self.outbox.drain.check_backlog_growth(now, backlog) {
            self.report.growing(&growing, now);
        }
        self.report_receipts();
        let is_online = self.driver.is_online();
        if let Some(store) = &self.store {
            store.record_connected(is_online);
        }
        let (backlog, delivered) = (self.outbox.backlog(), self.report.summary.delivered);
        self.progress.update(is_online, backlog, delivered, now);
        if let Some(metrics) = &mut self.metrics {
            metrics.update(&self.driver, &self.outbox, &self.report.summary, now);
        }
        let is_stored = self.store.is_some() && self.report.summary.accepted > 0;
        let (waiting, connection) = (self.undelivered(), self.driver.state_machine());
        self.service
            .report(connection, is_stored, (waiting, delivered), now);
        // Before the write, which may block until the process is ended.
        self.exit_now.set(self.exit_status().worst_exit());
        self.report.flush_stdout(&mut self.service.manager);
    }

    /// Reads from the source and sends until the source has no more or the outbox takes no more.
    fn read_and_send(&mut self) {
        loop {
            let space = self.outbox.read_allowance(self.now);
            self.feeder
                .input
                .request_readings(self.now, wall_clock, space);
            self.offer_input();
            let was_held = self.outbox.is_draining_or_paused();
            let has_sent = self.send_messages();
            // When that has just ended, drafts that had to wait are taken now; no event may follow.
            let has_ended = was_held && !self.outbox.is_draining_or_paused();
            if !has_sent && !has_ended {
                break;
            }
        }
        if !self.feeder.input.is_open() && !self.flush.is_set() {
            self.set_flush_deadline(self.now + self.config.flush_timeout);
        }
        if !self.feeder.input.is_open() {
            self.outbox.end_gathering(self.now);
        }
    }

    fn offer_input(&mut self) {
        self.feeder
            .offer_all(&mut self.outbox, &mut self.report, self.now);
    }

    /// Gives the client what may be sent. Returns whether there was anything.
    fn send_messages(&mut self) -> bool {
        if self.flush.is_extended() {
            return false;
        }
        let messages = self.outbox.next_messages(self.now, two_clock_now());
        if messages.is_empty() {
            return false;
        }
        if !self.v5 {
            let endpoint = &self.config.connection.endpoint;
            self.older_mqtt.warn_once(endpoint, &messages);
        }
        let generation = self.driver.generation();
        self.driver.client().publish(generation, messages);
        true
    }

    fn send_store_requests(&mut self) {
        if let Some(store) = &self.store {
            while let Some(request) = self.outbox.queue.next_request(self.now) {
                store.send_request(request);
            }
        }
    }

    fn report_receipts(&mut self) {
        for receipt in self.outbox.take_receipts() {
            self.report.report_receipt(&receipt, self.now);
        }
    }

    fn set_flush_deadline(&mut self, until: Instant) {
        self.outbox.drain.finish_by = Some(self.flush.bring_forward(until));
    }

    pub(super) fn handle(&mut self, event: Event, now: Instant) {
        self.now = now;
        match event {
            Event::Client(event) => {
                let change = self.driver.handle_event(&event, now);
                self.handle_connection_update(change);
                let is_current = event.generation == self.driver.generation();
                match event.kind {
                    // Of any connection: an acknowledgement counts also after its end.
                    ClientEventKind::Deliveries(deliveries) => self.handle_deliveries(deliveries),
                    ClientEventKind::CredentialsReloaded(reloaded) => {
                        let (driver, outbox) = (&mut self.driver, &mut self.outbox);
                        let renewable = if self.config.limits.capacity
                            == MessageCountLimit::Disabled
                        {
                            Renewable::No("readings would be refused meanwhile (--queue-size 0)")
                        } else {
                            Renewable::Yes
                        };
                        let reloaded = (&reloaded, event.generation);
                        self.service
                            .handle_reloaded_credentials(reloaded, renewable, driver, outbox, now);
                    }
                    ClientEventKind::Progress(progress)
                        if is_current && progress != AnswerProgress::Received =>
                    {
                        let all_received = progress == AnswerProgress::AllArrived;
                        self.outbox.handle_progress(all_received, now);
                    }
                    _ => {}
                }
            }
            Event::Input(events) => {
                for event in events {
                    let exit = self
                        .feeder
                        .handle_source_event(event, &mut self.report, now);
                    self.refused = self.refused.or_worse(exit);
                }
            }
            Event::Store(result) => self.handle_store_result(result),
            Event::Reload(changed) => self.service.begin_reload(&changed, &self.driver, now),
            Event::Stop => {
                let within = self.config.stop_timeout + GRACE_PERIOD;
                self.service.begin_stop(within, now);
                self.flush.is_final = true;
                self.feeder.input.stop();
                self.feeder
                    .offer_parsed(&mut self.outbox, &mut self.report, now);
                self.feeder.input.discard();
                self.outbox.queue.make_all_writes_due();
                // The rest of the time is for DISCONNECT and the disk.
                let share = if self.store.is_some() { 0.8 } else { 0.95 };
                self.set_flush_deadline(now + self.config.stop_timeout.mul_f64(share));
            }
        }
    }

    fn handle_deliveries(&mut self, deliveries: Vec<(u64, Delivery)>) {
        for (position, delivery) in deliveries {
            // Anything but "not authorized" is about the message.
            if matches!(&delivery, Delivery::Refused(no) if no.code == NOT_AUTHORIZED) {
                self.refused = self.refused.or_worse(Exit::Refused);
            }
            self.outbox
                .handle_delivery_result(position, delivery, self.now);
        }
    }

    fn handle_connection_update(&mut self, change: Option<ConnectionUpdate>) {
        if change.is_some() {
            self.service.handle_connection_update(self.now);
        }
        match change {
            Some(ConnectionUpdate::Connected(info)) => {
                let input = &self.config.input;
                let host = &self.config.connection.endpoint;
                let window_set = self.config.window_by_hand;
                match BrokerLimits::of(&info, host, input.qos, input.retain, window_set) {
                    Ok(limits) => {
                        self.v5 = limits.properties;
                        self.delivered_before = self.report.summary.delivered;
                        self.feeder.input.batches.max_packet = limits.maximum_packet_size;
                        self.outbox.handle_connected(limits, self.now);
                        self.feeder.input.handle_connect_attempt_ended(self.now);
                        let end = self.driver.end_outage(self.now);
                        let waiting = self.undelivered();
                        self.report.end_outage(end.as_ref(), waiting);
                    }
                    Err(fault) => {
                        let change = self.driver.fail_connection(fault, self.now);
                        self.handle_connection_update(change);
                    }
                }
            }
            Some(ConnectionUpdate::Disconnected(disconnection)) => {
                self.report.begin_outage();
                self.handle_disconnection(&disconnection);
                self.feeder.input.handle_connect_attempt_ended(self.now);
            }
            Some(ConnectionUpdate::GaveUp(fault)) => {
                self.outbox
                    .handle_disconnected(PoisonEvidence::Unrelated, self.now);
                if self.fault.is_some() {
                    // The queue file is missing, and now nothing can be sent either.
                    self.store_done = true;
                }
                self.fault.get_or_insert(fault);
                if self.store.is_some() {
                    // What can be read in this time is stored for a later run.
                    self.feeder.input.handle_connect_attempt_ended(self.now);
                    self.set_flush_deadline(self.now + self.config.flush_timeout);
                }
            }
            Some(ConnectionUpdate::Closed) | None => {}
        }
    }

    fn handle_disconnection(&mut self, disconnection: &Disconnection) {
        let first = self
            .outbox
            .in_flight_messages()
            .first()
            .map(|first| &first.draft);
        let has_delivered = self.report.summary.delivered > self.delivered_before;
        let pending = match first {
            Some(first) if !has_delivered => {
                PendingRequest::Publish(&first.topic, first.payload.len())
            }
            _ => PendingRequest::Nothing,
        };
        let closed_after = disconnection.closed_after;
        if let Some(hint) = self.diagnosis.connection_ended(closed_after, pending) {
            warn!("{hint}");
        }
        let loss = find_poison_evidence(disconnection, first.map(|first| &*first.topic));
        let is_given_up = self.outbox.handle_disconnected(loss, self.now);
        if is_given_up && disconnection.reason_code == Some(NOT_AUTHORIZED) {
            self.refused = self.refused.or_worse(Exit::Refused);
        }
    }

    fn handle_store_result(&mut self, result: StoreResult) {
        for event in self.outbox.handle_store_result(result, self.now) {
            match event {
                StoreStatusChange::Damaged(count) => self.report.damaged_messages(count),
                StoreStatusChange::DiskFull(why) => self.report.disk_full(&why, self.now),
                StoreStatusChange::DiskRecovered => self.report.disk_recovered(),
                StoreStatusChange::TookOver => {
                    info!("the publisher that drained the queue has ended; this one drains now");
                    self.driver.start(self.now);
                }
                StoreStatusChange::FileMissing(fault) => self.handle_missing_queue_file(fault),
                StoreStatusChange::Failed(fault) => {
                    self.fault = Some(fault);
                    self.store_done = true;
                    self.feeder.input.stop();
                }
                StoreStatusChange::Closed => self.store_done = true,
            }
        }
    }

    /// Messages in memory, and those that can still be read, are sent within the flush timeout;
    /// nothing more is accepted.
    fn handle_missing_queue_file(&mut self, fault: Fault) {
        error!(code = fault.exit.code(); "{fault}; nothing more is accepted");
        self.feeder.input.stop();
        // A publisher that only adds sends nothing, nor does one that has given up.
        let sends = self.fault.is_none() && self.outbox.queue.count_for_other_sender().is_none();
        self.store_done |= !sends;
        self.fault = Some(fault);
        self.set_flush_deadline(self.now + self.config.flush_timeout);
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        [
            self.driver.state_machine().wake_at(),
            self.outbox.wake_at(self.now),
            self.progress.wake_at(),
            self.feeder.input.wake_at(),
            self.flush.earliest(),
            self.metrics.as_ref().and_then(PublisherMetrics::wake_at),
            self.service.wake_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub(super) fn is_finished(&self) -> bool {
        let is_open = self.feeder.input.is_open();
        let is_done = self.flush.is_set() && !is_open && self.undelivered() == 0;
        let has_given_up =
            self.fault.is_some() && (self.store_done || !is_open && self.at_risk() == 0);
        has_given_up || is_done || self.flush.is_over(self.now)
    }

    fn undelivered(&self) -> usize {
        self.outbox.count_unfinished() + self.feeder.input.pending_messages()
    }

    fn at_risk(&self) -> usize {
        self.outbox.at_risk() + self.feeder.input.pending_messages()
    }

    fn exit_status(&self) -> ExitStatus<'_> {
        ExitStatus {
            summary: &self.report.summary,
            lost: self.at_risk(),
            kept: self.undelivered().saturating_sub(self.at_risk()),
            queue: self.config.queue.as_deref(),
            gone: self.outbox.queue.missing_file().is_some(),
            offline: self.driver.state_machine().why_offline(),
            ended_by: self.fault.as_ref(),
            worst: self.refused,
            first_reason: self.report.first_reason.as_deref(),
        }
    }

    pub(super) fn finish(mut self, inbox: &Receiver<Event>) -> Exit {
        let within = LAST_WRITE + DISCONNECT_TIMEOUT + GRACE_PERIOD;
        self.service.manager.stop("ending", within, self.now);
        let unconfirmed = self.outbox.sent_unconfirmed;
        self.feeder.input.stop();
        self.progress.stop();
        if self.store.is_some() && !self.store_done {
            self.outbox
                .handle_disconnected(PoisonEvidence::Unrelated, self.now);
            self.offer_input();
        }
        self.close_queue(inbox);
        self.look_for_missing_file();
        self.report_receipts();
        let mut exit = self.exit_status().worst_exit();
        if let Some(explanation) = self.exit_status().explanation() {
            // That everything waits in the queue is not an error: cron sends no mail with --quiet.
            let level = if self.exit_status().is_only_deferred() {
                Level::Warn
            } else {
                Level::Error
            };
            log!(level, code = exit.code(); "{explanation}");
        }
        let reconnects = self.driver.state_machine().reconnect_count();
        let connect_timeout = self.config.connection.connect_timeout;
        let mut timeout = connect_timeout.min(DISCONNECT_TIMEOUT);
        if unconfirmed {
            // Nobody acknowledges messages of QoS 0: wait until they are written to the socket.
            let until = self.flush.earliest().unwrap_or_else(instant_now);
            timeout = timeout.max(until.saturating_duration_since(instant_now()));
        }
        let is_closed = self.driver.close(inbox, timeout, |event| match event {
            Event::Client(event) => Some(event),
            Event::Input(_) | Event::Store(_) | Event::Reload(_) | Event::Stop => None,
        });
        if unconfirmed && !is_closed {
            error!(
                code = Exit::Unavailable.code();
                "{}: the connection was too slow for the last messages of QoS 0: they may be lost",
                self.config.connection.endpoint
            );
            exit = exit.or_worse(Exit::Unavailable);
        }
        let is_in_place = self.store.as_ref().is_none_or(StoreThread::is_in_place);
        if self.exit_status().kept > 0 && self.fault.is_none() && !is_in_place {
            let queue = self.config.queue.as_deref().unwrap_or(Path::new(""));
            error!(
                code = Exit::Io.code();
                "{}: the queue was removed or moved as the run ended: its messages may be lost",
                queue.display()
            );
            exit = exit.or_worse(Exit::Io);
        }
        let elapsed = instant_now().saturating_duration_since(self.started);
        let queued = self.outbox.count_unfinished() as u64;
        self.report.summary.lost = self.at_risk() as u64;
        let summary = self.report.summary.clone();
        let service = &mut self.service.manager;
        if !self.report.finish(reconnects, queued, elapsed, service) {
            exit = exit.or_worse(Exit::Io);
        }
        if let Some(metrics) = self.metrics {
            metrics.finish(&self.driver, &self.outbox, &summary, exit);
        }
        exit
    }

    /// A directory is removed file by file: the first one is noticed while the others are still there.
    fn look_for_missing_file(&mut self) {
        if self.outbox.queue.missing_file() != Some(LostOrMoved::Moved) {
            return;
        }
        sleep(REMOVAL_TIME);
        if let Some(fault) = self.store.as_ref().and_then(StoreThread::find_removal) {
            self.outbox.queue.handle_file_removed();
            self.fault = Some(fault);
        }
    }

    /// Writes what is not on disk yet. Input that was never accepted is lost with any queue.
    fn close_queue(&mut self, inbox: &Receiver<Event>) {
        self.outbox.queue.begin_close();
        let until = instant_now() + LAST_WRITE;
        while !self.store_done {
            self.now = instant_now();
            self.send_store_requests();
            let wake_at = self.outbox.queue.wake_at(self.now);
            self.service.manager.feed_watchdog(self.now);
            let due = [wake_at, self.service.manager.wake_at(), Some(until)];
            let due = due.into_iter().flatten().min();
            let event = receive_until(inbox, due);
            self.now = instant_now();
            match event {
                Some(Event::Store(result)) => self.handle_store_result(result),
                Some(Event::Client(event)) => {
                    if let ClientEventKind::Deliveries(deliveries) = event.kind {
                        self.handle_deliveries(deliveries);
                    }
                }
                None if self.now >= until => break,
                None | Some(Event::Input(_) | Event::Reload(_) | Event::Stop) => {}
            }
        }
    }
}
