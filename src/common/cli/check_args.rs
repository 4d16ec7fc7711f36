//! The flags of `check`, which both programs have.

use clap::Parser;

use super::args::{ConnectionArgs, LogArgs};
use crate::common::fault::Fault;
use crate::common::mqtt::limits;
use crate::common::runtime::logging::Verbosity;

/// Tries every step of a connection and says which one fails, why, and what to do: files, clock,
/// name look-up, TCP, proxy, TLS, CONNECT, and with --topic a publish and a subscribe. With a client
/// id that is given, another client that is connected with it is thrown out: that shows it
#[derive(Clone, Debug, Parser)]
#[command(name = "check", after_help = super::UNITS)]
pub struct CheckArgs {
    /// Publish a small message to this topic, and subscribe to it; a filter is only subscribed
    /// to; may be given several times
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

/// What is to be checked.
#[derive(Clone, Debug)]
pub struct CheckConfig {
    /// How to reach the broker.
    pub connection: super::config::ConnectionConfig,
    /// What to publish and subscribe to.
    pub topics: Vec<String>,
    /// Whether the report is for machines.
    pub json: bool,
}

impl CheckArgs {
    /// How much to log.
    pub fn verbosity(&self) -> Verbosity {
        self.log.verbosity()
    }

    /// Checks what is typed; the files are the business of the check itself. `program` begins a
    /// random client identifier.
    ///
    /// # Errors
    ///
    /// A usage fault that names the flag.
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
