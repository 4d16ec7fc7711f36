//! The subscriber's command line: flags as typed, and what they mean once checked.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::IsTerminal as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};
use jiff::tz::TimeZone;
use log::warn;
use nix::fcntl::OFlag;

use super::config::{Config, File, OutputKind};
use super::inbox::selector::{Retained, Selection};
use super::output::destination::Rotation;
use super::plot::screen;
use super::plot::value::{Picker, Pointer};
use super::render::format::Template;
use super::render::{Format, Style};
use crate::common::cli::args::{ConnectionArgs, LogArgs};
use crate::common::cli::check_args::CheckArgs;
use crate::common::cli::units::{parse_positive_duration, parse_size};
use crate::common::escape::quoted;
use crate::common::fault::Fault;
use crate::common::mqtt::message::Qos;
use crate::common::runtime::logging::Verbosity;
use crate::common::runtime::process;
use crate::common::runtime::stdio;

/// Subscribes over MQTT and writes what arrives to standard output; each message is
/// acknowledged to the broker only after it has been written.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "subscriber",
    max_term_width = 100,
    after_help = crate::common::cli::UNITS,
    allow_negative_numbers = true
)]
pub struct SubscriberArgs {
    /// A topic filter, $share/NAME/FILTER included; may be given several times
    #[arg(short, long, value_name = "FILTER", required = true)]
    topic: Vec<String>,

    /// Quality of service: 0, 1 or 2
    #[arg(short, long, value_name = "N", default_value = "1")]
    qos: Qos,

    /// Exit 0 after so many messages; 0 for no end
    #[arg(short = 'C', long, value_name = "N", default_value_t = 0)]
    count: u64,

    /// Exit 27 after this time (69 or worse if the broker was never reached)
    #[arg(short = 'W', long, value_name = "D", value_parser = parse_positive_duration)]
    timeout: Option<Duration>,

    /// Print topic, space, payload
    #[arg(short, long, help_heading = "Output", conflicts_with = "json")]
    verbose: bool,

    /// Print one JSON object a message
    #[arg(short = 'J', long, help_heading = "Output")]
    json: bool,

    /// Print each message in a format of your own, that of Mosquitto's -F: %t %p %x %q %r %l %j %U,
    /// times as @H:@M, \n, and more
    #[arg(
        short = 'F',
        long,
        value_name = "FORMAT",
        help_heading = "Output",
        allow_hyphen_values = true,
        conflicts_with_all = ["verbose", "json"]
    )]
    format: Option<String>,

    /// Print no newline after a message
    #[arg(short = 'N', help_heading = "Output")]
    no_newline: bool,

    /// On a terminal, print control characters as they are; elsewhere they always are
    #[arg(long, help_heading = "Output")]
    raw: bool,

    /// Leave out retained messages
    #[arg(
        short = 'R',
        long,
        help_heading = "Output",
        conflicts_with = "retained_only"
    )]
    no_retained: bool,

    /// Print retained messages only, and exit 0 at the first other
    #[arg(long, help_heading = "Output")]
    retained_only: bool,
    /// Keep the retain flag of messages as they are published (MQTT 5), as a bridge needs it
    #[arg(long, help_heading = "Output", conflicts_with_all = ["no_retained", "retained_only"])]
    retain_as_published: bool,

    /// Draw a live chart of the numbers in the payloads instead of text; q ends it
    #[arg(
        long,
        help_heading = "Output",
        conflicts_with_all = ["verbose", "json", "format", "no_newline", "raw", "output", "exec"]
    )]
    plot: bool,

    /// With --plot: a JSON pointer to the number [default: the payload itself, else /temperature]
    #[arg(
        long,
        value_name = "POINTER",
        help_heading = "Output",
        requires = "plot"
    )]
    value: Option<Pointer>,

    /// Print one JSON object at the end
    #[arg(long, help_heading = "Output")]
    summary: bool,

    /// Append to FILE; SIGHUP opens it anew, and so does the next write if FILE was removed or renamed
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    output: Option<PathBuf>,

    /// Begin a new FILE when it would grow beyond SIZE; the old one becomes FILE.1, that FILE.2
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Output")]
    rotate_size: Option<u64>,

    /// Keep so many old ones
    #[arg(long, value_name = "N", default_value_t = 5, help_heading = "Output")]
    #[arg(requires = "rotate_size")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=9_999))]
    rotate_keep: u32,

    /// Run COMMAND for each message, no shell: payload on stdin, topic, QoS and retain flag in
    /// its environment. Last on the line
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true)]
    #[arg(help_heading = "Commands", conflicts_with_all = ["output", "format", "json", "verbose", "no_newline", "raw"])]
    exec: Vec<OsString>,

    /// So many of them at a time
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Commands")]
    #[arg(requires = "exec")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1_000))]
    exec_jobs: u16,

    /// End a command that takes longer
    #[arg(
        long,
        value_name = "D",
        default_value = "5m",
        requires = "exec",
        help_heading = "Commands"
    )]
    #[arg(value_parser = parse_positive_duration)]
    exec_timeout: Duration,

    /// Let the broker keep messages while away, for --session-expiry; needs --client-id
    #[arg(long, help_heading = "Nothing missed, nothing twice")]
    persistent: bool,

    /// How long the broker is to keep them
    #[arg(long, value_name = "D", default_value = "1h", requires = "persistent")]
    #[arg(help_heading = "Nothing missed, nothing twice", value_parser = parse_positive_duration)]
    session_expiry: Duration,

    /// Drop repeats: messages with the stream, number, time (`seq`) and topic of one that came before.
    /// It trusts whoever may publish to that topic
    #[arg(long, help_heading = "Nothing missed, nothing twice")]
    dedup: bool,

    /// Report numbers that are missing, and exit 65 if any are in the end. Numbers run over all topics that a
    /// publisher (or a queue file) sends to: subscribe to all of them, or have one for each topic
    #[arg(long, help_heading = "Nothing missed, nothing twice")]
    gaps: bool,

    /// Remember numbers, repeats, the session and its unfinished QoS 2 messages from run to run; one file per subscriber
    #[arg(
        long,
        value_name = "FILE",
        help_heading = "Nothing missed, nothing twice"
    )]
    state: Option<PathBuf>,

    #[command(flatten)]
    connection: ConnectionArgs,

    #[command(flatten)]
    log: LogArgs,
}

/// What `subscriber` is asked to do.
#[derive(Clone, Debug)]
pub enum Command {
    /// To subscribe.
    Subscribe(Box<SubscriberArgs>),
    /// To find out what keeps it from connecting.
    Check(Box<CheckArgs>),
}

/// The flags of subscribing stand at the top, beside the other command: clap's derive has no
/// way to say that.
impl CommandFactory for Command {
    fn command() -> clap::Command {
        SubscriberArgs::command()
            .subcommand(CheckArgs::command())
            .subcommand_negates_reqs(true)
            .args_conflicts_with_subcommands(true)
    }

    fn command_for_update() -> clap::Command {
        Self::command()
    }
}

impl FromArgMatches for Command {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        match matches.subcommand() {
            Some((_, check)) => {
                CheckArgs::from_arg_matches(check).map(|args| Command::Check(Box::new(args)))
            }
            None => SubscriberArgs::from_arg_matches(matches)
                .map(|args| Command::Subscribe(Box::new(args))),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Parser for Command {}

impl SubscriberArgs {
    /// How much to log.
    pub fn verbosity(&self) -> Verbosity {
        self.log.verbosity()
    }

    /// Checks everything that can be known before a connection.
    ///
    /// # Errors
    ///
    /// A fault that names the flag or the file.
    pub fn check(self) -> Result<Config, Fault> {
        let format = match (self.format, self.json, self.verbose) {
            (Some(format), ..) => Format::Custom(template(&format)?),
            (_, true, _) => Format::Json,
            (_, _, true) => Format::Verbose,
            _ => Format::Payload,
        };
        let connection = self.connection.check("subscriber", false)?;
        let profile = connection.profile;
        profile
            .check_qos(self.qos)
            .map_err(|e| Fault::usage(format!("--qos {e}")))?;
        let mut filters: Vec<String> = Vec::new();
        for filter in self.topic {
            profile
                .check_topic_filter(&filter)
                .map_err(|e| Fault::usage(format!("--topic {} {e}", quoted(&filter))))?;
            if !filters.contains(&filter) {
                filters.push(filter);
            }
        }
        profile
            .check_filters(filters.len())
            .map_err(|e| Fault::usage(format!("--topic: {e}")))?;
        if self.gaps && filters.iter().any(|filter| filter.starts_with("$share/")) {
            return Err(Fault::usage(
                "--gaps makes no sense with a shared subscription: its other members get what is \
                 missing here",
            ));
        }
        let session_expiry = self.persistent.then_some(self.session_expiry);
        if self.persistent && !connection.client_id_given {
            return Err(Fault::usage(
                "--persistent needs --client-id: the broker keeps a session for a client identifier",
            ));
        }
        if self.rotate_size.is_some() && self.output.is_none() {
            return Err(Fault::usage("--rotate-size needs --output"));
        }
        if self.output.is_none() && self.exec.is_empty() {
            stdio::check_stdout("messages are written there unless --output names a file")?;
        } else if self.summary {
            stdio::check_stdout("--summary prints there")?;
        }
        let terminal = match &self.output {
            None => std::io::stdout().is_terminal(),
            Some(path) => is_terminal(path),
        };
        let style = Style {
            format,
            newline: !self.no_newline,
            escape: terminal && !self.raw,
        };
        let rotation = self.rotate_size.map(|size| Rotation {
            size,
            keep: self.rotate_keep,
        });
        let output = match (self.exec.is_empty(), self.output) {
            _ if self.plot => {
                screen::check()?;
                OutputKind::Chart(Picker::new(self.value))
            }
            (false, _) => OutputKind::Command {
                command: process::ExecCommand::new(self.exec, self.exec_timeout)?,
                jobs: usize::from(self.exec_jobs),
            },
            (true, Some(path)) => OutputKind::File(File { path, rotation }, style),
            (true, None) => OutputKind::Stdout(style),
        };
        Ok(Config {
            connection,
            filters,
            qos: self.qos,
            selection: Selection {
                limit: (self.count > 0).then_some(self.count),
                dedup: self.dedup,
                retained: match (self.no_retained, self.retained_only) {
                    (true, _) => Retained::Exclude,
                    (_, true) => Retained::Only,
                    _ => Retained::Include,
                },
            },
            timeout: self.timeout,
            output,
            session_expiry,
            retain_as_published: self.retain_as_published,
            gaps: self.gaps,
            state: self.state,
            summary: self.summary,
        })
    }
}

/// Whether a file to write to is a terminal, as `/dev/tty` is, and often `/dev/stdout`.
fn is_terminal(path: &Path) -> bool {
    let is_device = fs::metadata(path).is_ok_and(|found| found.file_type().is_char_device());
    let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let open = || {
        OpenOptions::new()
            .write(true)
            .custom_flags(flags.bits())
            .open(path)
    };
    is_device && open().is_ok_and(|file| file.is_terminal())
}

/// A format, with the system's time zone if it needs one: `TZ`, else `/etc/localtime`.
fn template(format: &str) -> Result<Template, Fault> {
    let template = Template::parse(format)
        .map_err(|e| Fault::usage(format!("--format {} {e}", quoted(format))))?;
    if !template.has_local_time() {
        return Ok(template);
    }
    let zone = TimeZone::try_system().unwrap_or_else(|e| {
        warn!("--format shows times in UTC: the local time zone cannot be read: {e}");
        TimeZone::UTC
    });
    Ok(template.in_zone(zone))
}
