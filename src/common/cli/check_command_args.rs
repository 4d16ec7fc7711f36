//! The flags of `check`, which both programs have.

#![allow(clippy::doc_markdown, reason = "doc comments are the text of --help")]

use clap::Args;

use super::args::{ConnectionArgs, LogArgs, name_flag_in_error};
use super::connection_config::ConnectionConfig;
use crate::common::fault::Fault;
use crate::common::mqtt::limits;

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
    pub log: LogArgs,
}

#[derive(Clone, Debug)]
pub struct ConnectionCheckConfig {
    pub connection: ConnectionConfig,
    /// What to publish and subscribe to.
    pub topics: Vec<String>,
    pub json: bool,
}

impl CheckArgs {
    /// Checks the values; files are left to the steps. `program` begins a random client identifier.
    pub fn into_config(self, program: &str) -> Result<ConnectionCheckConfig, Fault> {
        let connection = self.connection.into_config(program, true)?;
        let mut topics = Vec::new();
        for topic in self.topic {
            let topic = connection.expand_topic("--topic", topic)?;
            let checked = match limits::check_topic_name(&topic) {
                Ok(()) => connection.profile.check_topic_name(&topic),
                Err(_) => connection.profile.check_topic_filter(&topic),
            };
            name_flag_in_error(format!("--topic {topic:?}"), checked)?;
            topics.push(topic);
        }
        Ok(ConnectionCheckConfig {
            connection,
            topics,
            json: self.json,
        })
    }
}
