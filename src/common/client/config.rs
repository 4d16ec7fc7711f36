//! The settings of a client, which hold for every connection, and the handlers of its messages.

use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::certificate_end::CertificateEnd;
use crate::common::acks::SessionAcks;
use crate::common::mqtt::status_messages::StatusMessages;
use crate::common::mqtt::will::Will;
use crate::common::runtime::secret_source::SecretSource;
use crate::common::transport::Route;
use crate::common::transport::bridge::{OnMessage, OnQos2ExchangesEnded, OnSkipped};
use crate::common::transport::credentials::{TlsCredentials, TlsFiles};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MqttVersion {
    /// MQTT 5, and 3.1.1 if the broker refuses MQTT 5 or does not answer it.
    #[default]
    Any,
    V5,
    V311,
}

/// Whether a SUBSCRIBE makes the broker send retained messages (MQTT 5.0 section 3.8.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetainHandling {
    Always,
    /// Only if the subscription did not exist.
    New,
    Never,
}

#[derive(Clone, Debug)]
pub struct ClientConfig {
    pub route: Route,
    pub files: TlsFiles,
    /// The contents of `files` for the first connection; every later one reads the files again. Taken once, and not
    /// kept alive from here: a TPM holds few keys, and this one until all have freed it.
    pub loaded: Weak<Mutex<Option<TlsCredentials>>>,
    /// Kept up to date with each reading of the files.
    pub certificate_end: CertificateEnd,
    pub client_id: String,
    pub username: Option<String>,
    /// Read for every connection.
    pub password: Option<SecretSource>,
    pub version: MqttVersion,
    /// Whole seconds.
    pub keep_alive: Duration,
    /// For name look-up, TCP, TLS and CONNACK together.
    pub connect_timeout: Duration,
    /// A longer message expiry is cut to this.
    pub max_expiry: Duration,
    pub max_in_flight: usize,
    pub sequence: bool,
    /// How long the broker keeps the session of an ended connection; `None` for new sessions.
    pub session_expiry: Option<Duration>,
    pub retain_as_published: bool,
    /// `None`: `New` for a kept session, else `Always`.
    pub retain_handling: Option<RetainHandling>,
    /// From 1 to 268,435,455, for all subscriptions.
    pub subscription_identifier: Option<i32>,
    /// User properties of CONNECT: names and values.
    pub connect_properties: Vec<(String, String)>,
    /// How long to wait for the PUBACK of a status message.
    pub operation_timeout: Duration,
    pub will: Option<Will>,
    /// Published after each CONNACK and before DISCONNECT. Needs a will that corresponds to it.
    pub status: Option<StatusMessages>,
}

#[derive(Clone)]
pub struct MessageHandlers {
    pub on_message: OnMessage,
    pub on_skipped: OnSkipped,
    pub on_exchanges_ended: OnQos2ExchangesEnded,
    pub session_acks: Arc<SessionAcks>,
}
