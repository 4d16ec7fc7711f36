//! The thread of one dial and of the connection that results from it: dials, hands Paho its end of a
//! local socket, and forwards packets until the connection ends.

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use super::ClientConfig;
use super::worker_input::{DialAttempt, WorkerInput, WorkerInputKind};
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::timed_receive;
use crate::common::transport::bridge::{self, ConnectParameters, MessageCallbacks};
use crate::common::transport::credentials::TlsCredentials;
use crate::common::transport::{self, DialStep, SessionResumption};

pub(super) struct ConnectionTask {
    pub(super) dial: DialAttempt,
    pub(super) receiver: Option<MessageCallbacks>,
    pub(super) commands: Sender<WorkerInput>,
    pub(super) config: Arc<ClientConfig>,
    pub(super) loaded: TlsCredentials,
    pub(super) first_port: Option<u16>,
    pub(super) deadline: Instant,
}

impl ConnectionTask {
    pub(super) fn run_once(self) {
        if let Err((step, fault)) = self.connect_and_relay() {
            let dial = self.dial.number;
            self.send_to_worker(WorkerInputKind::DialFailed { dial, step, fault });
        }
    }

    fn connect_and_relay(&self) -> Result<(), (DialStep, Fault)> {
        let route = &self.config.route;
        // A dial ends before the attempt's deadline, so that its fault is reported in time.
        let margin = (self.config.connect_timeout / 20).min(Duration::from_millis(100));
        let deadline = self.deadline.checked_sub(margin);
        let connected = transport::dial(
            route,
            &self.loaded,
            self.first_port,
            deadline.unwrap_or(self.deadline),
            &self.dial.handle,
            &mut |passed| self.send_to_worker(WorkerInputKind::DialPassed(passed)),
        )
        .map_err(|failed| (failed.step, failed.fault))?;
        let (ours, theirs) = UnixStream::pair().map_err(|e| {
            let endpoint = &connected.endpoint;
            let message = format!("{endpoint}: a local socket cannot be created: {e}");
            (DialStep::Tcp, Fault::passing(Exit::Io, message))
        })?;
        let dial = DialAttempt {
            endpoint: connected.endpoint.clone(),
            is_resumed: connected
                .resumption
                .as_ref()
                .is_some_and(SessionResumption::is_resumed),
            ..self.dial.clone()
        };
        self.send_to_worker(WorkerInputKind::DialSucceeded(dial, theirs.into()));
        let parameters = ConnectParameters {
            v5: self.dial.v5,
            clean: self.dial.clean,
            max_packet: route.max_packet,
        };
        let dial = self.dial.number;
        bridge::relay_packets(
            connected,
            &ours,
            &self.dial.handle,
            parameters,
            self.receiver.as_ref(),
            &mut |event| self.send_to_worker(WorkerInputKind::Bridge { dial, event }),
        );
        Ok(())
    }

    fn send_to_worker(&self, kind: WorkerInputKind) {
        let generation = self.dial.generation;
        timed_receive::send(&self.commands, WorkerInput { generation, kind });
    }
}
