//! Why a connect failed: what Paho says, and where it says nothing, what a probe finds.
//!
//! A server that is probed sees a connection. So that it sees one for each step of the
//! backoff and no more, a probe about a fault in which the *server* hung up takes the place
//! of the next attempt. One about a fault in which *we* hung up, or never got through, is
//! made at once: then nobody is waiting for us.

use std::time::{Duration, Instant};

use paho_mqtt::Error;

use super::probe;
use super::reason;
use super::session::Hint;
use super::tls::Loaded;
use super::{Config, Version};
use crate::common::fault::{Exit, Fault};

/// The probe leaves this much of the deadline, so that its answer comes before it.
const PROBE_MARGIN: Duration = Duration::from_millis(100);

/// What the failures so far say about the next attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Suspicion {
    /// Nothing: connect.
    #[default]
    None,
    /// The server hung up in the handshake: ask in the place of an attempt, and connect if
    /// the handshake goes well.
    Handshake,
    /// The server hung up after the handshake, without a word: ask, once, in the place of an
    /// attempt. The server would see two connections if we connected as well.
    Session,
    /// The probe has found a fault in TLS: while it does, a connect would fail as well.
    Tls,
    /// The probe found nothing, and the connect failed all the same: stop asking.
    Elsewhere,
}

/// The suspicion, from one attempt to the next.
#[derive(Debug, Default)]
pub(super) struct Diagnosis {
    suspicion: Suspicion,
}

impl Diagnosis {
    /// A connection was accepted: nothing is suspected any more.
    pub(super) fn acquit(&mut self) {
        self.suspicion = Suspicion::None;
    }

    /// Asks before an attempt, if there is something to ask; the fault stands for the
    /// attempt, which is then not made.
    pub(super) fn before_attempt(
        &mut self,
        config: &Config,
        loaded: &Loaded,
        deadline: Option<Instant>,
    ) -> Result<(), Fault> {
        match self.suspicion {
            Suspicion::None | Suspicion::Elsewhere => Ok(()),
            Suspicion::Tls | Suspicion::Handshake => {
                ask(config, loaded, deadline)?;
                self.suspicion = Suspicion::Elsewhere;
                Ok(())
            }
            Suspicion::Session => {
                let found = ask(config, loaded, deadline);
                self.suspicion = match &found {
                    Err(fault) if fault.permanent => Suspicion::Tls,
                    _ => Suspicion::Elsewhere,
                };
                found.and(Err(closed_before_connack(config)))
            }
        }
    }

    /// The cause of a failed connect.
    pub(super) fn cause(
        &mut self,
        config: &Config,
        error: Error,
        hint: Hint,
        deadline: Option<Instant>,
    ) -> Fault {
        let endpoint = &config.endpoint;
        let host = endpoint.to_string();
        let insists_on_5 = config.version == Version::V5;
        match error {
            Error::ReasonCode(code, properties) => {
                reason::connect_refused(&host, code, &properties)
            }
            Error::ConnectReturn(code) => reason::connect_returned(&host, code),
            Error::TcpConnectTimeout => Fault::passing(
                Exit::Unavailable,
                format!("{host}: no answer within the connect timeout"),
            ),
            Error::Failure => match probe::resolve(endpoint) {
                Ok(_) if insists_on_5 => reason::version_5_refused(&host),
                Ok(_) => Fault::passing(Exit::Unavailable, format!("{host}: cannot connect")),
                Err(fault) => fault,
            },
            Error::TcpConnectCompletionFailure => {
                self.suspect(config, Suspicion::Session);
                closed_before_connack(config)
            }
            Error::TcpTlsConnectFailure if hint.in_handshake && hint.peer_closed => {
                self.suspect(config, Suspicion::Handshake);
                probe::closed(endpoint)
            }
            Error::TcpTlsConnectFailure => self.ask_at_once(config, deadline),
            other => Fault::passing(
                Exit::Unavailable,
                format!("{host}: cannot connect: {other}"),
            ),
        }
    }

    fn suspect(&mut self, config: &Config, what: Suspicion) {
        if config.endpoint.tls && self.suspicion == Suspicion::None {
            self.suspicion = what;
        }
    }

    fn ask_at_once(&mut self, config: &Config, deadline: Option<Instant>) -> Fault {
        let loaded = config.tls.load();
        match loaded.and_then(|loaded| ask(config, &loaded, deadline)) {
            Ok(()) => {
                self.suspect(config, Suspicion::Session);
                closed_before_connack(config)
            }
            Err(fault) => {
                if config.endpoint.tls && fault.permanent {
                    self.suspicion = Suspicion::Tls;
                }
                fault
            }
        }
    }
}

fn ask(config: &Config, loaded: &Loaded, deadline: Option<Instant>) -> Result<(), Fault> {
    match deadline.and_then(|at| at.checked_sub(PROBE_MARGIN)) {
        Some(deadline) => probe::probe(&config.endpoint, &config.tls, loaded, deadline),
        None => Ok(()),
    }
}

fn closed_before_connack(config: &Config) -> Fault {
    let host = &config.endpoint;
    let why = if !config.endpoint.tls {
        "is this an MQTT port without TLS?"
    } else if config.tls.identity.is_none() {
        "if the broker wants a client certificate, give --cert and --key"
    } else {
        "is the certificate active, and does its policy allow this client id?"
    };
    Fault::passing(
        Exit::Unavailable,
        format!("{host}: the broker closed the connection before CONNACK; {why}"),
    )
}
