//! What a broker's CONNACK means for what we are about to send.

use super::SessionLimits;
use crate::common::client::ConnectionInfo;
use crate::common::fault::{Exit, Fault};
use crate::common::mqtt::limits::EXACTLY_ONCE_WINDOW;
use crate::publisher::config::Config;

/// The limits of the connection.
///
/// # Errors
///
/// A permanent fault if this broker can never take what is to be published.
pub fn limits(config: &Config, info: &ConnectionInfo) -> Result<SessionLimits, Fault> {
    let host = &config.connection.endpoint;
    let unsuitable = |why: String, remedy: String| {
        Err(Fault::permanent(Exit::Protocol, format!("{host}: {why}")).with_remedy(remedy))
    };
    if let Some(max) = info.connack.maximum_qos
        && config.input.qos.level() > max
    {
        let why = format!("the broker takes QoS 0 to {max}");
        return unsuitable(why, format!("give --qos {max}"));
    }
    if config.input.retain && !info.connack.retain_available {
        let why = "the broker keeps no retained messages".into();
        return unsuitable(why, "leave --retain out".into());
    }
    let protocol = SessionLimits::PROTOCOL;
    Ok(SessionLimits {
        receive_maximum: info
            .connack
            .receive_maximum
            .map_or(protocol.receive_maximum, usize::from),
        maximum_packet_size: info
            .connack
            .maximum_packet_size
            .and_then(|size| usize::try_from(size).ok())
            .unwrap_or(protocol.maximum_packet_size),
        properties: info.is_v5,
        exactly_once: if info.is_v5 || config.window_by_hand {
            protocol.exactly_once
        } else {
            EXACTLY_ONCE_WINDOW
        },
    })
}
