//! The last will: a message that the broker publishes when a connection ends without DISCONNECT (MQTT 5.0 section
//! 3.1.2.5). PURE.

use std::time::Duration;

use super::qos::Qos;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: Qos,
    pub retain: bool,
    /// How long the broker waits before it publishes the will. MQTT 3.1.1 has no such delay.
    pub delay: Duration,
}

impl Will {
    /// CONNECT has two bytes for the length of the payload (MQTT 5.0 section 3.1.3.4).
    pub const MAX_PAYLOAD: usize = 65_535;

    /// How long the session has to outlive its connection. A broker publishes the will at the end of the session, if
    /// that comes before the end of the delay (MQTT 5.0 section 3.1.3.2.2).
    pub fn session_expiry(&self) -> Option<Duration> {
        (!self.delay.is_zero()).then_some(self.delay)
    }
}
