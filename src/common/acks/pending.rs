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

use crate::common::mqtt::message::Qos;
use crate::common::mqtt::packet_type::PacketType;

/// Messages remembered after their PUBACK or PUBREL, for a broker that sends one again because the two have crossed.
const MAX_COMPLETED: usize = 1_024;

/// What tells one PUBLISH above QoS 0 from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishKey {
    /// The packet identifier.
    pub id: u16,
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
        /// An earlier run has left it.
        restored: bool,
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
    /// Identifier, QoS and fingerprint of the last messages that were completed on it.
    completed: VecDeque<(u16, Qos, u64)>,
}

impl Pending {
    /// A PUBLISH above QoS 0 has come.
    pub fn arrived(&mut self, key: PublishKey) -> Arrival {
        let was_completed = self.was_completed(key);
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
            Some(Stage::Received {
                fingerprint, here, ..
            }) if key.qos == Qos::ExactlyOnce && *fingerprint == key.fingerprint => {
                self.unreleased += usize::from(!std::mem::replace(here, true));
                return Arrival::Acknowledged;
            }
            // The identifier of a QoS 2 message is free only after PUBREL; another message with it
            // shows that the broker has forgotten the first.
            Some(Stage::Received { here, .. }) => self.unreleased -= usize::from(*here),
            None if was_completed => {
                if key.qos == Qos::ExactlyOnce {
                    self.await_release(key);
                }
                return Arrival::Acknowledged;
            }
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

    /// Whether a message is one that has been completed on this connection. On one connection nothing
    /// is lost in between, so a message that is marked as sent before is the last one with its identifier.
    fn was_completed(&self, key: PublishKey) -> bool {
        let mut latest = self.completed.iter().rev();
        key.dup
            && latest
                .find(|(id, ..)| *id == key.id)
                .is_some_and(|(_, qos, fingerprint)| {
                    (*qos, *fingerprint) == (key.qos, key.fingerprint)
                })
    }

    fn complete(&mut self, id: u16, qos: Qos, fingerprint: u64) {
        if self.completed.len() >= MAX_COMPLETED {
            self.completed.pop_front();
        }
        self.completed.push_back((id, qos, fingerprint));
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
            Some(&Stage::Received {
                fingerprint, here, ..
            }) => {
                self.unreleased -= usize::from(here);
                self.stages.remove(&id);
                self.complete(id, Qos::ExactlyOnce, fingerprint);
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
    pub fn are_due_later(&self) -> bool {
        !self.order.is_empty()
    }

    /// Whether a message has been dealt with and not been acknowledged. `elsewhere` leaves out what has come on
    /// the current connection.
    pub fn has_settled(&self, elsewhere: bool) -> bool {
        let mut waiting = self.waiting.values();
        waiting.any(|waiting| waiting.settled && !(elsewhere && waiting.here))
    }

    /// Whether a QoS 2 message that has been dealt with in this run is not completed: its PUBREC can go out now, or has
    /// gone out on this connection or an earlier one.
    pub fn is_uncompleted(&self) -> bool {
        let mut stages = self.stages.values();
        let is_open = |stage: &Stage| {
            matches!(
                stage,
                Stage::Received {
                    restored: false,
                    ..
                }
            )
        };
        let next = self.order.iter().filter_map(|n| self.waiting.get(n));
        let mut due = next.take_while(|waiting| waiting.settled);
        stages.any(is_open) || due.any(|waiting| waiting.key.qos == Qos::ExactlyOnce)
    }

    /// Whether PUBRELs are due on this connection.
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
            self.await_release(key);
            return PacketType::Pubrec;
        }
        self.stages.remove(&id);
        self.complete(id, key.qos, fingerprint);
        PacketType::Puback
    }

    /// PUBREC goes out.
    fn await_release(&mut self, key: PublishKey) {
        let stage = Stage::Received {
            fingerprint: key.fingerprint,
            here: true,
            restored: false,
        };
        self.stages.insert(key.id, stage);
        self.unreleased += 1;
    }

    /// Another connection begins: what is to be acknowledged on it has to come on it.
    pub fn begin_connection(&mut self) {
        self.order.clear();
        self.completed.clear();
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
            let stage = Stage::Received {
                fingerprint,
                here: false,
                restored: true,
            };
            self.stages.insert(id, stage);
        }
    }
}

#[cfg(test)]
mod tests;
