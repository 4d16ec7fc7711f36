//! The configuration of the connection to a broker: the shared flags, checked.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::name_expander::NameExpander;
use crate::common::broker::endpoint::Endpoint;
use crate::common::broker::profile::Profile;
use crate::common::client::certificate_end::CertificateEnd;
use crate::common::client::{ClientConfig, MqttVersion};
use crate::common::connection::backoff::{Backoff, Policy};
use crate::common::connection::state::{AttemptSettings, ConnectionStateMachine, FiniteOrEndless};
use crate::common::connection::unexplained_closes::UnexplainedCloses;
use crate::common::fault::Fault;
use crate::common::mqtt::status_messages::StatusMessages;
use crate::common::mqtt::will::Will;
use crate::common::runtime::secret_source::SecretSource;
use crate::common::transport::credentials::{TlsCredentials, TlsFiles};
use crate::common::transport::proxy::ProxyUrl;
use crate::common::transport::{LocalBinding, Route, SessionCache, TlsLimits};

#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    pub endpoint: Endpoint,
    pub profile: Profile,
    pub proxy: Option<ProxyUrl>,
    pub(super) binding: Option<LocalBinding>,
    pub(super) tls_limits: TlsLimits,
    pub(super) tls_sessions: Arc<SessionCache>,
    pub files: TlsFiles,
    pub client_id: String,
    /// The client identifier is not random.
    pub client_id_given: bool,
    pub operation_timeout: Duration,
    pub connect_timeout: Duration,
    pub policy: Policy,
    pub certificate_end: CertificateEnd,
    pub(super) loaded: Arc<Mutex<Option<TlsCredentials>>>,
    pub(super) username: Option<String>,
    pub password: Option<SecretSource>,
    pub(super) version: MqttVersion,
    pub(super) keep_alive: Duration,
    pub(super) max_packet: u32,
    pub(super) connect_properties: Vec<(String, String)>,
    pub(super) will: Option<Will>,
    pub(super) status: Option<StatusMessages>,
}

impl ConnectionConfig {
    pub fn state_machine(&self, run: FiniteOrEndless) -> ConnectionStateMachine {
        let settings = AttemptSettings {
            host: self.endpoint.to_string(),
            run,
            connect_timeout: self.connect_timeout,
            interval: self.profile.connect_interval(),
        };
        ConnectionStateMachine::new(settings, Backoff::new(self.policy))
    }

    pub fn is_older_mqtt(&self) -> bool {
        self.version == MqttVersion::V311
    }

    /// Whether MQTT 3.1.1 is tried if the broker does not answer MQTT 5.
    pub fn tries_older_mqtt(&self) -> bool {
        self.version == MqttVersion::Any && self.endpoint.profile == Profile::Generic
    }

    /// `sequence`: published messages carry the `seq` property.
    pub fn client_config(&self, max_in_flight: usize, sequence: bool) -> ClientConfig {
        ClientConfig {
            route: self.route(),
            files: self.files.clone(),
            loaded: Arc::downgrade(&self.loaded),
            certificate_end: self.certificate_end.clone(),
            client_id: self.client_id.clone(),
            username: self.username.clone(),
            password: self.password.clone(),
            version: self.version,
            keep_alive: self.keep_alive,
            connect_timeout: self.connect_timeout,
            max_expiry: self.profile.max_expiry(),
            max_in_flight,
            sequence,
            session_expiry: None,
            retain_as_published: false,
            retain_handling: None,
            subscription_identifier: None,
            connect_properties: self.connect_properties.clone(),
            operation_timeout: self.operation_timeout,
            will: self.will.clone(),
            status: self.status.clone(),
        }
    }

    /// Replaces the placeholders in a topic. `flag` is for the error.
    pub fn expand_topic(&self, flag: &str, topic: String) -> Result<String, Fault> {
        let client_id = Some(&*self.client_id);
        NameExpander { client_id }.expand(flag, topic)
    }

    pub fn close_diagnosis(&self) -> UnexplainedCloses {
        let given = self.client_id_given.then(|| self.client_id.clone());
        UnexplainedCloses::new(self.endpoint.to_string(), self.endpoint.profile, given)
    }

    pub fn route(&self) -> Route {
        Route {
            endpoint: self.endpoint.clone(),
            proxy: self.proxy.clone(),
            binding: self.binding.clone(),
            tls_limits: self.tls_limits.clone(),
            tls_sessions: Some(Arc::clone(&self.tls_sessions)),
            max_packet: self.max_packet,
        }
    }
}
