//! The flags of `check`, which both programs have.

#![allow(clippy::doc_markdown, reason = "doc comments are the text of --help")]

use clap::Args;

use super::args::{ConnectionArgs, LogArgs};
use super::config::ConnectionConfig;
use crate::common::fault::Fault;
use crate::common::mqtt::limits;
use crate::common::runtime::logging::Verbosity;

/// Try each step of a connection, and report which one fails and why
///
/// The steps are files, clock, name look-up, TCP, proxy, TLS, CONNECT, and with --topic a publish and a subscribe.
/// With --client-id the check shows whether another client uses the same identifier; it disconnects that client.
#[derive(Args, Clone, Debug)]
#[command(max_term_width = 100, after_help = super::UNITS)]
#[command(after_long_help = concat!(include_str!("check_manual.txt"), include_str!("manual.txt")))]
pub struct CheckArgs {
    /// Publish a small message to this topic, and subscribe to it; repeatable
    ///
    /// A filter with wildcards is only subscribed to.
    #[arg(short, long, value_name = "NAME")]
    topic: Vec<String>,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: ConnectionArgs,

    #[command(flatten)]
    log: LogArgs,
}

#[derive(Clone, Debug)]
pub struct CheckConfig {
    pub connection: ConnectionConfig,
    /// What to publish and subscribe to.
    pub topics: Vec<String>,
    /// Print the report as JSON.
    pub json: bool,
}

impl CheckArgs {
    pub fn verbosity(&self) -> Verbosity {
        self.log.verbosity()
    }

    /// Checks the values; files are left to the steps. `program` begins a random client identifier.
    pub fn check(self, program: &str) -> Result<CheckConfig, Fault> {
        let connection = self.connection.check(program, true)?;
        for topic in &self.topic {
            let wrong = |why: String| Fault::usage(format!("--topic {topic:?} {why}"));
            let profile = connection.profile;
            match limits::check_topic_name(topic) {
                Ok(()) => profile.check_topic_name(topic).map_err(wrong)?,
                Err(_) => profile.check_topic_filter(topic).map_err(wrong)?,
            }
        }
        Ok(CheckConfig {
            connection,
            topics: self.topic,
            json: self.json,
        })
    }
}
