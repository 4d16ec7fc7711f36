//! The offline queue: what it holds, what it drops.

use iot_pubsub::publisher::queue::{Capacity, DropBehavior, Pushed, Queue};

use super::{memory_queue, message, origin};

/// Pushes 0, 1, … `count` − 1; gives what the queue holds at the end, and each answer.
fn filled(size: i64, behavior: DropBehavior, count: u64) -> (Vec<u64>, Vec<Pushed>) {
    let mut queue = memory_queue(Capacity::from_signed(size), u64::MAX, behavior);
    let answers = (0..count)
        .map(|seq| queue.push(message(seq), None, origin()))
        .collect();
    (queue.iter().map(|m| m.seq).collect(), answers)
}

const STORED: Pushed = Pushed::Stored {
    evicted: Vec::new(),
};

#[test]
fn keep_a_queue_with_room_stores_everything_in_order() {
    let (contents, answers) = filled(20, DropBehavior::Newest, 5);
    assert_eq!(contents, [0, 1, 2, 3, 4]);
    assert_eq!(answers, vec![STORED; 5]);
}

#[test]
fn keep_drop_newest_holds_the_first_ones() {
    let (contents, answers) = filled(3, DropBehavior::Newest, 10);
    assert_eq!(contents, [0, 1, 2]);
    assert_eq!(answers[..3], vec![STORED; 3]);
    assert_eq!(answers[3..], vec![Pushed::Dropped; 7]);
    assert_eq!(filled(5, DropBehavior::Newest, 7).0, [0, 1, 2, 3, 4]);
}

#[test]
fn better_drop_oldest_holds_the_last_ones_and_accepts_each_newcomer() {
    let (contents, answers) = filled(3, DropBehavior::Oldest, 10);
    assert_eq!(contents, [7, 8, 9]);
    assert_eq!(answers[..3], vec![STORED; 3]);
    for (evicted, answer) in (0u64..).zip(&answers[3..]) {
        let evicted = vec![message(evicted)];
        assert_eq!(*answer, Pushed::Stored { evicted });
    }
    assert_eq!(filled(5, DropBehavior::Oldest, 7).0, [2, 3, 4, 5, 6]);
}

#[test]
fn keep_a_negative_size_is_unlimited_and_first_in_first_out() {
    let (contents, answers) = filled(-100, DropBehavior::Newest, 10_000);
    assert_eq!(contents, (0..10_000).collect::<Vec<_>>());
    assert_eq!(answers, vec![STORED; 10_000]);
}

#[test]
fn better_an_unlimited_queue_still_has_a_limit_in_bytes() {
    let one = u64::try_from("temperature".len() + "21.5".len()).unwrap();
    let mut queue = memory_queue(Capacity::Unlimited, 3 * one, DropBehavior::Newest);
    assert_eq!(
        (0..3)
            .map(|n| queue.push(message(n), None, origin()))
            .collect::<Vec<_>>(),
        vec![STORED; 3]
    );
    assert_eq!(queue.push(message(3), None, origin()), Pushed::Dropped);
    assert_eq!(queue.bytes(), 3 * one);
}

#[test]
fn keep_size_zero_is_disabled_whatever_it_would_drop() {
    for behavior in [DropBehavior::Newest, DropBehavior::Oldest] {
        let (contents, answers) = filled(0, behavior, 10);
        assert!(contents.is_empty());
        assert_eq!(answers, vec![Pushed::Disabled; 10]);
    }
}

#[test]
fn keep_the_head_is_taken_first_and_an_empty_queue_has_none() {
    let mut queue = memory_queue(Capacity::Messages(3), u64::MAX, DropBehavior::Newest);
    assert!(queue.pop().is_none() && queue.is_empty());
    for seq in 0..3 {
        queue.push(message(seq), None, origin());
    }
    assert_eq!(queue.push(message(9), None, origin()), Pushed::Dropped);
    assert_eq!(queue.pop().map(|m| m.seq), Some(0));
    assert_eq!(queue.len(), 2);
}
