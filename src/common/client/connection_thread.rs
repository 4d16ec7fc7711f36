//! The thread of one dial and of the connection that results from it: dials, hands Paho its end of a
//! local socket, and forwards packets until the connection ends.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::ClientConfig;
use super::command::{CommandKind, OpenConnection, WorkerCommand};
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::channel;
use crate::common::transport::bridge::{self, ConnectParameters, Receiver};
use crate::common::transport::credentials::TlsCredentials;
use crate::common::transport::{self, ConnectionHandle, DialStep};

/// How long before the attempt's deadline a dial ends, so that its fault is reported in time.
fn margin(connect_timeout: Duration) -> Duration {
    (connect_timeout / 20).min(Duration::from_millis(100))
}

pub(super) struct ConnectionThread {
    pub(super) generation: u64,
    pub(super) dial: u64,
    pub(super) handle: Arc<ConnectionHandle>,
    pub(super) receiver: Option<Receiver>,
    pub(super) v5: bool,
    pub(super) commands: Sender<WorkerCommand>,
    pub(super) config: Arc<ClientConfig>,
    pub(super) loaded: TlsCredentials,
    /// The port to try first.
    pub(super) first_port: Option<u16>,
    pub(super) deadline: Instant,
    /// The number of running connection threads.
    pub(super) threads: Arc<AtomicUsize>,
}

impl ConnectionThread {
    pub(super) fn run(self) {
        if let Err((step, fault)) = self.connect() {
            let dial = self.dial;
            self.send(CommandKind::DialFailed { dial, step, fault });
        }
        self.threads.fetch_sub(1, Ordering::Relaxed);
    }

    fn connect(&self) -> Result<(), (DialStep, Fault)> {
        let route = &self.config.route;
        let deadline = self
            .deadline
            .checked_sub(margin(self.config.connect_timeout));
        let connected = transport::dial(
            route,
            &self.loaded,
            self.first_port,
            deadline.unwrap_or(self.deadline),
            &self.handle,
            &mut |passed| self.send(CommandKind::DialPassed(passed)),
        )
        .map_err(|failed| (failed.step, failed.fault))?;
        let (ours, theirs) = UnixStream::pair().map_err(|e| {
            let message = format!(
                "{}: a local socket cannot be created: {e}",
                connected.endpoint
            );
            (DialStep::Tcp, Fault::passing(Exit::Io, message))
        })?;
        let dial = self.dial;
        let connection = OpenConnection {
            dial,
            endpoint: connected.endpoint.clone(),
            has_certificate: self.loaded.has_certificate(),
            handle: Arc::clone(&self.handle),
            v5: self.v5,
        };
        self.send(CommandKind::DialSucceeded(connection, theirs.into()));
        let parameters = ConnectParameters {
            v5: self.v5,
            clean: self.config.session_expiry.is_none(),
            max_packet: route.max_packet,
        };
        bridge::relay_packets(
            connected,
            &ours,
            &self.handle,
            parameters,
            self.receiver.as_ref(),
            &mut |event| self.send(CommandKind::Bridge { dial, event }),
        );
        Ok(())
    }

    fn send(&self, kind: CommandKind) {
        let generation = self.generation;
        channel::send(&self.commands, WorkerCommand { generation, kind });
    }
}
