//! The commands of the worker thread. They come from [`Client`](super::Client), from Paho's threads
//! and from the connection threads.

use std::sync::Arc;
use std::time::Instant;

use super::paho_client::OpenConnection;
use crate::common::fault::Fault;
use crate::common::mqtt::connack::Connack;
use crate::common::mqtt::message::Message;
use crate::common::mqtt::qos::Qos;
use crate::common::transport::bridge::{ConnectionEnd, TransferProgress};
use crate::common::transport::{DialProgress, DialStep};

/// `dial` is the number of a dial; a generation has several if it tries both versions of MQTT.
pub(super) enum WorkerCommand {
    Connect {
        generation: u64,
        deadline: Instant,
    },
    Publish {
        generation: u64,
        messages: Vec<(u64, Arc<Message>)>,
    },
    Subscribe {
        generation: u64,
        filter: usize,
        text: String,
        qos: Qos,
    },
    Unsubscribe {
        generation: u64,
        filters: Vec<String>,
    },
    Abandon {
        generation: u64,
    },
    Disconnect {
        generation: u64,
    },
    /// A Paho token may have completed.
    CheckTokens {
        generation: u64,
    },
    /// Paho has noticed the end of the connection.
    ConnectionLost {
        generation: u64,
    },
    DialStep {
        generation: u64,
        passed: DialProgress,
    },
    DialSucceeded {
        generation: u64,
        connection: OpenConnection,
    },
    DialFailed {
        generation: u64,
        dial: u64,
        step: DialStep,
        fault: Fault,
    },
    Accepted {
        dial: u64,
        connack: Connack,
    },
    Progress {
        dial: u64,
        direction: TransferProgress,
    },
    ConnectionEnded {
        dial: u64,
        connection_end: ConnectionEnd,
    },
}
