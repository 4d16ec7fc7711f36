//! The MQTT client: the only room that names `paho_mqtt`.
//!
//! [`Client`] is a handle to a worker thread that owns every Paho object. Commands go to it
//! through a channel, events come back through a function given at the start, so that no
//! caller ever waits for Paho, which holds a global lock across message callbacks. What the
//! events mean for the run is decided elsewhere. The way to the broker is
//! [`transport`](super::transport)'s: Paho gets a local socket.
//!
//! * `worker` carries out commands and watches the tokens;
//! * `call` is one connection, from the dial to its end, on a thread of its own;
//! * `session` is one Paho client: its options, its connect, its messages in flight;
//! * `options` is what Paho is told about a connection;
//! * `answers` puts Paho's answers into our words;
//! * `reason` turns MQTT's codes into faults, `cause` what is left when MQTT says nothing;
//! * `versions` decides between MQTT 5 and 3.1.1.

mod answers;
mod call;
mod cause;
mod options;
mod reason;
mod session;
mod versions;
mod worker;

use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::time::{Duration, Instant};

use super::acks::Backlog;
use super::broker::profile::Profile;
use super::fault::{Exit, Fault};
use super::mqtt::message::{Message, Qos};
use super::runtime::secret_file::SecretFile;
pub use super::transport::bridge::{Direction, Reached};
use super::transport::bridge::{OnEnded, OnMessage, OnSkipped};
use super::transport::credentials::files::{Loaded, TlsFiles};
use super::transport::{Passed, Route, Step};

/// The version of the Paho C library that the `paho-mqtt-sys` crate bundles.
const PAHO_C_VERSION: &str = "1.3.16";

/// Which MQTT to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// MQTT 5, and 3.1.1 where the broker refuses that, or does not answer it.
    Any,
    /// MQTT 5 only.
    V5,
    /// MQTT 3.1.1 only.
    V311,
}

/// What the client needs to know for every connection.
#[derive(Clone, Debug)]
pub struct Config {
    /// The way to the broker.
    pub route: Route,
    /// CA, certificate and key.
    pub files: TlsFiles,
    /// What certificate, key and CA held when they were checked, for the first connection;
    /// each later one reads them anew.
    pub loaded: Option<Loaded>,
    /// The MQTT client identifier.
    pub client_id: String,
    /// The MQTT user name.
    pub username: Option<String>,
    /// The file with the MQTT password, which is read for every connection.
    pub password: Option<SecretFile>,
    /// Which MQTT to speak.
    pub version: Version,
    /// Time between pings on an idle connection, whole seconds.
    pub keep_alive: Duration,
    /// One deadline over name look-up, TCP, TLS and CONNACK.
    pub connect_timeout: Duration,
    /// The longest message expiry that the broker is told.
    pub max_expiry: Duration,
    /// Messages in flight, at most.
    pub max_in_flight: usize,
    /// Whether published messages carry the `seq` property.
    pub sequence: bool,
    /// How long the broker is to keep the session after the connection has ended; none for a new
    /// session each time.
    pub session_expiry: Option<Duration>,
    /// Whether subscriptions ask for the retain flag of live messages as the publisher set it.
    pub retain_as_published: bool,
}

/// What the broker said in its CONNACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The version that both speak: 5, or 4 for MQTT 3.1.1.
    pub mqtt_version: u8,
    /// The broker does not answer MQTT 5: so 3.1.1 was tried.
    pub by_fallback: bool,
    /// The port by which it was reached.
    pub port: u16,
    /// Whether the broker still has the session of an earlier connection.
    pub session_present: bool,
    /// Unacknowledged QoS 1 and 2 messages the broker takes.
    pub receive_maximum: Option<u16>,
    /// The largest packet the broker takes, in bytes.
    pub maximum_packet_size: Option<u32>,
    /// The highest QoS the broker takes.
    pub maximum_qos: Option<u8>,
    /// Whether the broker keeps retained messages.
    pub retain_available: bool,
}

/// The broker's no to one message or one filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason code; 0x80 where MQTT 3.1.1 gives no other.
    pub code: u8,
    /// Its name, and what the broker added.
    pub reason: String,
}

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// A message.
    Publish,
    /// A subscription.
    Subscribe,
}

impl Refusal {
    /// What to do about it at such a broker.
    pub fn remedy(&self, profile: Profile, request: Request) -> String {
        let (what, action) = match request {
            Request::Publish => ("publish", "iot:Publish"),
            Request::Subscribe => ("subscribe to", "iot:Subscribe"),
        };
        match self.code {
            0x80 | 0x83 | 0x87 => format!(
                "check what {} lets this client {what}{}",
                profile.access_rules(),
                profile.action(action)
            ),
            0x97 => "it may accept later; see its quotas".into(),
            _ => "see the broker's log".into(),
        }
    }

    /// The exit code that a refusal stands for: not authorised, or a breach of what the
    /// broker supports.
    pub fn exit(&self) -> Exit {
        match self.code {
            0x80 | 0x83 | 0x87 => Exit::Refused,
            0x97 => Exit::Unavailable,
            _ => Exit::Protocol,
        }
    }
}

/// The end of one published message, as far as the client can tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Acknowledged; at QoS 0, written to the connection.
    Done,
    /// The broker refused it.
    Refused(Refusal),
    /// The broker or the library cannot take it now.
    NotNow,
}

/// What the worker reports. Events of one generation come in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// The broker accepted the connection.
    Connected {
        /// Which attempt.
        generation: u64,
        /// What it said.
        accepted: Accepted,
    },
    /// The attempt failed, or the connection ended.
    Ended {
        generation: u64,
        /// The step of the dial that failed, if one did.
        step: Option<Step>,
        /// The reason code of the broker's DISCONNECT, if it sent one.
        code: Option<u8>,
        /// Why.
        fault: Fault,
        /// How much of what was published the broker had received, if it ended the connection in order.
        reached: Option<Reached>,
    },
    /// An answer is due, and meanwhile the line makes progress.
    Progress {
        /// On which connection.
        generation: u64,
        /// Which way.
        direction: Direction,
    },
    /// A step of the dial went well.
    Passed {
        /// Of which attempt.
        generation: u64,
        /// Which step.
        passed: Passed,
    },
    /// Messages have come to their end.
    Deliveries {
        /// On which connection.
        generation: u64,
        /// Their names and ends.
        settled: Vec<(u64, Delivery)>,
    },
    /// The broker answered a SUBSCRIBE: the granted QoS, or why not.
    Subscribed {
        /// On which connection.
        generation: u64,
        /// The caller's number of the filter.
        filter: usize,
        /// The granted QoS, or the refusal.
        answer: Result<u8, Refusal>,
    },
    /// DISCONNECT has been sent.
    Disconnected {
        /// Of which connection.
        generation: u64,
    },
}

/// Who receives messages. The functions are called on the thread of the connection.
#[derive(Clone)]
pub struct Listener {
    /// Is handed each.
    pub on_message: OnMessage,
    /// Is called for each that is skipped.
    pub on_skipped: OnSkipped,
    /// Is called for what the broker has ended.
    pub on_ended: OnEnded,
    /// What waits to be dealt with.
    pub backlog: Arc<Backlog>,
}

/// A handle to the worker. Dropping it does not end the worker: the process does.
#[derive(Clone, Debug)]
pub struct Client {
    commands: Sender<worker::Command>,
    receives: bool,
}

impl Client {
    /// Starts the worker. `notify` hands each event over and must not block.
    ///
    /// # Errors
    ///
    /// The operating system's, if there are no more threads to be had.
    pub fn start(
        config: Config,
        listener: Option<Listener>,
        notify: impl Fn(Event) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (commands, inbox) = mpsc::channel();
        let receives = listener.is_some();
        let worker = worker::Worker::new(config, listener, commands.clone(), notify);
        std::thread::Builder::new()
            .name("mqtt-client".into())
            .spawn(move || worker.run(&inbox))?;
        Ok(Self { commands, receives })
    }

    /// Whether somebody receives messages.
    pub fn receives(&self) -> bool {
        self.receives
    }

    /// Starts an attempt. It answers with `Connected` or `Ended`, at some time.
    pub fn connect(&self, generation: u64, deadline: Instant) {
        self.send(worker::Command::Connect {
            generation,
            deadline,
        });
    }

    /// Publishes in order. Each message comes to an end in `Deliveries`, under the name that the
    /// caller gives it here, unless the connection does first.
    pub fn publish(&self, generation: u64, messages: Vec<(u64, Arc<Message>)>) {
        self.send(worker::Command::Publish {
            generation,
            messages,
        });
    }

    /// Sends one SUBSCRIBE with one filter, checked before. The number comes back in
    /// `Subscribed`.
    pub fn subscribe(&self, generation: u64, filter: usize, text: String, qos: Qos) {
        self.send(worker::Command::Subscribe {
            generation,
            filter,
            text,
            qos,
        });
    }

    /// Sends UNSUBSCRIBE. Nobody waits for the answer: what still comes is received.
    pub fn unsubscribe(&self, generation: u64, filters: Vec<String>) {
        self.send(worker::Command::Unsubscribe {
            generation,
            filters,
        });
    }

    /// Gives an attempt or a connection up, without an answer.
    pub fn abandon(&self, generation: u64) {
        self.send(worker::Command::Abandon { generation });
    }

    /// Sends DISCONNECT and closes; answers with `Disconnected`. If somebody receives messages, what has been dealt
    /// with is acknowledged before.
    pub fn disconnect(&self, generation: u64) {
        self.send(worker::Command::Disconnect { generation });
    }

    fn send(&self, command: worker::Command) {
        // The worker lives as long as the process; without it there is nobody to tell.
        let _ = self.commands.send(command);
    }
}

/// The library in use, as `--version` names it.
pub fn library_version() -> String {
    format!("Paho C {PAHO_C_VERSION}")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_named_paho_c_version_is_the_one_that_the_locked_crate_bundles() {
        let lock = include_str!("../../../Cargo.lock");
        let entry = "name = \"paho-mqtt-sys\"\nversion = \"0.11.0\"";
        assert!(
            lock.contains(entry),
            "look up the Paho C version of the new paho-mqtt-sys"
        );
    }
}
