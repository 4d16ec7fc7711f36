//! What the outbox takes and answers. PURE.

use std::time::Duration;

use super::broker_limits::TooLarge;
use crate::common::broker::profile::Profile;
use crate::common::client::PublishesArrived;
use crate::common::mqtt::draft::Draft;

/// What the end of a connection says about the messages that were in flight on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConnectionLoss {
    /// Nothing: the network failed, or the broker or this program ended it for another reason.
    Unrelated,
    /// It may be because of a message: the broker closed it without a reason, or because of a packet
    /// that it does not name.
    Closed {
        /// What the broker had received; `None` if the connection broke.
        reached: Option<PublishesArrived>,
    },
    /// The broker ended it for a reason that is about a message.
    Refused {
        reason: String,
        reached: Option<PublishesArrived>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It was taken; older messages may have been dropped for it.
    Taken {
        seq: u64,
    },
    /// The queue is full and keeps what it has. The receiver sees the gap in the numbers.
    Dropped {
        seq: u64,
    },
    /// It cannot be sent now, and the queue is off.
    Refused,
    TooLarge(TooLarge),
    /// The source has to wait; the draft comes back.
    Full(Draft),
}

#[derive(Clone, Copy, Debug)]
pub struct OutboxConfig {
    pub max_in_flight: usize,
    /// How long the oldest message in flight may wait for its acknowledgement.
    pub operation_timeout: Duration,
    pub expiry: Option<Duration>,
    /// A message is given up after the broker has closed this number of connections right after it.
    pub max_attempts: u32,
    pub sequence: bool,
    pub profile: Profile,
}
