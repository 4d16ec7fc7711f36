//! Checks and handles every packet of the broker.
//!
//! A packet that does not fit the specification, the state of the connection or what we have sent ends the
//! connection. A message goes to its receiver, and is acknowledged once it has been processed; an answer goes to
//! the client library, with no more in it than the library needs. So the library gets nothing malformed.

use std::time::Instant;

use log::warn;

use super::bridge_callbacks::{EndedExchanges, MessageCallbacks, OutOfMemory, SkippedMessage};
use super::event::EndReason;
use crate::common::acks::ConnectionAcks;
use crate::common::acks::owed_acks::{ReceivedPublishKind, ReceivedPubrelKind};
use crate::common::escape::cut_to_log_length;
use crate::common::mqtt::acknowledgement::{Acknowledgement, encode_short};
use crate::common::mqtt::awaited_answers::{AnswerAction, AwaitedAnswers};
use crate::common::mqtt::connack::{self, Connack, ConnectAnswer};
use crate::common::mqtt::disconnect_reason;
use crate::common::mqtt::framing::{PINGRESP, SentPacket};
use crate::common::mqtt::packet_type::PacketType;
use crate::common::mqtt::publish::Publish;
use crate::common::mqtt::qos::Qos;
use crate::common::mqtt::reason_codes::{FIRST_ERROR, PACKET_IDENTIFIER_NOT_FOUND};
use crate::common::mqtt::violation::Violation;

#[derive(Clone, Copy, Debug)]
pub struct ConnectParameters {
    pub v5: bool,
    pub clean: bool,
    /// Maximum Packet Size in bytes.
    pub max_packet: u32,
}

pub(super) struct PacketHandler<'a> {
    parameters: ConnectParameters,
    receiver: Option<&'a MessageCallbacks>,
    awaited: AwaitedAnswers,
    is_connected: bool,
    /// PINGREQs of the client library that have not been answered.
    pings: u32,
    has_warned: bool,
}

/// What is to be done after packets have been handled. The bytes are whole packets.
#[derive(Debug, Default)]
pub(super) struct Effects {
    pub(super) to_library: Vec<u8>,
    pub(super) to_broker: Vec<u8>,
    pub(super) accepted: Option<Connack>,
    /// With MQTT 3.1.1.
    pub(super) refused_subscriptions: usize,
    released: Vec<u16>,
}

impl<'a> PacketHandler<'a> {
    pub(super) fn new(
        parameters: ConnectParameters,
        receiver: Option<&'a MessageCallbacks>,
    ) -> Self {
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

    pub(super) fn handle_sent(&mut self, packet: SentPacket) {
        if PacketType::of(packet.first) == Some(PacketType::Pingreq) {
            self.pings += 1;
        } else {
            // A check subscribes and ignores the messages.
            self.has_warned |= PacketType::of(packet.first) == Some(PacketType::Subscribe);
            self.awaited.handle_sent(packet);
        }
    }

    pub(super) fn is_answer_awaited(&self) -> bool {
        self.pings > 0 || self.awaited.is_any_awaited()
    }

    pub(super) fn count_awaited_pubacks(&self) -> usize {
        self.awaited.count_pubacks()
    }

    /// Bytes have come from the broker, or none are read while too many messages wait: that is
    /// answer enough, since a PINGRESP may stand behind a large message.
    pub(super) fn answer_pings(&mut self, to_library: &mut Vec<u8>) {
        if std::mem::take(&mut self.pings) > 0 {
            to_library.extend(PINGRESP);
        }
    }

    /// A violation before the connection is accepted is a separate kind of end.
    pub(super) fn refine_end_reason(&self, end: EndReason) -> EndReason {
        match end {
            EndReason::Violation(violation) if !self.is_connected => {
                EndReason::NoConnack(violation)
            }
            end => end,
        }
    }

    pub(super) fn check_type_and_flags(&self, first: u8) -> Result<PacketType, EndReason> {
        let packet = PacketType::of(first);
        packet
            .ok_or_else(|| Violation::malformed("the type 0 is reserved"))
            .and_then(|packet| self.check_type(packet, first & 0x0f).map(|()| packet))
            .map_err(|violation| self.refine_end_reason(violation.in_packet(packet).into()))
    }

    fn check_type(&self, packet: PacketType, flags: u8) -> Result<(), Violation> {
        use PacketType as P;
        let v5 = self.parameters.v5;
        let has_flag = matches!(packet, P::Pubrel | P::Subscribe | P::Unsubscribe);
        if packet != P::Publish && flags != u8::from(has_flag) << 1 {
            return Err(Violation::malformed(format!("its flags are {flags:#x}")));
        }
        let error = match packet {
            P::Connect | P::Subscribe | P::Unsubscribe | P::Pingreq => "only a client may send it",
            P::Disconnect if !v5 => "only a client may send it",
            P::Auth if !v5 => return Err(Violation::malformed("the type 15 is reserved")),
            P::Auth => "no authentication method was agreed",
            P::Connack if self.is_connected => "a second one",
            P::Connack => return Ok(()),
            _ if !self.is_connected => "it comes before CONNACK",
            _ => return Ok(()),
        };
        Err(Violation::protocol_error(error))
    }

    pub(super) fn handle_packet(
        &mut self,
        first: u8,
        body: &[u8],
        now: Instant,
        effects: &mut Effects,
    ) -> Result<(), EndReason> {
        let packet = self.check_type_and_flags(first)?;
        let handled = match packet {
            PacketType::Connack => self.handle_connack(body, effects),
            PacketType::Publish => self.handle_publish(first, body, now, effects),
            PacketType::Pubrel => self.handle_pubrel(body, effects),
            PacketType::Pingresp if body.is_empty() => Ok(()),
            PacketType::Pingresp => Err(Violation::malformed("it has contents").into()),
            PacketType::Disconnect => disconnect_reason::decode_disconnect(body)
                .map_err(EndReason::Violation)
                .and_then(|reason| Err(EndReason::Disconnected(reason))),
            _ => self.handle_answer(packet, body, effects),
        };
        handled.map_err(|end| match end {
            EndReason::Violation(violation) => {
                self.refine_end_reason(violation.in_packet(Some(packet)).into())
            }
            end => end,
        })
    }

    fn handle_connack(&mut self, body: &[u8], effects: &mut Effects) -> Result<(), EndReason> {
        let ConnectParameters { v5, clean, .. } = self.parameters;
        let connack = match connack::decode(body, v5, clean)? {
            ConnectAnswer::Accepted(connack) => connack,
            ConnectAnswer::Refused(reason) => return Err(EndReason::Refused(reason)),
            ConnectAnswer::OlderVersion(reason) => return Err(EndReason::OlderVersion(reason)),
        };
        self.is_connected = true;
        if let Some(receiver) = self.receiver.filter(|_| !connack.session_present) {
            receiver.acks.forget_session();
            // If it cannot be forgotten the run is ending.
            (receiver.on_exchanges_ended)(EndedExchanges::Session);
        }
        connack.encode(v5, &mut effects.to_library);
        effects.accepted = Some(connack);
        Ok(())
    }

    fn handle_publish(
        &mut self,
        first: u8,
        body: &[u8],
        now: Instant,
        effects: &mut Effects,
    ) -> Result<(), EndReason> {
        let publish = Publish::decode(first, body, self.parameters.v5)?;
        let Some(receiver) = self.receiver else {
            self.drop_unrequested_publish(&publish, effects);
            return Ok(());
        };
        let ticket = match receiver.acks.handle_publish(&publish, now) {
            Ok(ticket) => ticket,
            Err(known) => {
                if known == ReceivedPublishKind::Acknowledged {
                    acknowledge_at_once(&publish, effects);
                }
                return Ok(());
            }
        };
        if let Some(defect) = publish.defect {
            ticket.settle();
            let topic = publish.topic;
            (receiver.on_skipped)(SkippedMessage { topic, defect });
            return Ok(());
        }
        (receiver.on_message)(&publish.message, ticket).map_err(|OutOfMemory| {
            receiver.acks.forget_publish(publish.message.packet_id);
            EndReason::NoMemory(body.len())
        })
    }

    /// There is no receiver: a publisher, which subscribes to nothing, or a check.
    fn drop_unrequested_publish(&mut self, publish: &Publish<'_>, effects: &mut Effects) {
        if !std::mem::replace(&mut self.has_warned, true) {
            let topic = cut_to_log_length(&String::from_utf8_lossy(publish.topic));
            warn!(
                "the broker sends messages that were not asked for (topic {topic:?}); they are dropped"
            );
        }
        acknowledge_at_once(publish, effects);
    }

    fn handle_pubrel(&mut self, body: &[u8], effects: &mut Effects) -> Result<(), EndReason> {
        let v5 = self.parameters.v5;
        let id = Acknowledgement::decode(PacketType::Pubrel, body, v5)?.packet_id;
        match self.acks().map(|acks| acks.handle_pubrel(id)) {
            Some(ReceivedPubrelKind::BeforePubrec) => {
                let cause = format!("PUBREC with the packet identifier {id} has not been sent");
                return Err(Violation::protocol_error(cause).into());
            }
            Some(ReceivedPubrelKind::Known) => effects.released.push(id),
            Some(ReceivedPubrelKind::OldConnection) => {}
            Some(ReceivedPubrelKind::Unknown) if v5 => {
                let [high, low] = id.to_be_bytes();
                let first = PacketType::Pubcomp.first_byte(0);
                let packet = [first, 3, high, low, PACKET_IDENTIFIER_NOT_FOUND];
                effects.to_broker.extend(packet);
            }
            _ => effects
                .to_broker
                .extend(encode_short(PacketType::Pubcomp, id)),
        }
        Ok(())
    }

    pub(super) fn complete_released(&self, effects: &mut Effects) {
        let released = std::mem::take(&mut effects.released);
        let ended = EndedExchanges::PacketIds(&released);
        let forget = |to: &MessageCallbacks| (to.on_exchanges_ended)(ended);
        if !released.is_empty() && self.receiver.is_none_or(forget) {
            let pubcomp = |id| encode_short(PacketType::Pubcomp, id);
            let pubcomps = released.into_iter().flat_map(pubcomp);
            effects.to_broker.extend(pubcomps);
        }
    }

    fn handle_answer(
        &mut self,
        packet: PacketType,
        body: &[u8],
        effects: &mut Effects,
    ) -> Result<(), EndReason> {
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

fn acknowledge_at_once(publish: &Publish<'_>, effects: &mut Effects) {
    let packet = match publish.message.qos {
        Qos::AtMostOnce => return,
        Qos::AtLeastOnce => PacketType::Puback,
        Qos::ExactlyOnce => PacketType::Pubrec,
    };
    let answer = encode_short(packet, publish.message.packet_id);
    effects.to_broker.extend(answer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::acks::{SessionAcks, Ticket};
    use crate::common::runtime::clock::instant_now;
    use parking_lot::Mutex;
    use std::sync::Arc;

    const V5: ConnectParameters = ConnectParameters {
        v5: true,
        clean: true,
        max_packet: 1 << 20,
    };

    #[derive(Default)]
    struct Calls {
        messages: Vec<(Vec<u8>, Ticket)>,
        skipped: u32,
        released: Vec<Vec<u16>>,
    }

    fn receiver(forgets: bool) -> (MessageCallbacks, Arc<Mutex<Calls>>) {
        let calls = Arc::new(Mutex::new(Calls::default()));
        let [messages, skipped, released] = [(); 3].map(|()| Arc::clone(&calls));
        let receiver = MessageCallbacks {
            on_message: Arc::new(move |message, ticket| {
                if message.payload == b"large" {
                    return Err(OutOfMemory);
                }
                messages
                    .lock()
                    .messages
                    .push((message.payload.to_vec(), ticket));
                Ok(())
            }),
            on_skipped: Arc::new(move |_| skipped.lock().skipped += 1),
            on_exchanges_ended: Arc::new(move |what| {
                let EndedExchanges::PacketIds(ids) = what else {
                    return true;
                };
                released.lock().released.push(ids.to_vec());
                forgets
            }),
            acks: Arc::new(SessionAcks::default()).begin_connection().unwrap(),
        };
        (receiver, calls)
    }

    struct Connected<'a> {
        handler: PacketHandler<'a>,
        effects: Effects,
    }

    impl<'a> Connected<'a> {
        fn new(receiver: Option<&'a MessageCallbacks>) -> Self {
            let (handler, effects) = (PacketHandler::new(V5, receiver), Effects::default());
            let mut connected = Self { handler, effects };
            connected.handle(0x20, &[0, 0, 0]).unwrap();
            assert!(connected.effects.accepted.take().is_some());
            connected.effects.to_library.clear();
            connected
        }

        fn send(&mut self, first: u8, packet_id: u16) {
            self.handler.handle_sent(SentPacket::new(first, packet_id));
        }

        fn handle(&mut self, first: u8, body: &[u8]) -> Result<(), EndReason> {
            let now = instant_now();
            self.handler
                .handle_packet(first, body, now, &mut self.effects)
        }
    }

    fn due(receiver: &MessageCallbacks) -> Vec<u8> {
        let mut out = Vec::new();
        receiver.acks.append_acks(&mut out, instant_now());
        out
    }

    #[test]
    fn a_message_is_handed_over_once_and_acknowledged_when_it_is_settled() {
        let (receiver, calls) = receiver(true);
        let mut connected = Connected::new(Some(&receiver));
        for _ in 0..2 {
            connected.handle(0x32, b"\0\x01t\0\x07\0job").unwrap();
        }
        let (payload, ticket) = calls.lock().messages.remove(0);
        assert_eq!(payload, b"job");
        assert!(calls.lock().messages.is_empty(), "the second is the same");
        assert_eq!(due(&receiver), b"");
        ticket.settle();
        assert_eq!(due(&receiver), [0x40, 2, 0, 7]);
        let effects = connected.effects;
        assert_eq!((effects.to_library, effects.to_broker), (vec![], vec![]));
    }

    #[test]
    fn without_memory_a_message_stays_unacknowledged_and_ends_the_connection() {
        let (receiver, _) = receiver(true);
        let mut connected = Connected::new(Some(&receiver));
        for _ in 0..2 {
            // The second is not taken for one that has been handed over.
            let end = connected.handle(0x32, b"\0\x01t\0\x07\0large");
            assert!(matches!(end, Err(EndReason::NoMemory(_))), "{end:?}");
            assert_eq!(due(&receiver), b"");
        }
    }

    #[test]
    fn a_message_with_invalid_text_is_acknowledged_and_skipped() {
        let (receiver, calls) = receiver(true);
        let mut connected = Connected::new(Some(&receiver));
        connected.handle(0x32, b"\0\x01\0\0\x07\0x").unwrap();
        connected.handle(0x34, b"\0\x01\xff\0\x08\0x").unwrap();
        assert!(calls.lock().messages.is_empty());
        assert_eq!(calls.lock().skipped, 2);
        assert_eq!(due(&receiver), [0x40, 2, 0, 7, 0x50, 2, 0, 8]);
        connected.handle(0x62, &[0, 8]).unwrap();
        connected.handler.complete_released(&mut connected.effects);
        assert_eq!(connected.effects.to_broker, [0x70, 2, 0, 8]);
    }

    #[test]
    fn pubcomp_goes_out_only_after_its_exchange_is_forgotten() {
        for forgets in [true, false] {
            let (receiver, calls) = receiver(forgets);
            let mut connected = Connected::new(Some(&receiver));
            for id in 1..=2 {
                connected.handle(0x34, &[0, 1, b't', 0, id, 0, id]).unwrap();
            }
            for (_, ticket) in std::mem::take(&mut calls.lock().messages) {
                ticket.settle();
            }
            due(&receiver);
            for id in 1..=2 {
                connected.handle(0x62, &[0, id]).unwrap();
            }
            for _ in 0..2 {
                connected.handler.complete_released(&mut connected.effects);
            }
            assert_eq!(calls.lock().released, [[1, 2]]);
            let pubcomps = [0x70, 2, 0, 1, 0x70, 2, 0, 2];
            let expected = if forgets { &pubcomps[..] } else { b"" };
            assert_eq!(connected.effects.to_broker, expected);
        }
    }

    #[test]
    fn the_client_library_gets_the_answers_that_are_due_and_no_others() {
        let mut connected = Connected::new(None);
        connected.send(0x32, 1);
        let wrong = connected.handle(0x70, &[0, 1]);
        assert!(matches!(wrong, Err(EndReason::Violation(_))), "{wrong:?}");
        assert_eq!(connected.effects.to_library, b"");
        connected
            .handle(0x40, &[0, 1, 0x87, 4, 0x1f, 0, 1, 0])
            .unwrap();
        assert_eq!(connected.effects.to_library, [0x40, 4, 0, 1, 0x87, 0]);
    }

    #[test]
    fn after_pubrec_a_message_is_delivered_whatever_code_pubcomp_has() {
        let mut connected = Connected::new(None);
        connected.send(0x34, 1);
        connected.handle(0x50, &[0, 1]).unwrap();
        connected.send(0x62, 1);
        connected.handle(0x70, &[0, 1, 0x92]).unwrap();
        assert_eq!(connected.effects.to_library, [0x50, 2, 0, 1, 0x70, 2, 0, 1]);
    }

    #[test]
    fn a_publisher_drops_messages() {
        let mut connected = Connected::new(None);
        connected.handle(0x34, b"\0\x01t\0\x07\0x").unwrap();
        assert_eq!(connected.effects.to_broker, [0x50, 2, 0, 7]);
        assert_eq!(connected.effects.to_library, b"");
    }

    #[test]
    fn a_packet_that_only_a_client_may_send_is_refused_at_its_first_byte() {
        let handler = Connected::new(None).handler;
        for first in [0x10, 0x82, 0xa2, 0xc0, 0xf0, 0x00, 0x20, 0x41, 0x60] {
            assert!(handler.check_type_and_flags(first).is_err(), "{first:#x}");
        }
        assert!(
            handler.check_type_and_flags(0x3f).is_ok(),
            "its contents decide"
        );
    }
}
