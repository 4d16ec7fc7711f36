//! MQTT's reason codes: their names, and which packet of a broker may carry which. PURE.
//!
//! Sources: MQTT 5.0 section 2.4 and the tables of sections 3.2.2.2, 3.4.2.1 to 3.7.2.1, 3.9.3,
//! 3.11.3 and 3.14.2.1; MQTT 3.1.1 sections 3.2.2.3 and 3.9.3.

use super::packet_type::PacketType;

pub const MALFORMED_PACKET: u8 = 0x81;
pub const PROTOCOL_ERROR: u8 = 0x82;
pub const UNSUPPORTED_PROTOCOL_VERSION: u8 = 0x84;
pub const TOPIC_NAME_INVALID: u8 = 0x90;
pub const PACKET_IDENTIFIER_NOT_FOUND: u8 = 0x92;
pub const TOPIC_ALIAS_INVALID: u8 = 0x94;
pub const PACKET_TOO_LARGE: u8 = 0x95;
pub const QUOTA_EXCEEDED: u8 = 0x97;

pub const FIRST_ERROR: u8 = 0x80;

const NAMES: [(u8, &str); 43] = [
    (0x00, "success"),
    (0x01, "granted QoS 1"),
    (0x02, "granted QoS 2"),
    (0x04, "disconnect with will message"),
    (0x10, "no matching subscribers"),
    (0x11, "no subscription existed"),
    (0x18, "continue authentication"),
    (0x19, "re-authenticate"),
    (0x80, "unspecified error"),
    (0x81, "malformed packet"),
    (0x82, "protocol error"),
    (0x83, "implementation specific error"),
    (0x84, "unsupported protocol version"),
    (0x85, "client identifier not valid"),
    (0x86, "bad user name or password"),
    (0x87, "not authorized"),
    (0x88, "server unavailable"),
    (0x89, "server busy"),
    (0x8A, "banned"),
    (0x8B, "server shutting down"),
    (0x8C, "bad authentication method"),
    (0x8D, "keep alive timeout"),
    (0x8E, "session taken over"),
    (0x8F, "topic filter invalid"),
    (0x90, "topic name invalid"),
    (0x91, "packet identifier in use"),
    (0x92, "packet identifier not found"),
    (0x93, "receive maximum exceeded"),
    (0x94, "topic alias invalid"),
    (0x95, "packet too large"),
    (0x96, "message rate too high"),
    (0x97, "quota exceeded"),
    (0x98, "administrative action"),
    (0x99, "payload format invalid"),
    (0x9A, "retain not supported"),
    (0x9B, "QoS not supported"),
    (0x9C, "use another server"),
    (0x9D, "server moved"),
    (0x9E, "shared subscriptions not supported"),
    (0x9F, "connection rate exceeded"),
    (0xA0, "maximum connect time"),
    (0xA1, "subscription identifiers not supported"),
    (0xA2, "wildcard subscriptions not supported"),
];

pub fn describe(code: u8) -> String {
    let name = NAMES.iter().find(|(number, _)| *number == code);
    let name = name.map_or("unknown reason code", |(_, name)| *name);
    format!("{name} (0x{code:02X})")
}

/// A code of a DISCONNECT with its name there (MQTT 5.0 section 3.14.2.1).
pub fn describe_disconnect(code: u8) -> String {
    match code {
        0x00 => "normal disconnection (0x00)".into(),
        _ => describe(code),
    }
}

pub fn is_allowed(packet: PacketType, v5: bool, code: u8) -> bool {
    use PacketType as P;
    match packet {
        P::Suback if !v5 => matches!(code, 0..=2 | 0x80),
        P::Suback => matches!(
            code,
            0..=2 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2
        ),
        P::Unsuback => matches!(code, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91),
        P::Connack => {
            matches!(code, 0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F)
        }
        P::Disconnect => matches!(
            code,
            0x00 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B | 0x8D..=0x90 | 0x93..=0xA2
        ),
        P::Puback | P::Pubrec => matches!(
            code,
            0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99
        ),
        P::Pubrel | P::Pubcomp => matches!(code, 0x00 | PACKET_IDENTIFIER_NOT_FOUND),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_code_of_mqtt_5_has_a_name() {
        for code in FIRST_ERROR..=0xA2 {
            assert!(!describe(code).contains("unknown"), "{code:02X}");
        }
        assert_eq!(describe(0xA3), "unknown reason code (0xA3)");
        assert_eq!(describe_disconnect(0), "normal disconnection (0x00)");
        let names: std::collections::BTreeSet<_> = (0x80..=0xA2).map(describe).collect();
        assert_eq!(names.len(), 0xA3 - 0x80);
    }
}
