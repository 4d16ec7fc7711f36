//! The worker thread, which owns every Paho object: carries out commands and reports events.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use log::warn;

use super::connection_faults as faults;
use super::connection_spawner::ConnectionSpawner;
use super::paho_client::{PahoClient, SCAN_INTERVAL};
use super::status_delivery::{AfterStatus, StatusResult};
use super::status_log::StatusLog;
use super::version_fallback::VersionFallback;
use super::worker_input::{DialAttempt, WorkerInput, WorkerInputKind};
use super::{
    ClientConfig, ClientEvent, ClientEventKind, ConnectionInfo, Delivery, MessageHandlers,
    RetainHandling,
};
use crate::common::acks::SessionAcks;
use crate::common::broker::profile::Profile;
use crate::common::fault::{Exit, Fault};
use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::common::mqtt::packet_type::PacketType;
use crate::common::mqtt::qos::Qos;
use crate::common::mqtt::reason_codes::MALFORMED_PACKET;
use crate::common::runtime::affinity;
use crate::common::runtime::clock::instant_now;
use crate::common::runtime::timed_receive::receive_within;
use crate::common::transport::DialStep;
use crate::common::transport::bridge::{BridgeEvent, ConnectionEnd, EndReason};

/// How long before the deadline of an attempt the connection is reported, acknowledged or not.
const STATUS_MARGIN: Duration = Duration::from_millis(100);

/// How long a subscriber waits for the PUBACK of its last status message.
const OFFLINE_TIMEOUT: Duration = Duration::from_secs(1);

pub(super) struct Worker<N> {
    config: Arc<ClientConfig>,
    session_acks: Option<Arc<SessionAcks>>,
    commands: Sender<WorkerInput>,
    notify: N,
    dialer: ConnectionSpawner,
    versions: VersionFallback,
    current: Option<PahoClient>,
    /// Clients that are no longer in use but must not be dropped yet.
    retired: Vec<PahoClient>,
    deadline: Option<Instant>,
    password: Option<String>,
    v5: bool,
    /// There is a setting that MQTT 3.1.1 does not have, and that has not been said yet.
    warns_without_v5: bool,
    /// When the attempt goes on with MQTT 3.1.1 if MQTT 5 is not answered.
    fallback_at: Option<Instant>,
    /// The broker may still have the session of the last connection of this publisher, kept for the delay of its will.
    has_session_for_will: bool,
    log: StatusLog,
}

impl<N: Fn(ClientEvent)> Worker<N> {
    pub(super) fn new(
        config: ClientConfig,
        handlers: Option<MessageHandlers>,
        commands: Sender<WorkerInput>,
        notify: N,
    ) -> Self {
        let config = Arc::new(config);
        let warns_without_v5 = !config.connect_properties.is_empty()
            || config.subscription_identifier.is_some()
            || matches!(
                config.retain_handling,
                Some(RetainHandling::New | RetainHandling::Never)
            );
        let is_generic = config.route.endpoint.profile == Profile::Generic;
        Self {
            session_acks: handlers.as_ref().map(|h| Arc::clone(&h.session_acks)),
            dialer: ConnectionSpawner::new(Arc::clone(&config), handlers, commands.clone()),
            versions: VersionFallback::new(config.version, is_generic),
            config,
            commands,
            notify,
            current: None,
            retired: Vec::new(),
            deadline: None,
            password: None,
            v5: true,
            warns_without_v5,
            fallback_at: None,
            has_session_for_will: false,
            log: StatusLog::default(),
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<WorkerInput>) {
        affinity::pin_to_current_core();
        loop {
            let current = self.current.as_ref();
            let has_deliveries = current.is_some_and(PahoClient::has_deliveries);
            let wake_at = [
                self.fallback_at,
                current.and_then(PahoClient::status_wait_ends_at),
            ];
            let command = match wake_at.into_iter().flatten().min() {
                _ if has_deliveries => receive_within(inbox, SCAN_INTERVAL),
                Some(at) => receive_within(inbox, at.saturating_duration_since(instant_now())),
                None => inbox.recv().map_err(RecvTimeoutError::from),
            };
            match command {
                Ok(command) => self.handle_input(command),
                Err(RecvTimeoutError::Timeout) => self.handle_timeout(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn handle_timeout(&mut self) {
        let Some(client) = &self.current else {
            return self.fall_back_to_v3();
        };
        let status_until = client.status_wait_ends_at();
        if status_until.is_some_and(|until| instant_now() >= until) {
            self.poll_tokens(client.dial.generation);
        } else if client.has_deliveries() {
            self.scan_deliveries();
        } else {
            self.fall_back_to_v3();
        }
    }

    fn handle_input(&mut self, WorkerInput { generation, kind }: WorkerInput) {
        match kind {
            WorkerInputKind::Connect(deadline) => self.connect(generation, deadline),
            WorkerInputKind::Publish(messages) => self.publish(generation, &messages),
            WorkerInputKind::Subscribe { filter, text, qos } => {
                if let Some(client) = self.current_client(generation) {
                    client.subscribe(filter, text, qos);
                    self.poll_tokens(generation);
                }
            }
            WorkerInputKind::Unsubscribe(filters) => {
                if let Some(client) = self.current_client(generation) {
                    client.unsubscribe(&filters);
                }
            }
            WorkerInputKind::Abandon => self.abandon_connection(generation),
            WorkerInputKind::Disconnect => self.disconnect(generation),
            WorkerInputKind::ReloadCredentials => {
                let reloaded = self.dialer.reload_credentials();
                self.notify(generation, ClientEventKind::CredentialsReloaded(reloaded));
            }
            WorkerInputKind::CheckTokens => self.poll_tokens(generation),
            WorkerInputKind::ConnectionLost => self.handle_connection_lost(generation),
            WorkerInputKind::DialPassed(passed) => {
                self.notify(generation, ClientEventKind::DialPassed(passed));
            }
            WorkerInputKind::DialSucceeded(dial, socket) => {
                if self.dialer.clear_if_pending(dial.number) {
                    self.send_connect(dial, socket);
                }
            }
            WorkerInputKind::DialFailed { dial, step, fault } => {
                if self.dialer.clear_if_pending(dial) {
                    self.versions.handle_unrelated_end();
                    self.notify_ended(generation, Some(step), fault);
                }
            }
            WorkerInputKind::Bridge { dial, event } => {
                self.handle_bridge_event(generation, dial, event);
            }
        }
    }

    fn handle_bridge_event(&mut self, generation: u64, dial: u64, event: BridgeEvent) {
        let current = self.current.as_mut();
        let Some(client) = current.filter(|client| client.dial.number == dial) else {
            return;
        };
        match event {
            // It is that of the status message: nothing else has been sent.
            BridgeEvent::Progress(_) if client.is_online_status_pending() => return,
            BridgeEvent::Progress(progress) => {
                return self.notify(generation, ClientEventKind::Progress(progress));
            }
            BridgeEvent::Accepted(connack) => client.handle_connack(connack),
            BridgeEvent::Ended(connection_end) => client.connection_end = Some(connection_end),
        }
        self.poll_tokens(generation);
    }

    fn current_client(&mut self, generation: u64) -> Option<&mut PahoClient> {
        let current = self.current.as_mut();
        current.filter(|client| client.dial.generation == generation)
    }

    fn connect(&mut self, generation: u64, deadline: Instant) {
        self.deadline = Some(deadline);
        if instant_now() >= deadline {
            // The command waited behind one that was slow; the caller has given the attempt up.
            return;
        }
        let v5 = self.versions.is_v5_next(instant_now());
        self.dial(generation, v5);
    }

    fn dial(&mut self, generation: u64, v5: bool) {
        self.v5 = v5;
        self.fallback_at = None;
        let deadline = self.deadline.unwrap_or_else(instant_now);
        let resumes = self.config.session_expiry.is_some() || (v5 && self.has_session_for_will);
        match self.dialer.start(generation, v5, !resumes, deadline) {
            Ok(password) => self.password = password,
            Err(fault) => self.notify_ended(generation, None, fault),
        }
    }

    fn send_connect(&mut self, dial: DialAttempt, socket: OwnedFd) {
        let (generation, endpoint) = (dial.generation, dial.endpoint.clone());
        let password = self.password.take();
        let password = password.as_deref();
        match PahoClient::start(dial, socket, &self.config, password, &self.commands) {
            Ok(client) => {
                self.retire_client();
                self.current = Some(client);
                // Not earlier: dropping the last client would wait for Paho's threads to end.
                self.retired.retain(PahoClient::is_connecting);
                self.fallback_at = self.version_fallback_time(instant_now());
                self.poll_tokens(generation);
            }
            Err(e) => {
                let message = format!("{endpoint}: the MQTT library reports an error: {e}");
                let fault = Fault::permanent(Exit::Config, message);
                self.notify_ended(generation, None, fault);
            }
        }
    }

    /// When to replace a CONNECT of MQTT 5 that is sent now by one of MQTT 3.1.1, which then has
    /// half of the attempt's time.
    fn version_fallback_time(&self, now: Instant) -> Option<Instant> {
        if !self.v5 || !self.versions.would_try_older() {
            return None;
        }
        let (quarter, deadline) = (self.config.connect_timeout / 4, self.deadline?);
        let at = deadline.checked_sub(quarter * 2)?.max(now + quarter);
        (at + quarter <= deadline).then_some(at)
    }

    fn fall_back_to_v3(&mut self) {
        self.fallback_at = None;
        let Some(client) = self.current.take_if(|client| client.is_connecting()) else {
            return;
        };
        let generation = client.dial.generation;
        client.close_connection();
        self.retired.push(client);
        self.versions.handle_unanswered(true, instant_now());
        self.dial(generation, false);
    }

    fn publish(&mut self, generation: u64, messages: &[(u64, Arc<OutgoingMessage>)]) {
        if self.current_client(generation).is_none() {
            return;
        }
        // The broker remembers the packet identifiers of QoS 2 in the session, and the next connection uses them for
        // other messages: it has to begin a new session.
        if self.has_session_for_will {
            let mut drafts = messages.iter().map(|(_, message)| &message.draft);
            self.has_session_for_will = !drafts.any(|draft| draft.qos == Qos::ExactlyOnce);
        }
        let Some(client) = &mut self.current else {
            return;
        };
        let refused = messages
            .iter()
            .filter_map(|(id, message)| Some((*id, client.publish(*id, message)?)));
        let mut deliveries: Vec<(u64, Delivery)> = refused.collect();
        deliveries.extend(client.take_deliveries_unless_wake_requested());
        self.notify_deliveries(generation, deliveries);
    }

    fn poll_tokens(&mut self, generation: u64) {
        let retired = self.retired.iter_mut();
        for client in retired.filter(|client| client.dial.generation == generation) {
            // Makes it possible to drop the client; the result does not matter.
            let _ = client.take_connect_result();
        }
        let Some(client) = self.current_client(generation) else {
            return;
        };
        if client.has_disconnect_finished() {
            let deliveries = client.take_deliveries();
            self.notify_deliveries(generation, deliveries);
            self.retire_client();
            return self.notify(generation, ClientEventKind::Disconnected);
        }
        match client.take_connect_result() {
            Some(true) => return self.handle_connected(generation),
            Some(false) => return self.handle_connect_failed(generation),
            None => {}
        }
        let status = client.take_status_result();
        let deliveries = client.take_deliveries();
        let subscribed = client.take_subscribe_answers();
        self.notify_deliveries(generation, deliveries);
        for (filter, answer) in subscribed {
            self.notify(generation, ClientEventKind::Subscribed { filter, answer });
        }
        if let Some((next_step, result)) = status {
            self.handle_status_result(generation, next_step, &result);
        }
    }

    fn handle_status_result(
        &mut self,
        generation: u64,
        next_step: AfterStatus,
        result: &StatusResult,
    ) {
        self.log.log_result(&self.config, result);
        match (next_step, result) {
            (AfterStatus::ReportConnected(mut info), _) => {
                if matches!(result, StatusResult::TimedOut) {
                    // It still takes a place among what the broker takes at once.
                    let maximum = &mut info.connack.receive_maximum;
                    *maximum = maximum.map(|maximum| maximum.saturating_sub(1).max(1));
                    if let Some(client) = self.current_client(generation) {
                        client.is_status_unanswered = true;
                    }
                }
                self.notify(generation, ClientEventKind::Connected(info));
            }
            // Without DISCONNECT the broker publishes the will, which says the same.
            (AfterStatus::Disconnect, StatusResult::Answered(Delivery::NotNow)) => {
                if let Some(client) = self.current_client(generation) {
                    client.close_connection();
                }
            }
            // After the end of the wait DISCONNECT follows in the same stream of bytes, so the broker has read the
            // message before it.
            (AfterStatus::Disconnect, _) => self.send_disconnect(generation),
        }
    }

    fn scan_deliveries(&mut self) {
        if let Some(client) = &mut self.current {
            let (generation, deliveries) = (client.dial.generation, client.take_deliveries());
            self.notify_deliveries(generation, deliveries);
        }
    }

    fn handle_connected(&mut self, generation: u64) {
        let Some(client) = &self.current else {
            return;
        };
        let Some(connack) = client.connack else {
            return;
        };
        let endpoint = &client.dial.endpoint;
        let port = endpoint.unix_socket.is_none().then_some(endpoint.port);
        self.dialer.first_port = port;
        if !self.v5 && std::mem::replace(&mut self.warns_without_v5, false) {
            warn!(
                "{}: the connection uses MQTT 3.1.1, with which CONNECT has no user properties, and a \
                 subscription neither an identifier nor --retain-handling",
                self.config.route.endpoint
            );
        }
        self.fallback_at = None;
        let info = ConnectionInfo {
            is_v5: self.v5,
            by_fallback: self.versions.handle_accepted(self.v5, instant_now()),
            port,
            connack,
        };
        let will = self.config.will.as_ref();
        let has_delay = will.is_some_and(|will| !will.delay.is_zero());
        self.has_session_for_will = has_delay && self.v5 && self.session_acks.is_none();
        if has_delay && !self.v5 {
            self.log.log_missing_delay(&self.config);
        }
        // `Connected` is reported once the message is acknowledged, so no message of the caller overtakes it.
        let now = instant_now();
        let until = (now + self.config.operation_timeout).min(
            self.deadline
                .map_or(now, |at| at.checked_sub(STATUS_MARGIN).unwrap_or(now)),
        );
        let next_step = AfterStatus::ReportConnected(info);
        if let Some(client) = self.current.as_mut()
            && client.publish_status(next_step, Some(until))
        {
            return self.poll_tokens(generation);
        }
        self.notify(generation, ClientEventKind::Connected(info));
    }

    fn handle_connect_failed(&mut self, generation: u64) {
        let Some(client) = self.current.take() else {
            return;
        };
        self.fallback_at = None;
        client.close_connection();
        let (dial, end) = (client.dial.clone(), client.connection_end.clone());
        self.retired.push(client);
        let endpoint = &dial.endpoint;
        let fault = match end.as_ref().map(|end| &end.reason) {
            Some(EndReason::OlderVersion(reason)) => {
                if self.versions.handle_refused(true) {
                    return self.dial(generation, false);
                }
                faults::version_5_refused(endpoint, reason)
            }
            Some(EndReason::Refused(reason)) => {
                let is_version = !self.v5 && reason.code == faults::UNACCEPTABLE_VERSION;
                if is_version && self.versions.handle_refused(false) {
                    return self.dial(generation, true);
                }
                self.versions.handle_unrelated_end();
                if self.v5 {
                    faults::connect_refused(endpoint, reason)
                } else {
                    faults::connect_refused_v3(endpoint, reason.code)
                }
            }
            Some(EndReason::NoConnack(violation)) => {
                // A broker that takes any version for 3.1.1 answers like this.
                if violation.packet == Some(PacketType::Connack)
                    && violation.code == MALFORMED_PACKET
                {
                    self.versions.handle_unanswered(self.v5, instant_now());
                } else {
                    self.versions.handle_unrelated_end();
                }
                faults::invalid_connack(endpoint, violation)
            }
            Some(EndReason::Violation(_) | EndReason::NoMemory(_)) => {
                faults::connection_ended(endpoint, end.as_ref()).1
            }
            _ => match end.as_ref().and_then(|end| end.fault.clone()) {
                Some(fault) => {
                    self.versions.handle_unrelated_end();
                    fault
                }
                None => self.handle_closed_before_connack(&dial, end.as_ref()),
            },
        };
        let fault = Fault {
            // With a full handshake, which follows, the broker may accept it.
            permanent: fault.permanent && !dial.is_resumed,
            ..fault
        };
        self.notify_ended(generation, None, fault);
    }

    fn handle_closed_before_connack(
        &mut self,
        dial: &DialAttempt,
        end: Option<&ConnectionEnd>,
    ) -> Fault {
        let now = instant_now();
        let in_a_row = if end.is_some_and(|end| end.in_packet) {
            self.versions.handle_unrelated_end();
            1
        } else {
            self.versions.handle_unanswered(self.v5, now)
        };
        let older_is_next = !self.versions.is_v5_next(now);
        faults::closed_during_connect(&self.config, dial, end, in_a_row, older_is_next)
    }

    fn handle_connection_lost(&mut self, generation: u64) {
        let Some(client) = self.current_client(generation) else {
            return;
        };
        if client.take_connect_result() == Some(false) {
            return self.handle_connect_failed(generation);
        }
        // Acknowledgements that arrived before the end count.
        let deliveries = client.take_deliveries();
        let end = client.connection_end.take();
        client.close_connection();
        let (mut reason_code, mut fault) =
            faults::connection_ended(&client.dial.endpoint, end.as_ref());
        let mut reached = end.and_then(|end| end.reached);
        if let Some(reached) = &mut reached {
            reached.begun = reached.begun.saturating_sub(client.status_count);
        }
        if client.is_online_status_pending() {
            // The connection has not been reported: to the caller it is an attempt that failed.
            fault = faults::ended_after_status(&self.config, reason_code, fault);
            (reason_code, reached) = (None, None);
        }
        self.retire_client();
        self.notify_deliveries(generation, deliveries);
        let ended = ClientEventKind::Ended {
            step: None,
            reason_code,
            fault,
            reached,
        };
        self.notify(generation, ended);
    }

    fn disconnect(&mut self, generation: u64) {
        // A publisher's caller waits as long as it can: messages of QoS 0 may be in front of this one.
        let is_subscriber = self.session_acks.is_some();
        let mut until = is_subscriber.then(|| instant_now() + OFFLINE_TIMEOUT);
        let current = self.current_client(generation);
        // A broker that has not answered the first one is not waited for.
        if current.is_some_and(|client| client.is_status_unanswered) {
            until = Some(instant_now());
        }
        if let Some(client) = self.current_client(generation)
            && client.is_connected()
            && client.publish_status(AfterStatus::Disconnect, until)
        {
            return self.poll_tokens(generation);
        }
        self.send_disconnect(generation);
    }

    fn send_disconnect(&mut self, generation: u64) {
        let session_acks = self.session_acks.clone();
        let Some(client) = self.current_client(generation) else {
            self.abandon_connection(generation);
            return self.notify(generation, ClientEventKind::Disconnected);
        };
        client.begin_disconnect(session_acks.is_some());
        if let Some(session_acks) = session_acks {
            session_acks.request_disconnect();
        }
        self.poll_tokens(generation);
    }

    fn abandon_connection(&mut self, generation: u64) {
        if self.dialer.cancel_generation(generation) {
            self.versions.handle_unrelated_end();
        }
        self.fallback_at = None;
        let (v5, now) = (self.v5, instant_now());
        let quarter = self.config.connect_timeout / 4;
        if let Some(client) = self.current_client(generation) {
            // A CONNECT that was sent just now had no time to be answered.
            let is_unanswered = client.is_connecting() && now >= client.started + quarter;
            let deliveries = client.take_deliveries();
            client.close_connection();
            if is_unanswered {
                self.versions.handle_unanswered(v5, now);
            }
            self.retire_client();
            self.notify_deliveries(generation, deliveries);
        }
    }

    fn retire_client(&mut self) {
        self.retired.extend(self.current.take());
    }

    fn notify_ended(&self, generation: u64, step: Option<DialStep>, fault: Fault) {
        let ended = ClientEventKind::Ended {
            step,
            reason_code: None,
            fault,
            reached: None,
        };
        self.notify(generation, ended);
    }

    fn notify_deliveries(&self, generation: u64, deliveries: Vec<(u64, Delivery)>) {
        if !deliveries.is_empty() {
            self.notify(generation, ClientEventKind::Deliveries(deliveries));
        }
    }

    fn notify(&self, generation: u64, kind: ClientEventKind) {
        (self.notify)(ClientEvent { generation, kind });
    }
}
