//! The types of MQTT's control packets (MQTT 5.0 section 2.1.2). PURE.

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum PacketType {
    Connect = 1,
    Connack,
    Publish,
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
    Subscribe,
    Suback,
    Unsubscribe,
    Unsuback,
    Pingreq,
    Pingresp,
    Disconnect,
    Auth,
}

use PacketType as P;

impl PacketType {
    const ALL: [(P, &'static str); 15] = [
        (P::Connect, "CONNECT"),
        (P::Connack, "CONNACK"),
        (P::Publish, "PUBLISH"),
        (P::Puback, "PUBACK"),
        (P::Pubrec, "PUBREC"),
        (P::Pubrel, "PUBREL"),
        (P::Pubcomp, "PUBCOMP"),
        (P::Subscribe, "SUBSCRIBE"),
        (P::Suback, "SUBACK"),
        (P::Unsubscribe, "UNSUBSCRIBE"),
        (P::Unsuback, "UNSUBACK"),
        (P::Pingreq, "PINGREQ"),
        (P::Pingresp, "PINGRESP"),
        (P::Disconnect, "DISCONNECT"),
        (P::Auth, "AUTH"),
    ];

    pub fn of(first: u8) -> Option<Self> {
        let index = usize::from(first >> 4).checked_sub(1)?;
        Self::ALL.get(index).map(|(packet, _)| *packet)
    }

    pub fn name(self) -> &'static str {
        let index = usize::from(self.number()) - 1;
        Self::ALL.get(index).map_or("packet", |(_, name)| *name)
    }

    pub const fn number(self) -> u8 {
        self as u8
    }

    pub const fn first_byte(self, flags: u8) -> u8 {
        self.number() << 4 | flags
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_leads_to_its_type_and_back() {
        assert_eq!(PacketType::of(0x0f), None);
        for number in 1..=15u8 {
            let kind = PacketType::of(number << 4 | 5).unwrap();
            assert_eq!(kind.number(), number);
            assert_eq!(kind.first_byte(2), number << 4 | 2);
        }
        assert_eq!(PacketType::Pubcomp.name(), "PUBCOMP");
        assert_eq!(PacketType::Auth.name(), "AUTH");
    }
}
