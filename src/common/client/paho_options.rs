//! The options of a Paho client and of its one connection. Paho knows nothing of the network: it is
//! given a connected socket.

use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::time::Duration;

use paho_mqtt::{
    ConnectOptions, ConnectOptionsBuilder, CreateOptions, CreateOptionsBuilder, MQTT_VERSION_3_1_1,
    PersistenceType, Properties, PropertyCode,
};

use super::ClientConfig;

/// Paho counts messages in flight against this limit too and refuses what is above it, so it must
/// be larger than the window.
fn max_buffered(config: &ClientConfig) -> i32 {
    let buffered = config.max_in_flight.saturating_mul(2).max(1_000);
    i32::try_from(buffered).unwrap_or(i32::MAX)
}

/// The client will close `socket`. Paho stores nothing: the caller keeps the messages.
pub(super) fn create_options(config: &ClientConfig, socket: OwnedFd) -> CreateOptions {
    CreateOptionsBuilder::new()
        .server_uri(format!("unix://@{}", socket.into_raw_fd()))
        .client_id(&config.client_id)
        .persistence(PersistenceType::None)
        .max_buffered_messages(max_buffered(config))
        .finalize()
}

pub(super) fn connect_options(
    config: &ClientConfig,
    password: Option<&str>,
    v5: bool,
) -> ConnectOptions {
    let clean = config.session_expiry.is_none();
    let mut options = if v5 {
        let mut options = ConnectOptionsBuilder::new_v5();
        options.clean_start(clean).properties(properties(config));
        options
    } else {
        let mut options = ConnectOptionsBuilder::with_mqtt_version(MQTT_VERSION_3_1_1);
        options.clean_session(clean);
        options
    };
    options
        .keep_alive_interval(config.keep_alive)
        .max_inflight(i32::try_from(config.max_in_flight).unwrap_or(i32::MAX))
        .connect_timeout(whole_seconds(config.connect_timeout));
    if let Some(username) = &config.username {
        options.user_name(username);
    }
    if let Some(password) = password {
        options.password(password);
    }
    options.finalize()
}

/// Maximum Packet Size (MQTT 5.0 section 3.1.2.11.4) and Session Expiry Interval (section 3.1.2.11.2),
/// whose highest value means that the session never expires.
fn properties(config: &ClientConfig) -> Properties {
    let mut properties = Properties::new();
    // Cannot fail for a number.
    let mut push = |code, number| {
        let _ = properties.push_u32(code, number);
    };
    push(PropertyCode::MaximumPacketSize, config.route.max_packet);
    if let Some(expiry) = config.session_expiry {
        let seconds = u32::try_from(whole_seconds(expiry).as_secs()).unwrap_or(u32::MAX);
        push(PropertyCode::SessionExpiryInterval, seconds);
    }
    properties
}

/// Rounds up.
fn whole_seconds(duration: Duration) -> Duration {
    Duration::from_secs(duration.as_secs() + u64::from(duration.subsec_nanos() > 0))
}
