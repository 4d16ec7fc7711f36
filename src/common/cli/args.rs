//! The flags that both programs share, as they are typed, and how they are checked.

#![allow(clippy::doc_markdown, reason = "doc comments are the text of --help")]

use std::fmt::Display;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use log::warn;
use parking_lot::Mutex;

use super::connection_config::ConnectionConfig;
use super::name_expander::NameExpander;
use super::proxy;
use super::will_args::WillArgs;
use crate::common::broker::aws_host;
use crate::common::broker::endpoint::Endpoint;
use crate::common::broker::profile::Profile;
use crate::common::cli::units::{
    integer_parser, parse_duration, parse_number, parse_positive_duration, parse_size,
};
use crate::common::client::MqttVersion;
use crate::common::client::certificate_end::CertificateEnd;
use crate::common::connection::backoff::Policy;
use crate::common::fault::Fault;
use crate::common::mqtt::limits::check_no_controls;
use crate::common::runtime::logging::{self, LogFormat, Verbosity};
use crate::common::runtime::random;
use crate::common::runtime::secret_source::SecretSource;
use crate::common::runtime::small_file;
use crate::common::transport::credentials::{CertKeyPaths, TlsCredentials, TlsFiles};
use crate::common::transport::{self, CipherLists, LocalBinding, SessionCache, TlsLimits};

/// The bounds of `--max-packet` in bytes: an answer to a subscription has to fit, and MQTT has no larger packets
/// (MQTT 5.0 section 2.1.4).
const MIN_PACKET: u32 = 256;
const MAX_PACKET: u32 = 268_435_460;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub struct ConnectionArgs {
    /// The broker: HOST, or mqtts://HOST:PORT, or wss://HOST:PORT/PATH
    ///
    /// A bare HOST means TLS; mqtt:// and ws:// connect without, unix:///PATH to a Unix socket. A link-local IPv6 address is followed by its network interface, as in [fe80::1%eth0]. Not needed if the directory of --certs has a file named endpoint.
    #[arg(
        short,
        long,
        value_name = "HOST",
        visible_alias = "host",
        required_unless_present = "certs"
    )]
    endpoint: Option<String>,

    /// The broker's port
    ///
    /// auto is 8883 with TLS, 1883 without, and 443 for wss; for AWS IoT Core 8883, then 443.
    #[arg(short, long, value_name = "N", default_value = "auto", value_parser = parse_port_choice)]
    port: PortChoice,

    /// A directory with CA, certificate and key
    ///
    /// The files have the names that the AWS console gives them, or ca.pem, device.pem.crt and private.pem.key.
    #[arg(long, value_name = "DIR")]
    certs: Option<PathBuf>,

    /// Trusted CAs (PEM), instead of the system's
    #[arg(long, value_name = "FILE", aliases = ["root-ca", "rootCA", "ca", "ca_file"])]
    cafile: Option<PathBuf>,

    /// The client's X.509 certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// The certificate's private key (PEM)
    ///
    /// It may be in a TPM 2.0 or a PKCS#11 token: a block TSS2 PRIVATE KEY or PKCS#11 PROVIDER URI, which a provider
    /// of OpenSSL opens that the file of OPENSSL_CONF activates. The PIN is given by --key-passphrase-file.
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// Accept a key, passphrase or password file that others can read
    #[arg(long)]
    allow_readable_key: bool,

    /// A file with the passphrase of an encrypted key
    ///
    /// Only its owner may be able to read it, as with the key itself; if that is root, a group of this process as well.
    #[arg(long, value_name = "FILE")]
    key_passphrase_file: Option<PathBuf>,

    /// The MQTT client identifier; random if not given
    ///
    /// {hostname}, {machine-id} and {env:NAME} are replaced as in topics.
    #[arg(short = 'i', long, value_name = "ID", aliases = ["id", "clientId", "thing-name"])]
    client_id: Option<String>,

    /// The MQTT user name
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,

    /// A file with the MQTT password
    ///
    /// It is read at each connect. Only its owner may be able to read it.
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,

    /// The MQTT version, 5 or 3.1.1
    ///
    /// Without it the version is 5, and 3.1.1 if the broker refuses 5 or (except at AWS) does not answer it.
    #[arg(long, value_name = "VERSION", value_parser = parse_version)]
    mqtt_version: Option<MqttVersion>,

    /// A user property of CONNECT, for the broker; repeatable (MQTT 5)
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_user_property)]
    connect_user_property: Vec<(String, String)>,

    /// Time between pings, whole seconds
    #[arg(long, value_name = "D", default_value = "30", value_parser = parse_keep_alive)]
    keep_alive: Duration,

    /// The largest packet to receive; a larger one ends the connection
    #[arg(long, value_name = "SIZE", default_value = "16MiB", value_parser = parse_max_packet)]
    max_packet: u32,

    /// The time limit of a connection attempt
    ///
    /// It covers name look-up, TCP, TLS and CONNACK together.
    #[arg(long, value_name = "D", default_value = "10", value_parser = parse_positive_duration)]
    connect_timeout: Duration,

    /// How long to wait for a PUBACK or SUBACK
    #[arg(long, value_name = "D", default_value = "5", value_parser = parse_positive_duration)]
    operation_timeout: Duration,

    /// The delay after the first failed connection; it doubles with each further one
    #[arg(long, value_name = "D", default_value = "1", value_parser = parse_duration)]
    base_backoff: Duration,

    /// The longest delay between two connection attempts
    #[arg(long, value_name = "D", default_value = "32", value_parser = parse_duration)]
    max_backoff: Duration,

    /// Reset the delay after a connection has been up this long
    #[arg(long, value_name = "D", default_value = "20", value_parser = parse_duration)]
    stable_time: Duration,

    /// Each delay t is drawn from (1-F)*t to t
    #[arg(long, value_name = "F", default_value = "0.5", value_parser = parse_number)]
    jitter: f64,

    /// The proxy: http://USER:PASSWORD@HOST:PORT, or socks5h://…
    ///
    /// A proxy resolves the broker's host name. Without this flag the variable HTTPS_PROXY counts, then ALL_PROXY, unless NO_PROXY names the broker. An empty value means no proxy.
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,

    /// The local address, or the network interface, to connect from
    ///
    /// It holds for the connection to a proxy, too, but not for the name look-up. An interface, such as wwan0, may need the capability CAP_NET_RAW.
    #[arg(short = 'A', long, value_name = "ADDRESS|INTERFACE")]
    bind: Option<String>,

    /// The oldest TLS version to accept
    #[arg(long, value_name = "VERSION", default_value = "1.2", value_parser = ["1.2", "1.3"])]
    tls_min: String,

    /// The cipher suites to offer, by their OpenSSL names
    ///
    /// The names of TLS 1.2 and 1.3 stand in one list, separated by colons. A TLS version without a suite in it is not offered.
    #[arg(long, value_name = "LIST")]
    ciphers: Option<String>,

    /// Keep the TLS session in a file, for the next run
    ///
    /// The next connection then takes half of the bytes, and no signatures, if the broker recognises it. Reconnects within a run need no file. Give each program a separate file. It is encrypted with the private key, so it needs a certificate and a key that is not in a TPM or a token. It is not used with another broker, CA, certificate or key, or after the time that the broker has set.
    #[arg(long, value_name = "FILE")]
    tls_session: Option<PathBuf>,

    /// Broker limits to enforce before sending
    ///
    /// The default is aws for an endpoint of amazonaws.com, else generic.
    #[arg(long, value_name = "NAME")]
    profile: Option<ProfileChoice>,

    /// A TOML file with values for flags that are not on the command line
    ///
    /// Its keys are the long names of the flags.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(flatten)]
    will: WillArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ProfileChoice {
    Aws,
    Generic,
}

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// Log everything, each MQTT packet in one line
    ///
    /// The variable RUST_LOG selects in more detail, as in RUST_LOG=info.
    #[arg(short, long, conflicts_with = "quiet")]
    debug: bool,

    /// Log errors only
    ///
    /// A run that ends with code 75 and has lost nothing logs nothing. That the certificate expires within 30 days is
    /// logged all the same, once per day.
    #[arg(long)]
    quiet: bool,

    /// The form of the log: text, or json with one object per line
    ///
    /// The object has ts, level, program and msg, client_id once it is known, and code, an exit code, where the line is
    /// about one. Text for the journal of systemd has a priority, and no time.
    #[arg(long, value_name = "FORM", value_enum, default_value = "text")]
    log_format: LogFormatChoice,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormatChoice {
    Text,
    Json,
}

/// Names the flag in the fault.
pub fn name_flag_in_error(
    flag: impl Display,
    result: Result<(), impl Display>,
) -> Result<(), Fault> {
    result.map_err(|why| Fault::usage(format!("{flag} {why}")))
}

impl LogArgs {
    pub fn init_log(&self) {
        let verbosity = match (self.debug, self.quiet) {
            (true, _) => Verbosity::Debug,
            (_, true) => Verbosity::Quiet,
            _ => Verbosity::Normal,
        };
        let format = match self.log_format {
            LogFormatChoice::Text => LogFormat::Text,
            LogFormatChoice::Json => LogFormat::Json,
        };
        logging::init(verbosity, format);
    }
}

impl ConnectionArgs {
    /// `program` begins a random client identifier. With `go_on` unusable TLS files are no error: each connection
    /// attempt reads them.
    #[allow(clippy::too_many_lines, reason = "one flag after the other")]
    pub fn into_config(self, program: &str, go_on: bool) -> Result<ConnectionConfig, Fault> {
        let (endpoint, profile) = self.find_endpoint(self.port.0)?;
        let policy = Policy::new(
            self.base_backoff,
            self.max_backoff,
            self.stable_time,
            self.jitter,
        )
        .map_err(|e| Fault::usage(e.to_string()))?;
        let client_id_given = self.client_id.is_some();
        let client_id = match self.client_id {
            Some(id) => NameExpander { client_id: None }.expand("--client-id", id)?,
            None => format!("{program}-{}", random::identifier()?),
        };
        let flag = format!("--client-id {client_id:?}");
        name_flag_in_error(flag, profile.check_client_id(&client_id))?;
        logging::set_client_id(&client_id);
        if let Some(username) = &self.username {
            name_flag_in_error("--username", check_no_controls(username))?;
        }
        let version = self.mqtt_version.unwrap_or_default();
        if !self.connect_user_property.is_empty() && version == MqttVersion::V311 {
            let message = "--connect-user-property needs MQTT 5: leave it or --mqtt-version out";
            return Err(Fault::usage(message));
        }
        let (will, status) = self.will.into_messages(&client_id, profile, version)?;
        name_flag_in_error("--keep-alive", profile.check_keep_alive(self.keep_alive))?;
        let requires_1_3 = self.tls_min == "1.3";
        for (flag, given) in [
            ("--certs", self.certs.is_some()),
            ("--cafile", self.cafile.is_some()),
            ("--cert", self.cert.is_some()),
            ("--tls-min", requires_1_3),
            ("--ciphers", self.ciphers.is_some()),
            ("--tls-session", self.tls_session.is_some()),
        ] {
            if given && !endpoint.tls {
                return Err(Fault::usage(format!(
                    "{flag} has no use without TLS; use mqtts:// or wss:// in --endpoint"
                )));
            }
        }
        if self.certs.is_none() && self.key.is_none() {
            if self.key_passphrase_file.is_some() {
                let message = "--key-passphrase-file needs --key, or --certs";
                return Err(Fault::usage(message));
            }
            if self.allow_readable_key && self.password_file.is_none() {
                let message = "--allow-readable-key needs --key, --certs or --password-file";
                return Err(Fault::usage(message));
            }
        }
        let proxy = proxy::find(self.proxy.as_deref(), &endpoint)?;
        let binding = self.bind.as_deref();
        let binding = binding
            .map(|text| parse_binding(text, &endpoint))
            .transpose()?;
        let tls_limits = find_tls_limits(requires_1_3, self.ciphers.as_deref())?;
        let secret = |path: Option<PathBuf>, flag| {
            let Some(path) = path else { return Ok(None) };
            let mut file = SecretSource::new(path, flag, self.allow_readable_key);
            match file.keep_pipe_content() {
                Err(fault) if !go_on => Err(fault),
                _ => Ok(Some(file)),
            }
        };
        let passphrase = secret(self.key_passphrase_file, "--key-passphrase-file")?;
        let password = secret(self.password_file, "--password-file")?;
        let pair = self.cert.zip(self.key);
        let files = TlsFiles {
            certs: self.certs,
            cafile: self.cafile,
            pair: pair.map(|(cert, key)| CertKeyPaths { cert, key }),
            passphrase,
            allow_readable_key: self.allow_readable_key,
        };
        if let Some(path) = &self.tls_session
            && transport::is_no_session_file(path)
        {
            let message = format!("{}: --tls-session is another file", path.display());
            return Err(Fault::usage(message).with_remedy("give the path of a new file"));
        }
        let loaded = match files.load() {
            Err(_) if go_on => None,
            loaded => Some(loaded?),
        };
        if let Some(loaded) = loaded.as_ref().filter(|_| endpoint.tls) {
            transport::prepare_tls(loaded);
        }
        if let (Some(path), Some(loaded)) = (&self.tls_session, &loaded)
            && !loaded.has_private_key_in_memory()
        {
            let path = path.display();
            let message = format!("{path}: --tls-session needs --key, to encrypt the file");
            let remedy = "leave it out; a key in a TPM or a token cannot be used for that";
            return Err(Fault::usage(message).with_remedy(remedy));
        }
        let certificate_end = CertificateEnd::default();
        certificate_end.set(loaded.as_ref().and_then(TlsCredentials::end_unix_s));
        Ok(ConnectionConfig {
            endpoint,
            certificate_end,
            profile,
            proxy,
            binding,
            tls_limits,
            tls_sessions: SessionCache::new(self.tls_session),
            operation_timeout: self.operation_timeout,
            connect_timeout: self.connect_timeout,
            policy,
            files,
            loaded: Arc::new(Mutex::new(loaded)),
            client_id,
            client_id_given,
            username: self.username,
            password,
            version,
            keep_alive: self.keep_alive,
            max_packet: self.max_packet,
            connect_properties: self.connect_user_property,
            will,
            status,
        })
    }

    /// The endpoint may be in a file beside the certificates, where `scripts/provision-thing` writes it.
    fn find_endpoint(&self, port: Option<u16>) -> Result<(Endpoint, Profile), Fault> {
        let beside = self.certs.as_ref().map(|certs| certs.join("endpoint"));
        let (text, file) = match (self.endpoint.clone(), beside) {
            (Some(typed), _) => (typed, None),
            (None, Some(file)) if file.try_exists().unwrap_or(true) => {
                let text = small_file::read_text("", &file)
                    .map_err(|fault| fault.with_remedy("give --endpoint"))?;
                (text.trim().to_owned(), Some(file))
            }
            _ => {
                let message = "--endpoint is missing, and the directory of --certs has no file named endpoint";
                return Err(Fault::usage(message)
                    .with_remedy("give the broker's host name with --endpoint"));
            }
        };
        let endpoint = Endpoint::parse(&text, port).map_err(|fault| match file {
            Some(file) => Fault::usage(format!("{}: {fault}", file.display())),
            None => fault,
        })?;
        let profile = match self.profile {
            Some(ProfileChoice::Aws) => Profile::Aws,
            Some(ProfileChoice::Generic) => Profile::Generic,
            None => Profile::of_host(&endpoint.host),
        };
        if let Some(hint) = aws_host::hint(&endpoint.host) {
            warn!("--endpoint {hint}");
        }
        let at_aws = profile == Profile::Aws || Profile::of_host(&endpoint.host) == Profile::Aws;
        let endpoint = if at_aws {
            endpoint.into_aws(port.is_none() && !names_port(&text))
        } else {
            endpoint
        };
        Ok((endpoint, profile))
    }
}

fn parse_binding(text: &str, endpoint: &Endpoint) -> Result<LocalBinding, Fault> {
    if endpoint.unix_socket.is_some() {
        let message = "--bind has no use with a Unix socket; leave it out";
        return Err(Fault::usage(message));
    }
    LocalBinding::parse(text).map_err(|why| Fault::usage(format!("--bind {text:?} {why}")))
}

fn find_tls_limits(requires_1_3: bool, ciphers: Option<&str>) -> Result<TlsLimits, Fault> {
    let ciphers = ciphers.map(CipherLists::parse).transpose();
    let ciphers = ciphers.map_err(|why| Fault::usage(format!("--ciphers: {why}")))?;
    let limits = TlsLimits {
        requires_1_3,
        ciphers,
    };
    limits.check().map_err(Fault::usage)?;
    Ok(limits)
}

fn names_port(text: &str) -> bool {
    let after = text.rsplit_once("://").map_or(text, |(_, rest)| rest);
    let host = after.split('/').next().unwrap_or(after);
    host.rsplit_once(':')
        .is_some_and(|(before, _)| !before.contains(':') || before.ends_with(']'))
}

/// None for `auto`.
#[derive(Clone, Copy, Debug)]
struct PortChoice(Option<u16>);

fn parse_port_choice(text: &str) -> Result<PortChoice, String> {
    match integer_parser(1..=u16::MAX)(text) {
        Err(_) if text != "auto" => Err("must be auto or a number from 1 to 65535".into()),
        port => Ok(PortChoice(port.ok())),
    }
}

fn parse_version(text: &str) -> Result<MqttVersion, String> {
    match text {
        "5" | "5.0" => Ok(MqttVersion::V5),
        "3.1.1" => Ok(MqttVersion::V311),
        _ => Err("must be 5 or 3.1.1".into()),
    }
}

/// Reads `NAME=VALUE`; both may be empty.
pub fn parse_user_property(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("must be of the form NAME=VALUE")?;
    for (part, text) in [("name", name), ("value", value)] {
        if !text.is_empty() {
            check_no_controls(text).map_err(|e| format!("its {part} {e}"))?;
        }
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// The protocol has whole seconds up to 65,535. 0 would mean no pings: a dead connection would go undetected.
fn parse_keep_alive(text: &str) -> Result<Duration, String> {
    let keep_alive = parse_duration(text)?;
    if keep_alive.subsec_nanos() != 0 || !(1..=65_535).contains(&keep_alive.as_secs()) {
        return Err("must be whole seconds from 1 to 65535".into());
    }
    Ok(keep_alive)
}

fn parse_max_packet(text: &str) -> Result<u32, String> {
    match u32::try_from(parse_size(text)?) {
        Ok(size @ MIN_PACKET..=MAX_PACKET) => Ok(size),
        _ => Err(format!("must be from {MIN_PACKET} to {MAX_PACKET} bytes")),
    }
}
