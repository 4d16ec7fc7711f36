//! What the worker reports.

use super::{CredentialChange, RefusedRequest};
use crate::common::fault::Fault;
use crate::common::mqtt::connack::Connack;
use crate::common::transport::bridge::{AnswerProgress, SentPublishCount};
use crate::common::transport::{DialEvent, DialStep};

#[derive(Clone, Debug)]
pub struct ClientEvent {
    pub generation: u64,
    pub kind: ClientEventKind,
}

#[derive(Clone, Debug)]
pub enum ClientEventKind {
    Connected(ConnectionInfo),
    Ended {
        /// The step that failed, if no connection was made.
        step: Option<DialStep>,
        /// Of the broker's DISCONNECT, if it sent one.
        reason_code: Option<u8>,
        fault: Fault,
        reached: Option<SentPublishCount>,
    },
    Progress(AnswerProgress),
    DialPassed(DialEvent),
    Deliveries(Vec<(u64, Delivery)>),
    /// The granted QoS or a refusal. `filter` is the number that the caller gave the filter.
    Subscribed {
        filter: usize,
        answer: Result<u8, RefusedRequest>,
    },
    Disconnected,
    CredentialsReloaded(Result<CredentialChange, Fault>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    pub is_v5: bool,
    /// MQTT 3.1.1 was tried because the broker does not answer MQTT 5.
    pub by_fallback: bool,
    /// None for a Unix socket.
    pub port: Option<u16>,
    pub connack: Connack,
}

impl ConnectionInfo {
    pub fn version_name(&self) -> &'static str {
        if self.is_v5 { "5" } else { "3.1.1" }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Acknowledged; at QoS 0, written to the connection.
    Done,
    Refused(RefusedRequest),
    NotNow,
}
