//! What a run that ends takes over, and how much is read at once.

use super::*;
use crate::publisher::queue::limits::MessageCountLimit;

const COUNTS: Counts = Counts {
    rows: 1_000,
    bytes: 0,
    dead_bytes: 0,
};

const LIMITS: Limits = Limits {
    capacity: MessageCountLimit::Unlimited,
    max_bytes: 1 << 20,
    behavior: DropBehavior::Block,
};

fn opened(drains: bool) -> OpenedQueue {
    OpenedQueue {
        drains,
        stream: "s".into(),
        next_seq: 7,
        counts: COUNTS,
    }
}

#[test]
fn a_run_that_is_ending_takes_nothing_over() {
    let mut queue = DurableQueue::new(LIMITS, opened(false));
    queue.begin_close();
    #[allow(clippy::disallowed_methods, reason = "an origin")]
    let now = Instant::now();
    let took_over = StoreResult::TookOver(opened(true));
    assert!(queue.handle_store_result(took_over, now).is_empty());
    assert_eq!(queue.count_for_other_sender(), Some(0));
    let close = StoreRequest::Close { next_seq: None };
    assert_eq!(queue.next_request(now), Some(close));
}

#[test]
#[allow(clippy::disallowed_methods, reason = "an origin")]
fn rows_that_need_numbers_are_read_in_larger_portions() {
    let now = Instant::now();
    let mut queue = DurableQueue::new(LIMITS, opened(true));
    for (row, seq, next) in [(1, 1, PAGE / 4), (2, 0, PAGE), (3, 2, PAGE / 4)] {
        assert!(matches!(
            queue.next_request(now),
            Some(StoreRequest::Load { .. })
        ));
        let message = OutgoingMessage {
            seq,
            ..OutgoingMessage::default()
        };
        let loaded = StoreResult::Loaded {
            rows: vec![StoredMessage { row, message }],
            last: Some(row),
            damaged: 0,
            counts: COUNTS,
        };
        assert!(queue.handle_store_result(loaded, now).is_empty());
        if seq == 0 {
            assert!(matches!(
                queue.next_request(now),
                Some(StoreRequest::Commit(_))
            ));
            let committed = StoreResult::Committed {
                ids: vec![],
                evicted: vec![],
                counts: COUNTS,
            };
            queue.handle_store_result(committed, now);
        }
        let request = queue.reader.next_request();
        queue.reader.is_reading = false;
        assert!(
            matches!(request, Some(StoreRequest::Load { rows, .. }) if rows == next),
            "{request:?}"
        );
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "an origin")]
fn rows_that_make_room_are_read_in_a_larger_portion() {
    let now = Instant::now();
    let limits = Limits {
        capacity: MessageCountLimit::Messages(20),
        behavior: DropBehavior::Oldest,
        ..LIMITS
    };
    let mut queue = DurableQueue::new(limits, opened(true));
    let next_rows = |queue: &mut DurableQueue| {
        let request = queue.reader.next_request();
        queue.reader.is_reading = false;
        let Some(StoreRequest::Load { rows, .. }) = request else {
            panic!("{request:?}");
        };
        rows
    };
    assert_eq!(next_rows(&mut queue), PAGE / 4);
    let admission = queue.make_room(10, now, &mut Vec::new());
    assert_eq!(admission, Admission::EvictOldest);
    assert_eq!(next_rows(&mut queue), PAGE);
    assert_eq!(next_rows(&mut queue), PAGE / 4);
}
