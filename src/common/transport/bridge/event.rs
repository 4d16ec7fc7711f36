//! How a connection ends, and what the bridge reports of it.

use crate::common::fault::Fault;
use crate::common::mqtt::connack::Connack;
use crate::common::mqtt::disconnect_reason::BrokerReason;
use crate::common::mqtt::packet_type::PacketType;
use crate::common::mqtt::reason_codes;
use crate::common::mqtt::violation::Violation;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The client library closed it, and everything that it had sent has gone out.
    ByUs,
    /// The broker closed it, or the network broke.
    Lost,
    /// The broker refused CONNECT; with MQTT 3.1.1 the code is a return code.
    Refused(BrokerReason),
    /// The broker does not speak MQTT 5.
    OlderVersion(BrokerReason),
    Disconnected(BrokerReason),
    /// The broker broke the protocol before it accepted the connection.
    NoConnack(Violation),
    Violation(Violation),
    /// There is no memory for a packet of this size, in bytes.
    NoMemory(usize),
}

impl From<Violation> for EndReason {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl EndReason {
    /// The reason code of our DISCONNECT (MQTT 5.0 section 3.14.2.1); none if there is to be none.
    pub(super) fn disconnect_code_to_send(&self) -> Option<u8> {
        let unless_allowed = |packet, code| {
            (!reason_codes::is_allowed(packet, true, code)).then_some(reason_codes::PROTOCOL_ERROR)
        };
        match self {
            Self::Refused(reason) => unless_allowed(PacketType::Connack, reason.code),
            Self::Disconnected(reason) => unless_allowed(PacketType::Disconnect, reason.code),
            Self::NoConnack(violation) | Self::Violation(violation) => Some(violation.code),
            Self::NoMemory(_) => Some(reason_codes::QUOTA_EXCEEDED),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct ConnectionEnd {
    pub reason: EndReason,
    pub fault: Option<Fault>,
    pub cause: Option<String>,
    /// The broker closed it in order: neither TLS nor TCP nor a packet was cut off.
    pub in_order: bool,
    pub in_packet: bool,
    /// None if it was not the broker that ended the connection.
    pub reached: Option<SentPublishCount>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentPublishCount {
    /// PUBLISH packets that had been sent, in part at least.
    pub begun: u64,
    pub complete: bool,
}

/// Which bytes have moved while an answer is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerProgress {
    /// Part of what the broker has to answer has arrived there.
    PartArrived,
    AllArrived,
    Received,
}

#[derive(Debug)]
pub enum BridgeEvent {
    /// The client library gets its CONNACK afterwards.
    Accepted(Connack),
    Progress(AnswerProgress),
    /// The client library sees that afterwards.
    Ended(ConnectionEnd),
}
