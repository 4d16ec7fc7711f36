//! One call to the broker, on a thread of its own: dials, hands the connection over, and carries
//! what is said on it until its end.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::session::Dialled;
use super::worker::Command;
use super::{Config, Listener};
use crate::common::acks::ConnectionAcks;
use crate::common::fault::{Exit, Fault};
use crate::common::transport::bridge::{self, Agreement, Receiver, Report};
use crate::common::transport::credentials::files::Loaded;
use crate::common::transport::{self, Handle, Step};

/// A dial ends so long before the attempt is given up, so that its cause is heard in time.
fn margin(timeout: Duration) -> Duration {
    (timeout / 20).min(Duration::from_millis(100))
}

/// A dial, on a thread of its own.
pub(super) struct Call {
    pub(super) generation: u64,
    pub(super) number: u64,
    pub(super) handle: Arc<Handle>,
    /// Who receives messages, and what waits to be acknowledged on this connection.
    pub(super) receiver: Option<(Listener, Arc<ConnectionAcks>)>,
    /// MQTT 5 is spoken, not 3.1.1.
    pub(super) v5: bool,
    pub(super) commands: Sender<Command>,
    pub(super) config: Config,
    pub(super) loaded: Loaded,
    pub(super) first: Option<u16>,
    pub(super) deadline: Instant,
    pub(super) threads: Arc<AtomicUsize>,
}

impl Call {
    /// Dials, hands the connection over, and carries what is said on it until its end.
    pub(super) fn make(self) {
        self.connect();
        self.threads.fetch_sub(1, Ordering::Relaxed);
    }

    fn connect(&self) {
        let route = &self.config.route;
        let deadline = self
            .deadline
            .checked_sub(margin(self.config.connect_timeout));
        let follow = &mut |passed| {
            self.tell(Command::Passed {
                generation: self.generation,
                passed,
            });
        };
        let dialled = transport::dial(
            route,
            &self.loaded,
            self.first,
            deadline.unwrap_or(self.deadline),
            &self.handle,
            follow,
        );
        let connected = match dialled {
            Ok(connected) => connected,
            Err(failed) => return self.undialled(failed.step, failed.fault),
        };
        let (ours, theirs) = match UnixStream::pair() {
            Ok(pair) => pair,
            Err(e) => {
                let message = format!("{}: no socket to carry on with: {e}", connected.way);
                return self.undialled(Step::Tcp, Fault::passing(Exit::Io, message));
            }
        };
        let certified = self.loaded.has_certificate();
        self.tell(Command::Dialled {
            generation: self.generation,
            dialled: Dialled {
                number: self.number,
                way: connected.way.clone(),
                certified,
                socket: theirs.into(),
                handle: Arc::clone(&self.handle),
                v5: self.v5,
            },
        });
        let agreement = Agreement {
            v5: self.v5,
            clean: self.config.session_expiry.is_none(),
            max_packet: route.max_packet,
        };
        let receiver = self.receiver.as_ref().map(|(listener, acks)| Receiver {
            on_message: Arc::clone(&listener.on_message),
            on_skipped: Arc::clone(&listener.on_skipped),
            on_ended: Arc::clone(&listener.on_ended),
            acks: Arc::clone(acks),
        });
        let report = &mut |report| {
            let dial = self.number;
            self.tell(match report {
                Report::Accepted(connack) => Command::Accepted { dial, connack },
                Report::Progress(direction) => Command::Progress { dial, direction },
                Report::Severed(severed) => Command::Severed { dial, severed },
            });
        };
        bridge::carry(
            connected,
            &ours,
            &self.handle,
            agreement,
            receiver.as_ref(),
            report,
        );
    }

    fn undialled(&self, step: Step, fault: Fault) {
        self.tell(Command::Undialled {
            generation: self.generation,
            dial: self.number,
            step,
            fault,
        });
    }

    fn tell(&self, command: Command) {
        // Without a worker the process is ending.
        let _ = self.commands.send(command);
    }
}
