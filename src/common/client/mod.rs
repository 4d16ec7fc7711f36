//! The MQTT client: the only module that uses `paho_mqtt`.
//!
//! [`Client`] is a handle to a worker thread that owns every Paho object. Commands go to the worker
//! through a channel, and events come back through a callback, so that no caller ever waits for
//! Paho, which holds a global lock while a message callback runs. [`transport`](super::transport)
//! makes the connection to the broker; Paho gets the other end of a local socket.

pub mod certificate_end;
mod config;
mod connection_faults;
mod connection_spawner;
mod credential_change;
mod credential_loader;
mod event;
mod one_connection;
mod paho_client;
mod paho_options;
mod paho_results;
mod refused_request;
mod status_delivery;
mod status_log;
mod version_fallback;
mod worker;
mod worker_input;

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::Instant;

use super::mqtt::outgoing_message::OutgoingMessage;
use super::mqtt::qos::Qos;
use super::runtime::timed_receive;
pub use super::transport::bridge::{AnswerProgress, SentPublishCount};
pub use config::{ClientConfig, MessageHandlers, MqttVersion, RetainHandling};
pub use credential_change::CredentialChange;
pub use event::{ClientEvent, ClientEventKind, ConnectionInfo, Delivery};
pub use refused_request::{RefusedRequest, RequestKind};
use worker_input::{WorkerInput, WorkerInputKind};

/// The version of the Paho C library that the `paho-mqtt-sys` crate bundles.
pub const LIBRARY_VERSION: &str = "Paho C 1.3.16";

/// The worker lives as long as the process, even if this handle is dropped.
#[derive(Clone, Debug)]
pub struct Client {
    commands: Sender<WorkerInput>,
    receives: bool,
}

impl Client {
    /// `notify` gets every event and must not block. Events of one generation come in order.
    pub fn start(
        config: ClientConfig,
        handlers: Option<MessageHandlers>,
        notify: impl Fn(ClientEvent) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (commands, inbox) = mpsc::channel();
        let receives = handlers.is_some();
        let worker = worker::Worker::new(config, handlers, commands.clone(), notify);
        std::thread::Builder::new()
            .name("mqtt-client".into())
            .spawn(move || worker.run(&inbox))?;
        Ok(Self { commands, receives })
    }

    pub fn receives(&self) -> bool {
        self.receives
    }

    /// Is answered with `Connected` or `Ended`, perhaps after the deadline.
    pub fn connect(&self, generation: u64, deadline: Instant) {
        self.send_input(generation, WorkerInputKind::Connect(deadline));
    }

    /// Publishes in order. `Deliveries` reports each message under the id given here, unless the connection ends first.
    pub fn publish(&self, generation: u64, messages: Vec<(u64, Arc<OutgoingMessage>)>) {
        self.send_input(generation, WorkerInputKind::Publish(messages));
    }

    /// `text` must be a valid filter. `filter` is a number that comes back in `Subscribed`.
    pub fn subscribe(&self, generation: u64, filter: usize, text: String, qos: Qos) {
        self.send_input(generation, WorkerInputKind::Subscribe { filter, text, qos });
    }

    pub fn unsubscribe(&self, generation: u64, filters: Vec<String>) {
        self.send_input(generation, WorkerInputKind::Unsubscribe(filters));
    }

    /// Closes an attempt or a connection without DISCONNECT; no event follows.
    pub fn abandon(&self, generation: u64) {
        self.send_input(generation, WorkerInputKind::Abandon);
    }

    /// Sends DISCONNECT and closes, which is answered with `Disconnected`. A client that receives
    /// messages first acknowledges those that have been processed.
    pub fn disconnect(&self, generation: u64) {
        self.send_input(generation, WorkerInputKind::Disconnect);
    }

    /// Reads certificate, key, CA and password, which is answered with `CredentialsReloaded`.
    pub fn reload_credentials(&self, generation: u64) {
        self.send_input(generation, WorkerInputKind::ReloadCredentials);
    }

    fn send_input(&self, generation: u64, kind: WorkerInputKind) {
        timed_receive::send(&self.commands, WorkerInput { generation, kind });
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_named_paho_c_version_is_the_one_that_the_locked_crate_bundles() {
        let lock = include_str!("../../../Cargo.lock");
        let entry = "name = \"paho-mqtt-sys\"\nversion = \"0.11.0\"";
        let advice = "look up the Paho C version of the new paho-mqtt-sys";
        assert!(lock.contains(entry), "{advice}");
    }
}
