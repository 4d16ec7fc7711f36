//! A real `RabbitMQ` of one node, with its MQTT plugin and mutual TLS, on loopback ports and in a directory of its
//! own.

use std::{fs, path::Path, process::Stdio, time::Duration};

use tempfile::TempDir;

use super::{
    certs::certs,
    free_port,
    lines::Lines,
    process::{Process, command},
    temp_dir,
};

/// The scripts themselves: the one in `/usr/sbin` would become another user.
const SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// A node starts in ten seconds if nobody else is busy.
const STARTS_WITHIN: Duration = Duration::from_secs(180);

/// The node; killed and its files removed when dropped, with the port mapper that it needs.
pub(crate) struct RabbitMq {
    port: u16,
    log: Lines,
    // In the order in which they are dropped.
    _node: Process,
    _port_mapper: Process,
    _dir: TempDir,
}

impl RabbitMq {
    /// Returns once it listens. The device's certificate is a user's, as its common name says.
    pub(crate) fn start() -> Self {
        let dir = temp_dir();
        let (port, mapper, distribution) = (free_port(), free_port(), free_port());
        write_files(dir.path(), port);
        let mut epmd = command("epmd");
        epmd.args(["-port", &mapper.to_string(), "-address", "127.0.0.1"]);
        epmd.stdout(Stdio::null()).stderr(Stdio::null());
        let port_mapper = Process::spawn(epmd);
        let mut server = command(SERVER);
        let path = |name: &str| dir.path().join(name);
        server
            // The cookie is made there.
            .env("HOME", dir.path())
            .env("RABBITMQ_NODENAME", format!("it-{port}@localhost"))
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", path("plugins"))
            .env("RABBITMQ_MNESIA_BASE", path("mnesia"))
            .env("RABBITMQ_PLUGINS_EXPAND_DIR", path("expand"))
            .env("RABBITMQ_LOG_BASE", path("log"))
            .env("RABBITMQ_LOGS", "-")
            .env("RABBITMQ_DIST_PORT", distribution.to_string())
            .env("ERL_EPMD_PORT", mapper.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_CRASH_DUMP_SECONDS", "0")
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-kernel inet_dist_use_interface {127,0,0,1}",
            )
            // The script becomes the node, instead of waiting for it.
            .env("detached", "true")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut node = Process::spawn(server);
        let log = Lines::default();
        log.collect(node.child().stdout.take().unwrap());
        let started = log.wait(STARTS_WITHIN, |line| line.contains("startup complete"));
        assert!(
            started.is_some(),
            "RabbitMQ does not start:\n{}",
            log.text()
        );
        Self {
            port,
            log,
            _node: node,
            _port_mapper: port_mapper,
            _dir: dir,
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn log(&self) -> &Lines {
        &self.log
    }
}

fn write_files(dir: &Path, port: u16) {
    let certs = certs();
    let config = format!(
        "listeners.tcp = none\n\
         mqtt.listeners.tcp = none\n\
         mqtt.listeners.ssl.1 = 127.0.0.1:{port}\n\
         mqtt.allow_anonymous = false\n\
         mqtt.ssl_cert_login = true\n\
         ssl_cert_login_from = common_name\n\
         ssl_options.cacertfile = {}\n\
         ssl_options.certfile = {}\n\
         ssl_options.keyfile = {}\n\
         ssl_options.verify = verify_peer\n\
         ssl_options.fail_if_no_peer_cert = true\n\
         log.console = true\n\
         load_definitions = {}\n",
        certs.ca.display(),
        certs.server.cert.display(),
        certs.server.key.display(),
        dir.join("definitions.json").display(),
    );
    let definitions = serde_json::json!({
        "vhosts": [{"name": "/"}],
        "users": [{
            "name": "device",
            "password_hash": "",
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": [],
        }],
        "permissions": [{"user": "device", "vhost": "/", "configure": ".*", "write": ".*", "read": ".*"}],
        "topic_permissions": [{
            "user": "device", "vhost": "/", "exchange": "amq.topic", "write": "^it\\.", "read": "^it\\.",
        }],
    });
    let plugins = "[rabbitmq_mqtt, rabbitmq_auth_mechanism_ssl].\n";
    fs::write(dir.join("rabbitmq.conf"), config).unwrap();
    fs::write(dir.join("definitions.json"), definitions.to_string()).unwrap();
    fs::write(dir.join("plugins"), plugins).unwrap();
}
