//! The options of a Paho client and of its one connection. Paho knows nothing of the network: it is
//! given a connected socket.

use std::os::fd::{IntoRawFd as _, OwnedFd};
use std::time::Duration;

use paho_mqtt::{
    ConnectOptions, ConnectOptionsBuilder, CreateOptions, CreateOptionsBuilder, MQTT_VERSION_3_1_1,
    Message, MessageBuilder, PersistenceType, Properties, PropertyCode,
};

use super::ClientConfig;
use crate::common::mqtt::will::Will;

/// The client will close `socket`. Paho stores nothing: the caller keeps the messages.
pub(super) fn create_options(config: &ClientConfig, socket: OwnedFd) -> CreateOptions {
    // Paho counts messages in flight against this limit too and refuses what is above it.
    let max_buffered = config.max_in_flight.saturating_mul(2).max(1_000);
    CreateOptionsBuilder::new()
        .server_uri(format!("unix://@{}", socket.into_raw_fd()))
        .client_id(&config.client_id)
        .persistence(PersistenceType::None)
        .max_buffered_messages(i32::try_from(max_buffered).unwrap_or(i32::MAX))
        .finalize()
}

pub(super) fn connect_options(
    config: &ClientConfig,
    password: Option<&str>,
    v5: bool,
    clean: bool,
) -> ConnectOptions {
    let mut options;
    if v5 {
        options = ConnectOptionsBuilder::new_v5();
        options
            .clean_start(clean)
            .properties(connect_properties(config));
    } else {
        options = ConnectOptionsBuilder::with_mqtt_version(MQTT_VERSION_3_1_1);
        options.clean_session(clean);
    }
    options
        .keep_alive_interval(config.keep_alive)
        .max_inflight(i32::try_from(config.max_in_flight).unwrap_or(i32::MAX))
        .connect_timeout(Duration::from_secs(
            whole_seconds(config.connect_timeout).into(),
        ));
    if let Some(username) = &config.username {
        options.user_name(username);
    }
    if let Some(password) = password {
        options.password(password);
    }
    if let Some(will) = &config.will {
        options.will_message(will_message(will));
    }
    options.finalize()
}

/// With MQTT 3.1.1 Paho omits the properties.
fn will_message(will: &Will) -> Message {
    let mut properties = Properties::new();
    if !will.delay.is_zero() {
        // Cannot fail for a number.
        let _ = properties.push_u32(PropertyCode::WillDelayInterval, whole_seconds(will.delay));
    }
    MessageBuilder::new()
        .topic(&*will.topic)
        .payload(&*will.payload)
        .qos(i32::from(will.qos.level()))
        .retained(will.retain)
        .properties(properties)
        .finalize()
}

/// Maximum Packet Size (MQTT 5.0 section 3.1.2.11.4), Session Expiry Interval (3.1.2.11.2), whose
/// highest value means that the session never expires, and the user properties.
fn connect_properties(config: &ClientConfig) -> Properties {
    let mut properties = Properties::new();
    // Cannot fail for a number.
    let mut push = |code, number| {
        let _ = properties.push_u32(code, number);
    };
    push(PropertyCode::MaximumPacketSize, config.route.max_packet);
    let for_will = config.will.as_ref().and_then(Will::session_expiry);
    if let Some(expiry) = config.session_expiry.max(for_will) {
        push(PropertyCode::SessionExpiryInterval, whole_seconds(expiry));
    }
    for (name, value) in &config.connect_properties {
        let _ = properties.push_string_pair(PropertyCode::UserProperty, name, value);
    }
    properties
}

/// Rounds up, and saturates.
pub(super) fn whole_seconds(duration: Duration) -> u32 {
    let fraction = u64::from(duration.subsec_nanos() > 0);
    u32::try_from(duration.as_secs().saturating_add(fraction)).unwrap_or(u32::MAX)
}
