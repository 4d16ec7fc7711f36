//! The subscriber's command line: flags as typed, and what they mean once checked.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};

use super::output::{Format, Style};
use super::plot::screen;
use super::plot::value::{Picker, Pointer};
use crate::common::cli::args::{ConnectionArgs, LogArgs};
use crate::common::cli::config::ConnectionConfig;
use crate::common::cli::doctor::CheckArgs;
use crate::common::connection::Run;
use crate::common::escape::quoted;
use crate::common::fault::Fault;
use crate::common::logging::Verbosity;
use crate::common::message::Qos;
use crate::common::units::parse_positive_duration;

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

    /// Print no newline after a message
    #[arg(short = 'N', help_heading = "Output")]
    no_newline: bool,

    /// Draw a live chart of the numbers in the payloads instead of text; q ends it
    #[arg(
        long,
        help_heading = "Output",
        conflicts_with_all = ["verbose", "json", "no_newline"]
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

/// What the subscriber is to do, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// How to reach the broker.
    pub connection: ConnectionConfig,
    /// The topic filters.
    pub filters: Vec<String>,
    /// The quality of service to ask for.
    pub qos: Qos,
    /// How many messages are enough.
    pub count: Option<u64>,
    /// How long to wait for them.
    pub timeout: Option<Duration>,
    /// How to print them.
    pub style: Style,
    /// Whether to draw a chart instead, and of which numbers.
    pub plot: Option<Picker>,
    /// Whether to sum up.
    pub summary: bool,
}

impl Config {
    /// Whether the run has an end of its own.
    #[must_use]
    pub fn run(&self) -> Run {
        if self.count.is_some() || self.timeout.is_some() {
            Run::Finite
        } else {
            Run::Endless
        }
    }
}

impl SubscriberArgs {
    /// How much to log.
    #[must_use]
    pub fn verbosity(&self) -> Verbosity {
        self.log.verbosity()
    }

    /// Checks everything that can be known before a connection.
    ///
    /// # Errors
    ///
    /// A fault that names the flag or the file.
    pub fn check(self) -> Result<Config, Fault> {
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
        if self.plot {
            screen::check()?;
        }
        Ok(Config {
            connection,
            filters,
            qos: self.qos,
            count: (self.count > 0).then_some(self.count),
            timeout: self.timeout,
            style: Style {
                format: match (self.json, self.verbose) {
                    (true, _) => Format::Json,
                    (_, true) => Format::Verbose,
                    _ => Format::Payload,
                },
                newline: !self.no_newline,
                escape: std::io::stdout().is_terminal(),
            },
            plot: self.plot.then(|| Picker::new(self.value)),
            summary: self.summary,
        })
    }
}
