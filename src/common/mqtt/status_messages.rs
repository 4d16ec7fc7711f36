//! The retained messages that say whether a client is connected. PURE.

use std::time::Duration;

use super::qos::Qos;
use super::will::Will;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusMessages {
    pub topic: String,
    /// The payload that the client publishes after each CONNACK.
    pub online: Vec<u8>,
    /// The payload that the client publishes before DISCONNECT, and the broker if there is none.
    pub offline: Vec<u8>,
}

impl StatusMessages {
    pub const QOS: Qos = Qos::AtLeastOnce;

    pub fn to_will(&self) -> Will {
        Will {
            topic: self.topic.clone(),
            payload: self.offline.clone(),
            qos: Self::QOS,
            retain: true,
            delay: Duration::ZERO,
        }
    }
}
