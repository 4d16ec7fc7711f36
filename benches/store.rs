//! What the queue file costs: SQLite on the disk that `target` lies on, synced as it always is.
//! An order goes to the store's thread and its report comes back, as in the event loop.
//!
//! `insert/N`: a transaction of N messages, one sync. `delete/100`: the oldest 100 of a backlog, after
//! their delivery. `load/512`: the next page of a backlog. `open/ended`, `open/killed`: from the
//! path to the first page, when the last process ended in order, and when it was killed and has left
//! its log. The backlog has 100,000 messages.
//!
//! Not in it: a file that the system has not in memory, and several processes on one file. On a
//! memory file system a sync costs nothing: then the figures say nothing of a disk.

mod shared;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use criterion::{
    BatchSize, BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main,
};
use iot_pubsub::common::mqtt::outgoing_message::OutgoingMessage;
use iot_pubsub::publisher::queue::store_requests::{
    Counts, MessageOutcome, RowId, StoreRequest, StoreResult, StoredMessage, WriteBatch,
};
use iot_pubsub::publisher::store::{self, StoreThread};
use shared::STREAM;
use tempfile::TempDir;

/// Messages in a file with a backlog.
const BACKLOG: u64 = 100_000;

/// Rows in a page, and their bytes at most, as the queue orders them.
const PAGE: usize = 512;
const PAGE_BYTES: u64 = 1 << 20;

/// An open queue.
struct Queue {
    store: StoreThread,
    reports: Receiver<StoreResult>,
    /// What it held when it was opened.
    found: Counts,
}

impl Queue {
    fn open(path: &Path) -> Self {
        let file = store::QueueFile::open(path, "bench", STREAM).unwrap();
        assert!(file.opened.drains);
        let found = file.opened.counts;
        let (sender, reports) = mpsc::channel();
        // When the bench is over nobody listens any more.
        let notify = move |report| drop(sender.send(report));
        Self {
            store: file.start(notify).unwrap(),
            reports,
            found,
        }
    }

    fn ask(&self, order: StoreRequest) -> StoreResult {
        self.store.send_request(order);
        let mut reports = self.reports.iter();
        // The first look at a file finds it changed.
        let report = reports.find(|report| !matches!(report, StoreResult::Changed { .. }));
        report.unwrap()
    }

    fn commit(&self, batch: WriteBatch) -> (Vec<RowId>, Counts) {
        match self.ask(StoreRequest::Commit(batch)) {
            StoreResult::Committed { ids, counts, .. } => (ids, counts),
            other => panic!("{other:?}"),
        }
    }

    fn load(&self, after: RowId) -> Vec<StoredMessage> {
        let (rows, bytes) = (PAGE, PAGE_BYTES);
        match self.ask(StoreRequest::Load { after, rows, bytes }) {
            StoreResult::Loaded { rows, .. } => rows,
            other => panic!("{other:?}"),
        }
    }
}

/// Whoever opens the file next finds it closed, as a run that ends in order leaves it.
impl Drop for Queue {
    fn drop(&mut self) {
        let next_seq = Some(BACKLOG + 1);
        self.store.send_request(StoreRequest::Close { next_seq });
        let closed = self
            .reports
            .iter()
            .any(|report| report == StoreResult::Closed);
        assert!(closed || thread::panicking());
    }
}

/// A directory beside the build, for the system's own may lie in memory.
fn directory() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = directory.path().join("queue.db");
    (directory, path)
}

fn inserts(messages: impl Iterator<Item = OutgoingMessage>) -> WriteBatch {
    WriteBatch {
        inserts: messages.map(Arc::new).collect(),
        ..WriteBatch::default()
    }
}

/// An open queue with a backlog, and its rows.
fn backlog(path: &Path) -> (Queue, VecDeque<RowId>) {
    let queue = Queue::open(path);
    let mut messages = shared::messages(BACKLOG);
    let mut rows = VecDeque::new();
    while rows.len() as u64 != BACKLOG {
        rows.extend(queue.commit(inserts(messages.by_ref().take(1_000))).0);
    }
    (queue, rows)
}

fn insert(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store/insert");
    group.sampling_mode(SamplingMode::Flat);
    for count in [1, 100, 1_000] {
        group.throughput(Throughput::Elements(count));
        let (_directory, path) = directory();
        let queue = Queue::open(&path);
        let batch = inserts(shared::messages(count));
        let mut expected = 0;
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter_batched(
                || batch.clone(),
                |batch| {
                    let (ids, counts) = queue.commit(batch);
                    expected += count;
                    assert_eq!((ids.len() as u64, counts.rows), (count, expected));
                },
                BatchSize::PerIteration,
            );
        });
        drop(queue);
        assert_eq!(Queue::open(&path).found.rows, expected);
    }
    group.finish();
}

fn delete(criterion: &mut Criterion) {
    const COUNT: usize = 100;
    let (_directory, path) = directory();
    let (queue, mut rows) = backlog(&path);
    let more = inserts(shared::messages(COUNT as u64));
    let mut group = criterion.benchmark_group("store/delete");
    group.throughput(Throughput::Elements(COUNT as u64));
    group.sampling_mode(SamplingMode::Flat);
    group.bench_function(BenchmarkId::from_parameter(COUNT), |bencher| {
        bencher.iter_batched(
            || {
                // As many come as go, so that the backlog stays as long as it is.
                rows.extend(queue.commit(more.clone()).0);
                let delivered = rows
                    .drain(..COUNT)
                    .map(|row| (row, MessageOutcome::Delivered));
                WriteBatch {
                    ends: delivered.collect(),
                    ..WriteBatch::default()
                }
            },
            |batch| assert_eq!(queue.commit(batch).1.rows, BACKLOG),
            BatchSize::PerIteration,
        );
    });
    group.finish();
    let oldest = queue.load(0).first().map(|stored| stored.row);
    assert_eq!(oldest, rows.front().copied());
}

fn load(criterion: &mut Criterion) {
    let (_directory, path) = directory();
    let (queue, rows) = backlog(&path);
    let mut pages = rows.iter().step_by(PAGE).take(rows.len() / PAGE).cycle();
    let mut group = criterion.benchmark_group("store/load");
    group.throughput(Throughput::Elements(PAGE as u64));
    group.bench_function(BenchmarkId::from_parameter(PAGE), |bencher| {
        bencher.iter_batched(
            || *pages.next().unwrap(),
            |first| {
                let rows = queue.load(first - 1);
                assert_eq!((rows.len(), rows[0].row), (PAGE, first));
                rows
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// Copies a queue and its log as they are, and waits until the copy is on disk, so that no bench
/// waits for it.
fn copy(from: &Path, to: &Path) {
    for suffix in ["", "-wal"] {
        let beside = |path: &Path| format!("{}{suffix}", path.display());
        assert!(fs::copy(beside(from), beside(to)).unwrap() > 0);
        File::open(beside(to)).unwrap().sync_all().unwrap();
    }
}

fn open(criterion: &mut Criterion) {
    let (directory, ended) = directory();
    let [left, killed] = ["left.db", "killed.db"].map(|name| directory.path().join(name));
    let (queue, _) = backlog(&ended);
    copy(&ended, &left);
    drop(queue);
    let first_page = |path: &Path| {
        let queue = Queue::open(path);
        assert_eq!((queue.found.rows, queue.load(0).len()), (BACKLOG, PAGE));
        queue
    };
    let mut group = criterion.benchmark_group("store/open");
    group.throughput(Throughput::Elements(1));
    group.sampling_mode(SamplingMode::Flat).sample_size(30);
    group.bench_function("ended", |bencher| {
        bencher.iter_batched(|| (), |()| first_page(&ended), BatchSize::PerIteration);
    });
    group.bench_function("killed", |bencher| {
        bencher.iter_batched(
            || copy(&left, &killed),
            |()| first_page(&killed),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = shared::criterion();
    targets = insert, delete, load, open
}
criterion_main!(benches);
