//! What Paho is told about a client and its one connection.

use std::time::Duration;

use paho_mqtt::{
    ConnectOptions, ConnectOptionsBuilder, CreateOptions, CreateOptionsBuilder, Error,
    MQTT_VERSION_3_1_1, PersistenceType, SslOptionsBuilder,
};

use super::Config;
use super::tls::Loaded;

/// TLS 1.2 suites only: with OpenSSL 1.1 and later Paho ignores a minimum version, but a
/// server that cannot do TLS 1.2 has none of these. TLS 1.3 has a list of its own.
const CIPHERS: &str = "TLSv1.2+HIGH:!aNULL:!eNULL:!PSK:!SRP";

/// Paho counts messages against this while connected too, and refuses what is above; it
/// must lie above the window.
fn max_buffered(config: &Config) -> i32 {
    let buffered = config.max_in_flight.saturating_mul(2).max(1_000);
    i32::try_from(buffered).unwrap_or(i32::MAX)
}

/// How to create a client. Nothing is persisted by Paho: the outbox answers for messages.
pub(super) fn create(config: &Config) -> CreateOptions {
    CreateOptionsBuilder::new()
        .server_uri(uri(config))
        .client_id(&config.client_id)
        .persistence(PersistenceType::None)
        .max_buffered_messages(max_buffered(config))
        .finalize()
}

/// How to connect, once.
pub(super) fn connect(config: &Config, loaded: &Loaded, v5: bool) -> Result<ConnectOptions, Error> {
    let mut options = if v5 {
        let mut options = ConnectOptionsBuilder::new_v5();
        options.clean_start(true);
        options
    } else {
        let mut options = ConnectOptionsBuilder::with_mqtt_version(MQTT_VERSION_3_1_1);
        options.clean_session(true);
        options
    };
    options
        .keep_alive_interval(config.keep_alive)
        .max_inflight(i32::try_from(config.max_in_flight).unwrap_or(i32::MAX))
        .connect_timeout(whole_seconds(config.connect_timeout));
    if let Some(username) = &config.username {
        options.user_name(username);
    }
    if let Some(password) = &config.password {
        options.password(password.as_str());
    }
    if config.endpoint.tls {
        let mut tls = SslOptionsBuilder::new();
        tls.verify(true)
            .enable_server_cert_auth(true)
            .enabled_cipher_suites(CIPHERS);
        if let Some(cafile) = &config.tls.cafile {
            tls.trust_store(cafile)?.disable_default_trust_store(true);
        }
        if let Some(identity) = &config.tls.identity {
            tls.key_store(&identity.cert)?.private_key(&identity.key)?;
        }
        if let Some(passphrase) = &loaded.passphrase {
            tls.private_key_password(passphrase.as_str());
        }
        options.ssl_options(tls.finalize());
    }
    Ok(options.finalize())
}

/// Paho counts its own connect timeout in seconds; ours decides.
fn whole_seconds(timeout: Duration) -> Duration {
    Duration::from_secs(timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0))
}

fn uri(config: &Config) -> String {
    let scheme = if config.endpoint.tls { "ssl" } else { "tcp" };
    format!("{scheme}://{}", config.endpoint)
}
