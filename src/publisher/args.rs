//! The publisher's command line: flags as typed, and how they are checked.

#![allow(clippy::doc_markdown, reason = "doc comments are the text of --help")]

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use log::warn;

use super::config::Config;
use super::input::args::PropertyArgs;
use super::input::batch::BatchLimits;
use super::input::config::{InputConfig, SourceKind};
use super::input::given_properties::GivenProperties;
use super::queue_command::args::QueueArgs;
use crate::common::broker::profile::Profile;
use crate::common::cli::args::{ConnectionArgs, LogArgs, name_flag_in_error};
use crate::common::cli::check_command_args::CheckArgs;
use crate::common::cli::connection_config::ConnectionConfig;
use crate::common::cli::metrics_args::{MetricsArgs, StatusArgs};
use crate::common::cli::units::{
    integer_parser, parse_duration, parse_positive_duration, parse_size,
};
use crate::common::escape::quoted;
use crate::common::fault::{Exit, Fault};
use crate::common::mqtt::draft::Draft;
use crate::common::mqtt::publish_size::{
    INTEGER_PROPERTY_SIZE, string_property_size, user_property_size,
};
use crate::common::mqtt::qos::Qos;
use crate::common::mqtt::seq_property::SeqProperty;
use crate::common::runtime::{process, stdio};
use crate::publisher::outbox::drain_pacer::parse_drain_rate;
use crate::publisher::outbox::types::OutboxConfig;
use crate::publisher::queue::limits::{DropBehavior, Limits, MessageCountLimit};

/// Bytes per batch at most, newlines included: AWS IoT Core takes that much, and few brokers take less.
const BATCH_BYTES: usize = 128 << 10;

/// The default of `--max-inflight`.
const WINDOW: u16 = 100;

/// Publish device telemetry over MQTT
///
/// What publisher accepts is delivered, or the exit code says that it was not. It connects again after each failure,
/// with growing delays, and keeps readings in a queue meanwhile: in memory, or with --queue in a file that outlives
/// the process and a power cut.
///
/// Without a source it publishes a simulated temperature every --interval, if standard input is a terminal, /dev/null
/// or closed. A pipe or a file on standard input needs --stdin-line or --stdin-file.
///
/// With MQTT 5 each message has the user property seq, STREAM/SEQ/MS: the stream (a run, or a queue file), the
/// number of the message in it, and the Unix time in milliseconds at which publisher took it.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "publisher",
    max_term_width = 100,
    after_help = crate::common::cli::UNITS,
    after_long_help = concat!(
        include_str!("manual.txt"),
        include_str!("../common/cli/manual.txt")
    ),
    override_usage = "publisher --endpoint <HOST> --topic <NAME> [OPTIONS]\n                 \
        [-m <TEXT> | -n | -f <FILE> | -s | -l | --exec <COMMAND>...]\n       publisher <COMMAND>",
    allow_negative_numbers = true,
    subcommand_negates_reqs = true,
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,

    #[command(flatten)]
    pub publish: PublisherArgs,
}

#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    Check(Box<CheckArgs>),
    Queue(QueueArgs),
    Status(StatusArgs),
}

const SOURCE: &str = "Source";
const QUEUE: &str = "Queue";
const OUTPUT: &str = "Output";

#[derive(Args, Clone, Debug)]
pub struct PublisherArgs {
    /// The topic name to publish to
    ///
    /// Wildcards and control characters are not allowed. {hostname}, {client-id}, {machine-id} and {env:NAME} are
    /// replaced at the start; {{ is a brace. With --input json it is for lines without a topic.
    #[arg(short, long, value_name = "NAME", required_unless_present = "input")]
    topic: Option<String>,

    /// Quality of service: 0, 1 or 2
    #[arg(short, long, value_name = "N", default_value = "1")]
    qos: Qos,

    /// Ask the broker to keep the message for later subscribers
    #[arg(short, long)]
    retain: bool,

    #[command(flatten)]
    properties: PropertyArgs,

    /// How many messages may be unacknowledged
    ///
    /// The default is 100; for QoS 2 with MQTT 3.1.1 it is 20: Mosquitto with its default settings drops QoS 2 messages
    /// above that. A lower Receive Maximum of the broker has priority.
    #[arg(long, value_name = "N", value_parser = integer_parser(1..=u16::MAX))]
    max_inflight: Option<u16>,

    /// How long to keep trying after the end of input
    ///
    /// A single message counts from when it was read. With --drop-behavior block and a full queue the input does not
    /// end while the broker is away: give --deadline as well.
    #[arg(long, value_name = "D", default_value = "30", value_parser = parse_duration)]
    flush_timeout: Duration,

    /// End the whole run after this time, whatever is undelivered
    #[arg(long, value_name = "D", value_parser = parse_positive_duration)]
    deadline: Option<Duration>,

    /// How long to keep trying after SIGINT, SIGTERM or SIGHUP
    ///
    /// A second signal, half a second later or more, ends the run at once.
    #[arg(long, value_name = "D", default_value = "5", value_parser = parse_duration)]
    stop_timeout: Duration,

    /// Omit the seq user property
    #[arg(long)]
    no_sequence: bool,

    /// Publish this text
    #[arg(short, long, value_name = "TEXT", help_heading = SOURCE)]
    #[arg(group = "source", allow_hyphen_values = true)]
    message: Option<String>,

    /// Publish an empty message
    #[arg(short, long, group = "source", help_heading = SOURCE)]
    null_message: bool,

    /// Publish the contents of this file
    #[arg(short, long, value_name = "FILE", group = "source", help_heading = SOURCE)]
    file: Option<PathBuf>,

    /// Publish all of standard input as one message
    #[arg(short, long, group = "source", help_heading = SOURCE)]
    stdin_file: bool,

    /// Publish each line of standard input, without its newline
    #[arg(short = 'l', long, group = "source", help_heading = SOURCE)]
    stdin_line: bool,

    /// What a line of --stdin-line is: lines or json
    ///
    /// lines, the default: the line is the payload. json: the line is an object with payload and optionally topic, qos,
    /// retain and properties, as subscriber --json and publisher queue export write it. A payload that is not a string is
    /// published as the JSON text that is in the line; payload_base64 holds arbitrary bytes.
    #[arg(long, value_name = "FORM", help_heading = SOURCE)]
    input: Option<InputFormat>,

    /// Publish the message N times, one every --interval
    ///
    /// For --message, --file, --null-message and --stdin-file.
    #[arg(long, value_name = "N", default_value = "1", help_heading = SOURCE)]
    #[arg(value_parser = integer_parser(1u64..))]
    repeat: u64,

    /// Publish each reading with its time, as {"time":"2026-01-31T08:00:00.250Z","value":21.5}
    ///
    /// The time is when publisher got the reading, in UTC. A reading that is JSON, such as a number, is the value as it is;
    /// other text becomes a string. One that is not UTF-8 is rejected.
    #[arg(long, help_heading = SOURCE)]
    stamp: bool,

    /// Run this every --interval and publish its output; must be the last flag
    ///
    /// No shell is involved. One final newline of the output is removed.
    #[arg(long, value_name = "COMMAND", num_args = 1.., help_heading = SOURCE)]
    #[arg(group = "source", allow_hyphen_values = true)]
    exec: Vec<OsString>,

    /// End a command of --exec that takes longer
    #[arg(long, value_name = "D", default_value = "1m", requires = "exec", help_heading = SOURCE)]
    #[arg(value_parser = parse_positive_duration)]
    exec_timeout: Duration,

    /// Time between simulated readings or runs of --exec
    #[arg(long, value_name = "D", default_value = "1", help_heading = SOURCE)]
    #[arg(value_parser = parse_positive_duration)]
    interval: Duration,

    /// Readings per message at most
    ///
    /// Each ends with a newline, and the content type is application/x-ndjson. Needs MQTT 5.
    #[arg(long, value_name = "N", default_value = "1", help_heading = SOURCE)]
    #[arg(value_parser = integer_parser(1..=Draft::MAX_READINGS))]
    batch: u32,

    /// How long the first reading of a batch waits for others
    #[arg(long, value_name = "D", default_value = "50ms", help_heading = SOURCE)]
    #[arg(value_parser = parse_duration)]
    batch_wait: Duration,

    /// Stop after N readings; 0 means no limit
    #[arg(short = 'C', long, value_name = "N", default_value = "0", help_heading = SOURCE)]
    #[arg(value_parser = integer_parser(0u64..))]
    count: u64,

    /// Keep messages in this file until they are delivered
    ///
    /// The file is created if it does not exist, and outlives the process. Use one file per broker.
    #[arg(long, value_name = "FILE", help_heading = QUEUE)]
    queue: Option<PathBuf>,

    /// How many messages may wait; -1 means no limit, 0 no queue
    ///
    /// The default is 20 in memory, and -1 with --queue; --queue-bytes is a limit in both cases.
    #[arg(long, value_name = "N", allow_negative_numbers = true, help_heading = QUEUE)]
    #[arg(value_parser = integer_parser(-1i64..))]
    queue_size: Option<i64>,

    /// How many bytes may wait; also the size of the largest message
    ///
    /// The default is 64MiB in memory, and 1GiB with --queue.
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = QUEUE)]
    queue_bytes: Option<u64>,

    /// What a full queue does: drop the newest or oldest, or block the source
    ///
    /// The default is newest for readings of --interval, and block for standard input and files.
    #[arg(long, value_name = "WHAT", help_heading = QUEUE)]
    drop_behavior: Option<DropChoice>,

    /// Messages per second out of the queue, or max
    ///
    /// The default is 2 for readings of --interval in memory (more if the queue would grow), else max.
    #[arg(long, value_name = "HZ", value_parser = parse_drain_rate, help_heading = QUEUE)]
    drain_rate: Option<f64>,

    /// Gather for up to D what has to be written to the queue file
    ///
    /// Spares a memory card: one write for many readings that are taken offline or not acknowledged in time. A reading
    /// counts as accepted when it is written, and what was gathered and not written is lost if the process is killed or the
    /// power fails. Not waited for: the end of the input and of the run, and 2048 messages or 2 MiB. A publisher that adds
    /// to the file of another gathers nothing.
    #[arg(long, value_name = "D", value_parser = parse_positive_duration, help_heading = QUEUE)]
    commit_interval: Option<Duration>,

    /// Do not send what has waited longer
    #[arg(long, value_name = "D", value_parser = parse_positive_duration, help_heading = QUEUE)]
    expiry: Option<Duration>,

    /// Give a message up after the broker has closed the connection on it N times
    ///
    /// Only connections count that the broker closed right after this message, without a reason. The message is moved
    /// to the dead letters: messages that the broker refuses, kept in the queue file.
    #[arg(long, value_name = "N", default_value = "5", help_heading = QUEUE)]
    #[arg(value_parser = integer_parser(1u32..))]
    max_attempts: u32,

    /// Print a line for each message that is accepted, delivered or lost
    ///
    /// accepted SEQ, delivered SEQ, dropped SEQ REASON, rejected LINE REASON, expired SEQ, dead SEQ REASON. With --queue
    /// a message is accepted when it is synced to disk or acknowledged, without it as soon as it is in memory.
    #[arg(long, help_heading = OUTPUT)]
    receipts: bool,

    /// Print one JSON object with the counts at the end
    #[arg(long, help_heading = OUTPUT)]
    summary: bool,

    /// Print topic and payload of each delivered message
    #[arg(short, long, help_heading = OUTPUT)]
    verbose: bool,

    #[command(flatten)]
    connection: ConnectionArgs,

    #[command(flatten)]
    metrics: MetricsArgs,

    #[command(flatten)]
    pub log: LogArgs,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DropChoice {
    Newest,
    Oldest,
    Block,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum InputFormat {
    Lines,
    Json,
}

impl PublisherArgs {
    fn check_source(&self) -> Result<(), Fault> {
        if self.input.is_some() && !self.stdin_line {
            let message = "--input is for lines of standard input: give --stdin-line as well";
            return Err(Fault::usage(message));
        }
        let one = self.message.is_some() || self.file.is_some() || self.null_message;
        let has_source = one || self.stdin_file || self.stdin_line || !self.exec.is_empty();
        if !has_source && is_stdin_pipe_or_file() {
            let message = "standard input: is a pipe or a file, and no flag says how to read it";
            return Err(Fault::usage(message).with_remedy(
                "give --stdin-line or --stdin-file (or </dev/null, to publish a simulated temperature)",
            ));
        }
        Ok(())
    }

    fn check_stdio_is_open(&self) -> Result<(), Fault> {
        if self.stdin_line {
            stdio::check_stdin("--stdin-line")?;
        }
        if self.stdin_file {
            stdio::check_stdin("--stdin-file")?;
        }
        for (given, flag) in [
            (self.receipts, "--receipts"),
            (self.verbose, "--verbose"),
            (self.summary, "--summary"),
        ] {
            if given {
                stdio::check_stdout(&format!("{flag} prints there"))?;
            }
        }
        Ok(())
    }

    /// Also reads `--file`.
    #[allow(clippy::too_many_lines, reason = "one flag after the other")]
    pub fn into_config(self) -> Result<Config, Fault> {
        self.check_source()?;
        self.check_stdio_is_open()?;
        let json = self.input == Some(InputFormat::Json);
        let durable = self.queue.is_some();
        if self.commit_interval.is_some() && !durable {
            let message = "--commit-interval is about a queue file: give --queue as well";
            return Err(Fault::usage(message));
        }
        let connection = self.connection.into_config("publisher", durable)?;
        let properties = self.properties.into_given(&connection, !self.no_sequence)?;
        let profile = connection.profile;
        name_flag_in_error("--qos", profile.check_qos(self.qos))?;
        let max_in_flight = self.max_inflight.unwrap_or(WINDOW);
        name_flag_in_error("--max-inflight", profile.check_in_flight(max_in_flight))?;
        let topic = self
            .topic
            .map(|topic| connection.expand_topic("--topic", topic));
        let topic = check_topic(topic.transpose()?, json, self.retain, profile)?;
        let (size, bytes) = if durable {
            (-1, 1 << 30)
        } else {
            (20, 64 << 20)
        };
        let capacity = MessageCountLimit::from_aws_queue_size(self.queue_size.unwrap_or(size));
        let max_bytes = self.queue_bytes.unwrap_or(bytes);
        let (limit, _) = profile.max_payload(topic.as_ref().map_or(0, |topic| topic.len()));
        let max_payload = match capacity {
            MessageCountLimit::Disabled => limit,
            _ => limit.min(usize::try_from(max_bytes).unwrap_or(usize::MAX)),
        };
        let source = match (self.message, self.file) {
            (Some(text), _) => SourceKind::Message(text.into_bytes()),
            (_, Some(path)) => SourceKind::Message(read_message_file(&path, max_payload)?),
            _ if self.null_message => SourceKind::Message(Vec::new()),
            _ if self.stdin_file => SourceKind::Stdin,
            _ if self.stdin_line => SourceKind::Lines,
            _ if !self.exec.is_empty() => {
                SourceKind::Command(process::ExecCommand::new(self.exec, self.exec_timeout)?)
            }
            _ => SourceKind::Simulated,
        };
        let timed = source.is_timed();
        check_repeat(self.repeat, &source)?;
        // A line of JSON may have an expiry.
        let may_expire = self.expiry.is_some() || json;
        if self.batch > 1 {
            check_batches(&source, &connection, &properties)?;
        }
        if source == SourceKind::Simulated {
            warn!(
                "no source is given: publishing a simulated temperature every {:?}; --exec, --stdin-line, \
                 --message and --file are sources",
                self.interval
            );
        }
        Ok(Config {
            outbox: OutboxConfig {
                max_in_flight: usize::from(max_in_flight),
                operation_timeout: connection.operation_timeout,
                expiry: self.expiry,
                commit_interval: self.commit_interval,
                max_attempts: self.max_attempts,
                sequence: !self.no_sequence,
                profile: connection.profile,
            },
            connection,
            input: InputConfig {
                source,
                interval: self.interval,
                count: (self.count > 0).then_some(self.count),
                json,
                stamp: self.stamp,
                repeat: self.repeat,
                topic,
                qos: self.qos,
                retain: self.retain,
                properties,
                max_payload,
                batch: BatchLimits {
                    readings: self.batch,
                    wait: self.batch_wait,
                    payload: BATCH_BYTES.min(max_payload),
                    size: usize::try_from(max_bytes).unwrap_or(usize::MAX),
                    properties: batch_properties_size(!self.no_sequence, may_expire),
                },
            },
            limits: Limits {
                capacity,
                max_bytes,
                behavior: match self.drop_behavior {
                    Some(DropChoice::Newest) => DropBehavior::Newest,
                    Some(DropChoice::Oldest) => DropBehavior::Oldest,
                    None if timed => DropBehavior::Newest,
                    Some(DropChoice::Block) | None => DropBehavior::Block,
                },
            },
            queue: self.queue,
            metrics: self.metrics.into_path()?,
            drain_rate: self.drain_rate.unwrap_or(if timed && !durable {
                2.0
            } else {
                f64::INFINITY
            }),
            drain_by_hand: self.drain_rate.is_some(),
            window_by_hand: self.max_inflight.is_some(),
            flush_timeout: self.flush_timeout,
            deadline: self.deadline,
            stop_timeout: self.stop_timeout,
            receipts: self.receipts,
            summary: self.summary,
            verbose: self.verbose,
        })
    }
}

/// Checks the topic name; none if each line is to name its own.
fn check_topic(
    topic: Option<String>,
    json: bool,
    retain: bool,
    profile: Profile,
) -> Result<Option<Arc<str>>, Fault> {
    let Some(topic) = topic else {
        let missing = Fault::usage("--topic is missing: where are the lines to go?");
        return if json { Ok(None) } else { Err(missing) };
    };
    let flag = format!("--topic {}", quoted(&topic));
    name_flag_in_error(flag, profile.check_topic_name(&topic))?;
    if retain {
        name_flag_in_error("--retain", profile.check_retained_topic(&topic))?;
    }
    Ok(Some(topic.into()))
}

/// Whether standard input is a pipe, a socket or a file. A terminal, `/dev/null` and a closed descriptor have no data.
fn is_stdin_pipe_or_file() -> bool {
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    let found = stdin.and_then(|stdin| File::from(stdin).metadata());
    found.is_ok_and(|found| !found.file_type().is_char_device())
}

/// Bytes of a batch's properties, at most.
fn batch_properties_size(sequence: bool, expiry: bool) -> usize {
    let content_type = string_property_size(Draft::BATCH_TYPE.len());
    let seq = user_property_size(SeqProperty::MAX_SIZE);
    content_type + seq * usize::from(sequence) + INTEGER_PROPERTY_SIZE * usize::from(expiry)
}

fn check_repeat(repeat: u64, source: &SourceKind) -> Result<(), Fault> {
    if repeat == 1 || matches!(source, SourceKind::Message(_) | SourceKind::Stdin) {
        return Ok(());
    }
    let message =
        "--repeat is for one message: give --message, --file, --null-message or --stdin-file";
    Err(Fault::usage(message).with_remedy("end other sources with --count"))
}

fn check_batches(
    source: &SourceKind,
    connection: &ConnectionConfig,
    properties: &GivenProperties,
) -> Result<(), Fault> {
    let why = if !source.is_timed() && *source != SourceKind::Lines {
        "--batch is for many readings: this source gives one message"
    } else if connection.is_older_mqtt() {
        "--batch needs MQTT 5: with 3.1.1 receivers cannot tell batches from messages"
    } else if properties.fields.content_type.is_some() {
        "--content-type has no use with --batch, whose type is application/x-ndjson; leave one of them out"
    } else {
        return Ok(());
    };
    Err(Fault::usage(why))
}

/// Reads a message file; one byte more than is allowed shows that it is too large.
fn read_message_file(path: &Path, max: usize) -> Result<Vec<u8>, Fault> {
    let mut payload = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(max as u64 + 1).read_to_end(&mut payload));
    read.map(|_| payload).map_err(|e| {
        let message = format!("{}: --file cannot be read: {e}", path.display());
        Fault::permanent(Exit::NoInput, message)
    })
}
