//! What the queue in memory costs for a message.
//!
//! `put_and_taken`: filled to its limit of 1,000 messages, and emptied. `full/oldest`, `full/newest`:
//! a message more in a full queue, with what has to go for it.
//!
//! Not in it: making a message and freeing it, since the bench keeps them all.

mod shared;

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use iot_pubsub::common::mqtt::outgoing_message::OutgoingMessage;
use iot_pubsub::common::runtime::clock::instant_now;
use iot_pubsub::publisher::queue::Queue;
use iot_pubsub::publisher::queue::limits::{Admission, DropBehavior, Limits, MessageCountLimit};
use iot_pubsub::publisher::queue::memory::MemoryQueue;
use shared::STREAM;

/// Messages in a round.
const MESSAGES: u64 = 10_000;

/// Messages that fit.
const LIMIT: usize = 1_000;

fn messages() -> Vec<Arc<OutgoingMessage>> {
    shared::messages(MESSAGES).map(Arc::new).collect()
}

/// An empty queue, called as the outbox calls it.
fn queue(behavior: DropBehavior) -> Box<dyn Queue> {
    let limits = Limits {
        capacity: MessageCountLimit::Messages(LIMIT),
        max_bytes: 64 << 20,
        behavior,
    };
    black_box(Box::new(MemoryQueue::new(limits, STREAM.into())))
}

/// Puts them in; gives how many of them were stored, and how many had to go for them.
fn push(queue: &mut dyn Queue, messages: &[Arc<OutgoingMessage>], now: Instant) -> (usize, usize) {
    let (mut stored, mut gone) = (0, 0);
    let mut evicted = Vec::new();
    for message in messages {
        if queue.make_room(message.draft.content_size(), now, &mut evicted) == Admission::Fits {
            queue.push(Arc::clone(message), None);
            stored += 1;
            gone += evicted.len();
        }
        evicted.clear();
    }
    (stored, gone)
}

fn put_and_taken(criterion: &mut Criterion) {
    let (messages, now) = (messages(), instant_now());
    let mut queue = queue(DropBehavior::Block);
    let mut group = criterion.benchmark_group("memory_queue");
    group.throughput(Throughput::Elements(MESSAGES));
    group.bench_function("put_and_taken", |bencher| {
        bencher.iter(|| {
            for messages in messages.chunks(LIMIT) {
                assert_eq!(push(&mut *queue, messages, now), (LIMIT, 0));
                let mut taken = 0;
                while let Some(message) = queue.pop() {
                    black_box(message);
                    taken += 1;
                }
                assert_eq!(taken, LIMIT);
            }
        });
    });
    group.finish();
}

fn full(criterion: &mut Criterion) {
    let (messages, now) = (messages(), instant_now());
    let mut group = criterion.benchmark_group("memory_queue/full");
    group.throughput(Throughput::Elements(MESSAGES));
    let cases = [
        (
            "oldest",
            DropBehavior::Oldest,
            (messages.len(), messages.len()),
        ),
        ("newest", DropBehavior::Newest, (0, 0)),
    ];
    for (name, behavior, expected) in cases {
        let mut queue = queue(behavior);
        let begin = messages.iter().take(LIMIT).cloned().collect::<Vec<_>>();
        assert_eq!(push(&mut *queue, &begin, now), (LIMIT, 0));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                assert_eq!(push(&mut *queue, &messages, now), expected);
                assert_eq!(queue.len(), LIMIT);
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = shared::criterion();
    targets = put_and_taken, full
}
criterion_main!(benches);
