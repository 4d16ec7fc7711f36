//! The publisher's command line: flags as typed, and what they mean once checked.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, ValueEnum};
use log::warn;

use super::config::Config;
use super::input::batch::BatchLimits;
use super::input::config::{InputConfig, SourceKind};
use super::queue_command::args::QueueArgs;
use crate::common::broker::profile::Profile;
use crate::common::cli::args::{ConnectionArgs, LogArgs};
use crate::common::cli::check_args::CheckArgs;
use crate::common::cli::config::ConnectionConfig;
use crate::common::cli::units::{parse_duration, parse_positive_duration, parse_size};
use crate::common::escape::quoted;
use crate::common::fault::{Exit, Fault};
use crate::common::mqtt::message::{Draft, Qos, SeqProperty};
use crate::common::mqtt::publish_size::{
    INTEGER_PROPERTY_SIZE, string_property_size, user_property_size,
};
use crate::common::runtime::logging::Verbosity;
use crate::common::runtime::process;
use crate::common::runtime::stdio;
use crate::publisher::outbox::pacing::DrainRate;
use crate::publisher::outbox::pacing::parse_drain_rate;
use crate::publisher::queue::{Capacity, DropBehavior, Limits};

/// Bytes in one batch, at most, newlines included: what AWS IoT Core takes, and few brokers
/// take less.
const BATCH_BYTES: usize = 128 << 10;

/// Unacknowledged messages at most, unless something else is asked for.
const WINDOW: u16 = 100;

/// Publishes device telemetry over MQTT: what is handed over is delivered, or the exit code
/// says that it was not. Without a source it publishes a simulated temperature, unless standard
/// input is a pipe or a file.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "publisher",
    max_term_width = 100,
    after_help = crate::common::cli::UNITS,
    allow_negative_numbers = true
)]
pub struct PublisherArgs {
    /// The topic name to publish to; with --input json only for lines that name none
    #[arg(short, long, value_name = "NAME", required_unless_present = "input")]
    topic: Option<String>,

    /// Quality of service: 0, 1 or 2
    #[arg(short, long, value_name = "N", default_value = "1")]
    qos: Qos,

    /// Ask the broker to keep the message for later subscribers
    #[arg(short, long)]
    retain: bool,

    /// Publish this text
    #[arg(
        short,
        long,
        value_name = "TEXT",
        group = "source",
        allow_hyphen_values = true
    )]
    message: Option<String>,

    /// Publish an empty message
    #[arg(short, long, group = "source")]
    null_message: bool,

    /// Publish what is in this file
    #[arg(short, long, value_name = "FILE", group = "source")]
    file: Option<PathBuf>,

    /// Publish all of standard input as one message
    #[arg(short, long, group = "source")]
    stdin_file: bool,

    /// Publish each line of standard input, without its newline
    #[arg(short = 'l', long, group = "source")]
    stdin_line: bool,

    /// What a line of --stdin-line is: the message itself, or JSON that names topic, payload,
    /// qos and retain, as subscriber --json writes it; a payload that is no string is published
    /// byte for byte
    #[arg(long, value_name = "FORM")]
    input: Option<InputChoice>,

    /// Run this every --interval and publish what it prints, without one final newline; must
    /// be the last flag
    #[arg(long, value_name = "COMMAND [ARG]", num_args = 1.., group = "source", allow_hyphen_values = true)]
    exec: Vec<OsString>,

    /// End a command of --exec that takes longer
    #[arg(long, value_name = "D", default_value = "1m", requires = "exec", value_parser = parse_positive_duration)]
    exec_timeout: Duration,

    /// Time between simulated readings or runs of --exec
    #[arg(long, value_name = "D", default_value = "1", value_parser = parse_positive_duration)]
    interval: Duration,

    /// Up to so many readings in one message, each ended by a newline, with the content type
    /// application/x-ndjson; needs MQTT 5
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(Draft::MAX_READINGS)))]
    batch: u32,

    /// How long the first reading of a batch waits for others
    #[arg(long, value_name = "D", default_value = "50ms", value_parser = parse_duration)]
    batch_wait: Duration,

    /// Stop after so many readings; 0 for no end
    #[arg(short = 'C', long, value_name = "N", default_value_t = 0)]
    count: u64,

    /// Keep messages in this file until they are delivered: they outlive the process; it is
    /// made if it does not exist
    #[arg(long, value_name = "FILE", help_heading = "Offline queue")]
    queue: Option<PathBuf>,

    /// Messages that may wait; -1 for no limit but --queue-bytes, 0 for none; default: 20 in
    /// memory, -1 with --queue
    #[arg(
        long,
        value_name = "N",
        allow_negative_numbers = true,
        help_heading = "Offline queue"
    )]
    queue_size: Option<i64>,

    /// Bytes that may wait, also the largest message; default: 64MiB in memory, 1GiB with
    /// --queue
    #[arg(long, value_name = "SIZE", value_parser = parse_size, help_heading = "Offline queue")]
    queue_bytes: Option<u64>,

    /// What a full queue drops; default: newest for timed readings, block for stdin and files
    #[arg(long, value_name = "WHAT", help_heading = "Offline queue")]
    drop_behavior: Option<DropChoice>,

    /// Messages per second out of the queue, or max; default: 2 for timed readings in memory
    /// (more if the queue would grow), else max
    #[arg(long, value_name = "HZ", value_parser = parse_drain_rate, help_heading = "Offline queue")]
    drain_rate: Option<DrainRate>,

    /// Do not send what has waited longer than this
    #[arg(long, value_name = "D", value_parser = parse_positive_duration, help_heading = "Offline queue")]
    expiry: Option<Duration>,

    /// Connections that the broker closed, without a reason, right after the same message, before
    /// it goes to the dead letters
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..), help_heading = "Offline queue")]
    max_attempts: u32,

    /// Unacknowledged messages at most; a lower Receive Maximum of the broker wins; default: 100,
    /// of QoS 2 with MQTT 3.1.1 20, what Mosquitto bears with its defaults
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    max_inflight: Option<u16>,

    /// How long to keep trying after the end of input (one message: from when it was read)
    #[arg(long, value_name = "D", default_value = "30", value_parser = parse_duration)]
    flush_timeout: Duration,

    /// End the whole run after this time, whatever is left
    #[arg(long, value_name = "D", value_parser = parse_positive_duration)]
    deadline: Option<Duration>,

    /// How long to flush after SIGINT, SIGTERM or SIGHUP; a second signal, half a second later or
    /// more, ends at once
    #[arg(long, value_name = "D", default_value = "5", value_parser = parse_duration)]
    stop_timeout: Duration,

    /// Print a line for what becomes of each message
    #[arg(long, help_heading = "Output")]
    receipts: bool,

    /// Print one JSON object at the end
    #[arg(long, help_heading = "Output")]
    summary: bool,

    /// Print topic and payload of each message as it is delivered
    #[arg(short, long, help_heading = "Output")]
    verbose: bool,

    /// Leave the seq user property out
    #[arg(long)]
    no_sequence: bool,

    #[command(flatten)]
    connection: ConnectionArgs,

    #[command(flatten)]
    log: LogArgs,
}

/// What `publisher` is asked to do.
#[derive(Clone, Debug)]
pub enum Command {
    /// To publish.
    Publish(Box<PublisherArgs>),
    /// To look at a queue file.
    Queue(QueueArgs),
    /// To find out what keeps it from connecting.
    Check(Box<CheckArgs>),
}

/// The flags of publishing stand at the top, beside the other commands: clap's derive has no
/// way to say that.
impl CommandFactory for Command {
    fn command() -> clap::Command {
        PublisherArgs::command()
            .subcommand(CheckArgs::command())
            .subcommand(QueueArgs::command())
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
            Some(("check", check)) => {
                CheckArgs::from_arg_matches(check).map(|args| Command::Check(Box::new(args)))
            }
            Some((_, queue)) => QueueArgs::from_arg_matches(queue).map(Command::Queue),
            None => PublisherArgs::from_arg_matches(matches)
                .map(|args| Command::Publish(Box::new(args))),
        }
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Parser for Command {}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DropChoice {
    Newest,
    Oldest,
    Block,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum InputChoice {
    Lines,
    Json,
}

impl PublisherArgs {
    /// How much to log.
    pub fn verbosity(&self) -> Verbosity {
        self.log.verbosity()
    }

    /// Whether a flag says what to publish.
    fn has_source(&self) -> bool {
        let one = self.message.is_some() || self.file.is_some() || self.null_message;
        one || self.stdin_file || self.stdin_line || !self.exec.is_empty()
    }

    /// Checks what says where messages come from.
    fn check_source(&self) -> Result<(), Fault> {
        if self.input.is_some() && !self.stdin_line {
            let message = "--input is about lines of standard input: give --stdin-line as well";
            return Err(Fault::usage(message));
        }
        if !self.has_source() && stdin_brings_data() {
            let message =
                "standard input: is a pipe or a file, and no flag says what to do with it";
            return Err(Fault::usage(message).with_remedy(
                "give --stdin-line or --stdin-file (or </dev/null, to publish a simulated temperature)",
            ));
        }
        Ok(())
    }

    /// Checks everything that can be known before a connection, and reads `--file`.
    ///
    /// # Errors
    ///
    /// A fault that names the flag or the file.
    pub fn check(self) -> Result<Config, Fault> {
        self.check_source()?;
        self.check_streams()?;
        let json = self.input == Some(InputChoice::Json);
        let durable = self.queue.is_some();
        let connection = self.connection.check("publisher", durable)?;
        let profile = connection.profile;
        profile
            .check_qos(self.qos)
            .map_err(|e| Fault::usage(format!("--qos {e}")))?;
        profile
            .check_in_flight(self.max_inflight.unwrap_or(WINDOW))
            .map_err(|e| Fault::usage(format!("--max-inflight {e}")))?;
        let topic = check_topic(self.topic, json, self.retain, profile)?;
        let (size, bytes) = if durable {
            (-1, 1 << 30)
        } else {
            (20, 64 << 20)
        };
        let capacity = Capacity::from_signed(self.queue_size.unwrap_or(size));
        let max_bytes = self.queue_bytes.unwrap_or(bytes);
        let (limit, _) = profile.max_payload(topic.as_ref().map_or(0, |topic| topic.len()));
        let max_payload = match capacity {
            Capacity::Disabled => limit,
            _ => limit.min(usize::try_from(max_bytes).unwrap_or(usize::MAX)),
        };
        let source = match (self.message, self.file) {
            (Some(text), _) => SourceKind::Message(text.into_bytes()),
            (_, Some(path)) => SourceKind::Message(read_message(&path, max_payload)?),
            _ if self.null_message => SourceKind::Message(Vec::new()),
            _ if self.stdin_file => SourceKind::Stdin,
            _ if self.stdin_line => SourceKind::Lines,
            _ if !self.exec.is_empty() => {
                SourceKind::Command(process::ExecCommand::new(self.exec, self.exec_timeout)?)
            }
            _ => SourceKind::Simulated,
        };
        let timed = source.is_timed();
        if self.batch > 1 {
            check_batches(&source, &connection)?;
        }
        if source == SourceKind::Simulated {
            warn_of_simulation(self.interval);
        }
        Ok(Config {
            connection,
            input: InputConfig {
                source,
                interval: self.interval,
                count: (self.count > 0).then_some(self.count),
                json,
                topic,
                qos: self.qos,
                retain: self.retain,
                max_payload,
                batch: BatchLimits {
                    readings: self.batch,
                    wait: self.batch_wait,
                    payload: BATCH_BYTES.min(max_payload),
                    size: usize::try_from(max_bytes).unwrap_or(usize::MAX),
                    properties: batch_properties(!self.no_sequence, self.expiry.is_some()),
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
            expiry: self.expiry,
            max_attempts: self.max_attempts,
            drain_rate: self.drain_rate.unwrap_or(if timed && !durable {
                DrainRate::PerSecond(2.0)
            } else {
                DrainRate::Max
            }),
            drain_by_hand: self.drain_rate.is_some(),
            max_in_flight: usize::from(self.max_inflight.unwrap_or(WINDOW)),
            window_by_hand: self.max_inflight.is_some(),
            flush_timeout: self.flush_timeout,
            deadline: self.deadline,
            stop_timeout: self.stop_timeout,
            receipts: self.receipts,
            summary: self.summary,
            verbose: self.verbose,
            sequence: !self.no_sequence,
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
        let missing = "--topic is missing: where are the lines to go?";
        return if json {
            Ok(None)
        } else {
            Err(Fault::usage(missing))
        };
    };
    profile
        .check_topic_name(&topic)
        .map_err(|e| Fault::usage(format!("--topic {} {e}", quoted(&topic))))?;
    if retain {
        profile
            .check_retain(&topic)
            .map_err(|e| Fault::usage(format!("--retain {e}")))?;
    }
    Ok(Some(topic.into()))
}

fn warn_of_simulation(interval: Duration) {
    warn!(
        "no source is given: publishing a simulated temperature every {interval:?}; --exec, --stdin-line, \
         --message and --file are sources"
    );
}

/// Whether somebody hands data over on standard input: a pipe, a socket, a file. A terminal, `/dev/null` and
/// a descriptor that is closed hand over nothing.
fn stdin_brings_data() -> bool {
    let stdin = io::stdin().as_fd().try_clone_to_owned();
    let found = stdin.and_then(|stdin| File::from(stdin).metadata());
    found.is_ok_and(|found| !found.file_type().is_char_device())
}

/// Bytes of a batch's properties, at most.
fn batch_properties(sequence: bool, expiry: bool) -> usize {
    let content_type = string_property_size(Draft::BATCH_TYPE.len());
    let seq = if sequence {
        user_property_size(SeqProperty::MAX_SIZE)
    } else {
        0
    };
    let expiry = if expiry { INTEGER_PROPERTY_SIZE } else { 0 };
    content_type + seq + expiry
}

impl PublisherArgs {
    /// Whether standard input and output are there for what is read from one and printed to the other.
    fn check_streams(&self) -> Result<(), Fault> {
        for (given, flag) in [
            (self.stdin_line, "--stdin-line"),
            (self.stdin_file, "--stdin-file"),
        ] {
            if given {
                stdio::check_stdin(flag)?;
            }
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
}

/// Whether this source can be batched, and receivers told.
fn check_batches(source: &SourceKind, connection: &ConnectionConfig) -> Result<(), Fault> {
    if !source.is_timed() && *source != SourceKind::Lines {
        let message = "--batch is about many readings: this source gives one message";
        return Err(Fault::usage(message));
    }
    if connection.is_older_mqtt() {
        let message = "--batch needs MQTT 5: by 3.1.1 receivers cannot tell batches from messages";
        return Err(Fault::usage(message));
    }
    Ok(())
}

/// Reads a message file; one byte more than is allowed shows that it is too large.
fn read_message(path: &Path, max: usize) -> Result<Vec<u8>, Fault> {
    let mut payload = Vec::new();
    File::open(path)
        .and_then(|file| file.take(max as u64 + 1).read_to_end(&mut payload))
        .map_err(|e| {
            Fault::permanent(
                Exit::NoInput,
                format!("{}: --file cannot be read: {e}", path.display()),
            )
        })?;
    Ok(payload)
}
