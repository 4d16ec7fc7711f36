//! Which of our packets wait for which answer (MQTT 5.0 sections 2.2.1 and 4.3). PURE.
//!
//! The client library matches an answer by its packet identifier alone, so no answer may reach it
//! that does not fit.

use std::collections::HashMap;

use super::acknowledgement::Acknowledgement;
use super::framing::Sent;
use super::packet_type::PacketType;
use super::reason_code::FIRST_ERROR;
use super::violation::Violation;

/// What a packet identifier of ours waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Puback,
    Pubrec,
    /// PUBREC has come, and our PUBREL has not gone out.
    OurPubrel,
    Pubcomp,
    Suback,
    Unsuback,
}

impl Expected {
    fn packet(self) -> PacketType {
        match self {
            Self::Puback => PacketType::Puback,
            Self::Pubrec => PacketType::Pubrec,
            Self::OurPubrel | Self::Pubcomp => PacketType::Pubcomp,
            Self::Suback => PacketType::Suback,
            Self::Unsuback => PacketType::Unsuback,
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
    open: HashMap<u16, Expected>,
}

impl Exchanges {
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
        self.open.insert(packet.id, expected);
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
        let Some(expected) = self.open.get_mut(&id) else {
            return Err(Violation::protocol_error(format!(
                "nothing with the packet identifier {id} waits for it"
            )));
        };
        match (*expected, packet) {
            (Expected::OurPubrel, PacketType::Pubrec) => Ok(Fit::Answered),
            (Expected::Pubcomp, PacketType::Pubrec) => Ok(Fit::Repeated),
            (Expected::OurPubrel, PacketType::Pubcomp) => Err(Violation::protocol_error(format!(
                "PUBREL with the packet identifier {id} has not been sent"
            ))),
            (expected_now, _) if expected_now.packet() != packet => {
                Err(Violation::protocol_error(format!(
                    "{} is due for the packet identifier {id}",
                    expected_now.packet().name()
                )))
            }
            (Expected::Pubrec, _) if code < FIRST_ERROR => {
                *expected = Expected::OurPubrel;
                Ok(Fit::Expected)
            }
            _ => {
                self.open.remove(&id);
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
        assert_eq!(exchanges.answered(&suback), Ok(Fit::Expected));
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
        assert_eq!(exchanges.answered(&pubcomp), Ok(Fit::Expected));
        assert!(exchanges.answered(&pubcomp).is_err());
        exchanges.sent(sent(0x34, 8));
        let refusal = answer(PacketType::Pubrec, 8, 0x87);
        assert_eq!(exchanges.answered(&refusal), Ok(Fit::Expected));
        assert!(exchanges.answered(&refusal).is_err());
    }
}
