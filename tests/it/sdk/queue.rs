//! The offline queue: what it holds, what it drops.

use std::sync::Arc;

use iot_pubsub::common::mqtt::outgoing_message::OutgoingMessage;
use iot_pubsub::publisher::queue::Queue;
use iot_pubsub::publisher::queue::limits::{Admission, DropBehavior, MessageCountLimit};
use iot_pubsub::publisher::queue::memory::MemoryQueue;

use super::{memory_queue, message, origin};

/// What became of a message that was pushed: as admitted, and the messages dropped for it.
type Pushed = (Admission, Vec<Arc<OutgoingMessage>>);

const STORED: Pushed = (Admission::Fits, Vec::new());
const DROPPED: Pushed = (Admission::Drop, Vec::new());

fn push(queue: &mut MemoryQueue, seq: u64) -> Pushed {
    let message = message(seq);
    let mut evicted = Vec::new();
    let admission = queue.make_room(message.draft.content_size(), origin(), &mut evicted);
    if admission == Admission::Fits {
        queue.push(message, None);
    }
    (admission, evicted)
}

/// Pushes 0, 1, … `count` − 1; gives what the queue holds at the end, and each answer.
fn filled(size: i64, behavior: DropBehavior, count: u64) -> (Vec<u64>, Vec<Pushed>) {
    let mut queue = memory_queue(
        MessageCountLimit::from_aws_queue_size(size),
        u64::MAX,
        behavior,
    );
    let answers = (0..count).map(|seq| push(&mut queue, seq)).collect();
    let contents = std::iter::from_fn(|| queue.pop()).map(|m| m.seq);
    (contents.collect(), answers)
}

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
    assert_eq!(answers[3..], vec![DROPPED; 7]);
    assert_eq!(filled(5, DropBehavior::Newest, 7).0, [0, 1, 2, 3, 4]);
}

#[test]
fn better_drop_oldest_holds_the_last_ones_and_accepts_each_newcomer() {
    let (contents, answers) = filled(3, DropBehavior::Oldest, 10);
    assert_eq!(contents, [7, 8, 9]);
    assert_eq!(answers[..3], vec![STORED; 3]);
    for (evicted, answer) in (0u64..).zip(&answers[3..]) {
        let evicted = vec![message(evicted)];
        assert_eq!(*answer, (Admission::Fits, evicted));
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
    let mut queue = memory_queue(MessageCountLimit::Unlimited, 3 * one, DropBehavior::Newest);
    assert_eq!(
        (0..3).map(|n| push(&mut queue, n)).collect::<Vec<_>>(),
        vec![STORED; 3]
    );
    assert_eq!(push(&mut queue, 3), DROPPED);
    assert_eq!(queue.bytes(), 3 * one);
}

#[test]
fn keep_size_zero_is_disabled_whatever_it_would_drop() {
    for behavior in [DropBehavior::Newest, DropBehavior::Oldest] {
        let (contents, answers) = filled(0, behavior, 10);
        assert!(contents.is_empty());
        assert_eq!(answers, vec![(Admission::Disabled, Vec::new()); 10]);
    }
}

#[test]
fn keep_the_head_is_taken_first_and_an_empty_queue_has_none() {
    let mut queue = memory_queue(
        MessageCountLimit::Messages(3),
        u64::MAX,
        DropBehavior::Newest,
    );
    assert!(queue.pop().is_none() && queue.is_empty());
    for seq in 0..3 {
        push(&mut queue, seq);
    }
    assert_eq!(push(&mut queue, 9), DROPPED);
    assert_eq!(queue.pop().map(|m| m.seq), Some(0));
    assert_eq!(queue.len(), 2);
}
