//! What the benches share: the messages, and how long is measured.

use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use iot_pubsub::common::mqtt::draft::Draft;
use iot_pubsub::common::mqtt::outgoing_message::OutgoingMessage;
use iot_pubsub::common::mqtt::qos::Qos;

/// The Unix time in milliseconds at which all of it takes place.
pub(crate) const WALL_MS: u64 = 1_769_846_400_000;

/// The stream of every message.
pub(crate) const STREAM: &str = "5b7d025ce9bc0b91";

/// Short, so that all benches together take a minute or two.
pub(crate) fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3))
}

/// Messages as a device sends them, with a payload of 20 bytes. Keys and numbers are from 1, as a
/// queue gives them.
pub(crate) fn messages(count: u64) -> impl Iterator<Item = OutgoingMessage> {
    // One topic for all of them, as from one command line.
    let (topic, stream): (Arc<str>, Arc<str>) =
        ("plant/7/line/3/temperature".into(), STREAM.into());
    (1..=count).map(move |seq| OutgoingMessage {
        id: seq,
        stream: Arc::clone(&stream),
        seq,
        accepted_ms: WALL_MS,
        accepted_boot: None,
        expires_ms: None,
        expires_at: None,
        attempts: 0,
        draft: Draft {
            topic: Arc::clone(&topic),
            payload: br#"{"temperature":21.5}"#.to_vec(),
            qos: Qos::AtLeastOnce,
            retain: false,
            readings: 1,
            properties: None,
        },
    })
}
