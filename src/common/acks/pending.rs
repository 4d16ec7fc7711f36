//! Which messages of a session have been handed over and not acknowledged, and so which acknowledgements may go
//! out. PURE.
//!
//! * An acknowledgement goes out with the packet identifier of its message, and in the order in which the
//!   messages came (MQTT-4.6.0-2, MQTT-4.6.0-3): the first that has not been dealt with holds up those behind it.
//! * A broker may send a message again: on the same connection, and on the next one of the same session (MQTT-4.4.0-1).
//!   It is the same message if identifier, QoS, topic and payload are, and if its acknowledgement has not gone
//!   out: until then a broker may not use the identifier for another (section 2.2.1). At QoS 2 that lasts until
//!   PUBREL. Such a message is not handed over again; its acknowledgement goes out on the connection on which it
//!   came last, once it has been dealt with.
//! * A broker that uses an identifier for another message all the same gets an acknowledgement for the
//!   other message only.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::RangeInclusive;

use crate::common::message::Qos;
use crate::common::mqtt::packet_type::PacketType;

/// QoS 1 messages remembered after their PUBACK, for a broker that sends one again because the two have crossed.
const MAX_ACKNOWLEDGED: usize = 1_024;

/// What tells one PUBLISH above QoS 0 from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishKey {
    /// The packet identifier.
    pub id: u16,
    /// 1 or 2.
    pub qos: Qos,
    /// The broker says that it has sent the message before.
    pub dup: bool,
    /// [`fingerprint`] of topic and payload.
    pub fingerprint: u64,
}

/// A QoS 2 message that has been dealt with: its PUBREC may have gone out, and PUBREL is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The packet identifier.
    pub id: u16,
    /// [`fingerprint`] of topic and payload.
    pub fingerprint: u64,
}

/// CRC-32 (IEEE 802.3) of topic and payload, and below it their length modulo 2³². It is stored, so it has to stay
/// the same.
#[must_use]
pub fn fingerprint(topic: &[u8], payload: &[u8]) -> u64 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(topic);
    // No topic that is handed over has one.
    crc.update(&[0]);
    crc.update(payload);
    let length = (topic.len() + payload.len()) as u64;
    u64::from(crc.finalize()) << 32 | (length & u64::from(u32::MAX))
}

/// A message that has been handed over and has not been acknowledged.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    key: PublishKey,
    /// It has been dealt with.
    settled: bool,
    /// It has come on the current connection, and is acknowledged there.
    here: bool,
}

/// How far the exchange of a packet identifier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The message with this number has not been acknowledged.
    Unacknowledged(u64),
    /// PUBREC may have gone out, PUBREL is due.
    Received {
        fingerprint: u64,
        /// PUBREC has gone out on the current connection.
        here: bool,
    },
}

/// What is to be done with a PUBLISH above QoS 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is new; its number in the run, from 1.
    New(u64),
    /// It has come before and will be acknowledged once.
    Repeat,
    /// It has come before and has been acknowledged: the acknowledgement goes out again (MQTT-4.3.3-10).
    Acknowledged,
}

/// What is to be done with a PUBREL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// PUBCOMP follows.
    Known,
    /// PUBCOMP follows, with MQTT 5 and the reason code 0x92.
    Unknown,
    /// Its message has not been acknowledged: the broker may not have sent it (MQTT-4.3.3-6).
    Early,
    /// It came on a connection that has been given up: nothing follows.
    Late,
}

/// The messages of a session that wait.
#[derive(Debug, Default)]
pub struct Pending {
    /// By their numbers.
    waiting: BTreeMap<u64, Waiting>,
    /// The number of the last one, ever.
    last: u64,
    /// Those that have come on the current connection, in that order, some of which may be waiting no longer.
    order: VecDeque<u64>,
    stages: HashMap<u16, Stage>,
    /// PUBRELs that are due on the current connection.
    unreleased: usize,
    /// Identifier and fingerprint of the last QoS 1 messages that were acknowledged on it.
    acknowledged: VecDeque<(u16, u64)>,
}

impl Pending {
    /// A PUBLISH above QoS 0 has come.
    pub fn arrived(&mut self, key: PublishKey) -> Arrival {
        let was_acknowledged = self.was_acknowledged(key);
        match self.stages.get_mut(&key.id) {
            Some(Stage::Unacknowledged(number)) => {
                let number = *number;
                if let Some(waiting) = self.waiting.get_mut(&number)
                    && waiting.key.qos == key.qos
                    && waiting.key.fingerprint == key.fingerprint
                {
                    if !std::mem::replace(&mut waiting.here, true) {
                        self.order.push_back(number);
                    }
                    return Arrival::Repeat;
                }
                // Its acknowledgement would be one for the new message.
                self.waiting.remove(&number);
            }
            Some(Stage::Received { fingerprint, here })
                if key.qos == Qos::ExactlyOnce && *fingerprint == key.fingerprint =>
            {
                self.unreleased += usize::from(!std::mem::replace(here, true));
                return Arrival::Acknowledged;
            }
            // The identifier of a QoS 2 message is free only after PUBREL; another message with it
            // shows that the broker has forgotten the first.
            Some(Stage::Received { here, .. }) => self.unreleased -= usize::from(*here),
            None if was_acknowledged => return Arrival::Acknowledged,
            None => {}
        }
        self.last += 1;
        let number = self.last;
        let waiting = Waiting {
            key,
            settled: false,
            here: true,
        };
        self.waiting.insert(number, waiting);
        self.order.push_back(number);
        self.stages.insert(key.id, Stage::Unacknowledged(number));
        Arrival::New(number)
    }

    /// Whether a QoS 1 message is one that has been acknowledged on this connection. On one connection nothing
    /// is lost in between, so a message that is marked as sent before is the last one with its identifier.
    fn was_acknowledged(&self, key: PublishKey) -> bool {
        let mut latest = self.acknowledged.iter().rev();
        key.dup
            && key.qos == Qos::AtLeastOnce
            && latest
                .find(|(id, _)| *id == key.id)
                .is_some_and(|(_, fingerprint)| *fingerprint == key.fingerprint)
    }

    /// A message could not be handed over: it is to come again.
    pub fn withdraw(&mut self, id: u16) {
        if let Some(Stage::Unacknowledged(number)) = self.stages.get(&id) {
            self.waiting.remove(number);
            self.stages.remove(&id);
        }
    }

    /// A PUBREL has come.
    pub fn released(&mut self, id: u16) -> Release {
        match self.stages.get(&id) {
            Some(Stage::Unacknowledged(_)) => Release::Early,
            Some(Stage::Received { here, .. }) => {
                self.unreleased -= usize::from(*here);
                self.stages.remove(&id);
                Release::Known
            }
            None => Release::Unknown,
        }
    }

    /// These messages have been dealt with.
    pub fn settle(&mut self, numbers: RangeInclusive<u64>) {
        for (_, waiting) in self.waiting.range_mut(numbers) {
            waiting.settled = true;
        }
    }

    /// Whether messages of this connection wait to be acknowledged.
    #[must_use]
    pub fn are_due_later(&self) -> bool {
        !self.order.is_empty()
    }

    /// Whether a message has been dealt with and not been acknowledged. `elsewhere` leaves out what has come on
    /// the current connection.
    #[must_use]
    pub fn has_settled(&self, elsewhere: bool) -> bool {
        let mut waiting = self.waiting.values();
        waiting.any(|waiting| waiting.settled && !(elsewhere && waiting.here))
    }

    /// Whether PUBRELs are due on this connection.
    #[must_use]
    pub fn awaits_pubrel(&self) -> bool {
        self.unreleased > 0
    }

    /// Appends the acknowledgements that may go out: PUBACK or PUBREC, in order.
    pub fn take_due(&mut self, out: &mut Vec<u8>) {
        while let Some(number) = self.order.front() {
            match self.waiting.get(number) {
                Some(waiting) if !waiting.settled => return,
                Some(waiting) => {
                    let key = waiting.key;
                    self.waiting.remove(number);
                    let packet = self.acknowledge(key);
                    out.extend([packet.first_byte(0), 2]);
                    out.extend(key.id.to_be_bytes());
                }
                None => {}
            }
            self.order.pop_front();
        }
    }

    fn acknowledge(&mut self, key: PublishKey) -> PacketType {
        let PublishKey {
            id, fingerprint, ..
        } = key;
        if key.qos == Qos::ExactlyOnce {
            let here = true;
            self.stages
                .insert(id, Stage::Received { fingerprint, here });
            self.unreleased += 1;
            return PacketType::Pubrec;
        }
        self.stages.remove(&id);
        if self.acknowledged.len() >= MAX_ACKNOWLEDGED {
            self.acknowledged.pop_front();
        }
        self.acknowledged.push_back((id, fingerprint));
        PacketType::Puback
    }

    /// Another connection begins: what is to be acknowledged on it has to come on it.
    pub fn begin_connection(&mut self) {
        self.order.clear();
        self.acknowledged.clear();
        self.unreleased = 0;
        for waiting in self.waiting.values_mut() {
            waiting.here = false;
        }
        for stage in self.stages.values_mut() {
            if let Stage::Received { here, .. } = stage {
                *here = false;
            }
        }
    }

    /// The broker has no session of an earlier connection: nothing that came on one is acknowledged any more.
    pub fn begin_session(&mut self) {
        *self = Self {
            last: self.last,
            ..Self::default()
        };
    }

    /// The session goes on from an earlier run, which has left these.
    pub fn restore(&mut self, exchanges: impl IntoIterator<Item = Exchange>) {
        for Exchange { id, fingerprint } in exchanges {
            let here = false;
            self.stages
                .insert(id, Stage::Received { fingerprint, here });
        }
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(pending.released(1), Release::Known);
        assert_eq!(pending.released(1), Release::Unknown);
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
        assert_eq!(pending.acknowledged.len(), MAX_ACKNOWLEDGED);
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
}
