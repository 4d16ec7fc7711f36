//! The flags of the last will and of the status messages.

#![allow(clippy::doc_markdown, reason = "doc comments are the text of --help")]

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::name_expander::NameExpander;
use crate::common::broker::profile::Profile;
use crate::common::cli::units::parse_duration;
use crate::common::client::MqttVersion;
use crate::common::escape::quoted;
use crate::common::fault::{Exit, Fault};
use crate::common::mqtt::qos::Qos;
use crate::common::mqtt::status_messages::StatusMessages;
use crate::common::mqtt::will::Will;
use crate::common::runtime::small_file;

#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Will and status")]
pub(super) struct WillArgs {
    /// The topic of the last will
    ///
    /// The broker publishes the will when the connection ends without a DISCONNECT: the program was killed, the network
    /// failed, or nothing came within one and a half keep-alives. {hostname}, {client-id}, {machine-id} and {env:NAME}
    /// are replaced at the start; {{ is a brace.
    #[arg(long, value_name = "TOPIC", conflicts_with = "status_topic")]
    will_topic: Option<String>,

    /// The payload of the will
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    #[arg(conflicts_with_all = ["will_file", "status_topic"])]
    will_message: Option<String>,

    /// A file with the payload of the will, at most 64 KiB
    #[arg(long, value_name = "FILE", conflicts_with = "status_topic")]
    will_file: Option<PathBuf>,

    /// The QoS of the will: 0, 1 or 2; 1 if not given
    #[arg(long, value_name = "N", conflicts_with = "status_topic")]
    will_qos: Option<Qos>,

    /// Ask the broker to keep the will for later subscribers
    #[arg(long, conflicts_with = "status_topic")]
    will_retain: bool,

    /// How long the broker waits before it publishes the will; needs MQTT 5
    ///
    /// A publisher, or a subscriber with --persistent, that has connected again by then has the broker drop the will;
    /// not so a publisher that was started again, or that publishes with QoS 2.
    #[arg(long, value_name = "D", value_parser = parse_duration, conflicts_with = "status_topic")]
    will_delay: Option<Duration>,

    /// A topic that says whether this program is connected: online or offline, retained
    ///
    /// online is published after each connect, offline before the end of the run; if the connection ends otherwise, the
    /// broker publishes offline as the last will. QoS is 1. Use it with --client-id, and a topic for each client, as in
    /// status/{client-id}; the placeholders are those of --will-topic.
    #[arg(long, value_name = "TOPIC")]
    status_topic: Option<String>,

    /// The payload while connected; online if not given
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        conflicts_with = "will_topic"
    )]
    status_online: Option<String>,

    /// The payload while not connected; offline if not given
    #[arg(
        long,
        value_name = "TEXT",
        allow_hyphen_values = true,
        conflicts_with = "will_topic"
    )]
    status_offline: Option<String>,
}

impl WillArgs {
    /// A will, and what to publish if it is that of a status topic.
    pub(super) fn into_messages(
        self,
        client_id: &str,
        profile: Profile,
        version: MqttVersion,
    ) -> Result<(Option<Will>, Option<StatusMessages>), Fault> {
        self.check_topic_is_given()?;
        let expand = |flag: &str, topic: String, retain: bool| {
            let names = NameExpander {
                client_id: Some(client_id),
            };
            let topic = names.expand(flag, topic)?;
            check_topic(flag, &topic, retain, profile)?;
            Ok::<_, Fault>(topic)
        };
        let status_payload = |flag: &str, given: Option<String>, default: &str| {
            let text = given.unwrap_or_else(|| default.to_owned());
            check_size(flag, text.len(), profile)?;
            Ok::<_, Fault>(text.into())
        };
        if let Some(topic) = self.status_topic {
            let status = StatusMessages {
                topic: expand("--status-topic", topic, true)?,
                online: status_payload("--status-online", self.status_online, "online")?,
                offline: status_payload("--status-offline", self.status_offline, "offline")?,
            };
            return Ok((Some(status.to_will()), Some(status)));
        }
        let Some(topic) = self.will_topic else {
            return Ok((None, None));
        };
        let topic = expand("--will-topic", topic, self.will_retain)?;
        let qos = self.will_qos.unwrap_or(Qos::AtLeastOnce);
        let wrong_qos = |why| Fault::usage(format!("--will-qos {why}"));
        profile.check_qos(qos).map_err(wrong_qos)?;
        if self.will_delay.is_some() && version == MqttVersion::V311 {
            return Err(Fault::usage("--will-delay needs MQTT 5")
                .with_remedy("leave it out, or --mqtt-version 3.1.1"));
        }
        let (flag, payload) = match (self.will_message, self.will_file) {
            (Some(text), _) => ("--will-message", text.into_bytes()),
            (None, Some(path)) => ("--will-file", read_will(&path)?),
            (None, None) => {
                return Err(Fault::usage("--will-topic needs a payload")
                    .with_remedy("give --will-message TEXT or --will-file FILE"));
            }
        };
        check_size(flag, payload.len(), profile)?;
        let will = Will {
            topic,
            payload,
            qos,
            retain: self.will_retain,
            delay: self.will_delay.unwrap_or_default(),
        };
        Ok((Some(will), None))
    }

    fn check_topic_is_given(&self) -> Result<(), Fault> {
        let of_will = [
            ("--will-message", self.will_message.is_some()),
            ("--will-file", self.will_file.is_some()),
            ("--will-qos", self.will_qos.is_some()),
            ("--will-retain", self.will_retain),
            ("--will-delay", self.will_delay.is_some()),
        ];
        let of_status = [
            ("--status-online", self.status_online.is_some()),
            ("--status-offline", self.status_offline.is_some()),
        ];
        for (topic, has_topic, others) in [
            ("--will-topic", self.will_topic.is_some(), &of_will[..]),
            ("--status-topic", self.status_topic.is_some(), &of_status),
        ] {
            if let Some((flag, _)) = others.iter().find(|(_, is_given)| *is_given)
                && !has_topic
            {
                return Err(Fault::usage(format!("{flag} needs {topic}"))
                    .with_remedy(format!("give {topic} TOPIC, or leave {flag} out")));
            }
        }
        Ok(())
    }
}

fn check_topic(flag: &str, topic: &str, retain: bool, profile: Profile) -> Result<(), Fault> {
    let wrong = |why| Fault::usage(format!("{flag} {} {why}", quoted(topic)));
    profile.check_topic_name(topic).map_err(wrong)?;
    if retain {
        let wrong = |why| Fault::usage(format!("{flag}: a retained message {why}"));
        profile.check_retained_topic(topic).map_err(wrong)?;
    }
    Ok(())
}

fn check_size(flag: &str, bytes: usize, profile: Profile) -> Result<(), Fault> {
    let (max, source) = match profile.max_payload(0) {
        (max, source) if max < Will::MAX_PAYLOAD => (max, source),
        _ => (Will::MAX_PAYLOAD, "MQTT"),
    };
    if bytes > max {
        let message =
            format!("{flag}: {bytes} bytes are too many for a will: {source} allows {max}");
        return Err(Fault::usage(message).with_remedy("give a shorter one"));
    }
    Ok(())
}

fn read_will(path: &Path) -> Result<Vec<u8>, Fault> {
    small_file::read(path)
        .map(|content| content.bytes)
        .map_err(|e| {
            let message = format!("{}: --will-file cannot be read: {e}", path.display());
            Fault::permanent(Exit::NoInput, message)
        })
}
