//! Which of our packets have not been answered, and with what (MQTT 5.0 sections 2.2.1 and 4.3). PURE.
//!
//! The client library matches an answer by its packet identifier alone, so only one that is due may reach it.

use super::acknowledgement::Acknowledgement;
use super::framing::SentPacket;
use super::packet_type::PacketType;
use super::reason_codes::FIRST_ERROR;
use super::violation::Violation;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ExpectedAnswer {
    #[default]
    Nothing,
    Puback,
    Pubrec,
    /// PUBREC has come, and our PUBREL has not gone out.
    OurPubrel,
    Pubcomp,
    Suback,
    Unsuback,
}

impl ExpectedAnswer {
    fn answer_type(self) -> Option<PacketType> {
        match self {
            Self::Nothing => None,
            Self::Puback => Some(PacketType::Puback),
            Self::Pubrec => Some(PacketType::Pubrec),
            Self::OurPubrel | Self::Pubcomp => Some(PacketType::Pubcomp),
            Self::Suback => Some(PacketType::Suback),
            Self::Unsuback => Some(PacketType::Unsuback),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerAction {
    Forward,
    /// It is a repeated PUBREC: our PUBREL goes out again (MQTT-4.3.3-4).
    ResendPubrel,
    /// It is a repeated PUBREC, and our PUBREL has yet to go out.
    Ignore,
}

#[derive(Debug, Default)]
pub struct AwaitedAnswers {
    /// By packet identifier, up to the highest that was used: found faster than in any map.
    due: Vec<ExpectedAnswer>,
    /// How many of them are not `Nothing`.
    count: usize,
    /// How many of them are `Puback`.
    pubacks: usize,
}

impl AwaitedAnswers {
    pub fn is_any_awaited(&self) -> bool {
        self.count > 0
    }

    /// How many PUBACK the broker owes.
    pub fn count_pubacks(&self) -> usize {
        self.pubacks
    }

    pub fn handle_sent(&mut self, packet: SentPacket) {
        let due = match PacketType::of(packet.first) {
            Some(PacketType::Publish) if packet.qos() == 1 => ExpectedAnswer::Puback,
            Some(PacketType::Publish) if packet.qos() == 2 => ExpectedAnswer::Pubrec,
            Some(PacketType::Pubrel) => ExpectedAnswer::Pubcomp,
            Some(PacketType::Subscribe) => ExpectedAnswer::Suback,
            Some(PacketType::Unsubscribe) => ExpectedAnswer::Unsuback,
            _ => return,
        };
        let index = usize::from(packet.packet_id);
        if index >= self.due.len() {
            self.due.resize(index + 1, ExpectedAnswer::Nothing);
        }
        if let Some(before) = self.due.get_mut(index) {
            self.count += usize::from(*before == ExpectedAnswer::Nothing);
            self.pubacks += usize::from(due == ExpectedAnswer::Puback);
            self.pubacks -= usize::from(*before == ExpectedAnswer::Puback);
            *before = due;
        }
    }

    /// Fails with a protocol error if the answer is not due.
    pub fn handle_answer(
        &mut self,
        answer: &Acknowledgement<'_>,
    ) -> Result<AnswerAction, Violation> {
        let (packet, id) = (answer.packet, answer.packet_id);
        let mut nothing = ExpectedAnswer::Nothing;
        let due = self.due.get_mut(usize::from(id)).unwrap_or(&mut nothing);
        let error = match (*due, packet) {
            (ExpectedAnswer::OurPubrel, PacketType::Pubrec) => return Ok(AnswerAction::Ignore),
            (ExpectedAnswer::Pubcomp, PacketType::Pubrec) => return Ok(AnswerAction::ResendPubrel),
            (ExpectedAnswer::Nothing, _) => {
                format!("nothing with the packet identifier {id} waits for it")
            }
            (ExpectedAnswer::OurPubrel, PacketType::Pubcomp) => {
                format!("PUBREL with the packet identifier {id} has not been sent")
            }
            (_, _) if due.answer_type() != Some(packet) => {
                let due = due.answer_type().map_or("nothing", PacketType::name);
                format!("{due} is due for the packet identifier {id}")
            }
            (ExpectedAnswer::Pubrec, _) if answer.code < FIRST_ERROR => {
                *due = ExpectedAnswer::OurPubrel;
                return Ok(AnswerAction::Forward);
            }
            _ => {
                self.pubacks -= usize::from(*due == ExpectedAnswer::Puback);
                *due = ExpectedAnswer::Nothing;
                self.count = self.count.saturating_sub(1);
                return Ok(AnswerAction::Forward);
            }
        };
        let mut violation = Violation::protocol_error(error);
        if (*due, packet) == (ExpectedAnswer::Pubrec, PacketType::Puback) {
            violation.remedy = Some("the broker takes QoS 2 for QoS 1: give --qos 1");
        }
        Err(violation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AnswerAction::{Forward, Ignore, ResendPubrel};
    use PacketType::{Puback, Pubcomp, Pubrec, Suback};

    impl AwaitedAnswers {
        fn send(&mut self, first: u8, packet_id: u16) {
            self.handle_sent(SentPacket::new(first, packet_id));
        }

        fn answer(&mut self, packet: PacketType, id: u16, code: u8) -> Result<AnswerAction, u8> {
            self.handle_answer(&Acknowledgement::new(packet, id, code))
                .map_err(|violation| violation.code)
        }
    }

    #[test]
    fn an_answer_is_accepted_once_and_only_for_the_packet_that_it_answers() {
        let mut awaited = AwaitedAnswers::default();
        awaited.send(0x32, 1);
        awaited.send(0x82, 2);
        for (packet, id) in [
            (Pubcomp, 1),
            (Pubrec, 1),
            (Suback, 1),
            (Puback, 2),
            (Puback, 3),
        ] {
            assert_eq!(awaited.answer(packet, id, 0), Err(0x82), "{packet:?} {id}");
        }
        assert_eq!(awaited.answer(Puback, 1, 0), Ok(Forward));
        assert_eq!(awaited.answer(Puback, 1, 0), Err(0x82), "a second one");
        assert!(awaited.is_any_awaited());
        assert_eq!(awaited.answer(Suback, 2, 0x80), Ok(Forward));
        assert!(!awaited.is_any_awaited());
    }

    #[test]
    fn pubacks_are_counted_and_no_other_answers() {
        let mut awaited = AwaitedAnswers::default();
        for (first, packet_id, count) in [(0x32, 1, 1), (0x32, 1, 1), (0x34, 2, 1), (0x32, 3, 2)] {
            awaited.send(first, packet_id);
            assert_eq!(awaited.count_pubacks(), count, "{first:#x} {packet_id}");
        }
        for (packet, packet_id, count) in [(Pubrec, 2, 2), (Puback, 3, 1), (Puback, 1, 0)] {
            assert_eq!(awaited.answer(packet, packet_id, 0), Ok(Forward));
            assert_eq!(awaited.count_pubacks(), count, "{packet:?} {packet_id}");
        }
    }

    #[test]
    fn a_qos_2_exchange_keeps_its_order_and_allows_a_repeated_pubrec() {
        let mut awaited = AwaitedAnswers::default();
        awaited.send(0x34, 7);
        assert_eq!(awaited.answer(Pubcomp, 7, 0), Err(0x82));
        assert_eq!(awaited.answer(Pubrec, 7, 0), Ok(Forward));
        assert_eq!(
            awaited.answer(Pubcomp, 7, 0),
            Err(0x82),
            "before our PUBREL"
        );
        assert_eq!(awaited.answer(Pubrec, 7, 0), Ok(Ignore));
        awaited.send(0x62, 7);
        assert_eq!(awaited.answer(Pubrec, 7, 0), Ok(ResendPubrel));
        assert!(awaited.is_any_awaited());
        assert_eq!(awaited.answer(Pubcomp, 7, 0), Ok(Forward));
        assert!(!awaited.is_any_awaited());
        assert_eq!(awaited.answer(Pubcomp, 7, 0), Err(0x82));
        awaited.send(0x34, 8);
        assert_eq!(awaited.answer(Pubrec, 8, 0x87), Ok(Forward));
        assert_eq!(awaited.answer(Pubrec, 8, 0x87), Err(0x82));
    }
}
