//! Starts a connection thread for each dial, and knows which dial is pending.

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Instant;

use super::credential_loader::CredentialLoader;
use super::one_connection::ConnectionTask;
use super::worker_input::{DialAttempt, WorkerInput};
use super::{ClientConfig, CredentialChange, MessageHandlers};
use crate::common::fault::{Exit, Fault};
use crate::common::transport::bridge::MessageCallbacks;
use crate::common::transport::credentials::TlsCredentials;

/// Threads of abandoned dials that may still run: a name look-up cannot be cancelled.
const MAX_THREADS: usize = 8;

pub(super) struct ConnectionSpawner {
    config: Arc<ClientConfig>,
    credentials: CredentialLoader,
    handlers: Option<MessageHandlers>,
    commands: Sender<WorkerInput>,
    pending: Option<DialAttempt>,
    last_number: u64,
    threads: Arc<()>,
    pub(super) first_port: Option<u16>,
}

impl ConnectionSpawner {
    pub(super) fn new(
        config: Arc<ClientConfig>,
        handlers: Option<MessageHandlers>,
        commands: Sender<WorkerInput>,
    ) -> Self {
        Self {
            credentials: CredentialLoader::new(&config),
            config,
            handlers,
            commands,
            pending: None,
            last_number: 0,
            threads: Arc::new(()),
            first_port: None,
        }
    }

    pub(super) fn start(
        &mut self,
        generation: u64,
        v5: bool,
        clean: bool,
        deadline: Instant,
    ) -> Result<Option<String>, Fault> {
        let endpoint = &self.config.route.endpoint;
        if Arc::strong_count(&self.threads) > MAX_THREADS {
            let message = format!("{endpoint}: {MAX_THREADS} earlier attempts are still hanging");
            return Err(Fault::passing(Exit::Unavailable, message));
        }
        let (loaded, password) = self.credentials.load()?;
        if let Some(pending) = self.pending.take() {
            pending.handle.cancel();
        }
        self.last_number += 1;
        let dial = DialAttempt {
            generation,
            number: self.last_number,
            endpoint: endpoint.clone(),
            has_certificate: loaded.has_certificate(),
            handle: Arc::default(),
            v5,
            clean,
            is_resumed: false,
        };
        self.spawn(dial.clone(), deadline, loaded).map_err(|e| {
            let message = format!("{endpoint}: no thread or descriptor to connect with: {e}");
            Fault::passing(Exit::Io, message)
        })?;
        self.pending = Some(dial);
        Ok(password)
    }

    fn spawn(
        &self,
        dial: DialAttempt,
        deadline: Instant,
        loaded: TlsCredentials,
    ) -> std::io::Result<()> {
        let receiver = match &self.handlers {
            Some(handlers) => Some(MessageCallbacks {
                on_message: Arc::clone(&handlers.on_message),
                on_skipped: Arc::clone(&handlers.on_skipped),
                on_exchanges_ended: Arc::clone(&handlers.on_exchanges_ended),
                acks: handlers.session_acks.begin_connection()?,
            }),
            None => None,
        };
        let thread = ConnectionTask {
            dial,
            receiver,
            commands: self.commands.clone(),
            config: Arc::clone(&self.config),
            loaded,
            first_port: self.first_port,
            deadline,
        };
        let running = Arc::clone(&self.threads);
        std::thread::Builder::new()
            .name("connection".into())
            .spawn(move || {
                thread.run_once();
                drop(running);
            })?;
        Ok(())
    }

    pub(super) fn reload_credentials(&mut self) -> Result<CredentialChange, Fault> {
        self.credentials.reload()
    }

    pub(super) fn clear_if_pending(&mut self, dial: u64) -> bool {
        self.pending.take_if(|p| p.number == dial).is_some()
    }

    pub(super) fn cancel_generation(&mut self, generation: u64) -> bool {
        let pending = self.pending.take_if(|p| p.generation == generation);
        pending.map(|pending| pending.handle.cancel()).is_some()
    }
}
