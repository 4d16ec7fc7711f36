//! When the store's thread looks at the file next, how much it reads at once, and what it deletes.

use std::sync::Arc;

use super::super::QueueFile;
use super::*;
use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::publisher::queue::store_requests::MessageOutcome;

/// The workers of a process that drains and of one that adds, and the directory of their queue.
fn two_workers() -> (StoreWorker, StoreWorker, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let queue = directory.path().join("queue.db");
    let open = |owner| QueueFile::open(&queue, owner, "stream").unwrap().worker;
    let (draining, adding) = (open("a"), open("b"));
    assert!(draining.drains && !adding.drains);
    (draining, adding, directory)
}

#[test]
fn what_is_due_before_the_next_look_is_not_forgotten() {
    let (mut draining, mut adding, _directory) = two_workers();
    let soon = |now: Instant| now + DISK_FULL_RETRY;
    for worker in [&mut draining, &mut adding] {
        worker.start_watching();
        let now = instant_now();
        worker.look_delays_over = LOOK_DELAYS.len();
        worker.schedule_next_look(now);
        assert_eq!(worker.poll_at, now + FALLBACK_INTERVAL);
        worker.checkpoint_at = soon(now);
        worker.schedule_next_look(now);
        assert_eq!(worker.poll_at, soon(now));
        worker.checkpoint_at = now;
    }
    let now = instant_now();
    for (worker, next) in [
        (&mut adding, soon(now)),
        // It has nothing to take over.
        (&mut draining, now + FALLBACK_INTERVAL),
    ] {
        worker.take_over_at = soon(now);
        worker.schedule_next_look(now);
        assert_eq!(worker.poll_at, next);
    }
    // Of a file that was read a moment ago.
    draining.check_files_at = soon(now);
    announce_commit(&draining.path);
    draining.schedule_next_look(now);
    assert_eq!(draining.poll_at, soon(now));
    // What is almost due makes no loop without a pause.
    draining.checkpoint_at = now + Duration::from_nanos(1);
    draining.schedule_next_look(now);
    assert_eq!(draining.poll_at, now + POLL_INTERVAL);
}

#[test]
fn a_lock_that_somebody_only_looks_at_is_tried_again_when_watching_begins() {
    let (draining, mut adding, _directory) = two_workers();
    adding.watch_at = Some(instant_now());
    for delay in LOOK_DELAYS {
        adding.poll_file(&|_| {}).unwrap();
        assert!(adding.watcher.is_some());
        assert_eq!(adding.poll_at, adding.polled_at + delay);
    }
    draining.lock.release().unwrap();
    adding.poll_file(&|_| {}).unwrap();
    assert!(adding.drains);
}

#[test]
fn a_file_is_looked_at_again_after_the_report_that_it_is_removed() {
    let (mut worker, _adding, _directory) = two_workers();
    worker.start_watching();
    worker.look_delays_over = LOOK_DELAYS.len();
    // What this process commits itself is no reason.
    announce_commit(&worker.path);
    let now = instant_now();
    worker.schedule_next_look(now);
    assert_eq!(worker.poll_at, now + FALLBACK_INTERVAL);
    std::fs::remove_file(super::super::files::beside(&worker.path, "-lock")).unwrap();
    for delay in LOOK_DELAYS {
        worker.schedule_next_look(now);
        assert_eq!((worker.check_files_at, worker.poll_at), (now, now + delay));
    }
    worker.schedule_next_look(now);
    assert_eq!(worker.poll_at, now + FALLBACK_INTERVAL);
}

/// Makes five rows with ten bytes each.
fn insert_five(worker: &mut StoreWorker) {
    let mut message = OutgoingMessage::default();
    message.draft.topic = "t".into();
    message.draft.payload = vec![b'x'; 9];
    let batch = WriteBatch {
        inserts: (0..5).map(|_| Arc::new(message.clone())).collect(),
        ..WriteBatch::default()
    };
    assert!(worker.commit(batch).is_ok());
}

/// The numbers of the rows, and how many are in the file by its counters.
fn load(worker: &mut StoreWorker, after: RowId, rows: usize, bytes: u64) -> (Vec<RowId>, u64) {
    let loaded = worker.load(after, rows, bytes).unwrap();
    let StoreResult::Loaded {
        rows, last, counts, ..
    } = loaded
    else {
        panic!("{loaded:?}");
    };
    assert_eq!(last, rows.last().map(|row| row.row));
    (rows.iter().map(|row| row.row).collect(), counts.rows)
}

#[test]
fn a_portion_ends_after_so_many_rows_or_bytes() {
    let (mut worker, _adding, _directory) = two_workers();
    insert_five(&mut worker);
    assert_eq!(load(&mut worker, 0, 2, 1_000), (vec![1, 2], 5));
    assert_eq!(load(&mut worker, 2, 512, 11), (vec![3, 4], 5));
    assert_eq!(load(&mut worker, 4, 512, 1_000), (vec![5], 5));
    assert_eq!(load(&mut worker, 5, 512, 1_000), (vec![], 5));
}

#[test]
fn a_group_of_delivered_rows_leaves_the_file_as_a_whole() {
    let (mut worker, _adding, _directory) = two_workers();
    insert_five(&mut worker);
    let ends = [1, 2, 3, 5].map(|row| (row, MessageOutcome::Delivered));
    let batch = WriteBatch {
        ends: ends.into(),
        ..WriteBatch::default()
    };
    assert!(worker.commit(batch).is_ok());
    assert_eq!(load(&mut worker, 0, 512, 1_000), (vec![4], 1));
}

#[test]
fn a_long_log_is_copied_into_the_file_whoever_has_written_it() {
    for own in [true, false] {
        let (mut draining, mut adding, _directory) = two_workers();
        // Both know that the log is short.
        draining.poll_file(&|_| {}).unwrap();
        assert!(draining.maintain().is_ok());
        let size = |worker: &StoreWorker| std::fs::metadata(&worker.path).unwrap().len();
        let before = size(&draining);
        let mut message = OutgoingMessage::default();
        message.draft.payload = vec![b'x'; 5 << 20];
        let batch = WriteBatch {
            inserts: vec![Arc::new(message)],
            ..WriteBatch::default()
        };
        let writing = if own { &mut draining } else { &mut adding };
        assert!(writing.commit(batch).is_ok());
        if !own {
            draining.poll_file(&|_| {}).unwrap();
        }
        assert_eq!(size(&draining), before);
        assert!(draining.maintain().is_ok());
        assert!(size(&draining) > 5 << 20, "{own}");
    }
}

#[test]
fn a_short_log_is_copied_if_the_last_copy_is_some_time_ago() {
    let (mut worker, _adding, _directory) = two_workers();
    worker.poll_file(&|_| {}).unwrap();
    let commit = |worker: &mut StoreWorker, bytes| {
        let mut message = OutgoingMessage::default();
        message.draft.payload = vec![b'x'; bytes];
        let batch = WriteBatch {
            inserts: vec![Arc::new(message)],
            ..WriteBatch::default()
        };
        assert!(worker.commit(batch).is_ok());
        assert!(worker.maintain().is_ok());
        std::fs::metadata(&worker.path).unwrap().len()
    };
    let before = commit(&mut worker, 300 << 10);
    worker.copied_at = instant_now().checked_sub(COPY_INTERVAL).unwrap();
    let copied = commit(&mut worker, 1);
    assert!(copied > before + (300 << 10));
    // The log has begun again.
    worker.copied_at = instant_now().checked_sub(COPY_INTERVAL).unwrap();
    assert_eq!(commit(&mut worker, 100 << 10), copied);
    let copied_again = commit(&mut worker, 200 << 10);
    assert!(copied_again > copied + (300 << 10));
    assert_eq!(commit(&mut worker, 300 << 10), copied_again);
}
