//! From Paho's message to ours: topic, payload, and what MQTT 5 sends along.

use std::sync::Arc;
use std::time::Duration;

use paho_mqtt::{AsyncClient, Properties, PropertyCode, QoS};

use super::Listener;
use crate::common::flow::Flow;
use crate::common::message::{PublishProperties, Qos, Received, SeqProperty};

/// Hands each message of this client over, with a ticket of its connection.
pub(super) fn deliver_to(client: &AsyncClient, listener: &Listener, flow: Arc<Flow>, v5: bool) {
    let on_message = Arc::clone(&listener.on_message);
    client.set_message_callback(move |_, message| {
        let Some(message) = message else { return };
        let qos = match message.qos() {
            QoS::AtMostOnce => Qos::AtMostOnce,
            QoS::AtLeastOnce => Qos::AtLeastOnce,
            QoS::ExactlyOnce => Qos::ExactlyOnce,
        };
        let properties = v5.then(|| collect(message.properties()));
        let ticket = flow.ticket(qos != Qos::AtMostOnce);
        let received = Received {
            topic: message.topic(),
            payload: message.payload(),
            qos,
            retained: message.retained(),
            mid: ticket.mid(),
            seq: properties.as_ref().and_then(seq),
            properties,
        };
        on_message(&received, ticket);
    });
}

/// The broker may want to hear from us more often than we meant to speak.
pub(super) fn heed_keep_alive(flow: Option<&Flow>, properties: &Properties) {
    let wanted = properties.get_int(PropertyCode::ServerKeepAlive);
    if let (Some(flow), Some(Ok(seconds @ 1..))) = (flow, wanted.map(u64::try_from)) {
        flow.keep_alive_wanted(Duration::from_secs(seconds));
    }
}

fn seq(properties: &PublishProperties) -> Option<SeqProperty> {
    let mut user = properties.user.iter();
    let (_, value) = user.find(|(name, _)| name == SeqProperty::NAME)?;
    value.parse().ok()
}

fn collect(properties: &Properties) -> PublishProperties {
    if properties.is_empty() {
        return PublishProperties::default();
    }
    let mut collected = PublishProperties {
        user: properties.user_iter().collect(),
        ..PublishProperties::default()
    };
    if collected.user.len() == properties.len() {
        return collected;
    }
    let text = |code| properties.get_string(code);
    collected.payload_format = properties
        .get(PropertyCode::PayloadFormatIndicator)
        .and_then(|property| property.get_byte());
    collected.message_expiry = properties
        .get(PropertyCode::MessageExpiryInterval)
        .and_then(|property| property.get_u32());
    collected.topic_alias = properties
        .get(PropertyCode::TopicAlias)
        .and_then(|property| property.get_u16());
    collected.response_topic = text(PropertyCode::ResponseTopic);
    collected.correlation_data = properties.get_binary(PropertyCode::CorrelationData);
    collected.subscriptions = properties
        .iter(PropertyCode::SubscriptionIdentifier)
        .filter_map(|property| property.get_int())
        .filter_map(|id| u32::try_from(id).ok())
        .collect();
    collected.content_type = text(PropertyCode::ContentType);
    collected
}
