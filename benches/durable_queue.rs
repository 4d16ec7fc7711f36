//! What the queue on disk costs for a message, without the disk. Its requests are answered at once, by a
//! stub that keeps nothing but the numbers.
//!
//! `passed`: sent past the queue and acknowledged before it is due on disk, 100 at a time: the way
//! of a healthy connection. `written`: pushed while offline, in bursts of 100, and told to be on
//! disk. `drained`: read from a file that holds them, taken a quarter of a window of 100 at a time, delivered,
//! and taken off the disk.
//!
//! Not in it: the file (see `store`), and making a message.

mod shared;

use std::iter;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::vec;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use iot_pubsub::common::mqtt::outgoing_message::OutgoingMessage;
use iot_pubsub::common::runtime::clock::instant_now;
use iot_pubsub::publisher::queue::durable::DurableQueue;
use iot_pubsub::publisher::queue::limits::{Admission, DropBehavior, Limits, MessageCountLimit};
use iot_pubsub::publisher::queue::store_requests::{
    Counts, MessageOutcome, OpenedQueue, RowId, StoreRequest, StoreResult, StoredMessage,
};
use iot_pubsub::publisher::queue::{Queue, QueueEvent};
use shared::STREAM;

/// Messages in a round.
const MESSAGES: u64 = 10_000;

/// Messages in flight, or in a burst.
const WINDOW: usize = 100;

/// The time that a burst, or an acknowledgement, takes.
const ROUND_TRIP: Duration = Duration::from_millis(1);

/// How long a message may wait for its acknowledgement before it is written.
const ACK_TIME: Duration = Duration::from_millis(250);

/// Stands for the file.
struct Stub {
    counts: Counts,
    last: RowId,
    /// The size of a message: all are alike.
    each: u64,
    /// What was in it at the beginning, until it is read.
    rows: vec::IntoIter<StoredMessage>,
    commits: u64,
    closed: bool,
}

impl Stub {
    fn with(messages: u64) -> Self {
        let rows = |(row, message)| StoredMessage { row, message };
        let rows: Vec<StoredMessage> = (1..).zip(shared::messages(messages)).map(rows).collect();
        let each = shared::messages(1)
            .map(|message| message.draft.content_size())
            .sum();
        Self {
            counts: Counts {
                rows: messages,
                bytes: messages * each,
                dead_bytes: 0,
            },
            last: rows.last().map_or(0, |stored| stored.row),
            each,
            rows: rows.into_iter(),
            commits: 0,
            closed: false,
        }
    }

    fn queue(&self) -> DurableQueue {
        let limits = Limits {
            capacity: MessageCountLimit::Unlimited,
            max_bytes: 64 << 20,
            behavior: DropBehavior::Block,
        };
        let opened = OpenedQueue {
            drains: true,
            stream: STREAM.into(),
            next_seq: self.counts.rows + 1,
            counts: self.counts,
        };
        let mut queue = DurableQueue::new(limits, opened);
        queue.adapt_deletes_to_window(WINDOW);
        queue
    }

    fn answer(&mut self, request: StoreRequest) -> StoreResult {
        match request {
            StoreRequest::Commit(batch) => {
                self.commits += 1;
                let (inserts, ends) = (batch.inserts.len() as u64, batch.ends.len() as u64);
                self.counts.rows = self.counts.rows + inserts - ends;
                self.counts.bytes = self.counts.rows * self.each;
                let ids: Vec<RowId> = (self.last + 1..).take(batch.inserts.len()).collect();
                self.last = ids.last().copied().unwrap_or(self.last);
                StoreResult::Committed {
                    ids,
                    evicted: Vec::new(),
                    counts: self.counts,
                }
            }
            StoreRequest::Load { rows, .. } => {
                let rows: Vec<StoredMessage> = self.rows.by_ref().take(rows).collect();
                StoreResult::Loaded {
                    last: rows.last().map(|stored| stored.row),
                    rows,
                    damaged: 0,
                    counts: self.counts,
                }
            }
            StoreRequest::Close { .. } => {
                self.closed = true;
                StoreResult::Closed
            }
            StoreRequest::AskOutcomes { .. } => unreachable!("this process drains"),
            StoreRequest::RecordConnected(_) => unreachable!("the queue does not request it"),
        }
    }

    /// Carries out what is to be done now; gives how many messages are on disk since.
    fn handle_requests(&mut self, queue: &mut DurableQueue, now: Instant) -> u64 {
        let mut stored = 0;
        while let Some(request) = queue.next_request(now) {
            let events = queue.handle_store_result(self.answer(request), now);
            let is_stored = |event: &&QueueEvent| matches!(event, QueueEvent::Stored { .. });
            stored += events.iter().filter(is_stored).count() as u64;
        }
        stored
    }
}

fn messages() -> Vec<Arc<OutgoingMessage>> {
    shared::messages(MESSAGES).map(Arc::new).collect()
}

fn empty() -> (Stub, DurableQueue) {
    let stub = Stub::with(0);
    let queue = stub.queue();
    (stub, queue)
}

/// Sent and acknowledged, without a disk.
fn pass(
    stub: &mut Stub,
    queue: &mut DurableQueue,
    messages: &[Arc<OutgoingMessage>],
    mut now: Instant,
) {
    for window in messages.chunks(WINDOW) {
        for message in window {
            queue.store_unless_acked(message, now + ACK_TIME);
            queue.advance_identity();
        }
        stub.handle_requests(queue, now);
        now += ROUND_TRIP;
        for message in window {
            queue.finish_message(message, &MessageOutcome::Delivered, now);
        }
    }
    assert_eq!((queue.unwritten(), stub.commits), (Some(0), 0));
    assert_eq!(queue.peek_identity().seq, MESSAGES + 1);
}

fn write(
    stub: &mut Stub,
    queue: &mut DurableQueue,
    messages: &[Arc<OutgoingMessage>],
    mut now: Instant,
) {
    let mut safe = 0;
    for burst in messages.chunks(WINDOW) {
        for message in burst {
            let admission = queue.make_room(message.draft.content_size(), now, &mut Vec::new());
            assert_eq!(admission, Admission::Fits);
            queue.push(Arc::clone(message), None);
            queue.advance_identity();
        }
        safe += stub.handle_requests(queue, now);
        now += ROUND_TRIP;
    }
    assert_eq!((safe, queue.len() as u64), (MESSAGES, MESSAGES));
    assert_eq!(stub.counts.rows, MESSAGES);
}

fn drain(stub: &mut Stub, queue: &mut DurableQueue, mut now: Instant) {
    let mut taken = 0;
    while !queue.is_empty() {
        stub.handle_requests(queue, now);
        now += ROUND_TRIP;
        let window: Vec<_> = iter::from_fn(|| queue.pop()).take(WINDOW / 4).collect();
        assert!(!window.is_empty(), "{queue:?}");
        for message in window {
            queue.finish_message(&message, &MessageOutcome::Delivered, now);
            taken += 1;
        }
    }
    queue.begin_close();
    stub.handle_requests(queue, now);
    assert_eq!((taken, stub.counts.rows, stub.closed), (MESSAGES, 0, true));
}

fn queue(criterion: &mut Criterion) {
    let (messages, now) = (messages(), instant_now());
    let mut group = criterion.benchmark_group("durable_queue");
    group.throughput(Throughput::Elements(MESSAGES));
    group.bench_function("passed", |bencher| {
        bencher.iter_batched_ref(
            empty,
            |(stub, queue)| pass(stub, queue, &messages, now),
            BatchSize::PerIteration,
        );
    });
    group.bench_function("written", |bencher| {
        bencher.iter_batched_ref(
            empty,
            |(stub, queue)| write(stub, queue, &messages, now),
            BatchSize::PerIteration,
        );
    });
    let backlog = || {
        let stub = Stub::with(MESSAGES);
        let queue = stub.queue();
        (stub, queue)
    };
    group.bench_function("drained", |bencher| {
        bencher.iter_batched_ref(
            backlog,
            |(stub, queue)| drain(stub, queue, now),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = shared::criterion();
    targets = queue
}
criterion_main!(benches);
