//! What waits, is acknowledged and is completed, on one connection and over several.

use super::*;
use crate::common::runtime::clock::instant_now;
use Qos::{AtLeastOnce, ExactlyOnce};
use ReceivedPublishKind::{Acknowledged, New, Repeated};
use ReceivedPubrelKind::{BeforePubrec, Known, Unknown};
use proptest::prelude::*;
use std::time::Duration;

struct Broker {
    pending: OwedAcks,
    qos: Qos,
    now: Instant,
}

fn exchange(packet_id: u16, text: &str) -> Qos2ExchangeKey {
    let content_checksum = content_checksum(b"t", text.as_bytes());
    Qos2ExchangeKey {
        packet_id,
        content_checksum,
    }
}

impl Broker {
    fn new(qos: Qos) -> Self {
        Self {
            pending: OwedAcks::default(),
            qos,
            now: instant_now(),
        }
    }

    fn send(&mut self, packet_id: u16, text: &str) -> ReceivedPublishKind {
        self.send_with(packet_id, self.qos, false, text)
    }

    fn resend(&mut self, packet_id: u16, text: &str) -> ReceivedPublishKind {
        self.send_with(packet_id, self.qos, true, text)
    }

    fn send_with(
        &mut self,
        packet_id: u16,
        qos: Qos,
        dup: bool,
        text: &str,
    ) -> ReceivedPublishKind {
        let exchange = exchange(packet_id, text);
        let key = PublishKey { exchange, qos, dup };
        self.pending.handle_publish(key, self.now)
    }

    fn acks_after(&mut self, number: u64) -> Vec<(u8, u16)> {
        self.pending.mark_settled(number..=number);
        self.acks()
    }

    fn acks(&mut self) -> Vec<(u8, u16)> {
        let mut out = Vec::new();
        self.pending.append_acks(&mut out, self.now);
        let packet = |p: &[u8]| (p[0], u16::from_be_bytes([p[2], p[3]]));
        out.chunks(4).map(packet).collect()
    }

    fn pubrel(&mut self, packet_id: u16) -> ReceivedPubrelKind {
        self.pending.handle_pubrel(packet_id)
    }

    fn is_pubrel_due(&self) -> bool {
        self.pending.is_any_pubrel_due()
    }

    fn reconnect(&mut self) {
        self.pending.begin_connection();
    }
}

#[test]
fn a_fingerprint_depends_on_topic_payload_and_the_boundary_between_them() {
    let texts = [("t", ""), ("", "t"), ("ab", "c"), ("a", "bc"), ("a", "bd")];
    let all = texts.map(|(topic, payload)| content_checksum(topic.as_bytes(), payload.as_bytes()));
    for (at, one) in all.iter().enumerate() {
        assert!(!all[..at].contains(one), "{at}");
    }
    // It is stored.
    assert_eq!(content_checksum(b"site/1", b"20.5"), 0xc1df_136a_0000_000a);
}

#[test]
fn acknowledgements_go_out_in_order_each_with_its_own_identifier() {
    let mut broker = Broker::new(AtLeastOnce);
    for (number, id) in (1..).zip([9, 300, 8]) {
        assert_eq!(broker.send(id, "x"), New(number));
    }
    broker.pending.mark_settled(2..=3);
    assert_eq!(broker.acks(), []);
    assert_eq!(broker.acks_after(1), [(0x40, 9), (0x40, 300), (0x40, 8)]);
    assert!(!broker.pending.has_unacknowledged() && !broker.pending.has_unsent_ack(false));
    broker.pending.mark_settled(1..=9);
    assert_eq!(broker.acks(), []);
}

#[test]
fn a_repeat_before_the_acknowledgement_is_the_same_message() {
    let mut broker = Broker::new(AtLeastOnce);
    for (number, qos) in (1..).zip([AtLeastOnce, ExactlyOnce]) {
        broker.qos = qos;
        assert_eq!(broker.send(7, "x"), New(number));
        // Some brokers do not set DUP.
        assert_eq!(broker.send(7, "x"), Repeated);
        assert_eq!(broker.resend(7, "x"), Repeated);
        assert_eq!(broker.acks_after(number).len(), 1);
    }
    assert_eq!(broker.send(7, "x"), Acknowledged);
}

#[test]
fn a_repeat_with_dup_that_has_crossed_its_puback_is_the_same_message() {
    let mut broker = Broker::new(AtLeastOnce);
    broker.send(7, "x");
    assert_eq!(broker.acks_after(1), [(0x40, 7)]);
    assert_eq!(broker.resend(7, "x"), Acknowledged);
    assert_eq!(broker.resend(7, "y"), New(2));
    assert_eq!(broker.acks_after(2), [(0x40, 7)]);
    assert_eq!(broker.resend(7, "x"), New(3), "another came in between");
    broker.acks_after(3);
    // On the next connection it may be one whose first sending was lost.
    broker.reconnect();
    assert_eq!(broker.resend(7, "x"), New(4));
}

#[test]
fn an_identifier_used_for_another_message_acknowledges_that_one_only() {
    for qos in [AtLeastOnce, ExactlyOnce] {
        let mut broker = Broker::new(qos);
        assert_eq!(broker.send(7, "old"), New(1));
        assert_eq!(broker.send(7, "new"), New(2));
        assert_eq!(broker.acks_after(1), [], "the new one is not settled");
        assert_eq!(broker.acks_after(2).len(), 1);
    }
    let mut broker = Broker::new(ExactlyOnce);
    broker.send(7, "old");
    broker.acks_after(1);
    // PUBREL is due, and never comes.
    assert!(broker.is_pubrel_due());
    assert_eq!(broker.send(7, "new"), New(2));
    assert!(!broker.is_pubrel_due());
    assert_eq!(broker.pubrel(7), BeforePubrec);
    // Nor is one of another QoS the same.
    assert_eq!(broker.send_with(7, AtLeastOnce, false, "new"), New(3));
}

#[test]
fn pubrel_completes_an_acknowledged_exchange_and_no_other() {
    let mut broker = Broker::new(ExactlyOnce);
    assert_eq!(broker.pubrel(5), Unknown);
    broker.send(5, "x");
    assert_eq!(broker.pubrel(5), BeforePubrec);
    broker.pending.mark_settled(1..=1);
    assert!(!broker.is_pubrel_due());
    assert_eq!(broker.acks(), [(0x50, 5)]);
    assert!(broker.is_pubrel_due());
    broker.reconnect();
    assert!(!broker.is_pubrel_due(), "PUBREC may have been lost");
    assert_eq!(broker.resend(5, "x"), Acknowledged);
    assert!(broker.is_pubrel_due());
    assert_eq!(broker.pubrel(5), Known);
    assert!(!broker.is_pubrel_due());
    assert_eq!(broker.send(5, "x"), New(2));
}

#[test]
fn a_message_that_is_not_settled_when_a_connection_ends_is_known_on_the_next_one() {
    for (qos, packet) in [(AtLeastOnce, 0x40), (ExactlyOnce, 0x50)] {
        let mut broker = Broker::new(qos);
        for (id, text) in [(1, "a"), (2, "b"), (3, "c")] {
            broker.send(id, text);
        }
        broker.reconnect();
        // One is settled in between, another when it has come again.
        assert_eq!(broker.acks_after(1), [], "it was not sent here");
        assert!(broker.pending.has_unsent_ack(true));
        assert_eq!(broker.resend(1, "a"), Repeated);
        assert_eq!(broker.resend(2, "b"), Repeated);
        assert_eq!(broker.acks(), [(packet, 1)]);
        broker.pending.mark_settled(2..=3);
        assert_eq!(broker.acks(), [(packet, 2)]);
        // The third identifier is used for something else.
        assert_eq!(broker.send(3, "new"), New(4));
        assert_eq!(broker.acks(), []);
    }
}

#[test]
fn nothing_of_a_lost_session_is_acknowledged() {
    let mut broker = Broker::new(ExactlyOnce);
    broker.send(1, "a");
    broker.send(2, "b");
    broker.acks_after(1);
    broker.reconnect();
    broker.pending.forget_session();
    assert_eq!(broker.send(1, "a"), New(3));
    assert_eq!(broker.send(2, "b"), New(4));
    // Those are settled by the tickets of the session before.
    broker.pending.mark_settled(1..=2);
    assert_eq!(broker.acks(), []);
}

#[test]
fn an_exchange_of_an_earlier_run_is_known_until_pubrel() {
    let mut broker = Broker::new(ExactlyOnce);
    broker
        .pending
        .restore_exchanges([exchange(1, "a"), exchange(2, "b")]);
    broker.reconnect();
    assert_eq!(broker.resend(1, "a"), Acknowledged);
    assert_eq!(broker.send(2, "other"), New(1));
    assert!(!broker.pending.has_open_exchange(), "not of this run");
    assert_eq!(broker.pubrel(1), Known);
    assert_eq!(broker.pubrel(1), Unknown);
}

#[test]
fn an_exchange_of_this_run_is_open_until_pubrel_on_any_connection() {
    let mut broker = Broker::new(ExactlyOnce);
    broker.send_with(1, AtLeastOnce, false, "a");
    broker.send(7, "x");
    broker.pending.mark_settled(2..=2);
    assert!(!broker.pending.has_open_exchange(), "the first holds it up");
    broker.pending.mark_settled(1..=1);
    assert!(broker.pending.has_open_exchange());
    broker.acks();
    assert!(broker.pending.has_open_exchange());
    broker.reconnect();
    assert!(broker.pending.has_open_exchange());
    assert_eq!(broker.pubrel(7), Known);
    assert!(!broker.pending.has_open_exchange());
    broker.send(7, "y");
    broker.acks_after(3);
    broker.reconnect();
    broker.pending.forget_session();
    assert!(!broker.pending.has_open_exchange(), "no PUBREL will come");
}

#[test]
fn a_repeat_with_dup_that_has_crossed_its_pubrel_is_the_same_message() {
    let mut broker = Broker::new(ExactlyOnce);
    broker.send(7, "x");
    broker.acks_after(1);
    for _ in 0..2 {
        assert_eq!(broker.pubrel(7), Known);
        assert!(!broker.is_pubrel_due());
        assert_eq!(broker.resend(7, "x"), Acknowledged);
        assert!(broker.is_pubrel_due());
    }
    assert_eq!(broker.pubrel(7), Known);
    assert!(broker.pending.stages.is_empty());
    let others = [
        (AtLeastOnce, true, "x"),
        (ExactlyOnce, true, "y"),
        (ExactlyOnce, false, "x"),
    ];
    for (number, (qos, dup, text)) in (2..).zip(others) {
        assert_eq!(broker.send_with(7, qos, dup, text), New(number));
        broker.pending.withdraw(7);
    }
    // On the next connection it may be one whose first sending was lost.
    broker.reconnect();
    assert_eq!(broker.resend(7, "x"), New(5));
}

#[test]
fn a_withdrawn_message_comes_again_as_new() {
    let mut broker = Broker::new(ExactlyOnce);
    assert_eq!(broker.send(7, "x"), New(1));
    broker.pending.withdraw(7);
    assert_eq!(broker.acks(), []);
    assert!(!broker.pending.has_unacknowledged());
    broker.reconnect();
    assert_eq!(broker.resend(7, "x"), New(2));
}

#[test]
fn the_number_of_completed_messages_remembered_is_bounded() {
    let mut broker = Broker::new(AtLeastOnce);
    for (number, id) in (1..).zip(1..=u16::MAX) {
        assert_eq!(broker.send(id, "x"), New(number));
        broker.acks_after(number);
    }
    let pending = broker.pending;
    assert_eq!(pending.completed.len(), MAX_COMPLETED);
    assert!(pending.stages.is_empty() && pending.unacknowledged.is_empty());
}

proptest! {
    #[test]
    fn no_acknowledgement_goes_out_before_an_earlier_one(order in Just((1u64..=40).collect::<Vec<_>>()).prop_shuffle()) {
        let mut broker = Broker::new(AtLeastOnce);
        for id in 1..=40u16 {
            broker.send(id, "x");
        }
        let mut settled = std::collections::BTreeSet::new();
        let mut acknowledged = Vec::new();
        for number in order {
            settled.insert(number);
            acknowledged.extend(broker.acks_after(number).iter().map(|(_, id)| u64::from(*id)));
            let expected: Vec<u64> = (1..=40).take_while(|n| settled.contains(n)).collect();
            prop_assert_eq!(&acknowledged, &expected);
        }
    }
}

#[test]
fn the_time_to_the_acknowledgement_counts_from_the_first_arrival_and_over_connections() {
    let mut broker = Broker::new(AtLeastOnce);
    broker.pending.ack_times = Some(Histogram::new(&[0.5, 5.0]));
    let (New(slow), New(quick)) = (broker.send(1, "slow"), broker.send(2, "quick")) else {
        panic!("both are new");
    };
    broker.now += Duration::from_secs(1);
    broker.reconnect();
    broker.pending.forget_session();
    assert_eq!(broker.acks_after(slow), [], "the session has ended");
    broker.reconnect();
    let New(third) = broker.send(3, "third") else {
        panic!("it is new");
    };
    broker.now += Duration::from_secs(1);
    broker.reconnect();
    assert_eq!(broker.resend(3, "third"), Repeated);
    broker.now += Duration::from_secs(1);
    assert_eq!(broker.acks_after(third), [(0x40, 3)]);
    assert_eq!(broker.acks_after(quick), []);
    let times = broker.pending.ack_times.unwrap().to_family("x", "X.");
    let values: Vec<_> = times.samples.iter().map(|sample| sample.value).collect();
    assert_eq!(values, [0.0, 1.0, 1.0, 2.0, 1.0], "one, after two seconds");
}
