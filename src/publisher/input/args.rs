//! The flags for the MQTT 5 properties of each message: as typed, and how they are checked.

#![allow(clippy::doc_markdown, reason = "doc comments are the text of --help")]

use clap::{Args, ValueEnum};

use super::given_properties::GivenProperties;
use crate::common::cli::args::{name_flag_in_error, parse_user_property};
use crate::common::cli::connection_config::ConnectionConfig;
use crate::common::escape::quoted;
use crate::common::fault::Fault;
use crate::common::mqtt::limits::check_no_controls;
use crate::common::mqtt::property_fields::{PropertyFields, check_correlation_data};
use crate::common::mqtt::seq_property::SeqProperty;

const PROPERTIES: &str = "Properties of each message (MQTT 5)";

#[derive(Args, Clone, Debug)]
pub struct PropertyArgs {
    /// A user property; repeatable
    ///
    /// With --input json the properties of a line have priority; its user properties replace all of the flags.
    #[arg(long, value_name = "NAME=VALUE", help_heading = PROPERTIES)]
    #[arg(value_parser = parse_user_property)]
    user_property: Vec<(String, String)>,

    /// What the payload is, as in text/csv
    #[arg(long, value_name = "TYPE", help_heading = PROPERTIES)]
    content_type: Option<String>,

    /// The topic for answers
    #[arg(long, value_name = "NAME", help_heading = PROPERTIES)]
    response_topic: Option<String>,

    /// What an answer has to repeat, so that it can be recognised
    #[arg(long, value_name = "TEXT", help_heading = PROPERTIES, allow_hyphen_values = true)]
    correlation_data: Option<String>,

    /// Mark payloads as text
    ///
    /// A reading that is not UTF-8 is rejected.
    #[arg(long, value_name = "FORMAT", help_heading = PROPERTIES)]
    payload_format: Option<PayloadFormat>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PayloadFormat {
    Text,
}

impl PropertyArgs {
    /// `sequence` is whether messages carry the `seq` property.
    pub fn into_given(
        self,
        connection: &ConnectionConfig,
        sequence: bool,
    ) -> Result<GivenProperties, Fault> {
        for (flag, is_given) in [
            ("--user-property", !self.user_property.is_empty()),
            ("--content-type", self.content_type.is_some()),
            ("--response-topic", self.response_topic.is_some()),
            ("--correlation-data", self.correlation_data.is_some()),
            ("--payload-format", self.payload_format.is_some()),
        ] {
            if is_given && connection.is_older_mqtt() {
                let message = format!("{flag} needs MQTT 5: leave it or --mqtt-version out");
                return Err(Fault::usage(message));
            }
        }
        let mut names = self.user_property.iter().map(|(name, _)| name);
        if sequence && names.any(|name| name == SeqProperty::NAME) {
            return Err(Fault::usage(
                "--user-property: seq is the property with the number of each message; use another \
                 name, or --no-sequence",
            ));
        }
        if let Some(content_type) = &self.content_type {
            name_flag_in_error("--content-type", check_no_controls(content_type))?;
        }
        if let Some(topic) = &self.response_topic {
            let flag = format!("--response-topic {}", quoted(topic));
            name_flag_in_error(flag, connection.profile.check_topic_name(topic))?;
        }
        let correlation_data = self.correlation_data.map(String::into_bytes);
        if let Some(bytes) = &correlation_data {
            name_flag_in_error("--correlation-data", check_correlation_data(bytes))?;
        }
        let user = self.user_property.into_iter();
        let user: Vec<_> = user
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Ok(GivenProperties::new(PropertyFields {
            payload_format: self.payload_format.map(|PayloadFormat::Text| 1),
            message_expiry: None,
            content_type: self.content_type.map(Into::into),
            response_topic: self.response_topic.map(Into::into),
            correlation_data: correlation_data.map(Into::into),
            user: (!user.is_empty()).then_some(user),
        }))
    }
}
