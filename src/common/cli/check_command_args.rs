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
/// With --client-id ID it connects as ID-check, so that a program that is connected as ID stays connected.
#[derive(Args, Clone, Debug)]
#[command(max_term_width = 100, after_help = super::UNITS)]
#[command(after_long_help = concat!(include_str!("check_manual.txt"), include_str!("manual.txt")))]
pub struct CheckArgs {
    /// Publish a small message to this topic, and subscribe to it; repeatable
    ///
    /// A filter with wildcards is only subscribed to.
    #[arg(short, long, value_name = "NAME")]
    topic: Vec<String>,

    /// Connect with the --client-id itself, and show whether another client uses it
    ///
    /// That other client is disconnected. Needed where the broker allows no other client identifier.
    #[arg(long, requires = "client_id")]
    takeover: bool,

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
    /// The identifier of `--client-id`, if the check connects with another one.
    pub spared_client_id: Option<String>,
    /// What to publish and subscribe to.
    pub topics: Vec<String>,
    pub json: bool,
}

impl CheckArgs {
    /// Checks the values; files are left to the steps. `program` begins a random client identifier.
    pub fn into_config(self, program: &str) -> Result<ConnectionCheckConfig, Fault> {
        let mut connection = self.connection.into_config(program, true)?;
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
        let mut spared_client_id = None;
        if connection.client_id_given && !self.takeover {
            let own = format!("{}-check", connection.client_id);
            if let Err(cause) = connection.profile.check_client_id(&own) {
                return Err(Fault::usage(format!("the client id {own:?} {cause}"))
                    .with_remedy("give --takeover, or a shorter --client-id"));
            }
            spared_client_id = Some(std::mem::replace(&mut connection.client_id, own));
        }
        Ok(ConnectionCheckConfig {
            connection,
            spared_client_id,
            topics,
            json: self.json,
        })
    }
}
