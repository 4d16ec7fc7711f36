//! Which of our packets wait for which answer (MQTT 5.0 sections 2.2.1 and 4.3). PURE.
//!
//! The client library matches an answer by its packet identifier alone, so no answer may reach it
//! that does not fit.

use super::acknowledgement::Acknowledgement;
use super::framing::Sent;
use super::packet_type::PacketType;
use super::reason_code::FIRST_ERROR;
use super::violation::Violation;

/// What a packet identifier of ours waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Expected {
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

impl Expected {
    fn packet(self) -> Option<PacketType> {
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

/// What is to be done with an answer that fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The client library is to have it.
    Expected,
    /// A PUBREC that has come before: our PUBREL goes out again (MQTT-4.3.3-4).
    Repeated,
    /// A PUBREC that has come before, and our PUBREL is on its way.
    Answered,
}

/// The exchanges of one connection that are open.
#[derive(Debug, Default)]
pub struct Exchanges {
    /// By packet identifier, up to the highest that was used: a byte each, which is found faster than in
    /// any map.
    open: Vec<Expected>,
    /// How many of them wait for something.
    waiting: usize,
}

impl Exchanges {
    /// Whether an answer is due.
    pub fn is_waiting(&self) -> bool {
        self.waiting > 0
    }

    /// A packet of ours has gone out.
    pub fn sent(&mut self, packet: Sent) {
        let expected = match PacketType::of(packet.first) {
            Some(PacketType::Publish) if packet.qos() == 1 => Expected::Puback,
            Some(PacketType::Publish) if packet.qos() == 2 => Expected::Pubrec,
            Some(PacketType::Pubrel) => Expected::Pubcomp,
            Some(PacketType::Subscribe) => Expected::Suback,
            Some(PacketType::Unsubscribe) => Expected::Unsuback,
            _ => return,
        };
        let index = usize::from(packet.id);
        if index >= self.open.len() {
            self.open.resize(index + 1, Expected::Nothing);
        }
        if let Some(open) = self.open.get_mut(index) {
            self.waiting += usize::from(*open == Expected::Nothing);
            *open = expected;
        }
    }

    /// An answer has come.
    ///
    /// # Errors
    ///
    /// A protocol error, if nothing waits for it.
    pub fn answered(&mut self, answer: &Acknowledgement<'_>) -> Result<Fit, Violation> {
        let Acknowledgement {
            packet, id, code, ..
        } = *answer;
        let nothing = || {
            Err(Violation::protocol_error(format!(
                "nothing with the packet identifier {id} waits for it"
            )))
        };
        let Some(expected) = self.open.get_mut(usize::from(id)) else {
            return nothing();
        };
        match (*expected, packet) {
            (Expected::Nothing, _) => nothing(),
            (Expected::OurPubrel, PacketType::Pubrec) => Ok(Fit::Answered),
            (Expected::Pubcomp, PacketType::Pubrec) => Ok(Fit::Repeated),
            (Expected::OurPubrel, PacketType::Pubcomp) => Err(Violation::protocol_error(format!(
                "PUBREL with the packet identifier {id} has not been sent"
            ))),
            (Expected::Pubrec, PacketType::Puback) => Err(Violation::protocol_error(format!(
                "PUBREC is due for the packet identifier {id}"
            ))
            .with_remedy("the broker takes QoS 2 for QoS 1: give --qos 1")),
            (due, _) if due.packet() != Some(packet) => Err(Violation::protocol_error(format!(
                "{} is due for the packet identifier {id}",
                due.packet().map_or("nothing", PacketType::name)
            ))),
            (Expected::Pubrec, _) if code < FIRST_ERROR => {
                *expected = Expected::OurPubrel;
                Ok(Fit::Expected)
            }
            _ => {
                *expected = Expected::Nothing;
                self.waiting = self.waiting.saturating_sub(1);
                Ok(Fit::Expected)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(packet: PacketType, id: u16, code: u8) -> Acknowledgement<'static> {
        Acknowledgement {
            packet,
            id,
            code,
            reason_string: None,
        }
    }

    fn sent(first: u8, id: u16) -> Sent {
        Sent { first, id }
    }

    #[test]
    fn an_answer_ends_the_exchange_that_waits_for_it_and_no_other() {
        let mut exchanges = Exchanges::default();
        exchanges.sent(sent(0x32, 1));
        exchanges.sent(sent(0x82, 2));
        for (packet, id) in [
            (PacketType::Pubcomp, 1),
            (PacketType::Pubrec, 1),
            (PacketType::Suback, 1),
            (PacketType::Puback, 2),
            (PacketType::Puback, 3),
        ] {
            assert!(
                exchanges.answered(&answer(packet, id, 0)).is_err(),
                "{packet:?} {id}"
            );
        }
        let puback = answer(PacketType::Puback, 1, 0);
        assert_eq!(exchanges.answered(&puback), Ok(Fit::Expected));
        assert!(exchanges.answered(&puback).is_err(), "a second one");
        let suback = answer(PacketType::Suback, 2, 0x80);
        assert!(exchanges.is_waiting());
        assert_eq!(exchanges.answered(&suback), Ok(Fit::Expected));
        assert!(!exchanges.is_waiting());
    }

    #[test]
    fn a_qos_2_exchange_has_its_order_and_bears_a_repeated_pubrec() {
        let mut exchanges = Exchanges::default();
        let pubrec = answer(PacketType::Pubrec, 7, 0);
        let pubcomp = answer(PacketType::Pubcomp, 7, 0);
        exchanges.sent(sent(0x34, 7));
        assert!(exchanges.answered(&pubcomp).is_err());
        assert_eq!(exchanges.answered(&pubrec), Ok(Fit::Expected));
        assert!(exchanges.answered(&pubcomp).is_err(), "before our PUBREL");
        assert_eq!(exchanges.answered(&pubrec), Ok(Fit::Answered));
        exchanges.sent(sent(0x62, 7));
        assert_eq!(exchanges.answered(&pubrec), Ok(Fit::Repeated));
        assert!(exchanges.is_waiting());
        assert_eq!(exchanges.answered(&pubcomp), Ok(Fit::Expected));
        assert!(!exchanges.is_waiting());
        assert!(exchanges.answered(&pubcomp).is_err());
        exchanges.sent(sent(0x34, 8));
        let refusal = answer(PacketType::Pubrec, 8, 0x87);
        assert_eq!(exchanges.answered(&refusal), Ok(Fit::Expected));
        assert!(exchanges.answered(&refusal).is_err());
    }
}
