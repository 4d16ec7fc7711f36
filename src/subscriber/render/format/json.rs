//! `%j` and `%J`: a message as JSON, with the payload as a string or as the JSON that it is.
//! PURE.
//!
//! The properties come in a fixed order, which is Mosquitto's own for those that the broker
//! adds; `mosquitto_sub` keeps the order of the packet.

use super::cjson;
use super::moment::Moment;
use crate::common::mqtt::message::{PublishProperties, Received};

/// How to show the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    /// As a string, up to its first NUL.
    Text,
    /// As JSON.
    Value,
}

/// The message; nothing if its payload were to be JSON and is not.
pub(super) fn object(message: &Received<'_>, moment: &Moment, payload: Payload) -> Option<Vec<u8>> {
    let mut object = Object::new();
    object.text("tst", moment.in_json().as_bytes());
    object.text("topic", message.topic.as_bytes());
    object.number("qos", &message.qos.level());
    object.number("retain", &u8::from(message.retained));
    object.number("payloadlen", &message.payload.len());
    if message.qos.level() > 0 {
        object.number("mid", &message.packet_id);
    }
    let properties = message.properties.as_ref().map(properties);
    if let Some(properties) = properties.filter(|object| !object.is_empty()) {
        object.value("properties", &properties.end());
    }
    match payload {
        _ if message.payload.is_empty() => object.value("payload", b"null"),
        Payload::Text => object.text("payload", message.payload),
        Payload::Value => object.value("payload", &cjson::reprinted(message.payload)?),
    }
    Some(object.end())
}

fn properties(properties: &PublishProperties<'_>) -> Object {
    let mut object = Object::new();
    for id in properties.repeated.subscriptions() {
        object.number("subscription-identifier", &id);
    }
    if let Some(alias) = properties.topic_alias {
        object.number("topic-alias", &alias);
    }
    if let Some(format) = properties.payload_format {
        object.number("payload-format-indicator", &format);
    }
    if let Some(content_type) = &properties.content_type {
        object.text("content-type", content_type.as_bytes());
    }
    if let Some(topic) = &properties.response_topic {
        object.text("response-topic", topic.as_bytes());
    }
    if let Some(data) = &properties.correlation_data {
        object.text("correlation-data", data);
    }
    if properties.repeated.user().next().is_some() {
        let mut user = Object::new();
        for (name, value) in properties.repeated.user() {
            user.text(name, value.as_bytes());
        }
        object.value("user-properties", &user.end());
    }
    if let Some(seconds) = properties.message_expiry {
        object.number("message-expiry-interval", &seconds);
    }
    object
}

/// An object that is being written. A name may come twice.
struct Object(Vec<u8>);

impl Object {
    fn new() -> Self {
        Self(b"{".to_vec())
    }

    fn is_empty(&self) -> bool {
        self.0.len() == 1
    }

    fn text(&mut self, name: &str, text: &[u8]) {
        self.name(name);
        cjson::write_string(&mut self.0, text);
    }

    fn number(&mut self, name: &str, number: &impl ToString) {
        self.value(name, number.to_string().as_bytes());
    }

    fn value(&mut self, name: &str, json: &[u8]) {
        self.name(name);
        self.0.extend_from_slice(json);
    }

    fn name(&mut self, name: &str) {
        if !self.is_empty() {
            self.0.push(b',');
        }
        cjson::write_string(&mut self.0, name.as_bytes());
        self.0.push(b':');
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}
