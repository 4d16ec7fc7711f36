//! What waits, is acknowledged and is completed, on one connection and over several.

use super::*;
use Qos::{AtLeastOnce, ExactlyOnce};
use proptest::prelude::*;

fn key(id: u16, qos: Qos, text: &str) -> PublishKey {
    PublishKey {
        id,
        qos,
        dup: false,
        fingerprint: fingerprint(b"t", text.as_bytes()),
    }
}

fn again(id: u16, qos: Qos, text: &str) -> PublishKey {
    PublishKey {
        dup: true,
        ..key(id, qos, text)
    }
}

fn due(pending: &mut Pending) -> Vec<(u8, u16)> {
    let mut out = Vec::new();
    pending.take_due(&mut out);
    let packets = out.chunks(4);
    let packets = packets.map(|p| (p[0], u16::from_be_bytes([p[2], p[3]])));
    packets.collect()
}

#[test]
fn topic_payload_and_where_one_ends_make_a_fingerprint() {
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
fn acknowledgements_wait_for_their_turn_and_carry_their_own_identifier() {
    let mut pending = Pending::default();
    for (number, id) in (1..).zip([9, 300, 8]) {
        let arrival = pending.arrived(key(id, AtLeastOnce, "x"));
        assert_eq!(arrival, Arrival::New(number));
    }
    pending.settle(2..=3);
    assert_eq!(due(&mut pending), []);
    pending.settle(1..=1);
    assert_eq!(due(&mut pending), [(0x40, 9), (0x40, 300), (0x40, 8)]);
    assert!(!pending.are_due_later() && !pending.has_settled(false));
    pending.settle(1..=9);
    assert_eq!(due(&mut pending), []);
}

#[test]
fn a_repeat_before_the_acknowledgement_is_the_same_message() {
    let mut pending = Pending::default();
    for qos in [AtLeastOnce, ExactlyOnce] {
        let Arrival::New(number) = pending.arrived(key(7, qos, "x")) else {
            panic!("it is free");
        };
        // Some brokers do not mark it.
        assert_eq!(pending.arrived(key(7, qos, "x")), Arrival::Repeat);
        assert_eq!(pending.arrived(again(7, qos, "x")), Arrival::Repeat);
        pending.settle(number..=number);
        assert_eq!(due(&mut pending).len(), 1);
    }
    let arrival = pending.arrived(key(7, ExactlyOnce, "x"));
    assert_eq!(arrival, Arrival::Acknowledged);
}

#[test]
fn a_repeat_that_has_crossed_its_puback_is_the_same_message_if_it_is_marked() {
    let mut pending = Pending::default();
    pending.arrived(key(7, AtLeastOnce, "x"));
    pending.settle(1..=1);
    assert_eq!(due(&mut pending), [(0x40, 7)]);
    let arrival = pending.arrived(again(7, AtLeastOnce, "x"));
    assert_eq!(arrival, Arrival::Acknowledged);
    assert_eq!(pending.arrived(again(7, AtLeastOnce, "y")), Arrival::New(2));
    pending.settle(2..=2);
    assert_eq!(due(&mut pending), [(0x40, 7)]);
    assert_eq!(
        pending.arrived(again(7, AtLeastOnce, "x")),
        Arrival::New(3),
        "that was another one in between"
    );
    pending.settle(3..=3);
    due(&mut pending);
    // On the next connection it may be one whose first sending was lost.
    pending.begin_connection();
    assert_eq!(pending.arrived(again(7, AtLeastOnce, "x")), Arrival::New(4));
}

#[test]
fn an_identifier_used_for_another_message_acknowledges_that_one_only() {
    for qos in [AtLeastOnce, ExactlyOnce] {
        let mut pending = Pending::default();
        assert_eq!(pending.arrived(key(7, qos, "old")), Arrival::New(1));
        assert_eq!(pending.arrived(key(7, qos, "new")), Arrival::New(2));
        pending.settle(1..=1);
        assert_eq!(due(&mut pending), [], "the new one is not done");
        pending.settle(2..=2);
        assert_eq!(due(&mut pending).len(), 1);
    }
    let mut pending = Pending::default();
    pending.arrived(key(7, ExactlyOnce, "old"));
    pending.settle(1..=1);
    due(&mut pending);
    // PUBREL is due, and never comes.
    assert!(pending.awaits_pubrel());
    let arrival = pending.arrived(key(7, ExactlyOnce, "new"));
    assert_eq!(arrival, Arrival::New(2));
    assert!(!pending.awaits_pubrel());
    assert_eq!(pending.released(7), Release::Early);
    // Nor is one of another QoS the same.
    let arrival = pending.arrived(key(7, AtLeastOnce, "new"));
    assert_eq!(arrival, Arrival::New(3));
}

#[test]
fn pubrel_ends_an_exchange_that_is_acknowledged_and_no_other() {
    let mut pending = Pending::default();
    assert_eq!(pending.released(5), Release::Unknown);
    pending.arrived(key(5, ExactlyOnce, "x"));
    assert_eq!(pending.released(5), Release::Early);
    pending.settle(1..=1);
    assert!(!pending.awaits_pubrel());
    assert_eq!(due(&mut pending), [(0x50, 5)]);
    assert!(pending.awaits_pubrel());
    pending.begin_connection();
    assert!(!pending.awaits_pubrel(), "the broker may have it still");
    let arrival = pending.arrived(again(5, ExactlyOnce, "x"));
    assert_eq!(arrival, Arrival::Acknowledged);
    assert!(pending.awaits_pubrel());
    assert_eq!(pending.released(5), Release::Known);
    assert!(!pending.awaits_pubrel());
    let arrival = pending.arrived(key(5, ExactlyOnce, "x"));
    assert_eq!(arrival, Arrival::New(2));
}

#[test]
fn what_is_not_settled_when_a_connection_ends_is_known_on_the_next_one() {
    for (qos, packet) in [(AtLeastOnce, 0x40), (ExactlyOnce, 0x50)] {
        let mut pending = Pending::default();
        for (id, text) in [(1, "a"), (2, "b"), (3, "c")] {
            pending.arrived(key(id, qos, text));
        }
        pending.begin_connection();
        // One is settled in between, another when it has come again.
        pending.settle(1..=1);
        assert_eq!(due(&mut pending), [], "the broker has not sent it here");
        assert!(pending.has_settled(true));
        for (id, text) in [(1, "a"), (2, "b")] {
            assert_eq!(pending.arrived(again(id, qos, text)), Arrival::Repeat);
        }
        assert_eq!(due(&mut pending), [(packet, 1)]);
        pending.settle(2..=3);
        assert_eq!(due(&mut pending), [(packet, 2)]);
        // The third identifier is used for something else.
        assert_eq!(pending.arrived(key(3, qos, "new")), Arrival::New(4));
        assert_eq!(due(&mut pending), []);
    }
}

#[test]
fn a_session_that_is_lost_takes_everything_with_it() {
    let mut pending = Pending::default();
    pending.arrived(key(1, ExactlyOnce, "a"));
    pending.arrived(key(2, ExactlyOnce, "b"));
    pending.settle(1..=1);
    due(&mut pending);
    pending.begin_connection();
    pending.begin_session();
    for (number, (id, text)) in (3..).zip([(1, "a"), (2, "b")]) {
        let arrival = pending.arrived(key(id, ExactlyOnce, text));
        assert_eq!(arrival, Arrival::New(number));
    }
    // Those are settled by the tickets of the session before.
    pending.settle(1..=2);
    assert_eq!(due(&mut pending), []);
}

#[test]
fn what_an_earlier_run_has_left_is_known_until_it_is_released() {
    let mut pending = Pending::default();
    let left = [("a", 1), ("b", 2)].map(|(text, id)| Exchange {
        id,
        fingerprint: fingerprint(b"t", text.as_bytes()),
    });
    pending.restore(left);
    pending.begin_connection();
    let arrival = pending.arrived(again(1, ExactlyOnce, "a"));
    assert_eq!(arrival, Arrival::Acknowledged);
    let arrival = pending.arrived(key(2, ExactlyOnce, "other"));
    assert_eq!(arrival, Arrival::New(1));
    assert!(!pending.is_uncompleted(), "that is not of this run");
    assert_eq!(pending.released(1), Release::Known);
    assert_eq!(pending.released(1), Release::Unknown);
}

#[test]
fn an_exchange_of_this_run_is_uncompleted_until_pubrel_on_whatever_connection() {
    let mut pending = Pending::default();
    pending.arrived(key(1, AtLeastOnce, "a"));
    pending.arrived(key(7, ExactlyOnce, "x"));
    pending.settle(2..=2);
    assert!(!pending.is_uncompleted(), "the first holds it up");
    pending.settle(1..=1);
    assert!(pending.is_uncompleted());
    due(&mut pending);
    assert!(pending.is_uncompleted());
    pending.begin_connection();
    assert!(pending.is_uncompleted());
    assert_eq!(pending.released(7), Release::Known);
    assert!(!pending.is_uncompleted());
    pending.arrived(key(7, ExactlyOnce, "y"));
    pending.settle(3..=3);
    due(&mut pending);
    pending.begin_connection();
    pending.begin_session();
    assert!(!pending.is_uncompleted(), "nobody releases it");
}

#[test]
fn a_repeat_that_has_crossed_its_pubrel_is_the_same_message_if_it_is_marked() {
    let mut pending = Pending::default();
    pending.arrived(key(7, ExactlyOnce, "x"));
    pending.settle(1..=1);
    due(&mut pending);
    for _ in 0..2 {
        assert_eq!(pending.released(7), Release::Known);
        assert!(!pending.awaits_pubrel());
        let arrival = pending.arrived(again(7, ExactlyOnce, "x"));
        assert_eq!(arrival, Arrival::Acknowledged);
        assert!(pending.awaits_pubrel());
    }
    assert_eq!(pending.released(7), Release::Known);
    assert!(pending.stages.is_empty());
    for (number, other) in (2..).zip([
        again(7, AtLeastOnce, "x"),
        again(7, ExactlyOnce, "y"),
        key(7, ExactlyOnce, "x"),
    ]) {
        assert_eq!(pending.arrived(other), Arrival::New(number));
        pending.withdraw(7);
    }
    // On the next connection it may be one whose first sending was lost.
    pending.begin_connection();
    let arrival = pending.arrived(again(7, ExactlyOnce, "x"));
    assert_eq!(arrival, Arrival::New(5));
}

#[test]
fn what_could_not_be_handed_over_comes_again_as_new() {
    let mut pending = Pending::default();
    assert_eq!(pending.arrived(key(7, ExactlyOnce, "x")), Arrival::New(1));
    pending.withdraw(7);
    assert_eq!(due(&mut pending), []);
    assert!(!pending.are_due_later());
    pending.begin_connection();
    assert_eq!(pending.arrived(again(7, ExactlyOnce, "x")), Arrival::New(2));
}

#[test]
fn what_is_remembered_after_puback_is_bounded() {
    let mut pending = Pending::default();
    for id in 1..=u16::MAX {
        let Arrival::New(number) = pending.arrived(key(id, AtLeastOnce, "x")) else {
            panic!("it is free");
        };
        pending.settle(number..=number);
        due(&mut pending);
    }
    assert_eq!(pending.completed.len(), MAX_COMPLETED);
    assert!(pending.stages.is_empty() && pending.waiting.is_empty());
}

proptest! {
    #[test]
    fn none_is_due_before_all_before_it_are_done(order in Just((1u64..=40).collect::<Vec<_>>()).prop_shuffle()) {
        let mut pending = Pending::default();
        for id in 1..=40u16 {
            pending.arrived(key(id, AtLeastOnce, "x"));
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
