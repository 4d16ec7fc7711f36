//! Checks and handles every packet of the broker.
//!
//! A packet that does not fit the specification, the state of the connection or what we have sent
//! ends the connection. A message goes to its receiver, and is acknowledged once it has been processed; an answer
//! goes to the client library, rewritten so that it has no more in it than the library needs. So the library never
//! gets a message, and nothing malformed.

use log::warn;

use super::event::EndReason;
use super::packet_buffer::ReadError;
use super::receiver::{OutOfMemory, Receiver, Released, SkippedMessage};
use crate::common::acks::ConnectionAcks;
use crate::common::acks::pending::{PublishStatus, PubrelStatus};
use crate::common::escape::shortened;
use crate::common::mqtt::acknowledgement::{Acknowledgement, encode_short};
use crate::common::mqtt::awaited_answers::{AnswerAction, AwaitedAnswers};
use crate::common::mqtt::connack::{self, Connack, ConnectAnswer};
use crate::common::mqtt::disconnect;
use crate::common::mqtt::framing::{PINGRESP, SentPacket};
use crate::common::mqtt::packet_type::PacketType;
use crate::common::mqtt::publish::Publish;
use crate::common::mqtt::qos::Qos;
use crate::common::mqtt::reason_code::{FIRST_ERROR, PACKET_IDENTIFIER_NOT_FOUND};
use crate::common::mqtt::violation::Violation;

/// What our CONNECT says.
#[derive(Clone, Copy, Debug)]
pub struct ConnectParameters {
    /// MQTT 5, not 3.1.1.
    pub v5: bool,
    /// A new session is asked for.
    pub clean: bool,
    /// Maximum Packet Size in bytes.
    pub max_packet: u32,
}

pub(super) struct PacketHandler<'a> {
    parameters: ConnectParameters,
    receiver: Option<&'a Receiver>,
    awaited: AwaitedAnswers,
    is_connected: bool,
    /// PINGREQs of the client library that have not been answered.
    pings: u32,
    /// The user has been warned of messages that nobody subscribed to.
    has_warned: bool,
}

/// What is to be done after packets have been handled. The bytes are whole packets.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) to_library: Vec<u8>,
    pub(super) to_broker: Vec<u8>,
    /// The broker has accepted the connection.
    pub(super) accepted: Option<Connack>,
    /// With MQTT 3.1.1.
    pub(super) refused_subscriptions: usize,
    /// Packet identifiers whose PUBCOMP is due.
    released: Vec<u16>,
}

enum Failure {
    Violation(Violation),
    End(EndReason),
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

impl<'a> PacketHandler<'a> {
    pub(super) fn new(parameters: ConnectParameters, receiver: Option<&'a Receiver>) -> Self {
        Self {
            parameters,
            receiver,
            awaited: AwaitedAnswers::default(),
            is_connected: false,
            pings: 0,
            has_warned: false,
        }
    }

    pub(super) fn acks(&self) -> Option<&'a ConnectionAcks> {
        self.receiver.map(|receiver| &*receiver.acks)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.is_connected
    }

    /// A packet of the client library goes to the broker.
    pub(super) fn handle_sent(&mut self, packet: SentPacket) {
        if PacketType::of(packet.first) == Some(PacketType::Pingreq) {
            self.pings += 1;
        } else {
            // A check subscribes and ignores the messages.
            self.has_warned |= PacketType::of(packet.first) == Some(PacketType::Subscribe);
            self.awaited.handle_sent(packet);
        }
    }

    /// Whether the broker has to answer something.
    pub(super) fn is_answer_due(&self) -> bool {
        self.pings > 0 || self.awaited.is_any_due()
    }

    /// Bytes have come from the broker, or none are read while too many messages wait: that is
    /// answer enough, since a PINGRESP may stand behind a large message.
    pub(super) fn answer_pings(&mut self, to_library: &mut Vec<u8>) {
        if std::mem::take(&mut self.pings) > 0 {
            to_library.extend(PINGRESP);
        }
    }

    pub(super) fn end_for(&self, error: ReadError) -> EndReason {
        match error {
            ReadError::Violation(violation) => self.violation(violation),
            ReadError::NoMemory(size) => EndReason::NoMemory(size),
        }
    }

    fn violation(&self, violation: Violation) -> EndReason {
        if self.is_connected {
            EndReason::Violation(violation)
        } else {
            EndReason::NoConnack(violation)
        }
    }

    /// Whether a broker may send a packet with this first byte now.
    pub(super) fn check_first_byte(&self, first: u8) -> Result<PacketType, EndReason> {
        let Some(packet) = PacketType::of(first) else {
            let violation = Violation::malformed("the type 0 is reserved");
            return Err(self.violation(violation));
        };
        self.check_type(packet, first & 0x0f)
            .map(|()| packet)
            .map_err(|violation| self.violation(violation.in_packet(Some(packet))))
    }

    fn check_type(&self, packet: PacketType, flags: u8) -> Result<(), Violation> {
        let v5 = self.parameters.v5;
        let required = match packet {
            PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe => 2,
            _ => 0,
        };
        if packet != PacketType::Publish && flags != required {
            return Err(Violation::malformed(format!("its flags are {flags:#x}")));
        }
        let error = match packet {
            PacketType::Connect
            | PacketType::Subscribe
            | PacketType::Unsubscribe
            | PacketType::Pingreq => "only a client may send it",
            PacketType::Disconnect if !v5 => "only a client may send it",
            PacketType::Auth if !v5 => return Err(Violation::malformed("the type 15 is reserved")),
            PacketType::Auth => "no authentication method was agreed",
            PacketType::Connack if self.is_connected => "a second one",
            PacketType::Connack => return Ok(()),
            _ if !self.is_connected => "it comes before CONNACK",
            _ => return Ok(()),
        };
        Err(Violation::protocol_error(error))
    }

    pub(super) fn handle_packet(
        &mut self,
        first: u8,
        body: &[u8],
        effects: &mut Effects,
    ) -> Result<(), EndReason> {
        let packet = self.check_first_byte(first)?;
        let handled = match packet {
            PacketType::Connack => self.handle_connack(body, effects),
            PacketType::Publish => self.handle_publish(first, body, effects),
            PacketType::Pubrel => self.handle_pubrel(body, effects),
            PacketType::Pingresp if body.is_empty() => Ok(()),
            PacketType::Pingresp => Err(Violation::malformed("it has contents").into()),
            PacketType::Disconnect => disconnect::decode(body)
                .map_err(Failure::Violation)
                .and_then(|reason| Err(Failure::End(EndReason::Disconnected(reason)))),
            _ => self.handle_answer(packet, body, effects),
        };
        handled.map_err(|failure| match failure {
            Failure::Violation(violation) => self.violation(violation.in_packet(Some(packet))),
            Failure::End(end) => end,
        })
    }

    fn handle_connack(&mut self, body: &[u8], effects: &mut Effects) -> Result<(), Failure> {
        let ConnectParameters { v5, clean, .. } = self.parameters;
        let connack = match connack::decode(body, v5, clean)? {
            ConnectAnswer::Accepted(connack) => connack,
            ConnectAnswer::Refused(reason) => return Err(Failure::End(EndReason::Refused(reason))),
            ConnectAnswer::OlderVersion(reason) => {
                return Err(Failure::End(EndReason::OlderVersion(reason)));
            }
        };
        self.is_connected = true;
        if let Some(receiver) = self.receiver.filter(|_| !connack.session_present) {
            receiver.acks.begin_session();
            // If it cannot be forgotten the run is ending.
            (receiver.on_released)(Released::Session);
        }
        connack.encode(v5, &mut effects.to_library);
        effects.accepted = Some(connack);
        Ok(())
    }

    fn handle_publish(
        &mut self,
        first: u8,
        body: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        let publish = Publish::decode(first, body, self.parameters.v5)?;
        let Some(receiver) = self.receiver else {
            self.drop_message(&publish, effects);
            return Ok(());
        };
        let ticket = match receiver.acks.handle_publish(&publish) {
            Ok(ticket) => ticket,
            Err(PublishStatus::Acknowledged) => {
                acknowledge(&publish, effects);
                return Ok(());
            }
            Err(_) => return Ok(()),
        };
        if let Some(defect) = publish.defect {
            ticket.settle();
            (receiver.on_skipped)(SkippedMessage {
                topic: publish.topic,
                defect,
            });
            return Ok(());
        }
        (receiver.on_message)(&publish.message, ticket).map_err(|OutOfMemory| {
            receiver.acks.withdraw(publish.message.packet_id);
            Failure::End(EndReason::NoMemory(body.len()))
        })
    }

    /// There is no receiver: a publisher, which subscribes to nothing, or a check.
    fn drop_message(&mut self, publish: &Publish<'_>, effects: &mut Effects) {
        if !std::mem::replace(&mut self.has_warned, true) {
            let topic = shortened(&String::from_utf8_lossy(publish.topic));
            warn!(
                "the broker sends messages that were not asked for (topic {topic:?}); they are dropped"
            );
        }
        acknowledge(publish, effects);
    }

    fn handle_pubrel(&mut self, body: &[u8], effects: &mut Effects) -> Result<(), Failure> {
        let v5 = self.parameters.v5;
        let id = Acknowledgement::decode(PacketType::Pubrel, body, v5)?.packet_id;
        match self.acks().map(|acks| acks.handle_pubrel(id)) {
            Some(PubrelStatus::BeforePubrec) => {
                let cause = format!("PUBREC with the packet identifier {id} has not been sent");
                return Err(Violation::protocol_error(cause).into());
            }
            Some(PubrelStatus::Known) => effects.released.push(id),
            Some(PubrelStatus::OldConnection) => {}
            Some(PubrelStatus::Unknown) if v5 => {
                let [high, low] = id.to_be_bytes();
                let first = PacketType::Pubcomp.first_byte(0);
                let packet = [first, 3, high, low, PACKET_IDENTIFIER_NOT_FOUND];
                effects.to_broker.extend(packet);
            }
            _ => {
                let pubcomp = encode_short(PacketType::Pubcomp, id);
                effects.to_broker.extend(pubcomp);
            }
        }
        Ok(())
    }

    /// Several packets have been handled: does what is due once for all of them.
    pub(super) fn finish(&self, effects: &mut Effects) {
        let released = std::mem::take(&mut effects.released);
        if released.is_empty() {
            return;
        }
        let ended = Released::PacketIds(&released);
        if self.receiver.is_none_or(|to| (to.on_released)(ended)) {
            let pubcomps = released
                .iter()
                .flat_map(|id| encode_short(PacketType::Pubcomp, *id));
            effects.to_broker.extend(pubcomps);
        }
    }

    fn handle_answer(
        &mut self,
        packet: PacketType,
        body: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        let v5 = self.parameters.v5;
        let mut answer = Acknowledgement::decode(packet, body, v5)?;
        if packet == PacketType::Pubcomp {
            // After PUBREC the broker has the message; that it has forgotten the identifier since
            // is no error (MQTT 5.0 section 2.4, reason code 0x92).
            answer.code = 0;
        }
        match self.awaited.handle_answer(&answer)? {
            AnswerAction::Forward => {
                let is_refused = packet == PacketType::Suback && answer.code >= FIRST_ERROR;
                effects.refused_subscriptions += usize::from(is_refused && !v5);
                answer.encode(v5, &mut effects.to_library);
            }
            AnswerAction::ResendPubrel => {
                let pubrel = encode_short(PacketType::Pubrel, answer.packet_id);
                effects.to_broker.extend(pubrel);
            }
            AnswerAction::Ignore => {}
        }
        Ok(())
    }
}

fn acknowledge(publish: &Publish<'_>, effects: &mut Effects) {
    let packet = match publish.message.qos {
        Qos::AtMostOnce => return,
        Qos::AtLeastOnce => PacketType::Puback,
        Qos::ExactlyOnce => PacketType::Pubrec,
    };
    let packet = encode_short(packet, publish.message.packet_id);
    effects.to_broker.extend(packet);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::acks::{Backlog, Ticket};
    use parking_lot::Mutex;
    use std::sync::Arc;

    const V5: ConnectParameters = ConnectParameters {
        v5: true,
        clean: true,
        max_packet: 1 << 20,
    };

    /// A receiver that keeps payloads, and the tickets of those that it has not settled.
    type Kept = Arc<Mutex<Vec<(Vec<u8>, Ticket)>>>;

    fn receiver(kept: &Kept, skipped: &Arc<Mutex<u32>>) -> Receiver {
        let (kept, skipped) = (Arc::clone(kept), Arc::clone(skipped));
        Receiver {
            on_message: Arc::new(move |message, ticket| {
                if message.payload == b"large" {
                    return Err(OutOfMemory);
                }
                kept.lock().push((message.payload.to_vec(), ticket));
                Ok(())
            }),
            on_skipped: Arc::new(move |_| *skipped.lock() += 1),
            on_released: Arc::new(|_| true),
            acks: Arc::new(Backlog::default()).begin_connection().unwrap(),
        }
    }

    fn connected(receiver: Option<&Receiver>) -> (PacketHandler<'_>, Effects) {
        let mut handler = PacketHandler::new(V5, receiver);
        let mut effects = Effects::default();
        handler
            .handle_packet(0x20, &[0, 0, 0], &mut effects)
            .unwrap();
        assert!(effects.accepted.take().is_some());
        effects.to_library.clear();
        (handler, effects)
    }

    fn due(receiver: &Receiver) -> Vec<u8> {
        let mut out = Vec::new();
        receiver.acks.poll_acks(&mut out);
        out
    }

    #[test]
    fn a_message_is_handed_over_once_and_acknowledged_when_it_is_settled() {
        let (kept, skipped) = (Arc::default(), Arc::default());
        let receiver = receiver(&kept, &skipped);
        let (mut handler, mut effects) = connected(Some(&receiver));
        for _ in 0..2 {
            handler
                .handle_packet(0x32, b"\0\x01t\0\x07\0job", &mut effects)
                .unwrap();
        }
        let (payload, ticket) = kept.lock().remove(0);
        assert_eq!(payload, b"job");
        assert!(kept.lock().is_empty(), "the second is the same");
        assert_eq!(due(&receiver), b"");
        ticket.settle();
        assert_eq!(due(&receiver), [0x40, 2, 0, 7]);
        assert_eq!((effects.to_library, effects.to_broker), (vec![], vec![]));
    }

    #[test]
    fn without_memory_a_message_stays_unacknowledged_and_ends_the_connection() {
        let (kept, skipped) = (Arc::default(), Arc::default());
        let receiver = receiver(&kept, &skipped);
        let (mut handler, mut effects) = connected(Some(&receiver));
        for _ in 0..2 {
            // The second is not taken for one that has been handed over.
            let end = handler.handle_packet(0x32, b"\0\x01t\0\x07\0large", &mut effects);
            assert!(matches!(end, Err(EndReason::NoMemory(_))), "{end:?}");
            assert_eq!(due(&receiver), b"");
        }
    }

    #[test]
    fn a_message_with_invalid_text_is_acknowledged_and_skipped() {
        let (kept, skipped) = (Arc::default(), Arc::default());
        let receiver = receiver(&kept, &skipped);
        let (mut handler, mut effects) = connected(Some(&receiver));
        handler
            .handle_packet(0x32, b"\0\x01\0\0\x07\0x", &mut effects)
            .unwrap();
        handler
            .handle_packet(0x34, b"\0\x01\xff\0\x08\0x", &mut effects)
            .unwrap();
        assert_eq!((kept.lock().len(), *skipped.lock()), (0, 2));
        assert_eq!(due(&receiver), [0x40, 2, 0, 7, 0x50, 2, 0, 8]);
        handler.handle_packet(0x62, &[0, 8], &mut effects).unwrap();
        handler.finish(&mut effects);
        assert_eq!(effects.to_broker, [0x70, 2, 0, 8]);
    }

    #[test]
    fn pubcomp_goes_out_only_after_its_exchange_is_forgotten() {
        for forgets in [true, false] {
            let (kept, skipped) = (Arc::default(), Arc::default());
            let ended = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&ended);
            let receiver = Receiver {
                on_released: Arc::new(move |what| {
                    let Released::PacketIds(ids) = what else {
                        return true;
                    };
                    seen.lock().push(ids.to_vec());
                    forgets
                }),
                ..receiver(&kept, &skipped)
            };
            let (mut handler, mut effects) = connected(Some(&receiver));
            for id in 1..=2 {
                let publish = [0, 1, b't', 0, id, 0, id];
                handler.handle_packet(0x34, &publish, &mut effects).unwrap();
            }
            for (_, ticket) in kept.lock().drain(..) {
                ticket.settle();
            }
            due(&receiver);
            for id in 1..=2 {
                handler.handle_packet(0x62, &[0, id], &mut effects).unwrap();
            }
            handler.finish(&mut effects);
            handler.finish(&mut effects);
            assert_eq!(*ended.lock(), [[1, 2]]);
            let pubcomps: &[u8] = &[0x70, 2, 0, 1, 0x70, 2, 0, 2];
            assert_eq!(effects.to_broker, if forgets { pubcomps } else { b"" });
        }
    }

    #[test]
    fn the_client_library_gets_the_answers_that_are_due_and_no_others() {
        let (mut handler, mut effects) = connected(None);
        handler.handle_sent(SentPacket {
            first: 0x32,
            packet_id: 1,
        });
        let wrong = handler.handle_packet(0x70, &[0, 1], &mut effects);
        assert!(matches!(wrong, Err(EndReason::Violation(_))), "{wrong:?}");
        assert_eq!(effects.to_library, b"");
        let property = [0, 1, 0x87, 4, 0x1f, 0, 1, 0];
        handler
            .handle_packet(0x40, &property, &mut effects)
            .unwrap();
        assert_eq!(effects.to_library, [0x40, 4, 0, 1, 0x87, 0]);
    }

    #[test]
    fn after_pubrec_a_message_is_delivered_whatever_code_pubcomp_has() {
        let (mut handler, mut effects) = connected(None);
        handler.handle_sent(SentPacket {
            first: 0x34,
            packet_id: 1,
        });
        handler.handle_packet(0x50, &[0, 1], &mut effects).unwrap();
        handler.handle_sent(SentPacket {
            first: 0x62,
            packet_id: 1,
        });
        handler
            .handle_packet(0x70, &[0, 1, 0x92], &mut effects)
            .unwrap();
        assert_eq!(effects.to_library, [0x50, 2, 0, 1, 0x70, 2, 0, 1]);
    }

    #[test]
    fn a_publisher_drops_messages() {
        let (mut handler, mut effects) = connected(None);
        handler
            .handle_packet(0x34, b"\0\x01t\0\x07\0x", &mut effects)
            .unwrap();
        assert_eq!(effects.to_broker, [0x50, 2, 0, 7]);
        assert_eq!(effects.to_library, b"");
    }

    #[test]
    fn a_packet_that_only_a_client_may_send_is_refused_at_its_first_byte() {
        let (handler, _) = connected(None);
        for first in [0x10, 0x82, 0xa2, 0xc0, 0xf0, 0x00, 0x20, 0x41, 0x60] {
            assert!(handler.check_first_byte(first).is_err(), "{first:#x}");
        }
        assert!(
            handler.check_first_byte(0x3f).is_ok(),
            "its contents decide"
        );
    }
}
