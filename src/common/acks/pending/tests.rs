//! What waits, is acknowledged and is completed, on one connection and over several.

use super::*;
use PublishStatus::{Acknowledged, New, Repeated};
use Qos::{AtLeastOnce, ExactlyOnce};
use proptest::prelude::*;

fn key(packet_id: u16, qos: Qos, text: &str) -> PublishKey {
    PublishKey {
        packet_id,
        qos,
        dup: false,
        fingerprint: fingerprint(b"t", text.as_bytes()),
    }
}

/// The same with DUP.
fn again(packet_id: u16, qos: Qos, text: &str) -> PublishKey {
    PublishKey {
        dup: true,
        ..key(packet_id, qos, text)
    }
}

fn due(pending: &mut PendingAcks) -> Vec<(u8, u16)> {
    let mut out = Vec::new();
    pending.poll_acks(&mut out);
    let packets = out.chunks(4);
    let packets = packets.map(|p| (p[0], u16::from_be_bytes([p[2], p[3]])));
    packets.collect()
}

fn settle(pending: &mut PendingAcks, number: u64) -> Vec<(u8, u16)> {
    pending.settle(number..=number);
    due(pending)
}

#[test]
fn a_fingerprint_depends_on_topic_payload_and_the_boundary_between_them() {
    let all = [
        fingerprint(b"t", b""),
        fingerprint(b"", b"t"),
        fingerprint(b"ab", b"c"),
        fingerprint(b"a", b"bc"),
        fingerprint(b"a", b"bd"),
    ];
    for (at, one) in all.iter().enumerate() {
        assert!(!all[..at].contains(one), "{at}");
    }
    // It is stored.
    assert_eq!(fingerprint(b"site/1", b"20.5"), 0xc1df_136a_0000_000a);
}

#[test]
fn acknowledgements_go_out_in_order_each_with_its_own_identifier() {
    let mut pending = PendingAcks::default();
    for (number, id) in (1..).zip([9, 300, 8]) {
        assert_eq!(
            pending.handle_publish(key(id, AtLeastOnce, "x")),
            New(number)
        );
    }
    pending.settle(2..=3);
    assert_eq!(due(&mut pending), []);
    assert_eq!(settle(&mut pending, 1), [(0x40, 9), (0x40, 300), (0x40, 8)]);
    assert!(!pending.has_unacknowledged() && !pending.has_settled(false));
    pending.settle(1..=9);
    assert_eq!(due(&mut pending), []);
}

#[test]
fn a_repeat_before_the_acknowledgement_is_the_same_message() {
    let mut pending = PendingAcks::default();
    for qos in [AtLeastOnce, ExactlyOnce] {
        let New(number) = pending.handle_publish(key(7, qos, "x")) else {
            panic!("the identifier is free");
        };
        // Some brokers do not mark it.
        assert_eq!(pending.handle_publish(key(7, qos, "x")), Repeated);
        assert_eq!(pending.handle_publish(again(7, qos, "x")), Repeated);
        assert_eq!(settle(&mut pending, number).len(), 1);
    }
    assert_eq!(
        pending.handle_publish(key(7, ExactlyOnce, "x")),
        Acknowledged
    );
}

#[test]
fn a_repeat_that_has_crossed_its_puback_is_the_same_message_if_it_is_marked() {
    let mut pending = PendingAcks::default();
    pending.handle_publish(key(7, AtLeastOnce, "x"));
    assert_eq!(settle(&mut pending, 1), [(0x40, 7)]);
    assert_eq!(
        pending.handle_publish(again(7, AtLeastOnce, "x")),
        Acknowledged
    );
    assert_eq!(pending.handle_publish(again(7, AtLeastOnce, "y")), New(2));
    assert_eq!(settle(&mut pending, 2), [(0x40, 7)]);
    assert_eq!(
        pending.handle_publish(again(7, AtLeastOnce, "x")),
        New(3),
        "another message came in between"
    );
    settle(&mut pending, 3);
    // On the next connection it may be one whose first sending was lost.
    pending.begin_connection();
    assert_eq!(pending.handle_publish(again(7, AtLeastOnce, "x")), New(4));
}

#[test]
fn an_identifier_used_for_another_message_acknowledges_that_one_only() {
    for qos in [AtLeastOnce, ExactlyOnce] {
        let mut pending = PendingAcks::default();
        assert_eq!(pending.handle_publish(key(7, qos, "old")), New(1));
        assert_eq!(pending.handle_publish(key(7, qos, "new")), New(2));
        assert_eq!(settle(&mut pending, 1), [], "the new one is not settled");
        assert_eq!(settle(&mut pending, 2).len(), 1);
    }
    let mut pending = PendingAcks::default();
    pending.handle_publish(key(7, ExactlyOnce, "old"));
    settle(&mut pending, 1);
    // PUBREL is due, and never comes.
    assert!(pending.is_pubrel_due());
    assert_eq!(pending.handle_publish(key(7, ExactlyOnce, "new")), New(2));
    assert!(!pending.is_pubrel_due());
    assert_eq!(pending.handle_pubrel(7), PubrelStatus::BeforePubrec);
    // Nor is one of another QoS the same.
    assert_eq!(pending.handle_publish(key(7, AtLeastOnce, "new")), New(3));
}

#[test]
fn pubrel_completes_an_acknowledged_exchange_and_no_other() {
    let mut pending = PendingAcks::default();
    assert_eq!(pending.handle_pubrel(5), PubrelStatus::Unknown);
    pending.handle_publish(key(5, ExactlyOnce, "x"));
    assert_eq!(pending.handle_pubrel(5), PubrelStatus::BeforePubrec);
    pending.settle(1..=1);
    assert!(!pending.is_pubrel_due());
    assert_eq!(due(&mut pending), [(0x50, 5)]);
    assert!(pending.is_pubrel_due());
    pending.begin_connection();
    assert!(
        !pending.is_pubrel_due(),
        "the broker may not have received PUBREC"
    );
    assert_eq!(
        pending.handle_publish(again(5, ExactlyOnce, "x")),
        Acknowledged
    );
    assert!(pending.is_pubrel_due());
    assert_eq!(pending.handle_pubrel(5), PubrelStatus::Known);
    assert!(!pending.is_pubrel_due());
    assert_eq!(pending.handle_publish(key(5, ExactlyOnce, "x")), New(2));
}

#[test]
fn a_message_that_is_not_settled_when_a_connection_ends_is_known_on_the_next_one() {
    for (qos, packet) in [(AtLeastOnce, 0x40), (ExactlyOnce, 0x50)] {
        let mut pending = PendingAcks::default();
        for (id, text) in [(1, "a"), (2, "b"), (3, "c")] {
            pending.handle_publish(key(id, qos, text));
        }
        pending.begin_connection();
        // One is settled in between, another when it has come again.
        assert_eq!(
            settle(&mut pending, 1),
            [],
            "the broker has not sent it here"
        );
        assert!(pending.has_settled(true));
        for (id, text) in [(1, "a"), (2, "b")] {
            assert_eq!(pending.handle_publish(again(id, qos, text)), Repeated);
        }
        assert_eq!(due(&mut pending), [(packet, 1)]);
        pending.settle(2..=3);
        assert_eq!(due(&mut pending), [(packet, 2)]);
        // The third identifier is used for something else.
        assert_eq!(pending.handle_publish(key(3, qos, "new")), New(4));
        assert_eq!(due(&mut pending), []);
    }
}

#[test]
fn nothing_of_a_lost_session_is_acknowledged() {
    let mut pending = PendingAcks::default();
    pending.handle_publish(key(1, ExactlyOnce, "a"));
    pending.handle_publish(key(2, ExactlyOnce, "b"));
    settle(&mut pending, 1);
    pending.begin_connection();
    pending.begin_session();
    for (number, (id, text)) in (3..).zip([(1, "a"), (2, "b")]) {
        assert_eq!(
            pending.handle_publish(key(id, ExactlyOnce, text)),
            New(number)
        );
    }
    // Those are settled by the tickets of the session before.
    pending.settle(1..=2);
    assert_eq!(due(&mut pending), []);
}

#[test]
fn an_exchange_of_an_earlier_run_is_known_until_pubrel() {
    let mut pending = PendingAcks::default();
    let left = [("a", 1), ("b", 2)].map(|(text, id)| key(id, ExactlyOnce, text).exchange());
    pending.restore(left);
    pending.begin_connection();
    assert_eq!(
        pending.handle_publish(again(1, ExactlyOnce, "a")),
        Acknowledged
    );
    assert_eq!(pending.handle_publish(key(2, ExactlyOnce, "other")), New(1));
    assert!(!pending.has_open_exchange(), "that is not of this run");
    assert_eq!(pending.handle_pubrel(1), PubrelStatus::Known);
    assert_eq!(pending.handle_pubrel(1), PubrelStatus::Unknown);
}

#[test]
fn an_exchange_of_this_run_is_open_until_pubrel_on_any_connection() {
    let mut pending = PendingAcks::default();
    pending.handle_publish(key(1, AtLeastOnce, "a"));
    pending.handle_publish(key(7, ExactlyOnce, "x"));
    pending.settle(2..=2);
    assert!(!pending.has_open_exchange(), "the first holds it up");
    pending.settle(1..=1);
    assert!(pending.has_open_exchange());
    due(&mut pending);
    assert!(pending.has_open_exchange());
    pending.begin_connection();
    assert!(pending.has_open_exchange());
    assert_eq!(pending.handle_pubrel(7), PubrelStatus::Known);
    assert!(!pending.has_open_exchange());
    pending.handle_publish(key(7, ExactlyOnce, "y"));
    settle(&mut pending, 3);
    pending.begin_connection();
    pending.begin_session();
    assert!(!pending.has_open_exchange(), "no PUBREL will come");
}

#[test]
fn a_repeat_that_has_crossed_its_pubrel_is_the_same_message_if_it_is_marked() {
    let mut pending = PendingAcks::default();
    pending.handle_publish(key(7, ExactlyOnce, "x"));
    settle(&mut pending, 1);
    for _ in 0..2 {
        assert_eq!(pending.handle_pubrel(7), PubrelStatus::Known);
        assert!(!pending.is_pubrel_due());
        assert_eq!(
            pending.handle_publish(again(7, ExactlyOnce, "x")),
            Acknowledged
        );
        assert!(pending.is_pubrel_due());
    }
    assert_eq!(pending.handle_pubrel(7), PubrelStatus::Known);
    assert!(pending.stages.is_empty());
    for (number, other) in (2..).zip([
        again(7, AtLeastOnce, "x"),
        again(7, ExactlyOnce, "y"),
        key(7, ExactlyOnce, "x"),
    ]) {
        assert_eq!(pending.handle_publish(other), New(number));
        pending.withdraw(7);
    }
    // On the next connection it may be one whose first sending was lost.
    pending.begin_connection();
    assert_eq!(pending.handle_publish(again(7, ExactlyOnce, "x")), New(5));
}

#[test]
fn a_withdrawn_message_comes_again_as_new() {
    let mut pending = PendingAcks::default();
    assert_eq!(pending.handle_publish(key(7, ExactlyOnce, "x")), New(1));
    pending.withdraw(7);
    assert_eq!(due(&mut pending), []);
    assert!(!pending.has_unacknowledged());
    pending.begin_connection();
    assert_eq!(pending.handle_publish(again(7, ExactlyOnce, "x")), New(2));
}

#[test]
fn the_number_of_completed_messages_remembered_is_bounded() {
    let mut pending = PendingAcks::default();
    for id in 1..=u16::MAX {
        let New(number) = pending.handle_publish(key(id, AtLeastOnce, "x")) else {
            panic!("the identifier is free");
        };
        settle(&mut pending, number);
    }
    assert_eq!(pending.completed.len(), MAX_COMPLETED);
    assert!(pending.stages.is_empty() && pending.unacknowledged.is_empty());
}

proptest! {
    #[test]
    fn no_acknowledgement_goes_out_before_an_earlier_one(order in Just((1u64..=40).collect::<Vec<_>>()).prop_shuffle()) {
        let mut pending = PendingAcks::default();
        for id in 1..=40u16 {
            pending.handle_publish(key(id, AtLeastOnce, "x"));
        }
        let mut done = std::collections::BTreeSet::new();
        let mut acknowledged = Vec::new();
        for number in order {
            pending.settle(number..=number);
            done.insert(number);
            acknowledged.extend(due(&mut pending).iter().map(|(_, id)| u64::from(*id)));
            let expected: Vec<u64> = (1..=40).take_while(|n| done.contains(n)).collect();
            prop_assert_eq!(&acknowledged, &expected);
        }
    }
}
