//! The command line that both programs share: flags as they are typed, and what they mean
//! once checked.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser};

use super::backoff::{Backoff, Policy};
use super::client::tls::{self, Identity, Loaded, TlsFiles};
use super::client::{self, Version};
use super::connection::{Connection, Run};
use super::endpoint::Endpoint;
use super::escape::one_line;
use super::fault::{Exit, Fault};
use super::limits;
use super::logging::Verbosity;
use super::signals;
use super::units::{parse_duration, parse_positive_duration};

/// How to reach the broker, as typed.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Connection")]
pub struct ConnectionArgs {
    /// The broker: a host name, or mqtts://HOST:PORT, or mqtt://HOST:PORT for no TLS
    #[arg(short, long, value_name = "HOST", visible_alias = "host")]
    endpoint: String,

    /// The broker's port; auto is 8883 with TLS and 1883 without
    #[arg(short, long, value_name = "N", default_value = "auto", value_parser = parse_port)]
    port: Port,

    /// Trusted CAs, PEM; in the place of the system's
    #[arg(long, value_name = "FILE", aliases = ["root-ca", "rootCA", "ca", "ca_file"])]
    cafile: Option<PathBuf>,

    /// The client's X.509 certificate, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,

    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,

    /// Accept a key file that others can read
    #[arg(long, requires = "key")]
    allow_readable_key: bool,

    /// The file that holds the passphrase of an encrypted key
    #[arg(long, value_name = "FILE", requires = "key")]
    key_passphrase_file: Option<PathBuf>,

    /// The MQTT client identifier; random if not given
    #[arg(short = 'i', long, value_name = "ID", aliases = ["id", "clientId", "thing-name"])]
    client_id: Option<String>,

    /// The MQTT user name
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,

    /// The file that holds the MQTT password
    #[arg(long, value_name = "FILE", requires = "username")]
    password_file: Option<PathBuf>,

    /// 5 or 3.1.1; by default 5, and 3.1.1 where the broker refuses that
    #[arg(long, value_name = "VERSION", value_parser = parse_version)]
    mqtt_version: Option<Version>,

    /// Time between pings, whole seconds
    #[arg(long, value_name = "D", default_value = "30", value_parser = parse_keep_alive)]
    keep_alive: Duration,

    /// Deadline over name look-up, TCP, TLS and CONNACK together; also for DISCONNECT
    #[arg(long, value_name = "D", default_value = "10", value_parser = parse_positive_duration)]
    connect_timeout: Duration,

    /// How long to wait for a PUBACK or SUBACK
    #[arg(long, value_name = "D", default_value = "5", value_parser = parse_positive_duration)]
    operation_timeout: Duration,

    /// The delay after the first failed connection; it doubles with each further one
    #[arg(long, value_name = "D", default_value = "1", value_parser = parse_duration)]
    base_backoff: Duration,

    /// The longest delay between two attempts
    #[arg(long, value_name = "D", default_value = "32", value_parser = parse_duration)]
    max_backoff: Duration,

    /// A connection that lasted so long starts the delays anew
    #[arg(long, value_name = "D", default_value = "20", value_parser = parse_duration)]
    stable_time: Duration,

    /// Each delay t is drawn from (1-F)*t to t
    #[arg(long, value_name = "F", default_value_t = 0.2)]
    jitter: f64,
}

/// How much to log, as typed.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Log")]
pub struct LogArgs {
    /// Log everything; the variable `RUST_LOG` chooses more finely
    #[arg(short, long, conflicts_with = "quiet")]
    debug: bool,

    /// Log errors only
    #[arg(long)]
    quiet: bool,
}

impl LogArgs {
    /// What the log is to show.
    #[must_use]
    pub fn verbosity(&self) -> Verbosity {
        match (self.debug, self.quiet) {
            (true, _) => Verbosity::Debug,
            (_, true) => Verbosity::Quiet,
            _ => Verbosity::Normal,
        }
    }
}

/// How to reach the broker, checked.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// Where the broker is.
    pub endpoint: Endpoint,
    /// How long to wait for a PUBACK or SUBACK.
    pub operation_timeout: Duration,
    /// As [`ConnectionArgs`] has it; also the deadline for DISCONNECT.
    pub connect_timeout: Duration,
    /// The delays between attempts.
    pub policy: Policy,
    tls: TlsFiles,
    loaded: Option<Loaded>,
    client_id: String,
    username: Option<String>,
    password: Option<String>,
    version: Version,
    keep_alive: Duration,
}

impl ConnectionArgs {
    /// Checks values against each other and reads the files that are read once. `program`
    /// begins a random client identifier. With `go_on` TLS files that are not as they should
    /// be are the business of each attempt to connect: there is work to do without one.
    ///
    /// # Errors
    ///
    /// A fault that names the flag or the file.
    pub fn check(self, program: &str, go_on: bool) -> Result<ConnectionConfig, Fault> {
        let port = match self.port {
            Port::Auto => None,
            Port::Number(port) => Some(port),
        };
        let endpoint = Endpoint::parse(&self.endpoint, port)?;
        let policy = Policy::new(
            self.base_backoff,
            self.max_backoff,
            self.stable_time,
            self.jitter,
        )
        .map_err(|e| Fault::usage(e.to_string()))?;
        let client_id = self.client_id.unwrap_or_else(|| random_id(program));
        limits::check_client_id(&client_id)
            .map_err(|e| Fault::usage(format!("--client-id {e}")))?;
        for (flag, given) in [
            ("--cafile", self.cafile.is_some()),
            ("--cert", self.cert.is_some()),
        ] {
            if given && !endpoint.tls {
                return Err(Fault::usage(format!(
                    "{flag} has no use with mqtt://, which is MQTT without TLS; use mqtts://"
                )));
            }
        }
        let tls = TlsFiles {
            cafile: self.cafile,
            identity: self.cert.zip(self.key).map(|(cert, key)| Identity {
                cert,
                key,
                passphrase_file: self.key_passphrase_file,
                allow_readable_key: self.allow_readable_key,
            }),
        };
        for path in tls.paths() {
            check_path(path)?;
        }
        let loaded = match tls.load() {
            Err(_) if go_on => None,
            loaded => Some(loaded?),
        };
        let password = match &self.password_file {
            Some(file) => Some(tls::read_secret(file, "--password-file")?),
            None => None,
        };
        Ok(ConnectionConfig {
            endpoint,
            operation_timeout: self.operation_timeout,
            connect_timeout: self.connect_timeout,
            policy,
            tls,
            loaded,
            client_id,
            username: self.username,
            password,
            version: self.mqtt_version.unwrap_or(Version::Any),
            keep_alive: self.keep_alive,
        })
    }
}

impl ConnectionConfig {
    /// A connection that has not been started.
    #[must_use]
    pub fn connection(&self, run: Run) -> Connection {
        let host = self.endpoint.to_string();
        Connection::new(host, run, self.connect_timeout, Backoff::new(self.policy))
    }

    /// What the client needs. `sequence` is whether what is published carries `seq`.
    #[must_use]
    pub fn client(&self, max_in_flight: usize, sequence: bool) -> client::Config {
        client::Config {
            endpoint: self.endpoint.clone(),
            tls: self.tls.clone(),
            loaded: self.loaded.clone(),
            client_id: self.client_id.clone(),
            username: self.username.clone(),
            password: self.password.clone(),
            version: self.version,
            keep_alive: self.keep_alive,
            connect_timeout: self.connect_timeout,
            max_in_flight,
            sequence,
        }
    }
}

/// How durations and sizes are written, for the end of the help.
pub const UNITS: &str = "D is a duration: a bare number is seconds; 500ms, 5m, 2h work too. SIZE is bytes, or 64KiB, \
     1MiB, 1GB.";

/// A whole program: parses the command line, runs, and ends with the exit code. A fault is
/// one line on standard error.
pub fn main<T: Parser>(
    program: &str,
    run: impl FnOnce(T) -> anyhow::Result<Exit>,
) -> std::process::ExitCode {
    client::init();
    signals::survive_file_size_limit();
    let exit = match parse(std::env::args_os()) {
        Ok(Parsed::Run(args)) => run(args),
        Ok(Parsed::Show(text)) => {
            // A reader that has seen enough is no failure.
            let _ = io::stdout().write_all(text.as_bytes());
            Ok(Exit::Success)
        }
        Err(fault) => Err(fault.into()),
    };
    let exit = exit.unwrap_or_else(|error| {
        // Without standard error there is only the exit code.
        let _ = writeln!(
            io::stderr(),
            "{program}: {}",
            one_line(&format!("{error:#}"))
        );
        // What has no code of its own comes from the operating system.
        error
            .downcast_ref::<Fault>()
            .map_or(Exit::Io, |fault| fault.exit)
    });
    exit.code().into()
}

/// What the command line came to.
enum Parsed<T> {
    /// Flags to run with.
    Run(T),
    /// Help or version, for standard output.
    Show(String),
}

/// Parses a command line. clap's errors, which span lines, become one.
fn parse<T: Parser>(args: impl IntoIterator<Item = OsString>) -> Result<Parsed<T>, Fault> {
    use clap::error::ErrorKind;
    let version = format!(
        "{} ({})",
        env!("CARGO_PKG_VERSION"),
        client::library_versions()
    );
    let mut command = T::command().version(version);
    let parsed = command
        .try_get_matches_from_mut(args)
        .and_then(|mut matches| T::from_arg_matches_mut(&mut matches));
    match parsed {
        Ok(parsed) => Ok(Parsed::Run(parsed)),
        Err(e) if matches!(e.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            Ok(Parsed::Show(e.render().to_string()))
        }
        Err(e) => Err(Fault::usage(flatten(&e.render().to_string()))),
    }
}

/// `error: A\n\n  tip: B\n\nUsage: …` as `A; tip: B; see --help`.
fn flatten(rendered: &str) -> String {
    let text = rendered.split("\nUsage:").next().unwrap_or(rendered);
    let text = text.split("\nFor more information").next().unwrap_or(text);
    let mut parts: Vec<String> = Vec::new();
    for paragraph in text.trim().trim_start_matches("error: ").split("\n\n") {
        let words: Vec<&str> = paragraph.split_whitespace().collect();
        parts.push(words.join(" "));
    }
    parts.push("see --help".into());
    parts.join("; ")
}

#[derive(Clone, Copy, Debug)]
enum Port {
    Auto,
    Number(u16),
}

fn parse_port(text: &str) -> Result<Port, String> {
    match text.parse::<u16>() {
        _ if text == "auto" => Ok(Port::Auto),
        Ok(port) if port > 0 => Ok(Port::Number(port)),
        _ => Err("must be auto or a number from 1 to 65535".into()),
    }
}

fn parse_version(text: &str) -> Result<Version, String> {
    match text {
        "5" | "5.0" => Ok(Version::V5),
        "3.1.1" => Ok(Version::V311),
        _ => Err("must be 5 or 3.1.1".into()),
    }
}

/// The protocol has whole seconds up to 65,535, and 0 for no pings at all: then nothing
/// would find a dead link.
fn parse_keep_alive(text: &str) -> Result<Duration, String> {
    let keep_alive = parse_duration(text)?;
    if keep_alive.subsec_nanos() != 0 || !(1..=65_535).contains(&keep_alive.as_secs()) {
        return Err("must be whole seconds from 1 to 65535".into());
    }
    Ok(keep_alive)
}

/// Paho takes paths as C strings of UTF-8.
fn check_path(path: &Path) -> Result<(), Fault> {
    match path.to_str() {
        Some(_) => Ok(()),
        None => Err(Fault::permanent(
            Exit::NoInput,
            format!("{}: the path is not UTF-8; rename it", path.display()),
        )),
    }
}

/// A client identifier that no other run has.
fn random_id(program: &str) -> String {
    format!("{program}-{}", random_hex())
}

/// 64 random bits as 16 hexadecimal digits.
#[must_use]
pub fn random_hex() -> String {
    format!("{:016x}", fastrand::u64(..))
}
