//! The connection of the check: attempts, and requests that are repeated on a second connection.
//! It decides by other rules than a run, which retries for as long as it lasts.

use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use super::report::{self, CONNECT, CheckReport, DNS, PROXY, TCP, TLS, UNIX_SOCKET, WEBSOCKET};
use crate::common::cli::check_command_args::ConnectionCheckConfig;
use crate::common::client::{Client, ClientConfig, ClientEvent, ClientEventKind, ConnectionInfo};
use crate::common::fault::{Exit, Fault, FaultCause};
use crate::common::runtime::clock::instant_now;
use crate::common::runtime::timed_receive::{receive_until, send};
use crate::common::transport::DialEvent;
use crate::common::transport::Route;

const RETRY_DELAY: Duration = Duration::from_millis(500);

/// A connection without requests that lasts this long shows that the broker keeps connections.
const IDLE_TEST: Duration = Duration::from_secs(1);

fn first_step(config: &ConnectionCheckConfig) -> &'static str {
    match config.connection.endpoint.unix_socket {
        Some(_) => UNIX_SOCKET,
        None => DNS,
    }
}

pub(super) enum RequestError {
    /// The broker closed two connections right after the request, but not one without it.
    ClosedTwice(Fault),
    Fault(Fault),
}

pub(super) struct CheckConnection<'a> {
    config: &'a ConnectionCheckConfig,
    client: Client,
    inbox: Receiver<ClientEvent>,
    generation: u64,
    is_connected: bool,
    unanswered: u32,
    last_attempt: Option<Instant>,
    /// TCP was refused, or a CONNECT was not answered, since this was last cleared.
    pub(super) was_down: bool,
    pub(super) step: &'static str,
}

impl<'a> CheckConnection<'a> {
    pub(super) fn start(config: &'a ConnectionCheckConfig) -> std::io::Result<Self> {
        let (events, inbox) = mpsc::channel();
        let client_config = config.connection.client_config(1, false);
        let client_config = ClientConfig {
            // A check announces nothing to others,
            will: None,
            status: None,
            // and verifies certificates.
            route: Route {
                tls_sessions: None,
                ..client_config.route
            },
            ..client_config
        };
        let client = Client::start(client_config, None, move |event| send(&events, event))?;
        Ok(Self {
            config,
            client,
            inbox,
            generation: 0,
            is_connected: false,
            unanswered: 0,
            last_attempt: None,
            was_down: false,
            step: first_step(config),
        })
    }

    pub(super) fn connect_first(
        &mut self,
        report: &mut CheckReport,
    ) -> Result<ConnectionInfo, Fault> {
        match self.connect(Some(report)) {
            // The broker may be restarting, or support only MQTT 3.1.1.
            Err(fault) if fault.kind == FaultCause::Unanswered => {
                self.connect_with_retries(RETRY_DELAY)
            }
            result => result,
        }
    }

    fn connect(&mut self, report: Option<&mut CheckReport>) -> Result<ConnectionInfo, Fault> {
        let connection = &self.config.connection;
        if let Some(at) = self.last_attempt {
            self.sleep_discarding_events(at + connection.profile.connect_interval());
        }
        self.step = first_step(self.config);
        self.generation += 1;
        self.last_attempt = Some(instant_now());
        let deadline = instant_now() + connection.connect_timeout;
        self.client.connect(self.generation, deadline);
        let timeout = connection.connect_timeout + Duration::from_millis(200);
        let result = self.wait_for(timeout, report, |event| match event {
            ClientEventKind::Connected(info) => Some(*info),
            _ => None,
        });
        self.is_connected = result.is_ok();
        self.unanswered = match &result {
            Err(fault) if fault.kind == FaultCause::Unanswered => self.unanswered + 1,
            _ => 0,
        };
        if result.is_err() {
            self.client.abandon(self.generation);
        }
        result
    }

    /// A broker that restarts gets the connect timeout for it.
    fn connect_with_retries(&mut self, first_delay: Duration) -> Result<ConnectionInfo, Fault> {
        let until = instant_now() + self.config.connection.connect_timeout;
        // The third attempt may be one of MQTT 3.1.1.
        let tries_older = self.config.connection.tries_older_mqtt();
        let max_unanswered = if tries_older { 3 } else { 2 };
        let mut delay = first_delay;
        loop {
            self.sleep_discarding_events(instant_now() + delay);
            delay = RETRY_DELAY;
            let result = self.connect(None);
            let Err(fault) = &result else {
                return result;
            };
            let is_unavailable = fault.exit == Exit::Unavailable;
            let retries = if fault.kind == FaultCause::Unanswered {
                self.was_down = true;
                self.unanswered < max_unanswered
            } else {
                self.was_down |= [TCP, UNIX_SOCKET].contains(&self.step) && is_unavailable;
                is_unavailable && instant_now() < until
            };
            if !retries {
                return result;
            }
        }
    }

    pub(super) fn ensure_connected(&mut self, first_delay: Duration) -> Result<(), Fault> {
        if self.is_connected {
            return Ok(());
        }
        self.connect_with_retries(first_delay).map(|_| ())
    }

    /// Sends a request and waits for its answer. If the connection ends first, which may be due to
    /// the network or a restart of the broker, the request is repeated once on a new connection.
    pub(super) fn request<T>(
        &mut self,
        send: impl Fn(&Client, u64),
        answer: impl Fn(&ClientEventKind) -> Option<T>,
    ) -> Result<T, RequestError> {
        let timeout = self.config.connection.operation_timeout;
        let mut first_end = None;
        loop {
            self.ensure_connected(RETRY_DELAY)
                .map_err(RequestError::Fault)?;
            send(&self.client, self.generation);
            let fault = match self.wait_for(timeout, None, &answer) {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            if self.is_connected || fault.exit != Exit::Unavailable {
                return Err(RequestError::Fault(fault));
            }
            if let Some(first_end) = first_end {
                return Err(self.diagnose_second_end(first_end, fault));
            }
            first_end = Some(fault.kind);
        }
    }

    /// The request is the cause only if a connection without one lasts.
    fn diagnose_second_end(&mut self, first_end: FaultCause, fault: Fault) -> RequestError {
        if let Err(fault) = self.ensure_connected(RETRY_DELAY) {
            return RequestError::Fault(fault);
        }
        match self.idle(IDLE_TEST) {
            Some(end) if end.kind == FaultCause::Closed => {
                let message = format!(
                    "{}: the broker closes every connection right after CONNACK, whatever is requested",
                    self.config.connection.endpoint
                );
                RequestError::Fault(Fault::passing(Exit::Unavailable, message).with_remedy(
                    "see the log of the broker, or of the proxy or load balancer in front of it",
                ))
            }
            None if first_end == FaultCause::Closed && fault.kind == FaultCause::Closed => {
                RequestError::ClosedTwice(fault)
            }
            _ => RequestError::Fault(fault),
        }
    }

    /// Returns why the connection ended, if it did.
    pub(super) fn idle(&mut self, duration: Duration) -> Option<Fault> {
        let result = self.wait_for(duration, None, |_| None::<()>);
        result.err().filter(|_| !self.is_connected)
    }

    pub(super) fn disconnect(mut self) {
        self.client.disconnect(self.generation);
        let _: Result<(), _> = self.wait_for(Duration::from_secs(1), None, |event| {
            matches!(event, ClientEventKind::Disconnected).then_some(())
        });
    }

    fn wait_for<T>(
        &mut self,
        within: Duration,
        mut report: Option<&mut CheckReport>,
        answer: impl Fn(&ClientEventKind) -> Option<T>,
    ) -> Result<T, Fault> {
        let until = instant_now() + within;
        while let Some(event) = receive_until(&self.inbox, Some(until)) {
            if let ClientEventKind::DialPassed(passed) = &event.kind {
                self.step = self.step_after(passed);
                if let Some(report) = &mut report {
                    report.handle_progress(passed);
                }
            }
            if event.generation != self.generation {
                continue;
            }
            if let Some(answer) = answer(&event.kind) {
                return Ok(answer);
            }
            if let ClientEventKind::Ended { step, fault, .. } = event.kind {
                self.is_connected = false;
                self.step = step.map_or(self.step, report::step_name);
                return Err(fault);
            }
        }
        let host = &self.config.connection.endpoint;
        let message = format!("{host}: no answer within {within:?}");
        let kind = match self.step {
            CONNECT if !self.is_connected => FaultCause::Unanswered,
            _ => FaultCause::Other,
        };
        Err(Fault::passing(Exit::Unavailable, message)
            .with_remedy("is the network up, and is the broker running?")
            .with_kind(kind))
    }

    fn step_after(&self, passed: &DialEvent) -> &'static str {
        let connection = &self.config.connection;
        match passed {
            DialEvent::Resolved(_) | DialEvent::ProxyResolved { .. } => TCP,
            DialEvent::Connected(_) if connection.proxy.is_some() => PROXY,
            DialEvent::Connected(_) | DialEvent::TunnelOpened if connection.endpoint.tls => TLS,
            DialEvent::WebSocketOpened => CONNECT,
            DialEvent::EndpointFailed(_) => DNS,
            _ if connection.endpoint.websocket.is_some() => WEBSOCKET,
            _ => CONNECT,
        }
    }

    fn sleep_discarding_events(&self, until: Instant) {
        // Discards the events of earlier attempts.
        while receive_until(&self.inbox, Some(until)).is_some() {}
    }
}
