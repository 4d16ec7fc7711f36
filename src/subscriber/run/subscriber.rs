//! The subscriber's side of the event loop: keeps the connection, its subscriptions and its session.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use log::{debug, error, info, log, warn};
use parking_lot::Mutex;

use super::exit_report::report_output_error;
use super::request::Request;
use super::request_sender::RequestSender;
use super::retained_message_remover::RetainedMessageRemover;
use crate::common::acks::SessionAcks;
use crate::common::client::{
    AnswerProgress, Client, ClientEvent, ClientEventKind, CredentialChange, RefusedRequest,
    RequestKind,
};
use crate::common::connection::driver::{ConnectionDriver, ConnectionUpdate};
use crate::common::connection::reload::{self, ReloadResult, Renewable};
use crate::common::connection::state::{ConnectionState, ConnectionStateMachine, FiniteOrEndless};
use crate::common::connection::status_text::{self, group_thousands};
use crate::common::connection::unexplained_closes::{PendingRequest, UnexplainedCloses};
use crate::common::escape::quoted;
use crate::common::fault::{Exit, Fault};
use crate::common::metrics::metric_family::MetricFamily;
use crate::common::mqtt::qos::Qos;
use crate::common::runtime::clock::instant_now;
use crate::common::runtime::logging::level_of;
use crate::common::runtime::repeat_filter::RepeatFilter;
use crate::common::runtime::service_manager::ServiceManager;
use crate::common::runtime::timed_receive::receive_until;
use crate::common::transport::bridge::END_TIMEOUT;
use crate::subscriber::config::Config;
use crate::subscriber::output::completion::{OutputError, OutputEvent};
use crate::subscriber::session::state_file::StateFile;
use crate::subscriber::session::subscriptions::{SubscribeAction, Subscriptions};
use crate::subscriber::session::{Resumption, SessionTracker};

#[derive(Debug)]
pub(super) enum Event {
    Client(ClientEvent),
    Output(OutputEvent),
    /// The settings that have changed since the start.
    Reload(Result<Vec<String>, Fault>),
    Stop,
}

/// How long the end of a run may take.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How much longer the process may live if it is ended by its time limit: for a last line of the log, and the terminal.
const LAST_ACTIONS: Duration = Duration::from_secs(2);

/// How long to wait at the end for the next PUBACK of a removal.
const REMOVAL_TIMEOUT: Duration = Duration::from_secs(2);

const ACKNOWLEDGE_PAUSE: Duration = Duration::from_millis(10);

/// How long to wait for the end of the connection after DISCONNECT.
const DISCONNECT_TIMEOUT: Duration = END_TIMEOUT.saturating_add(Duration::from_millis(100));

pub(super) struct Subscriber<'a> {
    config: &'a Config,
    driver: ConnectionDriver,
    subscriptions: Subscriptions,
    diagnosis: UnexplainedCloses,
    deadline: Option<Instant>,
    /// When the last message came, or all subscriptions were granted (`--idle-timeout`).
    idle: Option<(Duration, Arc<Mutex<Instant>>)>,
    remover: RetainedMessageRemover,
    request: RequestSender<'a>,
    exit: Option<Exit>,
    /// The broker has refused to remove a retained message.
    refused_removal: bool,
    /// A signal ends the run.
    is_stopping: bool,
    session: SessionTracker,
    session_acks: Arc<SessionAcks>,
    state_file: Option<Arc<Mutex<StateFile>>>,
    /// Refused subscriptions and lost sessions.
    warnings: RepeatFilter,
    /// Filters that were granted less than asked for, with the QoS that was logged.
    logged_grants: BTreeMap<usize, u8>,
    service: ServiceManager,
}

impl<'a> Subscriber<'a> {
    pub(super) fn start(
        config: &'a Config,
        client: Client,
        session_acks: Arc<SessionAcks>,
        state_file: Option<Arc<Mutex<StateFile>>>,
        last_message: Option<Arc<Mutex<Instant>>>,
        service: ServiceManager,
        now: Instant,
    ) -> anyhow::Result<Self> {
        let connection = config.connection.state_machine(config.finite_or_endless());
        let earlier = match &state_file {
            Some(state_file) => state_file.lock().session_filters(&config.session_key())?,
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
            idle: config.idle_timeout.zip(last_message),
            remover: RetainedMessageRemover::default(),
            request: RequestSender::new(config, now),
            exit: None,
            refused_removal: false,
            is_stopping: false,
            session: SessionTracker::new(persistent, config.filters.clone(), earlier),
            session_acks,
            state_file,
            warnings: RepeatFilter::default(),
            logged_grants: BTreeMap::new(),
            service,
            config,
        })
    }

    /// `received`: how many readings have been output.
    pub(super) fn notify_service_manager(&mut self, received: u64, now: Instant) {
        let connection = self.driver.state_machine();
        let is_ready = self.subscriptions.all_granted();
        let status = || {
            let connection = status_text::describe(connection);
            format!("{connection}; {} received", group_thousands(received))
        };
        self.service.update(is_ready, status, now);
    }

    fn handle_reloaded_credentials(
        &mut self,
        reloaded: &Result<CredentialChange, Fault>,
        generation: u64,
        now: Instant,
    ) {
        let user = self.driver.credential_user(generation);
        let renewable = match self.config.session_expiry {
            None => Renewable::No("without --persistent the broker keeps no messages meanwhile"),
            Some(_) if self.config.qos == Qos::AtMostOnce => {
                Renewable::No("the broker keeps no messages of QoS 0 meanwhile")
            }
            Some(_) => Renewable::Yes,
        };
        match reload::evaluate(reloaded, user, renewable) {
            ReloadResult::Renew => {
                info!("{}", reload::CONNECTING_AGAIN);
                self.subscriptions.handle_disconnected();
                self.remover.requeue_in_flight();
                self.request.handle_disconnected(false, now);
                return self.driver.renew(now);
            }
            ReloadResult::RestartAttempt => {
                info!("{}", reload::ATTEMPT_RESTARTED);
                return self.driver.renew(now);
            }
            ReloadResult::Done(text) => info!("{text}"),
            ReloadResult::NotDone(text) => warn!("{text}"),
        }
        self.service.end_reload(now);
    }

    pub(super) fn pending_exit(&self) -> Option<Exit> {
        self.exit
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    pub(super) fn state_machine(&self) -> &ConnectionStateMachine {
        self.driver.state_machine()
    }

    pub(super) fn count_connection_events(&self) -> u64 {
        self.driver.count_connection_events()
    }

    pub(super) fn metric_families(&self) -> Vec<MetricFamily> {
        let mut all = self.driver.metric_families();
        all.extend(self.subscriptions.metric_families(self.driver.is_online()));
        all
    }

    pub(super) fn handle_time(&mut self, now: Instant) {
        let update = self.driver.handle_timeout(now);
        self.handle_update(update, now);
        let may_be_delayed = self.session_acks.is_backlog_high();
        match self.subscriptions.next_action(now, may_be_delayed) {
            SubscribeAction::Subscribe(filters) => {
                for filter in filters {
                    let text = self.subscriptions.filter(filter).to_owned();
                    let generation = self.driver.generation();
                    self.driver
                        .client()
                        .subscribe(generation, filter, text, self.config.qos);
                }
            }
            SubscribeAction::CloseConnection { filter } => {
                let broker = &self.config.connection.endpoint;
                let fault = self.subscriptions.no_suback_fault(filter, broker);
                let update = self.driver.fail_connection(fault, now);
                self.handle_update(update, now);
            }
        }
        let messages = self.remover.next_messages(now);
        if !messages.is_empty() {
            let generation = self.driver.generation();
            self.driver.client().publish(generation, messages);
        }
        let all_granted = self.subscriptions.all_granted();
        let late = self
            .request
            .handle_timeout(&self.driver, all_granted, may_be_delayed, now);
        if let Some(fault) = late {
            let update = self.driver.fail_connection(fault, now);
            self.handle_update(update, now);
        }
        if self.idle_at().is_some_and(|at| now >= at) {
            // Silence begins once all that came has been output and removed, and the request is acknowledged.
            let is_busy = self.session_acks.has_backlog()
                || !self.remover.is_done()
                || self.request.is_open();
            match &self.idle {
                Some((_, last)) if is_busy => *last.lock() = now,
                _ => self.record_worse_exit(Exit::Success),
            }
        }
        if self.deadline.is_some_and(|at| now >= at) {
            // Messages are not the ones to blame if there was never a connection, or if the broker breaks the protocol.
            let connection = self.driver.state_machine();
            let unreached = !connection.was_ever_online();
            let is_cause = |fault: &Fault| matches!(fault.exit, Exit::Protocol | Exit::Io);
            let why = connection.why_offline();
            let why = why.filter(|fault| unreached || is_cause(fault));
            if let Some(fault) = &why {
                error!(code = fault.exit.code(); "{fault}");
            }
            let exit = why.map_or(Exit::TimedOut, |fault| fault.exit);
            self.record_worse_exit(exit);
        }
    }

    pub(super) fn handle_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Client(event) => self.handle_client_event(event, now),
            Event::Reload(changed) => {
                self.service.begin_reload(now);
                if let Some(warning) = reload::describe_changed_settings(&changed) {
                    warn!("{warning}");
                }
                let generation = self.driver.generation();
                self.driver.client().reload_credentials(generation);
            }
            Event::Stop => {
                self.begin_end(STOP_TIMEOUT, now);
                self.is_stopping = true;
                self.record_worse_exit(Exit::Success);
            }
            Event::Output(OutputEvent::Complete) => {
                self.record_worse_exit(Exit::Success);
            }
            Event::Output(OutputEvent::RetainedDone(topics)) => self.remover.push(topics),
            Event::Output(OutputEvent::Failed(error)) => {
                self.record_worse_exit(report_output_error(self.config, &error));
            }
        }
    }

    fn handle_client_event(&mut self, event: ClientEvent, now: Instant) {
        let is_current = event.generation == self.driver.generation();
        match event.kind {
            ClientEventKind::Subscribed { filter, answer } if is_current => match answer {
                Ok(qos) => self.handle_granted(filter, qos, now),
                Err(refusal) => self.handle_subscribe_refused(filter, &refusal, now),
            },
            ClientEventKind::Deliveries(deliveries) => {
                for (id, delivery) in deliveries {
                    if id == Request::ID {
                        let failed = self.request.handle_delivery(delivery, is_current, now);
                        self.record_worse_exit(failed);
                        self.end_after_subscribe();
                    } else if is_current
                        && let Some((topic, reason)) =
                            self.remover.handle_delivery(id, delivery, now)
                    {
                        error!(
                            code = Exit::Refused.code();
                            "{}: --remove-retained: the broker refuses: {reason}",
                            quoted(&topic)
                        );
                        self.refused_removal = true;
                    }
                }
            }
            ClientEventKind::CredentialsReloaded(reloaded) => {
                self.handle_reloaded_credentials(&reloaded, event.generation, now);
            }
            ClientEventKind::Progress(AnswerProgress::Received) if is_current => {
                self.subscriptions.handle_progress(now);
                self.request.handle_progress(now);
            }
            _ => {
                let update = self.driver.handle_event(&event, now);
                self.handle_update(update, now);
            }
        }
    }

    fn handle_update(&mut self, update: Option<ConnectionUpdate>, now: Instant) {
        if update.is_some() {
            self.service.end_reload(now);
        }
        match update {
            Some(ConnectionUpdate::Connected(info))
                if self.config.subscription_identifier.is_some()
                    && !info.connack.subscription_identifiers_available =>
            {
                let endpoint = &self.config.connection.endpoint;
                let message = format!("{endpoint}: the broker has no subscription identifiers");
                let fault = Fault::permanent(Exit::Protocol, message)
                    .with_remedy("leave --subscription-identifier out");
                let update = self.driver.fail_connection(fault, now);
                self.handle_update(update, now);
            }
            Some(ConnectionUpdate::Connected(info)) => {
                if let Some(end) = self.driver.end_outage(now) {
                    log!(level_of(end.repetition), "{end}{}", end.repetition);
                }
                self.subscriptions.handle_connected(now);
                let connack = &info.connack;
                self.remover
                    .apply_broker_limits(connack.receive_maximum, connack.maximum_qos);
                let resumption = self.session.handle_connected(info.connack.session_present);
                self.handle_resumption(resumption, now);
                let failed = self.request.handle_connected(&info);
                self.record_worse_exit(failed);
            }
            Some(ConnectionUpdate::Disconnected(disconnection)) => {
                let unanswered = self.subscriptions.unanswered_filter();
                let removal = self.remover.first_in_flight();
                let removal = removal.map(|topic| PendingRequest::Publish(topic, 0));
                let request = self.request.pending();
                let pending = unanswered.map(PendingRequest::Subscribe);
                let pending = pending.or(request).or(removal);
                let pending = pending.unwrap_or(PendingRequest::Nothing);
                let closed_after = disconnection.closed_after;
                if let Some(hint) = self.diagnosis.connection_ended(closed_after, pending) {
                    warn!("{hint}");
                }
                self.subscriptions.handle_disconnected();
                if !self.remover.handle_disconnected() {
                    error!(
                        code = Exit::Refused.code();
                        "--remove-retained: the broker ends each connection on which a retained message is removed; it may not allow it"
                    );
                    self.refused_removal = true;
                }
                let failed = self
                    .request
                    .handle_disconnected(closed_after.is_some(), now);
                self.record_worse_exit(failed);
            }
            Some(ConnectionUpdate::GaveUp(fault)) => {
                error!(code = fault.exit.code(); "{fault}");
                self.record_worse_exit(fault.exit);
            }
            Some(ConnectionUpdate::Closed) | None => {}
        }
    }

    fn handle_resumption(&mut self, resumption: Resumption, now: Instant) {
        let connection = &self.config.connection;
        let (endpoint, id) = (&connection.endpoint, &connection.client_id);
        match resumption {
            Resumption::New if self.config.session_expiry.is_some() => {
                info!("{endpoint}: a new session begins for client {id:?}");
            }
            Resumption::New => {}
            Resumption::Lost => {
                let repetition = self.warnings.filter("session lost", now);
                log!(
                    level_of(repetition),
                    "{endpoint}: the broker has lost the session of client {id:?}: messages published \
                     while it was away are missing; check --session-expiry, and whether the broker was \
                     restarted without persistence{repetition}"
                );
            }
            Resumption::Resumed(stale) => {
                debug!("{endpoint}: the session of client {id:?} is resumed");
                if !stale.is_empty() {
                    info!("no longer subscribed: {}", stale.join(" "));
                    let generation = self.driver.generation();
                    self.driver.client().unsubscribe(generation, stale);
                }
            }
        }
    }

    /// When the run ends because no message comes; none unless all subscriptions are granted.
    fn idle_at(&self) -> Option<Instant> {
        let (timeout, last) = self
            .idle
            .as_ref()
            .filter(|_| self.subscriptions.all_granted())?;
        Some(*last.lock() + *timeout)
    }

    fn handle_granted(&mut self, filter: usize, qos: u8, now: Instant) {
        self.subscriptions.handle_granted(filter);
        if self.subscriptions.all_granted() {
            if let Some((_, last)) = &self.idle {
                *last.lock() = now;
            }
            self.end_after_subscribe();
        }
        // Once all are granted, the broker keeps messages for the session.
        if self.subscriptions.all_granted()
            && self.session.handle_all_granted()
            && let Some(state_file) = &self.state_file
        {
            let key = self.config.session_key();
            let saved = state_file.lock().save_filters(&key, &self.config.filters);
            if let Err(cause) = saved {
                let error = OutputError::StateFile(cause.into());
                self.exit = Some(report_output_error(self.config, &error));
            }
        }
        let text = self.subscriptions.filter(filter);
        let is_less = qos < self.config.qos.level();
        if is_less && self.logged_grants.insert(filter, qos) != Some(qos) {
            warn!("{text}: subscribed with QoS {qos}, the broker grants no more");
        } else {
            debug!("{text}: subscribed with QoS {qos}");
        }
    }

    /// `--exit-after-subscribe`, once the request is acknowledged too.
    fn end_after_subscribe(&mut self) {
        let is_complete = self.subscriptions.all_granted() && !self.request.is_open();
        if self.config.exit_after_subscribe && is_complete {
            self.record_worse_exit(Exit::Success);
        }
    }

    /// A finite run ends; an endless one subscribes again, on the same connection.
    fn handle_subscribe_refused(&mut self, filter: usize, refusal: &RefusedRequest, now: Instant) {
        let delay = self.subscriptions.handle_refused(filter, now);
        let endpoint = &self.config.connection.endpoint;
        let what = format!(
            "{endpoint}: the broker refused the subscription to {:?}: {}; {}",
            self.subscriptions.filter(filter),
            refusal.reason,
            refusal.remedy(endpoint.profile, RequestKind::Subscribe)
        );
        if self.config.finite_or_endless() == FiniteOrEndless::Finite {
            error!(code = refusal.exit().code(); "{what}");
            self.record_worse_exit(refusal.exit());
        } else {
            let repetition = self.warnings.filter(&what, now);
            let delay = delay.as_secs_f64();
            log!(
                level_of(repetition), code = refusal.exit().code();
                "{what}; trying again in {delay:.1} s{repetition}"
            );
        }
    }

    pub(super) fn record_worse_exit(&mut self, exit: impl Into<Option<Exit>>) {
        if let Some(exit) = exit.into() {
            self.exit = Some(self.exit.map_or(exit, |earlier| earlier.or_worse(exit)));
        }
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        [
            self.driver.state_machine().wake_at(),
            self.subscriptions.wake_at(),
            self.deadline,
            self.idle_at(),
            self.remover.wake_at(),
            self.request.wake_at(self.subscriptions.all_granted()),
            self.service.wake_at(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Tells the service manager that the run ends, within this time.
    pub(super) fn begin_end(&mut self, within: Duration, now: Instant) {
        self.service.stop("ending", within + LAST_ACTIONS, now);
    }

    /// Waits until everything that can be has been acknowledged. Until `until` it also waits for a
    /// connection, because the last one may have ended and a kept session still has the messages.
    /// Until `completed_by` it waits for PUBREL, while there is a connection: if that ends, the
    /// exchange is completed on the next one, and the next run does not get the message again.
    /// For the request it waits until `request_until`, if that is later and no signal comes.
    pub(super) fn await_acks(
        &mut self,
        queue: &Receiver<Event>,
        until: Instant,
        completed_by: Instant,
        request_until: Instant,
    ) {
        self.deadline = None;
        self.idle = None;
        // The writer may have asked for removals since.
        for event in queue.try_iter() {
            if matches!(event, Event::Output(_))
                || self.config.session_expiry.is_some()
                || self.request.is_given()
            {
                self.handle_event(event, instant_now());
            }
        }
        let mut until = until;
        let mut last_done = self.remover.last_done();
        while self.config.session_expiry.is_some() || self.has_to_publish() {
            let request_until = self.request.end_limit(request_until, self.is_stopping);
            let limit = request_until.map_or(until, |at| at.max(until));
            if instant_now() >= limit {
                return;
            }
            let (connected, hopeless) = match self.driver.state_machine().state() {
                ConnectionState::Online { .. } => (true, false),
                // The old connection of a renewal ends long before its limit.
                ConnectionState::Waiting { .. } if self.driver.is_renewal_ending() => {
                    (false, false)
                }
                ConnectionState::Waiting { until: at } => (false, at >= limit),
                ConnectionState::Connecting { .. } => (false, false),
                ConnectionState::Idle | ConnectionState::Stopped => (false, true),
            };
            let owes = self.session_acks.has_ack_for_later_connection(connected)
                || (instant_now() < completed_by && self.session_acks.has_open_exchange());
            if self.remover.has_progressed_since(last_done) && !self.is_stopping {
                last_done = self.remover.last_done();
                until = instant_now() + REMOVAL_TIMEOUT;
            }
            if hopeless || !(owes || self.has_to_publish()) {
                return;
            }
            self.handle_time(instant_now());
            self.service.feed_watchdog(instant_now());
            // No event says that the bridge has sent an acknowledgement.
            if let Some(event) = receive_until(queue, Some(instant_now() + ACKNOWLEDGE_PAUSE)) {
                self.handle_event(event, instant_now());
            }
        }
    }

    /// How long the end of the run waits for the acknowledgement of the request; zero: no longer than for others.
    pub(super) fn request_timeout(&self, now: Instant) -> Duration {
        let is_awaited = self.exit == Some(Exit::Success) && !self.is_stopping;
        let timeout = self.request.end_timeout(self.deadline, now);
        timeout.filter(|_| is_awaited).unwrap_or_default()
    }

    fn has_to_publish(&self) -> bool {
        !self.remover.is_done() || self.request.is_awaited(self.is_stopping)
    }

    /// Sends DISCONNECT if there is a connection. Returns also the number of reconnects.
    pub(super) fn disconnect(&mut self, queue: &Receiver<Event>) -> (Exit, u64) {
        let reconnects = self.driver.state_machine().reconnect_count();
        let failed = self.request.handle_end(self.exit);
        self.record_worse_exit(failed);
        self.driver
            .close(queue, DISCONNECT_TIMEOUT, |event| match event {
                Event::Client(event) => Some(event),
                Event::Output(_) | Event::Reload(_) | Event::Stop => None,
            });
        let mut exit = self.exit.unwrap_or(Exit::Success);
        if self.remover.is_incomplete() {
            warn!("--remove-retained: not all retained messages could be removed");
            exit = exit.or_worse(Exit::Unavailable);
        }
        if self.refused_removal {
            exit = exit.or_worse(Exit::Refused);
        }
        (exit, reconnects)
    }
}
