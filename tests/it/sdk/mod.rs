//! The pure core against the behaviour of the AWS IoT Device SDK for Python: each test
//! begins with *keep* (as there) or *better* (a known weakness there).

mod backoff;
mod checks;
mod outbox;
mod queue;
mod status;

use std::sync::Arc;
use std::time::{Duration, Instant};

use iot_pubsub::common::mqtt::draft::Draft;
use iot_pubsub::common::mqtt::outgoing_message::OutgoingMessage;
use iot_pubsub::common::mqtt::qos::Qos;
use iot_pubsub::publisher::queue::limits::{DropBehavior, Limits, MessageCountLimit};
use iot_pubsub::publisher::queue::memory::MemoryQueue;

const SECOND: Duration = Duration::from_secs(1);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// An origin; the tests move it by hand.
fn origin() -> Instant {
    Instant::now()
}

fn draft(text: &str) -> Draft {
    Draft {
        topic: "temperature".into(),
        payload: text.into(),
        qos: Qos::AtLeastOnce,
        retain: false,
        readings: 1,
        properties: None,
    }
}

fn message(seq: u64) -> Arc<OutgoingMessage> {
    Arc::new(OutgoingMessage {
        id: seq,
        stream: "run".into(),
        seq,
        draft: draft("21.5"),
        ..OutgoingMessage::default()
    })
}

fn memory_queue(
    capacity: MessageCountLimit,
    max_bytes: u64,
    behavior: DropBehavior,
) -> MemoryQueue {
    let limits = Limits {
        capacity,
        max_bytes,
        behavior,
    };
    MemoryQueue::new(limits, "run".into())
}
