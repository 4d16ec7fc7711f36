//! What the outbox takes and answers. PURE.

use std::time::Duration;

use crate::common::broker::profile::Profile;
use crate::common::client::SentPublishCount;
use crate::common::mqtt::draft::Draft;

/// What the end of a connection says about the messages that were in flight on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PoisonEvidence {
    /// The network failed, or the broker or this program ended it for another reason.
    Unrelated,
    /// The broker ended it, perhaps because of a message.
    ByBroker {
        /// A reason that is about a message; `None` if the broker gave none, or named no message.
        reason: Option<String>,
        /// What the broker had received; `None` if the connection broke.
        reached: Option<SentPublishCount>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Offered {
    /// Older messages may have been dropped for it.
    Taken {
        seq: u64,
    },
    /// The queue is full and keeps what it has. The receiver sees the gap in the numbers.
    Dropped {
        seq: u64,
    },
    /// The client is offline, and the queue is off.
    Refused,
    TooLarge(String),
    /// The source has to wait; the draft comes back.
    Full(Draft),
}

#[derive(Clone, Copy, Debug)]
pub struct OutboxConfig {
    pub max_in_flight: usize,
    /// For the acknowledgement of the oldest message in flight.
    pub operation_timeout: Duration,
    pub expiry: Option<Duration>,
    /// How long messages wait for others before they are written to disk together.
    pub commit_interval: Option<Duration>,
    /// Connections that the broker may close right after a message before it is given up.
    pub max_attempts: u32,
    pub sequence: bool,
    pub profile: Profile,
}
