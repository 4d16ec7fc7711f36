//! Checks the packets that the programs send with an independent codec.

use std::sync::Arc;

use mqtt_protocol_core::mqtt::packet::{v3_1_1, v5_0};

use crate::wire::{NAMES, Packet, Version, kind};

/// Whether it is a packet that a client may send.
pub(crate) fn check(packet: &Packet<'_>, version: Version) -> Result<(), String> {
    let body = packet.body;
    let flags = packet.first & 15;
    let wanted = match packet.kind() {
        kind::PUBLISH => flags,
        kind::PUBREL | kind::SUBSCRIBE | 10 => 2,
        _ => 0,
    };
    let read = match (packet.kind(), version) {
        (kind::CONNECT, Version::V5) => v5_0::Connect::parse(body).map(|(_, n)| n),
        (kind::CONNECT, Version::V311) => v3_1_1::Connect::parse(body).map(|(_, n)| n),
        (kind::PUBLISH, Version::V5) => {
            v5_0::Publish::parse(flags, Arc::from(body)).map(|(_, n)| n)
        }
        (kind::PUBLISH, Version::V311) => {
            v3_1_1::Publish::parse(flags, Arc::from(body)).map(|(_, n)| n)
        }
        (kind::PUBACK, Version::V5) => v5_0::Puback::parse(body).map(|(_, n)| n),
        (kind::PUBREC, Version::V5) => v5_0::Pubrec::parse(body).map(|(_, n)| n),
        (kind::PUBREL, Version::V5) => v5_0::Pubrel::parse(body).map(|(_, n)| n),
        (kind::PUBCOMP, Version::V5) => v5_0::Pubcomp::parse(body).map(|(_, n)| n),
        (kind::PUBACK, Version::V311) => v3_1_1::Puback::parse(body).map(|(_, n)| n),
        (kind::PUBREC, Version::V311) => v3_1_1::Pubrec::parse(body).map(|(_, n)| n),
        (kind::PUBREL, Version::V311) => v3_1_1::Pubrel::parse(body).map(|(_, n)| n),
        (kind::PUBCOMP, Version::V311) => v3_1_1::Pubcomp::parse(body).map(|(_, n)| n),
        (kind::SUBSCRIBE, Version::V5) => v5_0::Subscribe::parse(body).map(|(_, n)| n),
        (kind::SUBSCRIBE, Version::V311) => v3_1_1::Subscribe::parse(body).map(|(_, n)| n),
        (kind::DISCONNECT, Version::V5) => v5_0::Disconnect::parse(body).map(|(_, n)| n),
        (kind::DISCONNECT, Version::V311) | (kind::PINGREQ, _) => Ok(0),
        _ => return Err(format!("it sends what no client sends: {packet:02x?}")),
    };
    let name = NAMES[usize::from(packet.kind())];
    match read {
        Ok(count) if count == body.len() && flags == wanted => Ok(()),
        Ok(_) => Err(format!("it sends a malformed {name}: {packet:02x?}")),
        Err(error) => Err(format!(
            "it sends a malformed {name} ({error:?}): {packet:02x?}"
        )),
    }
}
