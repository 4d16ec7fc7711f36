//! The MQTT 5 properties that a user sets for messages, by flags or in a line of JSON. PURE.

use std::borrow::Cow;

use super::limits::{MqttStringError, check_string};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PropertyFields<'a> {
    /// 1 if the payload is UTF-8 text.
    pub payload_format: Option<u8>,
    /// Seconds.
    pub message_expiry: Option<u32>,
    pub content_type: Option<Cow<'a, str>>,
    pub response_topic: Option<Cow<'a, str>>,
    pub correlation_data: Option<Cow<'a, [u8]>>,
    /// Names and values in their order; a name may come twice.
    pub user: Option<Vec<(Cow<'a, str>, Cow<'a, str>)>>,
}

impl<'a> PropertyFields<'a> {
    /// What is not set here is taken from `defaults`; the user properties are taken from one of the two.
    pub fn with_defaults(self, defaults: &PropertyFields<'a>) -> Self {
        let Self {
            payload_format,
            message_expiry,
            content_type,
            response_topic,
            correlation_data,
            user,
        } = self;
        Self {
            payload_format: payload_format.or(defaults.payload_format),
            message_expiry: message_expiry.or(defaults.message_expiry),
            content_type: content_type.or_else(|| defaults.content_type.clone()),
            response_topic: response_topic.or_else(|| defaults.response_topic.clone()),
            correlation_data: correlation_data.or_else(|| defaults.correlation_data.clone()),
            user: user.or_else(|| defaults.user.clone()),
        }
    }

    /// Checks lengths and characters, except those of the response topic. The error names the property.
    pub fn check(&self) -> Result<(), String> {
        if self.payload_format.is_some_and(|format| format > 1) {
            return Err("payload-format-indicator must be 0 or 1".into());
        }
        let content_type = self.content_type.as_deref().map_or(Ok(()), check_string);
        content_type.map_err(|e| format!("content-type {e}"))?;
        if let Some(bytes) = &self.correlation_data {
            check_correlation_data(bytes).map_err(|e| format!("correlation-data {e}"))?;
        }
        for (name, value) in self.user.iter().flatten() {
            check_string(name).map_err(|e| format!("the name of a user property {e}"))?;
            check_string(value).map_err(|e| format!("the value of a user property {e}"))?;
        }
        Ok(())
    }
}

pub fn check_correlation_data(bytes: &[u8]) -> Result<(), MqttStringError> {
    match u16::try_from(bytes.len()) {
        Ok(_) => Ok(()),
        Err(_) => Err(MqttStringError::TooLong(bytes.len())),
    }
}
