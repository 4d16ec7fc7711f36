//! What the broker allows on a connection, from its CONNACK. PURE.

use crate::common::broker::endpoint::Endpoint;
use crate::common::client::ConnectionInfo;
use crate::common::fault::{Exit, Fault};
use crate::common::mqtt::limits::{EXACTLY_ONCE_WINDOW, MAX_PACKET};
use crate::common::mqtt::qos::Qos;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BrokerLimits {
    /// Unacknowledged messages of QoS 1 and 2.
    pub receive_maximum: usize,
    /// Unacknowledged messages of QoS 2.
    pub exactly_once: usize,
    pub maximum_packet_size: usize,
    /// Whether messages carry properties: with MQTT 5.
    pub properties: bool,
}

impl BrokerLimits {
    pub const PROTOCOL: Self = Self {
        receive_maximum: 65_535,
        exactly_once: 65_535,
        maximum_packet_size: MAX_PACKET,
        properties: true,
    };

    /// The limits of a connection. `max_in_flight_set` is whether the user has set the window, which
    /// then holds for every QoS. A permanent fault if the broker does not take `qos` or `retain`.
    pub fn of(
        info: &ConnectionInfo,
        host: &Endpoint,
        qos: Qos,
        retain: bool,
        max_in_flight_set: bool,
    ) -> Result<Self, Fault> {
        let unsuitable = |why: String, remedy: String| {
            Err(Fault::permanent(Exit::Protocol, format!("{host}: {why}")).with_remedy(remedy))
        };
        if let Some(max) = info.connack.maximum_qos
            && qos.level() > max
        {
            let why = format!("the broker takes QoS 0 to {max}");
            return unsuitable(why, format!("give --qos {max}"));
        }
        if retain && !info.connack.retain_available {
            let why = "the broker keeps no retained messages".into();
            return unsuitable(why, "leave --retain out".into());
        }
        let mut limits = Self {
            properties: info.is_v5,
            ..Self::PROTOCOL
        };
        if let Some(maximum) = info.connack.receive_maximum {
            limits.receive_maximum = maximum.into();
        }
        if let Some(Ok(size)) = info.connack.maximum_packet_size.map(usize::try_from) {
            limits.maximum_packet_size = size;
        }
        if !limits.properties && !max_in_flight_set {
            limits.exactly_once = EXACTLY_ONCE_WINDOW;
        }
        Ok(limits)
    }
}
