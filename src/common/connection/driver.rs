//! Carries out the actions of [`ConnectionStateMachine`] through the [`Client`], and logs why there is no
//! connection. The event loop of each program owns one driver.

use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use log::{info, log, warn};

use super::connection_counts::ConnectionCounts;
use super::end_cause::EndCause;
use super::outage::{OutageEnd, OutageLog};
use super::reload::CredentialUser;
use super::state::{ConnectionAction, ConnectionState, ConnectionStateMachine};
use crate::common::client::{
    Client, ClientEvent, ClientEventKind, ConnectionInfo, SentPublishCount,
};
use crate::common::fault::{Exit, Fault, FaultCause};
use crate::common::metrics::metric_family::MetricFamily;
use crate::common::runtime::clock::instant_now;
use crate::common::runtime::logging::level_of;
use crate::common::runtime::random;
use crate::common::runtime::timed_receive::receive_until;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionUpdate {
    Connected(ConnectionInfo),
    /// A connection has ended or an attempt has failed; the next attempt follows.
    Disconnected(Disconnection),
    GaveUp(Fault),
    Closed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disconnection {
    pub message: String,
    pub exit: Exit,
    /// Of the broker's DISCONNECT, if it sent one.
    pub reason_code: Option<u8>,
    /// How long an accepted connection was up that was closed without a reason or network error.
    pub closed_after: Option<Duration>,
    pub reached: Option<SentPublishCount>,
}

/// How long to wait for DISCONNECT to be sent when nothing depends on it.
pub const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the end of a connection that is replaced may take: messages of QoS 0 may have to be written first.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(30);

pub const FALLBACK_NOTICE: &str = "the broker does not answer MQTT 5; MQTT 3.1.1 is used, which has no reason \
                                   codes, message expiry and seq, and does not mark batches";

#[derive(Debug)]
pub struct ConnectionDriver {
    connection: ConnectionStateMachine,
    client: Client,
    random: fastrand::Rng,
    outage: OutageLog,
    /// The broker's, with the port of the present connection.
    address: String,
    is_fallback_logged: bool,
    counts: ConnectionCounts,
}

impl ConnectionDriver {
    pub fn new(connection: ConnectionStateMachine, client: Client) -> Self {
        Self {
            address: connection.authority().to_owned(),
            connection,
            client,
            random: random::generator(),
            outage: OutageLog::default(),
            is_fallback_logged: false,
            counts: ConnectionCounts::default(),
        }
    }

    pub fn is_online(&self) -> bool {
        matches!(self.connection.state(), ConnectionState::Online { .. })
    }

    /// The connection is being replaced, and the old one has not ended yet.
    pub fn is_renewal_ending(&self) -> bool {
        self.connection.is_renewal_ending(self.generation())
    }

    /// How often a connection was made, lost, or not made.
    pub fn count_connection_events(&self) -> u64 {
        self.counts.total()
    }

    pub fn metric_families(&self) -> Vec<MetricFamily> {
        self.counts.to_families(self.is_online())
    }

    pub fn state_machine(&self) -> &ConnectionStateMachine {
        &self.connection
    }

    pub fn client(&self) -> &Client {
        &self.client
    }

    pub fn generation(&self) -> u64 {
        self.connection.generation()
    }

    /// What uses the files that were read before the worker reported, for `generation`, that it has read them again.
    pub fn credential_user(&self, generation: u64) -> CredentialUser {
        match self.connection.state() {
            // A later attempt has read them after that.
            _ if generation != self.generation() => CredentialUser::Nothing,
            ConnectionState::Online { .. } => CredentialUser::Connection,
            ConnectionState::Connecting { .. } => CredentialUser::Attempt,
            ConnectionState::Idle | ConnectionState::Waiting { .. } | ConnectionState::Stopped => {
                CredentialUser::Nothing
            }
        }
    }

    pub fn start(&mut self, now: Instant) {
        let actions = self.connection.start(now);
        self.carry_out(actions, now);
    }

    /// Call it when the connection that was made can be used. Returns what to log if there was none before.
    pub fn end_outage(&mut self, now: Instant) -> Option<OutageEnd> {
        self.outage.handle_connected(&self.address, now)
    }

    pub fn handle_event(&mut self, event: &ClientEvent, now: Instant) -> Option<ConnectionUpdate> {
        let generation = event.generation;
        match &event.kind {
            ClientEventKind::Connected(info) => {
                if !self.connection.handle_connected(generation, now) {
                    return None;
                }
                let (host, version) = (self.connection.authority(), info.version_name());
                // The port may be another one than that of the endpoint.
                let address = match (host.rsplit_once(':'), info.port) {
                    (Some((before, _)), Some(port)) => format!("{before}:{port}"),
                    _ => host.to_owned(),
                };
                info!("connected to {address} with MQTT {version}");
                self.counts.handle_connected();
                if info.by_fallback && !std::mem::replace(&mut self.is_fallback_logged, true) {
                    warn!(
                        "{host}: {FALLBACK_NOTICE}; give --mqtt-version 3.1.1 to connect at once"
                    );
                }
                self.address = address;
                Some(ConnectionUpdate::Connected(*info))
            }
            ClientEventKind::Ended {
                step,
                reason_code,
                fault,
                reached,
            } => {
                if self.connection.is_renewal_ending(generation) {
                    let actions = self.connection.handle_renewal_ended(now);
                    return self.carry_out(actions, now);
                }
                let state = self.connection.state();
                if state == ConnectionState::Stopped && generation == self.generation() {
                    return Some(ConnectionUpdate::Closed);
                }
                let random = self.random.f64();
                let actions = self
                    .connection
                    .handle_ended(generation, fault.clone(), now, random);
                self.count_end(&actions, state, EndCause::of(*step, fault));
                let mut update = self.carry_out(actions, now)?;
                if let ConnectionUpdate::Disconnected(disconnection) = &mut update {
                    disconnection.reason_code = *reason_code;
                    disconnection.reached = *reached;
                    if let ConnectionState::Online { since } = state
                        && fault.kind == FaultCause::Closed
                    {
                        disconnection.closed_after = Some(now.saturating_duration_since(since));
                    }
                }
                Some(update)
            }
            ClientEventKind::Disconnected if self.connection.is_renewal_ending(generation) => {
                let actions = self.connection.handle_renewal_ended(now);
                self.carry_out(actions, now)
            }
            ClientEventKind::Disconnected => {
                (generation == self.generation()).then_some(ConnectionUpdate::Closed)
            }
            _ => None,
        }
    }

    pub fn fail_connection(&mut self, fault: Fault, now: Instant) -> Option<ConnectionUpdate> {
        let random = self.random.f64();
        let (state, cause) = (self.connection.state(), EndCause::of(None, &fault));
        let actions = self.connection.fail_connection(fault, now, random);
        self.count_end(&actions, state, cause);
        self.carry_out(actions, now)
    }

    /// Replaces the connection, or the attempt, by one that uses the files as they are now. At QoS 1 and 2 nothing is
    /// lost if the end of the old connection is cut off.
    pub fn renew(&mut self, now: Instant) {
        let actions = self.connection.renew(RENEWAL_TIMEOUT, now);
        self.carry_out(actions, now);
    }

    pub fn handle_timeout(&mut self, now: Instant) -> Option<ConnectionUpdate> {
        let random = self.random.f64();
        let state = self.connection.state();
        let actions = self.connection.handle_timeout(now, random);
        self.count_end(&actions, state, EndCause::Timeout);
        self.carry_out(actions, now)
    }

    /// Ends the connection and waits until everything has been sent, DISCONNECT last. At QoS 1 and 2
    /// nothing is lost without it, so `timeout` may be short. Returns `false` if it passed first.
    pub fn close<E>(
        &mut self,
        inbox: &Receiver<E>,
        timeout: Duration,
        client_event: impl Fn(E) -> Option<ClientEvent>,
    ) -> bool {
        // DISCONNECT has been requested already; what stands before it may still have to be written.
        let is_ending = self.is_renewal_ending();
        let mut actions = self.connection.stop();
        if self.client.receives() {
            // Messages may have arrived on a connection whose CONNACK has not been handled yet.
            for action in &mut actions {
                if *action == ConnectionAction::Abandon {
                    *action = ConnectionAction::Disconnect;
                }
            }
        }
        let sends_disconnect = is_ending || actions.contains(&ConnectionAction::Disconnect);
        self.carry_out(actions, instant_now());
        let until = instant_now() + timeout;
        while sends_disconnect && let Some(event) = receive_until(inbox, Some(until)) {
            if let Some(event) = client_event(event)
                && self.handle_event(&event, instant_now()) == Some(ConnectionUpdate::Closed)
            {
                return true;
            }
        }
        !sends_disconnect
    }

    /// `before` is the state that `actions` may have ended.
    fn count_end(
        &mut self,
        actions: &[ConnectionAction],
        before: ConnectionState,
        cause: EndCause,
    ) {
        let is_end = |action: &ConnectionAction| {
            matches!(
                action,
                ConnectionAction::Retry { .. } | ConnectionAction::GiveUp(_)
            )
        };
        if actions.iter().any(is_end) {
            let was_online = matches!(before, ConnectionState::Online { .. });
            self.counts.handle_ended(was_online, cause);
        }
    }

    fn carry_out(
        &mut self,
        actions: Vec<ConnectionAction>,
        now: Instant,
    ) -> Option<ConnectionUpdate> {
        let generation = self.generation();
        let mut update = None;
        for action in actions {
            match action {
                ConnectionAction::Connect { deadline } => {
                    self.outage.handle_attempt(now);
                    self.client.connect(generation, deadline);
                }
                ConnectionAction::Abandon => self.client.abandon(generation),
                ConnectionAction::Disconnect => self.client.disconnect(generation),
                ConnectionAction::Retry { fault, delay } => {
                    let (repetition, line) = self.outage.handle_failure(&fault, delay, now);
                    let code = fault.exit.code();
                    log!(level_of(repetition), code; "{line}");
                    update = Some(ConnectionUpdate::Disconnected(Disconnection {
                        message: fault.to_string(),
                        exit: fault.exit,
                        reason_code: None,
                        closed_after: None,
                        reached: None,
                    }));
                }
                ConnectionAction::GiveUp(fault) => update = Some(ConnectionUpdate::GaveUp(fault)),
            }
        }
        update
    }
}
