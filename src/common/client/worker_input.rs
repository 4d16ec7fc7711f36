//! The commands of the worker thread. They come from [`Client`](super::Client), from Paho's threads
//! and from the connection threads.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use crate::common::broker::endpoint::Endpoint;
use crate::common::fault::Fault;
use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::common::mqtt::qos::Qos;
use crate::common::transport::bridge::BridgeEvent;
use crate::common::transport::{ConnectionHandle, DialEvent, DialStep};

pub(super) struct WorkerInput {
    pub(super) generation: u64,
    pub(super) kind: WorkerInputKind,
}

/// `dial` is the number of a dial; a generation has several if it tries both versions of MQTT.
pub(super) enum WorkerInputKind {
    Connect(Instant),
    Publish(Vec<(u64, Arc<OutgoingMessage>)>),
    Subscribe {
        filter: usize,
        text: String,
        qos: Qos,
    },
    Unsubscribe(Vec<String>),
    Abandon,
    Disconnect,
    ReloadCredentials,
    /// A Paho token may have completed.
    CheckTokens,
    ConnectionLost,
    DialPassed(DialEvent),
    DialSucceeded(DialAttempt, OwnedFd),
    DialFailed {
        dial: u64,
        step: DialStep,
        fault: Fault,
    },
    Bridge {
        dial: u64,
        event: BridgeEvent,
    },
}

/// A dial, and the connection that it makes.
#[derive(Clone)]
pub(super) struct DialAttempt {
    pub(super) generation: u64,
    pub(super) number: u64,
    pub(super) endpoint: Endpoint,
    pub(super) has_certificate: bool,
    pub(super) handle: Arc<ConnectionHandle>,
    pub(super) v5: bool,
    /// CONNECT asks for a new session.
    pub(super) clean: bool,
    /// A TLS session was resumed, so the broker may not know who the client is.
    pub(super) is_resumed: bool,
}
