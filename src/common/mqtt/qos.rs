//! MQTT's quality of service. PURE.

use std::str::FromStr;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Qos {
    #[default]
    AtMostOnce = 0,
    /// Answered with PUBACK.
    AtLeastOnce = 1,
    /// Answered with PUBREC, then PUBREL and PUBCOMP.
    ExactlyOnce = 2,
}

impl Qos {
    pub const fn level(self) -> u8 {
        self as u8
    }

    pub const fn from_level(level: u8) -> Option<Self> {
        match level {
            0 => Some(Qos::AtMostOnce),
            1 => Some(Qos::AtLeastOnce),
            2 => Some(Qos::ExactlyOnce),
            _ => None,
        }
    }
}

impl FromStr for Qos {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "0" => Ok(Qos::AtMostOnce),
            "1" => Ok(Qos::AtLeastOnce),
            "2" => Ok(Qos::ExactlyOnce),
            _ => Err("MQTT has QoS 0, 1 and 2"),
        }
    }
}
