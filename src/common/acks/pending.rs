//! Which messages received on one connection have not been dealt with, and so which
//! acknowledgements may go out. PURE.
//!
//! An acknowledgement goes out with the packet identifier of its message, and in the order in which the
//! messages came (MQTT-4.6.0-2, MQTT-4.6.0-3): the first that has not been dealt with holds up those behind it.

use std::collections::{HashMap, VecDeque};
use std::ops::RangeInclusive;

use crate::common::message::Qos;
use crate::common::mqtt::packet_type::PacketType;

/// A message that has come and has not been acknowledged.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    id: u16,
    qos: Qos,
    settled: bool,
}

/// How far the exchange of a packet identifier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The message has not been acknowledged.
    Unacknowledged,
    /// PUBREC has gone out, PUBREL is due.
    Received,
}

/// What is to be done with a PUBLISH above QoS 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is new; its number on the connection, from 1.
    New(u64),
    /// It has come before and will be acknowledged once.
    Repeat,
    /// It has come before, and its PUBREC has gone out: that goes out again (MQTT-4.3.3-10).
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
}

/// The messages of a connection that wait.
#[derive(Debug, Default)]
pub struct Pending {
    waiting: VecDeque<Waiting>,
    /// The number of the first of them, less one.
    passed: u64,
    stages: HashMap<u16, Stage>,
}

impl Pending {
    /// A PUBLISH above QoS 0 has come.
    pub fn arrived(&mut self, id: u16, qos: Qos) -> Arrival {
        match self.stages.get(&id) {
            Some(Stage::Unacknowledged) => Arrival::Repeat,
            Some(Stage::Received) if qos == Qos::ExactlyOnce => Arrival::Acknowledged,
            // The identifier of a QoS 2 message is free only after PUBREL; that of a message of
            // another QoS shows that the broker has forgotten it.
            _ => {
                self.stages.insert(id, Stage::Unacknowledged);
                self.waiting.push_back(Waiting {
                    id,
                    qos,
                    settled: false,
                });
                Arrival::New(self.passed + self.waiting.len() as u64)
            }
        }
    }

    /// A PUBREL has come.
    pub fn released(&mut self, id: u16) -> Release {
        match self.stages.get(&id) {
            Some(Stage::Unacknowledged) => Release::Early,
            Some(Stage::Received) => {
                self.stages.remove(&id);
                Release::Known
            }
            None => Release::Unknown,
        }
    }

    /// These messages have been dealt with.
    pub fn settle(&mut self, numbers: RangeInclusive<u64>) {
        for number in numbers {
            let index = number.checked_sub(self.passed + 1);
            let waiting = index.and_then(|index| usize::try_from(index).ok());
            if let Some(waiting) = waiting.and_then(|index| self.waiting.get_mut(index)) {
                waiting.settled = true;
            }
        }
    }

    /// Whether messages wait.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Appends the acknowledgements that may go out: PUBACK or PUBREC, in order.
    pub fn take_due(&mut self, out: &mut Vec<u8>) {
        while let Some(first) = self.waiting.front().filter(|first| first.settled) {
            let packet = if first.qos == Qos::ExactlyOnce {
                self.stages.insert(first.id, Stage::Received);
                PacketType::Pubrec
            } else {
                self.stages.remove(&first.id);
                PacketType::Puback
            };
            out.extend([packet.first_byte(0), 2]);
            out.extend(first.id.to_be_bytes());
            self.waiting.pop_front();
            self.passed += 1;
        }
    }

    /// Packet identifiers of QoS 2 messages that have been dealt with, and whose PUBREL is due.
    pub fn received(&self) -> impl Iterator<Item = u16> {
        let stages = self.stages.iter();
        let acknowledged = stages.filter(|(_, stage)| **stage == Stage::Received);
        let settled = self.waiting.iter();
        let settled = settled.filter(|waiting| waiting.settled && waiting.qos == Qos::ExactlyOnce);
        acknowledged
            .map(|(id, _)| *id)
            .chain(settled.map(|waiting| waiting.id))
    }

    /// Those of an earlier connection of the same session.
    pub fn resume(&mut self, received: impl IntoIterator<Item = u16>) {
        let stages = received.into_iter().map(|id| (id, Stage::Received));
        self.stages.extend(stages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Qos::{AtLeastOnce, ExactlyOnce};
    use proptest::prelude::*;

    fn due(pending: &mut Pending) -> Vec<(u8, u16)> {
        let mut out = Vec::new();
        pending.take_due(&mut out);
        let packets = out.chunks(4);
        let packets = packets.map(|p| (p[0], u16::from_be_bytes([p[2], p[3]])));
        packets.collect()
    }

    #[test]
    fn acknowledgements_wait_for_their_turn_and_carry_their_own_identifier() {
        let mut pending = Pending::default();
        for (number, id) in (1..).zip([9, 300, 8]) {
            assert_eq!(pending.arrived(id, AtLeastOnce), Arrival::New(number));
        }
        pending.settle(2..=3);
        assert_eq!(due(&mut pending), []);
        pending.settle(1..=1);
        assert_eq!(due(&mut pending), [(0x40, 9), (0x40, 300), (0x40, 8)]);
        assert!(pending.is_empty());
        pending.settle(1..=9);
        assert_eq!(due(&mut pending), []);
    }

    #[test]
    fn a_repeat_before_the_acknowledgement_is_the_same_message() {
        let mut pending = Pending::default();
        for qos in [AtLeastOnce, ExactlyOnce] {
            let Arrival::New(number) = pending.arrived(7, qos) else {
                panic!("it is free");
            };
            assert_eq!(pending.arrived(7, qos), Arrival::Repeat);
            pending.settle(number..=number);
            assert_eq!(due(&mut pending).len(), 1);
        }
        assert_eq!(pending.arrived(7, ExactlyOnce), Arrival::Acknowledged);
    }

    #[test]
    fn pubrel_ends_an_exchange_that_is_acknowledged_and_no_other() {
        let mut pending = Pending::default();
        assert_eq!(pending.released(5), Release::Unknown);
        pending.arrived(5, ExactlyOnce);
        assert_eq!(pending.released(5), Release::Early);
        pending.settle(1..=1);
        assert_eq!(due(&mut pending), [(0x50, 5)]);
        assert_eq!(pending.received().collect::<Vec<_>>(), [5]);
        let mut next = Pending::default();
        next.resume(pending.received());
        assert_eq!(next.arrived(5, ExactlyOnce), Arrival::Acknowledged);
        assert_eq!(next.released(5), Release::Known);
        assert_eq!(next.arrived(5, ExactlyOnce), Arrival::New(1));
    }

    proptest! {
        #[test]
        fn none_is_due_before_all_before_it_are_done(order in Just((1u64..=40).collect::<Vec<_>>()).prop_shuffle()) {
            let mut pending = Pending::default();
            for id in 1..=40u16 {
                pending.arrived(id, AtLeastOnce);
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
