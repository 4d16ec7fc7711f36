//! What Paho is told about a client and its one connection.
//!
//! Of the way to the broker it knows nothing: it is given a socket that is connected already.

use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::time::Duration;

use paho_mqtt::{
    ConnectOptions, ConnectOptionsBuilder, CreateOptions, CreateOptionsBuilder, MQTT_VERSION_3_1_1,
    PersistenceType, Properties, PropertyCode,
};

use super::Config;

/// Paho counts messages against this while connected too, and refuses what is above; it
/// must lie above the window.
fn max_buffered(config: &Config) -> i32 {
    let buffered = config.max_in_flight.saturating_mul(2).max(1_000);
    i32::try_from(buffered).unwrap_or(i32::MAX)
}

/// How to create a client, which will close `socket`. Nothing is persisted by Paho: the outbox
/// answers for messages.
pub(super) fn create(config: &Config, socket: OwnedFd) -> CreateOptions {
    CreateOptionsBuilder::new()
        .server_uri(format!("unix://@{}", socket.into_raw_fd()))
        .client_id(&config.client_id)
        .persistence(PersistenceType::None)
        .max_buffered_messages(max_buffered(config))
        .finalize()
}

/// How to connect, once.
pub(super) fn connect(config: &Config, password: Option<&str>, v5: bool) -> ConnectOptions {
    let clean = config.session_expiry.is_none();
    let mut options = if v5 {
        let mut options = ConnectOptionsBuilder::new_v5();
        options.clean_start(clean);
        options.properties(properties(config));
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

/// The largest packet that we take (MQTT 5, section 3.1.2.11.4), and how long the session is to outlive the
/// connection (section 3.1.2.11.2): whole seconds; what is more than MQTT can say means for ever.
fn properties(config: &Config) -> Properties {
    let mut properties = Properties::new();
    // A number has no way to be refused.
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

/// Paho counts its own connect timeout in seconds; ours decides.
fn whole_seconds(timeout: Duration) -> Duration {
    Duration::from_secs(timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0))
}
