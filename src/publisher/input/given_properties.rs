//! The MQTT 5 properties that the flags give to every message.

use std::sync::Arc;

use crate::common::mqtt::message_properties::MessageProperties;
use crate::common::mqtt::property_fields::PropertyFields;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GivenProperties {
    /// What a line of JSON adds to or replaces.
    pub fields: PropertyFields<'static>,
    /// The same, encoded once for all messages; none if no flag is given.
    pub shared: Option<Arc<MessageProperties>>,
}

impl GivenProperties {
    pub fn new(fields: PropertyFields<'static>) -> Self {
        let shared = MessageProperties::new(&fields);
        Self { fields, shared }
    }

    /// Whether every payload has to be UTF-8.
    pub fn requires_text(&self) -> bool {
        self.fields.payload_format == Some(1)
    }
}
