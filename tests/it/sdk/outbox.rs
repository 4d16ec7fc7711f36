//! Order, draining and outcomes of messages.

use std::time::{Duration, Instant};

use iot_pubsub::common::broker::profile::Profile;
use iot_pubsub::common::client::{Delivery, RefusedRequest, SentPublishCount};
use iot_pubsub::common::mqtt::qos::Qos;
use iot_pubsub::publisher::outbox::Outbox;
use iot_pubsub::publisher::outbox::broker_limits::BrokerLimits;
use iot_pubsub::publisher::outbox::drain_pacer::DrainPacer;
use iot_pubsub::publisher::outbox::types::{Offered, OutboxConfig, PoisonEvidence};
use iot_pubsub::publisher::outbox::user_receipts::UserReceipt;
use iot_pubsub::publisher::queue::limits::{DropBehavior, MessageCountLimit};
use iot_pubsub::publisher::queue::store_requests::MessageOutcome;

use super::{SECOND, draft, memory_queue, origin, secs};

fn outbox(size: i64, drop: DropBehavior, window: usize, drain: f64) -> Outbox {
    let queue = memory_queue(MessageCountLimit::from_aws_queue_size(size), u64::MAX, drop);
    Outbox::new(
        config(window),
        Box::new(queue),
        DrainPacer::new(drain, false),
    )
}

fn config(window: usize) -> OutboxConfig {
    OutboxConfig {
        max_in_flight: window,
        operation_timeout: secs(5),
        expiry: None,
        commit_interval: None,
        max_attempts: 5,
        sequence: false,
        profile: Profile::Generic,
    }
}

/// The receipts, but for acceptance.
fn ends(outbox: &mut Outbox) -> Vec<UserReceipt> {
    let mut receipts = outbox.take_receipts();
    receipts.retain(|receipt| !matches!(receipt, UserReceipt::Accepted { .. }));
    receipts
}

fn offer(outbox: &mut Outbox, count: u64) {
    for n in 0..count {
        outbox.offer(draft(&n.to_string()), origin(), 0);
    }
}

/// Lets time pass until nothing more is due; gives each send with its time.
fn sends(outbox: &mut Outbox, from: Instant, until: Instant) -> Vec<(u64, Duration)> {
    let mut sent = Vec::new();
    let mut now = from;
    loop {
        let messages = outbox.next_messages(now, 0);
        for (position, message) in messages {
            sent.push((message.seq, now - from));
            outbox.handle_delivery_result(position, Delivery::Done, now);
        }
        match outbox.wake_at(now) {
            Some(at) if at <= until => now = at.max(now),
            _ => return sent,
        }
    }
}

#[test]
fn keep_twenty_queued_drain_at_two_a_second_and_then_it_is_stable() {
    let now = origin();
    let mut outbox = outbox(20, DropBehavior::Newest, 100, 2.0);
    offer(&mut outbox, 20);
    outbox.handle_connected(BrokerLimits::PROTOCOL, now);
    let sent = sends(&mut outbox, now, now + Duration::from_millis(9_600));
    let expected: Vec<_> = (0..20u64)
        .map(|n| (n + 1, Duration::from_millis(500 * n)))
        .collect();
    assert_eq!(sent, expected);
    // At 9.6 s it still drains: a new one goes to the tail. At 10.0 s it is through.
    outbox.offer(draft("late"), origin(), 0);
    assert_eq!(outbox.queue.len(), 1);
    assert_eq!(outbox.wake_at(now), Some(now + secs(10)));
    assert_eq!(outbox.next_messages(now + secs(10), 0).len(), 1);
}

#[test]
fn keep_what_comes_while_draining_goes_to_the_tail() {
    let now = origin();
    let mut outbox = outbox(20, DropBehavior::Newest, 100, 2.0);
    offer(&mut outbox, 3);
    outbox.handle_connected(BrokerLimits::PROTOCOL, now);
    assert_eq!(outbox.next_messages(now, 0).len(), 1);
    outbox.handle_delivery_result(1, Delivery::Done, now);
    offer(&mut outbox, 2);
    assert_eq!(outbox.queue.len(), 4);
    let order: Vec<_> = sends(&mut outbox, now, now + secs(60))
        .into_iter()
        .map(|s| s.0)
        .collect();
    assert_eq!(order, [2, 3, 4, 5]);
}

#[test]
fn keep_online_and_with_an_empty_queue_a_message_goes_straight_through() {
    let now = origin();
    let mut outbox = outbox(20, DropBehavior::Newest, 100, 2.0);
    outbox.handle_connected(BrokerLimits::PROTOCOL, now);
    offer(&mut outbox, 50);
    assert_eq!(outbox.queue.len(), 0);
    assert_eq!(outbox.next_messages(now, 0).len(), 50);
}

#[test]
fn keep_offline_a_disabled_queue_refuses_and_a_full_one_keeps_what_it_has() {
    let mut disabled = outbox(0, DropBehavior::Newest, 100, f64::INFINITY);
    assert_eq!(disabled.offer(draft("a"), origin(), 0), Offered::Refused);
    let mut full = outbox(1, DropBehavior::Newest, 100, f64::INFINITY);
    assert!(matches!(
        full.offer(draft("a"), origin(), 0),
        Offered::Taken { seq: 1 }
    ));
    assert_eq!(
        full.offer(draft("b"), origin(), 0),
        Offered::Dropped { seq: 2 }
    );
    let mut blocking = outbox(1, DropBehavior::Block, 100, f64::INFINITY);
    blocking.offer(draft("a"), origin(), 0);
    assert_eq!(
        blocking.offer(draft("b"), origin(), 0),
        Offered::Full(draft("b"))
    );
    assert_eq!(blocking.read_allowance(origin()).messages, 0);
}

#[test]
fn better_after_a_lost_link_the_unacknowledged_go_first_in_order_inside_the_window() {
    let now = origin();
    let mut outbox = outbox(-1, DropBehavior::Newest, 20, f64::INFINITY);
    outbox.handle_connected(BrokerLimits::PROTOCOL, now);
    offer(&mut outbox, 30);
    assert_eq!(outbox.next_messages(now, 0).len(), 20);
    assert_eq!(outbox.in_flight_messages().len(), 20);
    outbox.handle_delivery_result(3, Delivery::Done, now);
    outbox.handle_disconnected(PoisonEvidence::Unrelated, now);
    outbox.handle_connected(
        BrokerLimits {
            receive_maximum: 5,
            ..BrokerLimits::PROTOCOL
        },
        now,
    );
    let again = outbox.next_messages(now, 0);
    assert_eq!(
        again
            .iter()
            .map(|(_, message)| message.seq)
            .collect::<Vec<_>>(),
        [1, 2, 4, 5, 6]
    );
    assert!(
        outbox.next_messages(now + secs(1), 0).is_empty(),
        "nothing twice on one connection"
    );
    for seq in [1, 2, 4, 5, 6] {
        outbox.handle_delivery_result(seq, Delivery::Done, now);
    }
    assert_eq!(outbox.next_messages(now, 0)[0].1.seq, 7);
}

#[test]
fn better_draining_stops_with_the_link_and_starts_over_with_the_next() {
    let now = origin();
    let mut outbox = outbox(20, DropBehavior::Newest, 100, 2.0);
    offer(&mut outbox, 4);
    outbox.handle_connected(BrokerLimits::PROTOCOL, now);
    assert_eq!(outbox.next_messages(now, 0).len(), 1);
    outbox.handle_disconnected(PoisonEvidence::Unrelated, now);
    assert_eq!(outbox.wake_at(now), None);
    assert!(outbox.next_messages(now + secs(1), 0).is_empty());
    outbox.handle_connected(BrokerLimits::PROTOCOL, now + secs(9));
    let order: Vec<_> = sends(&mut outbox, now + secs(9), now + secs(60))
        .into_iter()
        .map(|s| s.0)
        .collect();
    assert_eq!(order, [1, 2, 3, 4]);
}

#[test]
fn better_every_message_has_one_final_outcome() {
    let now = origin();
    let mut outbox = outbox(20, DropBehavior::Newest, 100, f64::INFINITY);
    outbox.handle_connected(BrokerLimits::PROTOCOL, now);
    offer(&mut outbox, 3);
    outbox.next_messages(now, 0);
    outbox.handle_delivery_result(1, Delivery::Done, now);
    assert!(matches!(
        &ends(&mut outbox)[..],
        [UserReceipt::Ended {
            seq: 1,
            outcome: MessageOutcome::Delivered,
            ..
        }]
    ));
    outbox.handle_delivery_result(1, Delivery::Done, now);
    outbox.handle_delivery_result(2, Delivery::NotNow, now);
    assert!(ends(&mut outbox).is_empty());
    outbox.handle_delivery_result(
        3,
        Delivery::Refused(RefusedRequest {
            code: 0x97,
            reason: "no".into(),
        }),
        now,
    );
    assert!(matches!(
        ends(&mut outbox)[..],
        [UserReceipt::Ended {
            seq: 3,
            outcome: MessageOutcome::Dead(_),
            ..
        }]
    ));
    assert!(
        outbox.next_messages(now, 0).is_empty(),
        "quota exceeded: not at once"
    );
    assert_eq!(outbox.next_messages(now + secs(1), 0)[0].1.seq, 2);
    assert_eq!(outbox.count_unfinished(), 1);
}

#[test]
fn better_a_missing_acknowledgement_shows_after_the_operation_timeout() {
    let now = origin();
    let mut outbox = outbox(20, DropBehavior::Newest, 100, f64::INFINITY);
    outbox.handle_connected(BrokerLimits::PROTOCOL, now);
    offer(&mut outbox, 2);
    outbox.next_messages(now, 0);
    let due = outbox.wake_at(now).unwrap() - now;
    assert!((secs(5)..secs(5) + SECOND / 10).contains(&due), "{due:?}");
    assert!(!outbox.is_ack_overdue(now + secs(4)));
    outbox.handle_delivery_result(1, Delivery::Done, now + secs(4));
    assert!(
        !outbox.is_ack_overdue(now + secs(8)),
        "the link is slow, not dead"
    );
    assert!(outbox.is_ack_overdue(now + secs(9) + SECOND / 10));
    outbox.handle_disconnected(PoisonEvidence::Unrelated, now);
    assert!(!outbox.is_ack_overdue(now + secs(99)));
}

#[test]
fn better_a_full_queue_drops_nothing_while_the_window_is_open() {
    let now = origin();
    let mut outbox = outbox(3, DropBehavior::Newest, 100, 2.0);
    offer(&mut outbox, 3);
    outbox.handle_connected(BrokerLimits::PROTOCOL, now);
    for n in 0..20 {
        let offered = outbox.offer(draft(&n.to_string()), origin(), 0);
        assert!(matches!(offered, Offered::Taken { .. }), "{offered:?}");
    }
    let order: Vec<_> = sends(&mut outbox, now, now + secs(60))
        .into_iter()
        .map(|sent| sent.0)
        .collect();
    assert_eq!(order, (1..=23).collect::<Vec<_>>());
}

#[test]
fn better_a_large_message_has_the_time_that_a_slow_line_takes() {
    let now = origin();
    let mut outbox = outbox(20, DropBehavior::Newest, 100, f64::INFINITY);
    outbox.handle_connected(BrokerLimits::PROTOCOL, now);
    let mut large = draft("");
    large.payload = vec![0; 800 << 10];
    outbox.offer(large, now, 0);
    outbox.next_messages(now, 0);
    assert!(!outbox.is_ack_overdue(now + secs(5 + 99)), "64 kbit/s");
    assert!(outbox.is_ack_overdue(now + secs(5 + 102)));
}

#[test]
fn better_bytes_that_get_through_are_a_sign_of_life() {
    let mut now = origin();
    let mut outbox = outbox(20, DropBehavior::Newest, 100, f64::INFINITY);
    outbox.handle_connected(BrokerLimits::PROTOCOL, now);
    offer(&mut outbox, 1);
    outbox.next_messages(now, 0);
    for _ in 0..100 {
        now += secs(4);
        assert!(!outbox.is_ack_overdue(now));
        outbox.handle_progress(false, now);
    }
    assert!(
        outbox.is_ack_overdue(now + secs(6)),
        "no more bytes get through"
    );
    // The last of them have arrived; they may stand in a buffer on the way.
    outbox.handle_progress(true, now);
    assert!(!outbox.is_ack_overdue(now + secs(300)));
    assert!(outbox.is_ack_overdue(now + secs(406)));
}

#[test]
fn better_a_message_is_given_up_only_for_closes_while_it_is_alone() {
    let now = origin();
    let mut outbox = outbox(20, DropBehavior::Newest, 100, f64::INFINITY);
    let closed = |begun, complete| PoisonEvidence::ByBroker {
        reason: None,
        reached: Some(SentPublishCount { begun, complete }),
    };
    let connect = |outbox: &mut Outbox| {
        outbox.handle_connected(BrokerLimits::PROTOCOL, now);
        outbox.next_messages(now, 0).len() as u64
    };
    offer(&mut outbox, 3);
    assert_eq!(connect(&mut outbox), 3);
    assert!(!outbox.handle_disconnected(closed(3, true), now));
    // Nothing of this counts, and nothing of it clears the suspicion.
    for loss in [
        PoisonEvidence::Unrelated,
        PoisonEvidence::ByBroker {
            reason: None,
            reached: None,
        },
        closed(0, true),
        closed(1, false),
    ] {
        for _ in 0..50 {
            assert_eq!(connect(&mut outbox), 1, "alone");
            assert!(!outbox.handle_disconnected(loss.clone(), now));
        }
    }
    assert_eq!(connect(&mut outbox), 1);
    assert!(
        !outbox.handle_disconnected(closed(1, true), now + secs(6)),
        "late"
    );
    for attempt in 1..=5 {
        assert_eq!(connect(&mut outbox), 1);
        assert_eq!(
            outbox.handle_disconnected(closed(1, true), now),
            attempt == 5
        );
    }
    assert!(matches!(
        ends(&mut outbox)[..],
        [UserReceipt::Ended {
            seq: 1,
            outcome: MessageOutcome::Dead(_),
            ..
        }]
    ));
    // The others are sent together; one reason that is about a message is enough once there is only one.
    assert_eq!(connect(&mut outbox), 2);
    let refused = |begun| PoisonEvidence::ByBroker {
        reason: Some("no".into()),
        reached: Some(SentPublishCount {
            begun,
            complete: false,
        }),
    };
    assert!(!outbox.handle_disconnected(refused(2), now));
    assert_eq!(connect(&mut outbox), 1);
    assert!(outbox.handle_disconnected(refused(1), now));
    assert_eq!(outbox.count_unfinished(), 1);
}

#[test]
fn better_qos_2_has_a_window_of_its_own() {
    let now = origin();
    let mut outbox = outbox(0, DropBehavior::Block, 100, f64::INFINITY);
    let limits = BrokerLimits {
        exactly_once: 20,
        ..BrokerLimits::PROTOCOL
    };
    outbox.handle_connected(limits, now);
    for n in 0..100 {
        let mut draft = draft(&n.to_string());
        draft.qos = if n % 2 == 0 {
            Qos::ExactlyOnce
        } else {
            Qos::AtLeastOnce
        };
        outbox.offer(draft, now, 0);
    }
    assert_eq!(
        outbox.next_messages(now, 0).len(),
        39,
        "20 of them of QoS 2"
    );
    outbox.handle_delivery_result(2, Delivery::Done, now);
    assert_eq!(outbox.next_messages(now, 0).len(), 0);
    outbox.handle_delivery_result(1, Delivery::Done, now);
    assert_eq!(outbox.next_messages(now, 0).len(), 2);
}

#[test]
fn better_what_is_under_way_is_bounded_in_bytes() {
    let now = origin();
    let queue = memory_queue(MessageCountLimit::Messages(20), 1_000, DropBehavior::Block);
    let drain = DrainPacer::new(f64::INFINITY, false);
    let mut outbox = Outbox::new(config(100), Box::new(queue), drain);
    outbox.handle_connected(BrokerLimits::PROTOCOL, now);
    assert_eq!(outbox.read_allowance(now).bytes, 1_000);
    for _ in 0..3 {
        let mut half = draft("");
        half.payload = vec![0; 500];
        outbox.offer(half, now, 0);
        outbox.next_messages(now, 0);
    }
    assert_eq!(outbox.read_allowance(now).bytes, 0);
    assert_eq!(outbox.in_flight_messages().len(), 2);
    outbox.handle_delivery_result(1, Delivery::Done, now);
    assert_eq!(outbox.next_messages(now, 0).len(), 1);
}
