//! Starts a connection thread for each dial, and knows which dial is pending.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::time::Instant;

use super::command::WorkerCommand;
use super::connection_thread::ConnectionThread;
use super::{ClientConfig, MessageHandlers};
use crate::common::fault::{Exit, Fault};
use crate::common::transport::ConnectionHandle;
use crate::common::transport::bridge::Receiver;
use crate::common::transport::credentials::TlsCredentials;

/// Threads of abandoned dials that may still run: a name look-up cannot be cancelled.
const MAX_THREADS: usize = 8;

struct PendingDial {
    generation: u64,
    number: u64,
    handle: Arc<ConnectionHandle>,
}

pub(super) struct Dialer {
    config: Arc<ClientConfig>,
    handlers: Option<MessageHandlers>,
    commands: Sender<WorkerCommand>,
    pending: Option<PendingDial>,
    last_number: u64,
    threads: Arc<AtomicUsize>,
    /// The port on which the broker accepted a connection, to be tried first.
    pub(super) first_port: Option<u16>,
}

impl Dialer {
    pub(super) fn new(
        config: Arc<ClientConfig>,
        handlers: Option<MessageHandlers>,
        commands: Sender<WorkerCommand>,
    ) -> Self {
        Self {
            config,
            handlers,
            commands,
            pending: None,
            last_number: 0,
            threads: Arc::default(),
            first_port: None,
        }
    }

    /// Fails while too many threads of earlier dials are still running.
    pub(super) fn check_thread_limit(&self) -> Result<(), Fault> {
        if self.threads.load(Ordering::Relaxed) < MAX_THREADS {
            return Ok(());
        }
        let endpoint = &self.config.route.endpoint;
        let message = format!("{endpoint}: {MAX_THREADS} earlier attempts are still hanging");
        Err(Fault::passing(Exit::Unavailable, message))
    }

    /// Starts a dial, and cancels the one that is pending.
    pub(super) fn start(
        &mut self,
        generation: u64,
        v5: bool,
        deadline: Instant,
        loaded: TlsCredentials,
    ) -> Result<(), Fault> {
        self.cancel();
        self.last_number += 1;
        let handle = Arc::new(ConnectionHandle::default());
        self.spawn(generation, v5, deadline, loaded, &handle)
            .map_err(|e| {
                let endpoint = &self.config.route.endpoint;
                let message = format!("{endpoint}: no thread or descriptor to connect with: {e}");
                Fault::passing(Exit::Io, message)
            })?;
        self.pending = Some(PendingDial {
            generation,
            number: self.last_number,
            handle,
        });
        Ok(())
    }

    fn spawn(
        &self,
        generation: u64,
        v5: bool,
        deadline: Instant,
        loaded: TlsCredentials,
        handle: &Arc<ConnectionHandle>,
    ) -> std::io::Result<()> {
        let receiver = match &self.handlers {
            Some(handlers) => Some(Receiver {
                on_message: Arc::clone(&handlers.on_message),
                on_skipped: Arc::clone(&handlers.on_skipped),
                on_released: Arc::clone(&handlers.on_released),
                acks: handlers.backlog.begin_connection()?,
            }),
            None => None,
        };
        let thread = ConnectionThread {
            generation,
            dial: self.last_number,
            handle: Arc::clone(handle),
            receiver,
            v5,
            commands: self.commands.clone(),
            config: Arc::clone(&self.config),
            loaded,
            first_port: self.first_port,
            deadline,
            threads: Arc::clone(&self.threads),
        };
        self.threads.fetch_add(1, Ordering::Relaxed);
        std::thread::Builder::new()
            .name("connection".into())
            .spawn(move || thread.run())
            .inspect_err(|_| {
                self.threads.fetch_sub(1, Ordering::Relaxed);
            })?;
        Ok(())
    }

    /// Whether this dial is the pending one, which then ends.
    pub(super) fn take_pending(&mut self, dial: u64) -> bool {
        self.pending.take_if(|p| p.number == dial).is_some()
    }

    /// Cancels the pending dial if it is of this generation. Returns whether it was.
    pub(super) fn cancel_generation(&mut self, generation: u64) -> bool {
        let is_pending = self
            .pending
            .as_ref()
            .is_some_and(|p| p.generation == generation);
        if is_pending {
            self.cancel();
        }
        is_pending
    }

    fn cancel(&mut self) {
        if let Some(pending) = self.pending.take() {
            pending.handle.cancel();
        }
    }
}
