//! The subscriber's command line: flags as typed, and how they are checked.

#![allow(clippy::doc_markdown, reason = "doc comments are the text of --help")]

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::IsTerminal as _;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use jiff::tz::TimeZone;
use log::warn;
use nix::fcntl::OFlag;

use super::config::{Config, OutputConfig, OutputFileConfig};
use super::display::display_data::DisplayKind;
use super::display::json_pointer::JsonPointer;
use super::display::screen;
use super::display::value_extractor::ValueExtractor;
use super::message_receiver::selector::{Retained, SelectionOptions};
use super::output::destination::Rotation;
use super::render::format_template::Template;
use super::render::{Format, RenderOptions};
use crate::common::cli::args::{ConnectionArgs, LogArgs, name_flag_in_error};
use crate::common::cli::check_command_args::CheckArgs;
use crate::common::cli::connection_config::ConnectionConfig;
use crate::common::cli::metrics_args::{MetricsArgs, StatusArgs};
use crate::common::cli::units::{integer_parser, parse_positive_duration, parse_size};
use crate::common::client::RetainHandling;
use crate::common::escape::quoted;
use crate::common::fault::{Exit, Fault};
use crate::common::mqtt::draft::Draft;
use crate::common::mqtt::limits::check_topic_filter;
use crate::common::mqtt::qos::Qos;
use crate::common::runtime::{process, small_file, stdio};

/// Subscribe to MQTT topics and write the messages
///
/// Messages go to standard output, a file, a chart, a table, or a command that is run for each. A message of QoS 1 or 2 is
/// acknowledged only after that: what is lost before, the broker sends again if it keeps the session (--persistent).
///
/// A message of several readings (publisher --batch) is split: each reading is written, counted and passed to the
/// command separately. On a terminal control characters are shown as text; in a pipe or a file no byte is changed.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "subscriber",
    max_term_width = 100,
    after_help = crate::common::cli::UNITS,
    after_long_help = concat!(
        include_str!("manual.txt"),
        include_str!("../common/cli/manual.txt")
    ),
    override_usage = "subscriber --endpoint <HOST> --topic <FILTER>... [OPTIONS] [--exec <COMMAND>...]\n       \
        subscriber <COMMAND>",
    allow_negative_numbers = true,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,

    #[command(flatten)]
    pub subscribe: SubscriberArgs,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    Check(Box<CheckArgs>),
    Status(StatusArgs),
}

const REQUEST: &str = "Request";
const OUTPUT: &str = "Output";
const EXEC: &str = "Command for each message";
const SESSION: &str = "Sessions, repeats and gaps";

#[derive(Args, Clone, Debug)]
pub struct SubscriberArgs {
    /// A topic filter; repeatable
    ///
    /// $share/NAME/FILTER is a shared subscription: each message goes to one of its members. {hostname}, {client-id},
    /// {machine-id} and {env:NAME} are replaced at the start; {{ is a brace.
    #[arg(short, long, value_name = "FILTER", required = true)]
    topic: Vec<String>,

    /// Quality of service: 0, 1 or 2
    #[arg(short, long, value_name = "N", default_value = "1")]
    qos: Qos,

    /// Exit 0 after N messages; 0 means no limit
    #[arg(short = 'C', long, value_name = "N", default_value = "0")]
    #[arg(value_parser = integer_parser(0u64..))]
    count: u64,

    /// Exit 27 after this time
    ///
    /// The exit code is 69, 76, 77 or 78 if there was never a connection.
    #[arg(short = 'W', long, value_name = "D", value_parser = parse_positive_duration)]
    timeout: Option<Duration>,

    /// Exit 0 once every subscription is granted
    ///
    /// It tests that the broker can be reached and grants the filters, or makes a session with --persistent. With
    /// --request-topic the run ends once the broker has acknowledged the request, too.
    #[arg(short = 'E', long)]
    exit_after_subscribe: bool,

    /// Exit 0 after this time without a message
    ///
    /// It counts while all subscriptions are granted: the end of a connection begins it again.
    #[arg(long, value_name = "D", value_parser = parse_positive_duration)]
    idle_timeout: Option<Duration>,

    /// Leave out topics that match this filter; repeatable
    ///
    /// Their messages are acknowledged, and count neither as received nor as missing.
    #[arg(short = 'T', long, value_name = "FILTER")]
    exclude: Vec<String>,

    /// Publish the contents of --request-file to this topic, once every subscription is granted
    ///
    /// QoS is 1. If the connection ends before the broker has acknowledged it, it is published again on the next one,
    /// so the receiver may get it twice; never after its acknowledgement. It is for answers to --topic: with --count 1
    /// --timeout D the run ends with the first one. What comes before the request counts too: leave retained messages out
    /// with --no-retained. The placeholders are those of --topic.
    #[arg(long, value_name = "TOPIC", requires = "request_file", help_heading = REQUEST)]
    request_topic: Option<String>,

    /// The file with the request, at most 16 MiB; - is standard input
    #[arg(long, value_name = "FILE", requires = "request_topic", help_heading = REQUEST)]
    request_file: Option<PathBuf>,

    /// Print topic, space, payload
    #[arg(short, long, help_heading = OUTPUT, conflicts_with = "json")]
    verbose: bool,

    /// Print one JSON object for each message
    ///
    /// tst, topic, qos, retain, payloadlen and payload (payload_base64 if it is not UTF-8); properties, those of MQTT 5
    /// that are set; from the seq property stream, seq, taken and latency_ms. publisher --input json reads it.
    #[arg(short = 'J', long, help_heading = OUTPUT)]
    json: bool,

    /// With --json: print each object on several lines, indented
    #[arg(long, help_heading = OUTPUT, requires = "json")]
    pretty: bool,

    /// Print a line of CSV for each message (RFC 4180)
    ///
    /// The columns are tst,topic,qos,retain,payload, and the first line has their names. Lines end with CR LF. A file
    /// of --output gets the names when it is new or empty. A payload with commas, quotes or newlines is in quotes.
    #[arg(long, help_heading = OUTPUT)]
    #[arg(conflicts_with_all = ["verbose", "json", "format", "no_newline"])]
    csv: bool,

    /// Print each message in this format, that of mosquitto_sub -F
    ///
    /// %t topic, %p payload, %x %X payload in hexadecimal, %l length, %q QoS, %r retain flag, %m packet identifier, %j
    /// %J JSON with the payload as a string or as JSON, %U Unix time, %I ISO 8601 time, @H and so on strftime times,
    /// %A %C %D %E %F %P %R %S properties; \n \t \0 \e. Numbers in %J keep the digits of the payload.
    #[arg(short = 'F', long, value_name = "FORMAT", help_heading = OUTPUT)]
    #[arg(allow_hyphen_values = true, conflicts_with_all = ["verbose", "json"])]
    format: Option<String>,

    /// Print no newline after a message
    #[arg(short = 'N', help_heading = OUTPUT)]
    no_newline: bool,

    /// On a terminal, print control characters as they are
    #[arg(long, help_heading = OUTPUT)]
    raw: bool,

    /// Skip retained messages
    #[arg(short = 'R', long, help_heading = OUTPUT, conflicts_with = "retained_only")]
    no_retained: bool,

    /// Print retained messages only, and exit 0 at the first other
    #[arg(long, help_heading = OUTPUT)]
    retained_only: bool,

    /// Which retained messages the broker sends after a SUBSCRIBE: always, new or never (MQTT 5)
    ///
    /// always: with each subscription, so again after a reconnect. new: only if the subscription did not exist. never:
    /// none. The default is always, and new for a kept session.
    #[arg(long, value_name = "WHEN", help_heading = OUTPUT)]
    retain_handling: Option<RetainHandlingChoice>,

    /// Remove each retained message from the broker after it has been printed
    ///
    /// It publishes an empty retained message to its topic. Topics of --exclude are left alone.
    #[arg(long, help_heading = OUTPUT, conflicts_with_all = ["no_retained", "retain_as_published"])]
    remove_retained: bool,

    /// Keep the retain flag as the publisher set it (MQTT 5)
    ///
    /// Without it, the broker clears the flag of each message that it passes on when it is published. A bridge needs it.
    #[arg(long, help_heading = OUTPUT, conflicts_with_all = ["no_retained", "retained_only"])]
    retain_as_published: bool,

    /// Have the broker add N to each message, for -J and %S (MQTT 5)
    #[arg(long, value_name = "N", value_parser = integer_parser(1..=268_435_455i32))]
    subscription_identifier: Option<i32>,

    /// Draw a live chart of the numbers in the payloads instead of text; q ends it
    #[arg(long, help_heading = OUTPUT)]
    #[arg(conflicts_with_all = ["verbose", "json", "format", "csv", "no_newline", "raw", "output", "exec"])]
    plot: bool,

    /// Show one line per topic with its latest value, age and rate; q ends it
    ///
    /// On a terminal, kept up to date, sorted by topic; arrows, PgUp and PgDn scroll. The last state stays
    /// on the terminal.
    #[arg(long, help_heading = OUTPUT)]
    #[arg(conflicts_with_all = ["plot", "verbose", "json", "format", "csv", "no_newline", "raw", "output", "exec"])]
    table: bool,

    /// With --plot or --table: a JSON pointer to the value; repeatable
    ///
    /// Several are several lines, or columns of the table. Without it, --plot takes the payload itself if it is a number,
    /// else /temperature, and --table the whole payload.
    #[arg(long, value_name = "POINTER", help_heading = OUTPUT)]
    value: Vec<JsonPointer>,

    /// Print one JSON object with the counts at the end
    #[arg(long, help_heading = OUTPUT)]
    summary: bool,

    /// Append to FILE
    ///
    /// SIGHUP reopens it. If FILE has been removed or renamed, the next write creates it again.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    output: Option<PathBuf>,

    /// Start a new FILE before it would grow beyond SIZE
    ///
    /// The old one becomes FILE.1, and FILE.1 becomes FILE.2. No reading is split.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = OUTPUT)]
    rotate_size: Option<u64>,

    /// Number of old files to keep
    #[arg(long, value_name = "N", default_value = "5", help_heading = OUTPUT)]
    #[arg(requires = "rotate_size", value_parser = integer_parser(1..=9_999u32))]
    rotate_keep: u32,

    /// Run COMMAND for each message; must be the last flag
    ///
    /// No shell is involved. The payload is its standard input; MQTT_TOPIC, MQTT_QOS, MQTT_RETAIN and from the seq
    /// property MQTT_STREAM, MQTT_SEQ and MQTT_TAKEN are in its environment.
    #[arg(long, value_name = "COMMAND", num_args = 1.., allow_hyphen_values = true)]
    #[arg(help_heading = EXEC)]
    #[arg(conflicts_with_all = ["output", "format", "json", "csv", "verbose", "no_newline", "raw"])]
    exec: Vec<OsString>,

    /// Commands that run at the same time
    #[arg(long, value_name = "N", default_value = "1", help_heading = EXEC)]
    #[arg(requires = "exec", value_parser = integer_parser(1..=1_000u16))]
    exec_jobs: u16,

    /// End a command that takes longer
    #[arg(long, value_name = "D", default_value = "5m", help_heading = EXEC)]
    #[arg(requires = "exec", value_parser = parse_positive_duration)]
    exec_timeout: Duration,

    /// Have the broker keep messages while not connected; needs --client-id
    #[arg(long, help_heading = SESSION)]
    persistent: bool,

    /// How long the broker keeps them
    ///
    /// With MQTT 3.1.1 the broker decides.
    #[arg(long, value_name = "D", default_value = "1h", help_heading = SESSION)]
    #[arg(requires = "persistent", value_parser = parse_positive_duration)]
    session_expiry: Duration,

    /// Drop repeats: messages with the stream, number, time and topic of an earlier one
    ///
    /// It trusts whoever may publish to that topic.
    #[arg(long, help_heading = SESSION)]
    dedup: bool,

    /// Report missing numbers, and exit 65 if any are missing at the end
    ///
    /// Numbers run over all topics of a publisher (or queue file): subscribe to all of them, or use a publisher for
    /// each topic. Not for shared subscriptions.
    #[arg(long, help_heading = SESSION)]
    gaps: bool,

    /// Remember numbers, repeats and the session from run to run; one file per subscriber
    #[arg(long, value_name = "FILE", help_heading = SESSION)]
    state: Option<PathBuf>,

    #[command(flatten)]
    connection: ConnectionArgs,

    #[command(flatten)]
    metrics: MetricsArgs,

    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RetainHandlingChoice {
    Always,
    New,
    Never,
}

impl From<RetainHandlingChoice> for RetainHandling {
    fn from(choice: RetainHandlingChoice) -> Self {
        match choice {
            RetainHandlingChoice::Always => Self::Always,
            RetainHandlingChoice::New => Self::New,
            RetainHandlingChoice::Never => Self::Never,
        }
    }
}

impl SubscriberArgs {
    #[allow(clippy::too_many_lines, reason = "one flag after the other")]
    pub fn into_config(self) -> Result<Config, Fault> {
        let format = match (self.format, self.json, self.verbose) {
            (Some(format), ..) => Format::Custom(parse_format(&format)?),
            (_, true, _) if self.pretty => Format::PrettyJson,
            (_, true, _) => Format::Json,
            _ if self.csv => Format::Csv,
            (_, _, true) => Format::Verbose,
            _ => Format::Payload,
        };
        let connection = self.connection.into_config("subscriber", false)?;
        check_retain_handling(self.retain_handling, &connection)?;
        let exclude = check_exclude(self.exclude, &connection)?;
        let profile = connection.profile;
        name_flag_in_error("--qos", profile.check_qos(self.qos))?;
        let mut filters: Vec<String> = Vec::new();
        for filter in self.topic {
            let filter = connection.expand_topic("--topic", filter)?;
            let flag = format!("--topic {}", quoted(&filter));
            name_flag_in_error(flag, profile.check_topic_filter(&filter))?;
            if !filters.contains(&filter) {
                filters.push(filter);
            }
        }
        name_flag_in_error("--topic:", profile.check_subscription_count(filters.len()))?;
        if self.gaps && filters.iter().any(|filter| filter.starts_with("$share/")) {
            return Err(Fault::usage(
                "--gaps makes no sense with a shared subscription: its other members get what is \
                 missing here",
            ));
        }
        if self.subscription_identifier.is_some() {
            let checked = profile.check_subscription_identifier();
            name_flag_in_error("--subscription-identifier", checked)?;
            if connection.is_older_mqtt() {
                return Err(Fault::usage(
                    "--subscription-identifier needs MQTT 5: leave it or --mqtt-version out",
                ));
            }
        }
        let request = match (self.request_topic, self.request_file) {
            (Some(topic), Some(file)) => Some(read_request(topic, &file, &connection)?),
            _ => None,
        };
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
            Some(path) => is_terminal_path(path),
        };
        let style = RenderOptions {
            format,
            newline: !self.no_newline,
            escape: terminal && !self.raw,
        };
        let rotation = self.rotate_size.map(|size| Rotation {
            size,
            keep: self.rotate_keep,
        });
        let display = match (self.plot, self.table) {
            (true, _) => Some(("--plot", DisplayKind::Chart)),
            (_, true) => Some(("--table", DisplayKind::Table)),
            _ => None,
        };
        if !self.value.is_empty() && display.is_none() {
            return Err(Fault::usage(
                "--value says which value to show, and is for --plot and --table: add one of them",
            ));
        }
        let output = match (self.exec.is_empty(), self.output, display) {
            (_, _, Some((flag, kind))) => {
                screen::check_terminal(flag)?;
                OutputConfig::Display(kind, ValueExtractor::new(self.value))
            }
            (false, ..) => OutputConfig::Command {
                command: process::ExecCommand::new(self.exec, self.exec_timeout)?,
                jobs: usize::from(self.exec_jobs),
            },
            (true, Some(path), None) => {
                OutputConfig::File(OutputFileConfig { path, rotation }, style)
            }
            (true, None, None) => OutputConfig::Stdout(style),
        };
        Ok(Config {
            connection,
            filters,
            qos: self.qos,
            selection: SelectionOptions {
                limit: (self.count > 0).then_some(self.count),
                dedup: self.dedup,
                retained: match (self.no_retained, self.retained_only) {
                    (true, _) => Retained::Exclude,
                    (_, true) => Retained::Only,
                    _ => Retained::Include,
                },
            },
            exclude,
            exit_after_subscribe: self.exit_after_subscribe,
            idle_timeout: self.idle_timeout,
            retain_handling: self.retain_handling.map(RetainHandling::from),
            remove_retained: self.remove_retained,
            request,
            timeout: self.timeout,
            output,
            session_expiry,
            retain_as_published: self.retain_as_published,
            subscription_identifier: self.subscription_identifier,
            gaps: self.gaps,
            state: self.state,
            summary: self.summary,
            metrics: self.metrics.into_path()?,
        })
    }
}

fn read_request(topic: String, file: &Path, connection: &ConnectionConfig) -> Result<Draft, Fault> {
    let topic = connection.expand_topic("--request-topic", topic)?;
    let profile = connection.profile;
    let flag = format!("--request-topic {}", quoted(&topic));
    name_flag_in_error(flag, profile.check_topic_name(&topic))?;
    let payload = small_file::read_for_or_stdin("--request-file", file)?;
    let (size, (max, source)) = (payload.len(), profile.max_payload(topic.len()));
    if size > max {
        let message = format!(
            "{}: --request-file has {size} bytes, {source} allows {max}",
            file.display()
        );
        return Err(Fault::permanent(Exit::Data, message).with_remedy("give a shorter one"));
    }
    Ok(Draft {
        topic: topic.into(),
        payload,
        qos: Qos::AtLeastOnce,
        readings: 1,
        ..Draft::default()
    })
}

fn check_retain_handling(
    choice: Option<RetainHandlingChoice>,
    connection: &ConnectionConfig,
) -> Result<(), Fault> {
    if connection.is_older_mqtt()
        && matches!(
            choice,
            Some(RetainHandlingChoice::New | RetainHandlingChoice::Never)
        )
    {
        return Err(Fault::usage(
            "--retain-handling needs MQTT 5: leave out --mqtt-version, or use --no-retained",
        ));
    }
    Ok(())
}

/// The filters with their names filled in.
fn check_exclude(
    filters: Vec<String>,
    connection: &ConnectionConfig,
) -> Result<Vec<String>, Fault> {
    let mut checked = Vec::new();
    for filter in filters {
        let filter = connection.expand_topic("--exclude", filter)?;
        let result = if filter.starts_with("$share/") {
            Err("is a shared subscription: give its filter without $share/NAME/".to_owned())
        } else {
            check_topic_filter(&filter).map_err(|e| e.to_string())
        };
        name_flag_in_error(format!("--exclude {}", quoted(&filter)), result)?;
        checked.push(filter);
    }
    Ok(checked)
}

/// Whether a file to write to is a terminal, as `/dev/tty` is, and often `/dev/stdout`.
fn is_terminal_path(path: &Path) -> bool {
    let is_device = fs::metadata(path).is_ok_and(|found| found.file_type().is_char_device());
    let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
    let mut options = OpenOptions::new();
    let options = options.write(true).custom_flags(flags.bits());
    is_device && options.open(path).is_ok_and(|file| file.is_terminal())
}

/// A format, with the system's time zone if it needs one: `TZ`, else `/etc/localtime`.
fn parse_format(format: &str) -> Result<Template, Fault> {
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
