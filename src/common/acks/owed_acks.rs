//! Which messages of a session have been handed over and not acknowledged, and which acknowledgements may go out. PURE.
//!
//! * An acknowledgement goes out with the packet identifier of its message, and in the order in which the
//!   messages came (MQTT-4.6.0-2, MQTT-4.6.0-3): the first that is not settled holds up those behind it.
//! * A broker may send a message again: on the same connection, and on the next one of the same session (MQTT-4.4.0-1).
//!   It is the same message if identifier, QoS, topic and payload are, and if its acknowledgement has not gone
//!   out: until then a broker may not use the identifier for another (section 2.2.1). At QoS 2 that lasts until
//!   PUBREL. Such a message is not handed over again; its acknowledgement goes out on the connection on which it
//!   came last, once it is settled.
//! * A broker that uses an identifier for another message all the same gets an acknowledgement for that only.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::time::Instant;

use crate::common::metrics::histogram::Histogram;
use crate::common::mqtt::acknowledgement::encode_short;
use crate::common::mqtt::packet_type::PacketType;
use crate::common::mqtt::publish::Publish;
use crate::common::mqtt::qos::Qos;

/// Messages remembered after their PUBACK or PUBREL, for a broker that sends one again because the two have crossed.
const MAX_COMPLETED: usize = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishKey {
    pub exchange: Qos2ExchangeKey,
    pub qos: Qos,
    pub dup: bool,
}

impl PublishKey {
    pub fn of(publish: &Publish<'_>) -> Self {
        let exchange = Qos2ExchangeKey {
            packet_id: publish.message.packet_id,
            content_checksum: content_checksum(publish.topic, publish.message.payload),
        };
        let (qos, dup) = (publish.message.qos, publish.dup);
        Self { exchange, qos, dup }
    }

    fn is_same_message(&self, other: &Self) -> bool {
        (self.exchange, self.qos) == (other.exchange, other.qos)
    }
}

/// At QoS 2 this is kept from PUBREC until PUBREL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Qos2ExchangeKey {
    pub packet_id: u16,
    /// [`content_checksum`] of topic and payload.
    pub content_checksum: u64,
}

/// CRC-32 (IEEE 802.3) of topic and payload, and below it their length modulo 2³². It is stored.
pub fn content_checksum(topic: &[u8], payload: &[u8]) -> u64 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(topic);
    // No topic that is handed over has one.
    crc.update(&[0]);
    crc.update(payload);
    let length = (topic.len() + payload.len()) as u64;
    u64::from(crc.finalize()) << 32 | (length & u64::from(u32::MAX))
}

#[derive(Clone, Copy, Debug)]
struct Unacknowledged {
    key: PublishKey,
    /// For the first time.
    received_at: Instant,
    is_settled: bool,
    /// It came on the current connection, and is acknowledged there.
    is_current: bool,
}

/// How far the exchange of a packet identifier is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Unacknowledged(u64),
    /// PUBREC may have gone out, PUBREL is due.
    Received {
        content_checksum: u64,
        /// PUBREC has gone out on the current connection.
        is_current: bool,
        is_restored: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceivedPublishKind {
    /// It is new; its number in the run, from 1.
    New(u64),
    Repeated,
    /// It has come before and has been acknowledged: the acknowledgement goes out again (MQTT-4.3.3-10).
    Acknowledged,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceivedPubrelKind {
    /// PUBCOMP follows.
    Known,
    /// PUBCOMP follows, with MQTT 5 and the reason code 0x92.
    Unknown,
    /// Its message has not been acknowledged: the broker may not have sent it (MQTT-4.3.3-6).
    BeforePubrec,
    /// It came on a connection that has been given up: nothing follows.
    OldConnection,
}

#[derive(Debug, Default)]
pub struct OwedAcks {
    unacknowledged: BTreeMap<u64, Unacknowledged>,
    last_number: u64,
    /// The numbers of those that came on the current connection, in that order. Some may not be waiting any more.
    order: VecDeque<u64>,
    stages: HashMap<u16, Stage>,
    due_pubrels: usize,
    /// The last messages that were completed on it.
    completed: VecDeque<PublishKey>,
    /// Seconds from the arrival of a message to its acknowledgement. None if nobody wants to know.
    pub ack_times: Option<Histogram>,
}

impl OwedAcks {
    pub fn handle_publish(&mut self, key: PublishKey, now: Instant) -> ReceivedPublishKind {
        let was_completed = self.was_completed(&key);
        match self.stages.get_mut(&key.exchange.packet_id) {
            Some(Stage::Unacknowledged(number)) => {
                let number = *number;
                if let Some(message) = self.unacknowledged.get_mut(&number)
                    && message.key.is_same_message(&key)
                {
                    if !std::mem::replace(&mut message.is_current, true) {
                        self.order.push_back(number);
                    }
                    return ReceivedPublishKind::Repeated;
                }
                // Its acknowledgement would be one for the new message.
                self.unacknowledged.remove(&number);
            }
            Some(Stage::Received {
                content_checksum,
                is_current,
                ..
            }) if key.qos == Qos::ExactlyOnce
                && *content_checksum == key.exchange.content_checksum =>
            {
                self.due_pubrels += usize::from(!std::mem::replace(is_current, true));
                return ReceivedPublishKind::Acknowledged;
            }
            // The identifier of a QoS 2 message is free only after PUBREL; another message with it
            // shows that the broker has forgotten the first.
            Some(Stage::Received { is_current, .. }) => {
                self.due_pubrels -= usize::from(*is_current);
            }
            None if was_completed => {
                if key.qos == Qos::ExactlyOnce {
                    self.await_pubrel(key);
                }
                return ReceivedPublishKind::Acknowledged;
            }
            None => {}
        }
        self.last_number += 1;
        let number = self.last_number;
        let message = Unacknowledged {
            key,
            received_at: now,
            is_settled: false,
            is_current: true,
        };
        self.unacknowledged.insert(number, message);
        self.order.push_back(number);
        self.stages
            .insert(key.exchange.packet_id, Stage::Unacknowledged(number));
        ReceivedPublishKind::New(number)
    }

    /// Whether the message has been completed on this connection. On one connection nothing is lost in between,
    /// so a message with the DUP flag is the last one with its identifier.
    fn was_completed(&self, key: &PublishKey) -> bool {
        let mut latest = self.completed.iter().rev();
        key.dup
            && latest
                .find(|other| other.exchange.packet_id == key.exchange.packet_id)
                .is_some_and(|last| last.is_same_message(key))
    }

    fn remember_completed(&mut self, key: PublishKey) {
        if self.completed.len() >= MAX_COMPLETED {
            self.completed.pop_front();
        }
        self.completed.push_back(key);
    }

    /// A message could not be handed over: it is to come again.
    pub fn withdraw(&mut self, packet_id: u16) {
        if let Some(Stage::Unacknowledged(number)) = self.stages.get(&packet_id) {
            self.unacknowledged.remove(number);
            self.stages.remove(&packet_id);
        }
    }

    pub fn handle_pubrel(&mut self, packet_id: u16) -> ReceivedPubrelKind {
        match self.stages.get(&packet_id) {
            Some(Stage::Unacknowledged(_)) => ReceivedPubrelKind::BeforePubrec,
            Some(&Stage::Received {
                content_checksum,
                is_current,
                ..
            }) => {
                self.due_pubrels -= usize::from(is_current);
                self.stages.remove(&packet_id);
                let (qos, dup) = (Qos::ExactlyOnce, false);
                let exchange = Qos2ExchangeKey {
                    packet_id,
                    content_checksum,
                };
                self.remember_completed(PublishKey { exchange, qos, dup });
                ReceivedPubrelKind::Known
            }
            None => ReceivedPubrelKind::Unknown,
        }
    }

    pub fn mark_settled(&mut self, numbers: RangeInclusive<u64>) {
        for (_, message) in self.unacknowledged.range_mut(numbers) {
            message.is_settled = true;
        }
    }

    pub fn has_unacknowledged(&self) -> bool {
        !self.order.is_empty()
    }

    /// Whether a message is settled and not acknowledged. `elsewhere` leaves out those of the current connection.
    pub fn has_unsent_ack(&self, elsewhere: bool) -> bool {
        let mut messages = self.unacknowledged.values();
        messages.any(|message| message.is_settled && !(elsewhere && message.is_current))
    }

    /// Whether a QoS 2 message that was settled in this run is not completed: its PUBREC can go out or has gone out.
    pub fn has_open_exchange(&self) -> bool {
        let is_open =
            |stage: &Stage| matches!(stage, Stage::Received { is_restored, .. } if !is_restored);
        let next = self.order.iter().filter_map(|n| self.unacknowledged.get(n));
        let mut due = next.take_while(|message| message.is_settled);
        self.stages.values().any(is_open) || due.any(|message| message.key.qos == Qos::ExactlyOnce)
    }

    pub fn is_any_pubrel_due(&self) -> bool {
        self.due_pubrels > 0
    }

    /// Appends the acknowledgements that may go out: PUBACK or PUBREC, in order.
    pub fn append_acks(&mut self, out: &mut Vec<u8>, now: Instant) {
        while let Some(number) = self.order.front() {
            match self.unacknowledged.get(number) {
                Some(message) if !message.is_settled => return,
                Some(&Unacknowledged {
                    key, received_at, ..
                }) => {
                    self.unacknowledged.remove(number);
                    if let Some(times) = &mut self.ack_times {
                        times.observe(now.saturating_duration_since(received_at).as_secs_f64());
                    }
                    let packet = self.acknowledge(key);
                    out.extend(encode_short(packet, key.exchange.packet_id));
                }
                None => {}
            }
            self.order.pop_front();
        }
    }

    fn acknowledge(&mut self, key: PublishKey) -> PacketType {
        if key.qos == Qos::ExactlyOnce {
            self.await_pubrel(key);
            return PacketType::Pubrec;
        }
        self.stages.remove(&key.exchange.packet_id);
        self.remember_completed(key);
        PacketType::Puback
    }

    fn await_pubrel(&mut self, key: PublishKey) {
        let stage = Stage::Received {
            content_checksum: key.exchange.content_checksum,
            is_current: true,
            is_restored: false,
        };
        self.stages.insert(key.exchange.packet_id, stage);
        self.due_pubrels += 1;
    }

    /// Another connection begins: a message is acknowledged on it only if it comes on it.
    pub fn begin_connection(&mut self) {
        self.order.clear();
        self.completed.clear();
        self.due_pubrels = 0;
        for message in self.unacknowledged.values_mut() {
            message.is_current = false;
        }
        for stage in self.stages.values_mut() {
            if let Stage::Received { is_current, .. } = stage {
                *is_current = false;
            }
        }
    }

    /// The broker has no session of an earlier connection: nothing that came on one is acknowledged any more.
    pub fn forget_session(&mut self) {
        *self = Self {
            last_number: self.last_number,
            ack_times: self.ack_times.take(),
            ..Self::default()
        };
    }

    pub fn restore_exchanges(&mut self, exchanges: impl IntoIterator<Item = Qos2ExchangeKey>) {
        for exchange in exchanges {
            let stage = Stage::Received {
                content_checksum: exchange.content_checksum,
                is_current: false,
                is_restored: true,
            };
            self.stages.insert(exchange.packet_id, stage);
        }
    }
}

#[cfg(test)]
mod tests;
