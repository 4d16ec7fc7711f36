//! What the outbox costs for a reading, with the queue in memory behind it.
//!
//! `window/N`: offered online, dispatched, settled and told of, with N in flight. Acknowledgements
//! come for a quarter of a window at once, 50 at most, as the client's worker tells of them; nothing waits in the queue.
//!
//! `burst/offered`: taken into the queue while offline. `burst/drained`: out of it through a window
//! of 100, at no rate but that of the window.
//!
//! Not in it: making a draft, the event loop, the client, and the text of the receipts.

mod shared;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use criterion::{
    BatchSize, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use iot_pubsub::common::broker::profile::Profile;
use iot_pubsub::common::client::Delivery;
use iot_pubsub::common::mqtt::draft::Draft;
use iot_pubsub::common::runtime::clock::instant_now;
use iot_pubsub::publisher::outbox::Outbox;
use iot_pubsub::publisher::outbox::broker_limits::BrokerLimits;
use iot_pubsub::publisher::outbox::drain_pacer::DrainPacer;
use iot_pubsub::publisher::outbox::types::{Offered, OutboxConfig};
use iot_pubsub::publisher::outbox::user_receipts::UserReceipt;
use iot_pubsub::publisher::queue::limits::{DropBehavior, Limits, MessageCountLimit};
use iot_pubsub::publisher::queue::memory::MemoryQueue;
use iot_pubsub::publisher::queue::store_requests::MessageOutcome;
use shared::{STREAM, WALL_MS};

/// Readings in a round.
const READINGS: u64 = 10_000;

/// The time that an acknowledgement takes.
const ROUND_TRIP: Duration = Duration::from_millis(1);

fn outbox(window: usize) -> Outbox {
    let limits = Limits {
        capacity: MessageCountLimit::Unlimited,
        max_bytes: 64 << 20,
        behavior: DropBehavior::Block,
    };
    let config = OutboxConfig {
        max_in_flight: window,
        operation_timeout: Duration::from_secs(60),
        expiry: None,
        commit_interval: None,
        max_attempts: 5,
        sequence: true,
        profile: Profile::Generic,
    };
    let queue = MemoryQueue::new(limits, STREAM.into());
    Outbox::new(
        config,
        Box::new(queue),
        DrainPacer::new(f64::INFINITY, false),
    )
}

fn drafts() -> Vec<Draft> {
    shared::messages(READINGS).map(|m| m.draft).collect()
}

fn offer(outbox: &mut Outbox, drafts: impl Iterator<Item = Draft>, now: Instant) {
    for draft in drafts {
        let offered = outbox.offer(draft, now, WALL_MS);
        assert!(matches!(offered, Offered::Taken { .. }), "{offered:?}");
    }
}

/// Takes everything to its end that waits or is still to be offered, and checks that all of it
/// has been delivered.
fn deliver(outbox: &mut Outbox, drafts: Vec<Draft>, window: usize, mut now: Instant) {
    let mut drafts = drafts.into_iter();
    let mut under_way: VecDeque<u64> = VecDeque::with_capacity(window);
    let mut delivered = 0;
    loop {
        let space = window - under_way.len();
        offer(outbox, drafts.by_ref().take(space), now);
        let sent = outbox.next_messages(now, WALL_MS);
        under_way.extend(sent.iter().map(|(position, _)| *position));
        assert!(!under_way.is_empty(), "{outbox:?}");
        now += ROUND_TRIP;
        for position in under_way.drain(..under_way.len().min(window / 4).min(50)) {
            outbox.handle_delivery_result(position, Delivery::Done, now);
        }
        let receipts = outbox.take_receipts();
        let is_delivery = |receipt: &&UserReceipt| {
            matches!(
                receipt,
                UserReceipt::Ended {
                    outcome: MessageOutcome::Delivered,
                    ..
                }
            )
        };
        delivered += receipts.iter().filter(is_delivery).count() as u64;
        if outbox.count_unfinished() == 0 {
            break;
        }
    }
    assert_eq!(delivered, READINGS);
}

fn window(criterion: &mut Criterion) {
    let now = instant_now();
    let mut group = criterion.benchmark_group("outbox/window");
    group.throughput(Throughput::Elements(READINGS));
    group.sampling_mode(SamplingMode::Flat);
    for window in [100, 1_000] {
        let online = || {
            let mut outbox = outbox(window);
            outbox.handle_connected(BrokerLimits::PROTOCOL, now);
            (outbox, drafts())
        };
        group.bench_function(BenchmarkId::from_parameter(window), |bencher| {
            bencher.iter_batched(
                online,
                |(mut outbox, drafts)| {
                    deliver(&mut outbox, drafts, window, now);
                    outbox
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn burst(criterion: &mut Criterion) {
    const WINDOW: usize = 100;
    let now = instant_now();
    let mut group = criterion.benchmark_group("outbox/burst");
    group.throughput(Throughput::Elements(READINGS));
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function("offered", |bencher| {
        bencher.iter_batched(
            || (outbox(WINDOW), drafts()),
            |(mut outbox, drafts)| {
                offer(&mut outbox, drafts.into_iter(), now);
                let receipts = outbox.take_receipts();
                assert_eq!(receipts.len() as u64, READINGS);
                assert_eq!(outbox.backlog() as u64, READINGS);
                (outbox, receipts)
            },
            BatchSize::PerIteration,
        );
    });
    let offline = || {
        let mut outbox = outbox(WINDOW);
        offer(&mut outbox, drafts().into_iter(), now);
        outbox.take_receipts();
        outbox
    };
    group.bench_function("drained", |bencher| {
        bencher.iter_batched(
            offline,
            |mut outbox| {
                outbox.handle_connected(BrokerLimits::PROTOCOL, now);
                deliver(&mut outbox, Vec::new(), WINDOW, now);
                outbox
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = shared::criterion();
    targets = window, burst
}
criterion_main!(benches);
