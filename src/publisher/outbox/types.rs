//! The words in which the outbox is spoken to. PURE.

use std::fmt;
use std::time::Duration;

use crate::common::broker::profile::Profile;
use crate::common::client::PublishesArrived;
use crate::common::mqtt::limits;
use crate::common::mqtt::message::Draft;

/// What the broker allows on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Unacknowledged QoS 1 and 2 messages.
    pub receive_maximum: usize,
    /// Unacknowledged QoS 2 messages.
    pub exactly_once: usize,
    /// The largest packet, in bytes.
    pub maximum_packet_size: usize,
    /// Whether messages carry properties: with MQTT 5.
    pub properties: bool,
}

impl SessionLimits {
    /// What the protocol allows where the broker says nothing.
    pub const PROTOCOL: SessionLimits = SessionLimits {
        receive_maximum: 65_535,
        exactly_once: 65_535,
        maximum_packet_size: limits::MAX_PACKET,
        properties: true,
    };
}

/// Why a message cannot be sent on the present connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// The size of its packet, in bytes.
    pub packet: usize,
    /// The largest packet that the broker takes, in bytes.
    pub most: usize,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { packet, most } = self;
        write!(
            f,
            "{packet} bytes are above the broker's maximum packet size of {most}"
        )
    }
}

/// What the end of a connection says about the messages that were in flight on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: the network broke, or the broker or we ended it for another reason.
    Unrelated,
    /// It may have been for one of them: the broker closed it without a reason, or for a packet that it does not
    /// name.
    Closed {
        /// What the broker had received by then; none if the connection broke, which is nobody's fault.
        reached: Option<PublishesArrived>,
    },
    /// The broker ended it for a reason that is about a message.
    Refused {
        /// What it said.
        reason: String,
        /// What it had received by then.
        reached: Option<PublishesArrived>,
    },
}

/// What became of a draft that was offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It has its place; older ones may have had to go for it.
    Taken {
        /// Its number.
        seq: u64,
    },
    /// It got a number but no place: the queue is full and keeps what it has.
    Dropped {
        /// Its number: the receiver sees the gap.
        seq: u64,
    },
    /// It cannot go out now, and the queue is off.
    Refused,
    /// The broker takes no packet of its size.
    TooLarge(TooLarge),
    /// The source has to wait; the draft comes back.
    Full(Draft),
}

/// How the outbox goes about its work.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Unacknowledged messages at most.
    pub max_in_flight: usize,
    /// How long the oldest in flight may go without an acknowledgement.
    pub operation_timeout: Duration,
    /// How long a message may wait for its sending.
    pub expiry: Option<Duration>,
    /// Connections that the broker closed right after one message before it is given up.
    pub max_attempts: u32,
    /// Whether each message carries the `seq` property.
    pub sequence: bool,
    /// Whose limits and quota are guarded.
    pub profile: Profile,
}
