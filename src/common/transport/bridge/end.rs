//! How a connection ends, and what is reported of it.

use crate::common::fault::Fault;
use crate::common::mqtt::connack::Connack;
use crate::common::mqtt::disconnect::BrokerReason;
use crate::common::mqtt::packet_type::PacketType;
use crate::common::mqtt::reason_code;
use crate::common::mqtt::violation::Violation;

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The client library closed it, and all that it had sent has gone out.
    ByUs,
    /// The broker closed it, or the network broke.
    Lost,
    /// The broker refused CONNECT; with MQTT 3.1.1 the code is a return code.
    Refused(BrokerReason),
    /// The broker does not speak MQTT 5, as it said it.
    OlderVersion(BrokerReason),
    /// The broker ended it with a DISCONNECT.
    Disconnected(BrokerReason),
    /// The broker broke the protocol before it accepted the connection.
    NoConnack(Violation),
    /// The broker broke the protocol.
    Violation(Violation),
    /// There is no memory for a packet of this size, in bytes.
    NoMemory(usize),
}

impl End {
    /// The reason code of the DISCONNECT that tells the broker why (MQTT 5.0 section 3.14.2.1).
    pub(super) fn code(&self) -> Option<u8> {
        let foreign = |packet, code| {
            (!reason_code::is_allowed(packet, true, code)).then_some(reason_code::PROTOCOL_ERROR)
        };
        match self {
            Self::Refused(reason) => foreign(PacketType::Connack, reason.code),
            Self::Disconnected(reason) => foreign(PacketType::Disconnect, reason.code),
            Self::NoConnack(violation) | Self::Violation(violation) => Some(violation.code),
            Self::NoMemory(_) => Some(reason_code::QUOTA_EXCEEDED),
            _ => None,
        }
    }
}

/// How a connection ended, and what the layers below said of it.
#[derive(Clone, Debug)]
pub struct Severed {
    pub end: End,
    /// What the broker said in TLS at the end, if it said anything.
    pub fault: Option<Fault>,
    /// What the operating system says of the end, or TLS; none if that is nothing.
    pub cause: Option<String>,
    /// The broker closed it in order: neither TLS nor TCP was broken off, nor a packet.
    pub in_order: bool,
    /// It ended inside a packet of the broker's.
    pub in_packet: bool,
    /// How much of what was published the broker had received, if it ended the connection.
    pub reached: Option<Reached>,
}

/// How much of what was published a broker had received when it ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// PUBLISH packets that had been sent, or of which a part had.
    pub begun: u64,
    /// All of that had arrived, as far as the operating system can tell.
    pub complete: bool,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To the broker: bytes of what it has to answer have reached it, and not all of them.
    Sent,
    /// To the broker: the last of them have.
    Arrived,
    /// From the broker.
    Received,
}

/// What is reported of a connection.
#[derive(Debug)]
pub enum Report {
    /// The broker has accepted it. The client library gets its CONNACK afterwards.
    Accepted(Connack),
    /// An answer is due, and meanwhile the line makes progress this way.
    Progress(Direction),
    /// It has ended. The client library sees that afterwards.
    Severed(Severed),
}
