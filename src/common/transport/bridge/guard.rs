//! Looks at every packet of the broker before anybody else does.
//!
//! A packet that does not fit the specification, the state of the connection or what we have sent
//! ends the connection. What fits goes to whom it is for: a message to its receiver, which the guard
//! acknowledges once it has been dealt with; an answer to the client library, rewritten so that it has
//! no more in it than the library needs. So the library never sees a message, and nothing
//! malformed.

use log::warn;

use super::End;
use super::incoming::{NoMemory, Unreadable};
use super::receiver::{Ended, OutOfMemory, Receiver, Skipped};
use crate::common::acks::ConnectionAcks;
use crate::common::acks::pending::{PublishStatus, PubrelStatus};
use crate::common::escape::shortened;
use crate::common::mqtt::acknowledgement::Acknowledgement;
use crate::common::mqtt::awaited_answers::{AnswerAction, AwaitedAnswers};
use crate::common::mqtt::connack::{self, Connack, ConnectAnswer};
use crate::common::mqtt::disconnect;
use crate::common::mqtt::framing::{PINGRESP, SentPacket};
use crate::common::mqtt::message::Qos;
use crate::common::mqtt::packet_type::PacketType;
use crate::common::mqtt::publish::Publish;
use crate::common::mqtt::reason_code::{FIRST_ERROR, PACKET_IDENTIFIER_NOT_FOUND};
use crate::common::mqtt::violation::Violation;

/// What both sides have said in CONNECT.
#[derive(Clone, Copy, Debug)]
pub struct Agreement {
    /// MQTT 5, not 3.1.1.
    pub v5: bool,
    /// A new session was asked for.
    pub clean: bool,
    /// The Maximum Packet Size that the broker was told, in bytes.
    pub max_packet: u32,
}

/// The guard of one connection.
pub(super) struct Guard<'a> {
    agreement: Agreement,
    receiver: Option<&'a Receiver>,
    awaited: AwaitedAnswers,
    /// CONNACK has come.
    connected: bool,
    /// PINGREQs of the client library that have not been answered.
    pings: u32,
    /// The user has been warned of messages that nobody asked for.
    warned: bool,
}

/// What follows from a packet.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// To be handed to the client library, whole packets.
    pub(super) to_library: Vec<u8>,
    /// To be sent to the broker, whole packets.
    pub(super) to_broker: Vec<u8>,
    /// The broker has accepted the connection.
    pub(super) accepted: Option<Connack>,
    /// A SUBSCRIBE of MQTT 3.1.1 was refused.
    pub(super) refused_subscriptions: usize,
    /// Packet identifiers whose PUBCOMP is due.
    released: Vec<u16>,
}

impl<'a> Guard<'a> {
    pub(super) fn new(agreement: Agreement, receiver: Option<&'a Receiver>) -> Self {
        Self {
            agreement,
            receiver,
            awaited: AwaitedAnswers::default(),
            connected: false,
            pings: 0,
            warned: false,
        }
    }

    pub(super) fn agreement(&self) -> Agreement {
        self.agreement
    }

    pub(super) fn acks(&self) -> Option<&'a ConnectionAcks> {
        self.receiver.map(|receiver| &*receiver.acks)
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    /// A packet of the client library's is on its way to the broker.
    pub(super) fn sent(&mut self, packet: SentPacket) {
        if PacketType::of(packet.first) == Some(PacketType::Pingreq) {
            self.pings += 1;
        } else {
            // Whoever subscribes asks for messages, though nobody may look at them: a check.
            self.warned |= PacketType::of(packet.first) == Some(PacketType::Subscribe);
            self.awaited.handle_sent(packet);
        }
    }

    /// Whether the broker has to answer something.
    pub(super) fn is_waiting(&self) -> bool {
        self.pings > 0 || self.awaited.is_any_due()
    }

    /// Whether the client library waits for a PINGRESP.
    pub(super) fn owes_pingresp(&self) -> bool {
        self.pings > 0
    }

    /// Bytes have come from the broker, or none are read while too many messages wait: that is
    /// answer enough, since a PINGRESP may stand behind a large message.
    pub(super) fn answer_pings(&mut self, to_library: &mut Vec<u8>) {
        if std::mem::take(&mut self.pings) > 0 {
            to_library.extend(PINGRESP);
        }
    }

    /// What an unreadable stream comes to.
    pub(super) fn unreadable(&self, unreadable: Unreadable) -> End {
        match unreadable {
            Unreadable::Violation(violation) => self.violation(violation),
            Unreadable::NoMemory(NoMemory { size }) => End::NoMemory(size),
        }
    }

    fn violation(&self, violation: Violation) -> End {
        if self.connected {
            End::Violation(violation)
        } else {
            End::NoConnack(violation)
        }
    }

    /// Looks at the first byte of a packet: whether a broker may send such a one, and now.
    pub(super) fn admit(&self, first: u8) -> Result<PacketType, End> {
        let Some(packet) = PacketType::of(first) else {
            let violation = Violation::malformed("the type 0 is reserved");
            return Err(self.violation(violation));
        };
        self.check_first(packet, first)
            .map(|()| packet)
            .map_err(|violation| self.violation(violation.in_packet(Some(packet))))
    }

    fn check_first(&self, packet: PacketType, first: u8) -> Result<(), Violation> {
        let v5 = self.agreement.v5;
        let is_client_s = match packet {
            PacketType::Connect
            | PacketType::Subscribe
            | PacketType::Unsubscribe
            | PacketType::Pingreq => true,
            PacketType::Disconnect => !v5,
            _ => false,
        };
        let flags = first & 0x0f;
        let wanted = match packet {
            PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe => 2,
            _ => 0,
        };
        if packet != PacketType::Publish && flags != wanted {
            return Err(Violation::malformed(format!("its flags are {flags:#x}")));
        }
        if is_client_s {
            return Err(Violation::protocol_error("only a client may send it"));
        }
        match packet {
            PacketType::Auth if !v5 => Err(Violation::malformed("the type 15 is reserved")),
            PacketType::Auth => Err(Violation::protocol_error(
                "no authentication method was agreed",
            )),
            PacketType::Connack if self.connected => Err(Violation::protocol_error("a second one")),
            PacketType::Connack => Ok(()),
            _ if !self.connected => Err(Violation::protocol_error("it comes before CONNACK")),
            _ => Ok(()),
        }
    }

    /// Looks at a packet.
    pub(super) fn take(
        &mut self,
        first: u8,
        body: &[u8],
        effects: &mut Effects,
    ) -> Result<(), End> {
        let packet = self.admit(first)?;
        let taken = match packet {
            PacketType::Connack => self.take_connack(body, effects),
            PacketType::Publish => self.take_publish(first, body, effects),
            PacketType::Pubrel => self.take_pubrel(body, effects),
            PacketType::Pingresp if body.is_empty() => Ok(()),
            PacketType::Pingresp => Err(Violation::malformed("it has contents").into()),
            PacketType::Disconnect => disconnect::decode(body)
                .map_err(Failure::Violation)
                .and_then(|diagnosis| Err(Failure::End(End::Disconnected(diagnosis)))),
            _ => self.take_answer(packet, body, effects),
        };
        taken.map_err(|failure| match failure {
            Failure::Violation(violation) => self.violation(violation.in_packet(Some(packet))),
            Failure::End(end) => end,
        })
    }

    fn take_connack(&mut self, body: &[u8], effects: &mut Effects) -> Result<(), Failure> {
        let Agreement { v5, clean, .. } = self.agreement;
        let connack = match connack::decode(body, v5, clean)? {
            ConnectAnswer::Accepted(connack) => connack,
            ConnectAnswer::Refused(diagnosis) => return Err(Failure::End(End::Refused(diagnosis))),
            ConnectAnswer::OlderVersion(diagnosis) => {
                return Err(Failure::End(End::OlderVersion(diagnosis)));
            }
        };
        self.connected = true;
        if let Some(receiver) = self.receiver.filter(|_| !connack.session_present) {
            receiver.acks.begin_session();
            // If it cannot be forgotten the run is ending.
            (receiver.on_ended)(Ended::Session);
        }
        connack.encode(v5, &mut effects.to_library);
        effects.accepted = Some(connack);
        Ok(())
    }

    fn take_publish(
        &mut self,
        first: u8,
        body: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        let publish = Publish::decode(first, body, self.agreement.v5)?;
        let Some(receiver) = self.receiver else {
            self.drop_unasked(&publish, effects);
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
            (receiver.on_skipped)(Skipped {
                topic: publish.topic,
                defect,
            });
            return Ok(());
        }
        let message = publish.received();
        (receiver.on_message)(&message, ticket).map_err(|OutOfMemory| {
            receiver.acks.withdraw(publish.packet_id);
            Failure::End(End::NoMemory(body.len()))
        })
    }

    /// There is no receiver: a publisher, which subscribes to nothing, or a check.
    fn drop_unasked(&mut self, publish: &Publish<'_>, effects: &mut Effects) {
        if !std::mem::replace(&mut self.warned, true) {
            let topic = shortened(&String::from_utf8_lossy(publish.topic));
            warn!(
                "the broker sends messages that were not asked for (topic {topic:?}); they are dropped"
            );
        }
        acknowledge(publish, effects);
    }

    fn take_pubrel(&mut self, body: &[u8], effects: &mut Effects) -> Result<(), Failure> {
        let v5 = self.agreement.v5;
        let pubrel = Acknowledgement::decode(PacketType::Pubrel, body, v5)?;
        let release = self.acks().map(|acks| acks.handle_pubrel(pubrel.packet_id));
        match release {
            Some(PubrelStatus::BeforePubrec) => {
                let cause = format!(
                    "PUBREC with the packet identifier {} has not been sent",
                    pubrel.packet_id
                );
                Err(Violation::protocol_error(cause).into())
            }
            Some(PubrelStatus::Known) => {
                effects.released.push(pubrel.packet_id);
                Ok(())
            }
            Some(PubrelStatus::OldConnection) => Ok(()),
            Some(PubrelStatus::Unknown) if v5 => {
                let [high, low] = pubrel.packet_id.to_be_bytes();
                let first = PacketType::Pubcomp.first_byte(0);
                let packet = [first, 3, high, low, PACKET_IDENTIFIER_NOT_FOUND];
                effects.to_broker.extend(packet);
                Ok(())
            }
            _ => {
                push_answer(PacketType::Pubcomp, pubrel.packet_id, effects);
                Ok(())
            }
        }
    }

    /// Several packets have been looked at: what of them is to be done at once for all.
    pub(super) fn complete(&self, effects: &mut Effects) {
        let released = std::mem::take(&mut effects.released);
        if released.is_empty() {
            return;
        }
        let ended = Ended::Exchanges(&released);
        let forgotten = self.receiver.is_none_or(|to| (to.on_ended)(ended));
        for id in released.iter().filter(|_| forgotten) {
            push_answer(PacketType::Pubcomp, *id, effects);
        }
    }

    fn take_answer(
        &mut self,
        packet: PacketType,
        body: &[u8],
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        let v5 = self.agreement.v5;
        let mut answer = Acknowledgement::decode(packet, body, v5)?;
        if packet == PacketType::Pubcomp {
            // PUBREC has said that the broker has the message; that it has forgotten the identifier since
            // is no error (MQTT 5.0 section 2.4, reason code 0x92).
            answer.code = 0;
        }
        match self.awaited.handle_answer(&answer)? {
            AnswerAction::Forward => {
                let refused = packet == PacketType::Suback && answer.code >= FIRST_ERROR;
                effects.refused_subscriptions += usize::from(refused && !v5);
                answer.encode(v5, &mut effects.to_library);
            }
            AnswerAction::ResendPubrel => {
                let [high, low] = answer.packet_id.to_be_bytes();
                let first = PacketType::Pubrel.first_byte(2);
                effects.to_broker.extend([first, 2, high, low]);
            }
            AnswerAction::Ignore => {}
        }
        Ok(())
    }
}

/// PUBACK or PUBREC.
fn acknowledge(publish: &Publish<'_>, effects: &mut Effects) {
    match publish.qos {
        Qos::AtMostOnce => {}
        Qos::AtLeastOnce => push_answer(PacketType::Puback, publish.packet_id, effects),
        Qos::ExactlyOnce => push_answer(PacketType::Pubrec, publish.packet_id, effects),
    }
}

/// An answer of ours without a reason code.
fn push_answer(packet: PacketType, id: u16, effects: &mut Effects) {
    effects.to_broker.extend([packet.first_byte(0), 2]);
    effects.to_broker.extend(id.to_be_bytes());
}

enum Failure {
    Violation(Violation),
    End(End),
}

impl From<Violation> for Failure {
    fn from(violation: Violation) -> Self {
        Self::Violation(violation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::acks::{Backlog, Ticket};
    use std::sync::{Arc, Mutex};

    const V5: Agreement = Agreement {
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
                kept.lock()
                    .unwrap()
                    .push((message.payload.to_vec(), ticket));
                Ok(())
            }),
            on_skipped: Arc::new(move |_| *skipped.lock().unwrap() += 1),
            on_ended: Arc::new(|_| true),
            acks: Arc::new(Backlog::default()).begin_connection().unwrap(),
        }
    }

    fn connected(receiver: Option<&Receiver>) -> (Guard<'_>, Effects) {
        let mut guard = Guard::new(V5, receiver);
        let mut effects = Effects::default();
        guard.take(0x20, &[0, 0, 0], &mut effects).unwrap();
        assert!(effects.accepted.take().is_some());
        effects.to_library.clear();
        (guard, effects)
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
        let (mut guard, mut effects) = connected(Some(&receiver));
        for _ in 0..2 {
            guard
                .take(0x32, b"\0\x01t\0\x07\0job", &mut effects)
                .unwrap();
        }
        let (payload, ticket) = kept.lock().unwrap().remove(0);
        assert_eq!(payload, b"job");
        assert!(kept.lock().unwrap().is_empty(), "the second is the same");
        assert_eq!(due(&receiver), b"");
        ticket.settle();
        assert_eq!(due(&receiver), [0x40, 2, 0, 7]);
        assert_eq!((effects.to_library, effects.to_broker), (vec![], vec![]));
    }

    #[test]
    fn without_memory_a_message_stays_unacknowledged_and_ends_the_connection() {
        let (kept, skipped) = (Arc::default(), Arc::default());
        let receiver = receiver(&kept, &skipped);
        let (mut guard, mut effects) = connected(Some(&receiver));
        for _ in 0..2 {
            // It comes again, and is not taken for one that has been handed over.
            let end = guard.take(0x32, b"\0\x01t\0\x07\0large", &mut effects);
            assert!(matches!(end, Err(End::NoMemory(_))), "{end:?}");
            assert_eq!(due(&receiver), b"");
        }
    }

    #[test]
    fn what_is_no_text_is_acknowledged_and_skipped() {
        let (kept, skipped) = (Arc::default(), Arc::default());
        let receiver = receiver(&kept, &skipped);
        let (mut guard, mut effects) = connected(Some(&receiver));
        guard
            .take(0x32, b"\0\x01\0\0\x07\0x", &mut effects)
            .unwrap();
        guard
            .take(0x34, b"\0\x01\xff\0\x08\0x", &mut effects)
            .unwrap();
        assert_eq!(
            (kept.lock().unwrap().len(), *skipped.lock().unwrap()),
            (0, 2)
        );
        assert_eq!(due(&receiver), [0x40, 2, 0, 7, 0x50, 2, 0, 8]);
        guard.take(0x62, &[0, 8], &mut effects).unwrap();
        guard.complete(&mut effects);
        assert_eq!(effects.to_broker, [0x70, 2, 0, 8]);
    }

    #[test]
    fn pubcomp_goes_out_only_once_its_exchange_is_forgotten() {
        for forgets in [true, false] {
            let (kept, skipped) = (Arc::default(), Arc::default());
            let ended = Arc::new(Mutex::new(Vec::new()));
            let seen = Arc::clone(&ended);
            let receiver = Receiver {
                on_ended: Arc::new(move |what| {
                    let Ended::Exchanges(ids) = what else {
                        return true;
                    };
                    seen.lock().unwrap().push(ids.to_vec());
                    forgets
                }),
                ..receiver(&kept, &skipped)
            };
            let (mut guard, mut effects) = connected(Some(&receiver));
            for id in 1..=2 {
                let publish = [0, 1, b't', 0, id, 0, id];
                guard.take(0x34, &publish, &mut effects).unwrap();
            }
            for (_, ticket) in kept.lock().unwrap().drain(..) {
                ticket.settle();
            }
            due(&receiver);
            for id in 1..=2 {
                guard.take(0x62, &[0, id], &mut effects).unwrap();
            }
            guard.complete(&mut effects);
            guard.complete(&mut effects);
            assert_eq!(*ended.lock().unwrap(), [[1, 2]]);
            let pubcomps: &[u8] = &[0x70, 2, 0, 1, 0x70, 2, 0, 2];
            assert_eq!(effects.to_broker, if forgets { pubcomps } else { b"" });
        }
    }

    #[test]
    fn the_library_gets_the_answers_that_it_waits_for_and_no_others() {
        let (mut guard, mut effects) = connected(None);
        guard.sent(SentPacket {
            first: 0x32,
            packet_id: 1,
        });
        let wrong = guard.take(0x70, &[0, 1], &mut effects);
        assert!(matches!(wrong, Err(End::Violation(_))), "{wrong:?}");
        assert_eq!(effects.to_library, b"");
        let property = [0, 1, 0x87, 4, 0x1f, 0, 1, 0];
        guard.take(0x40, &property, &mut effects).unwrap();
        assert_eq!(effects.to_library, [0x40, 4, 0, 1, 0x87, 0]);
    }

    #[test]
    fn a_message_that_the_broker_has_is_delivered_whatever_pubcomp_says() {
        let (mut guard, mut effects) = connected(None);
        guard.sent(SentPacket {
            first: 0x34,
            packet_id: 1,
        });
        guard.take(0x50, &[0, 1], &mut effects).unwrap();
        guard.sent(SentPacket {
            first: 0x62,
            packet_id: 1,
        });
        guard.take(0x70, &[0, 1, 0x92], &mut effects).unwrap();
        assert_eq!(effects.to_library, [0x50, 2, 0, 1, 0x70, 2, 0, 1]);
    }

    #[test]
    fn a_publisher_drops_what_it_has_not_asked_for() {
        let (mut guard, mut effects) = connected(None);
        guard.take(0x34, b"\0\x01t\0\x07\0x", &mut effects).unwrap();
        assert_eq!(effects.to_broker, [0x50, 2, 0, 7]);
        assert_eq!(effects.to_library, b"");
    }

    #[test]
    fn a_packet_that_only_a_client_sends_is_known_by_its_first_byte() {
        let (guard, _) = connected(None);
        for first in [0x10, 0x82, 0xa2, 0xc0, 0xf0, 0x00, 0x20, 0x41, 0x60] {
            assert!(guard.admit(first).is_err(), "{first:#x}");
        }
        assert!(guard.admit(0x3f).is_ok(), "its contents tell");
    }
}
