//! What the end of a connection says about the messages that were in flight on it. PURE.

use crate::common::connection::driver::Disconnection;
use crate::common::fault::Exit;
use crate::common::mqtt::limits;
use crate::publisher::outbox::types::PoisonEvidence;

pub(super) const NOT_AUTHORIZED: u8 = 0x87;

/// The reason codes of MQTT 5.0 section 3.14.2.1 with which a broker ends a connection because of a message: not
/// authorized, topic name invalid, packet too large, payload format invalid, retain or `QoS` not supported.
const ABOUT_A_MESSAGE: [u8; 6] = [NOT_AUTHORIZED, 0x90, 0x95, 0x99, 0x9A, 0x9B];

/// Those that are about a packet, which may be a message: malformed packet, protocol error. Mosquitto
/// sends the first for a topic with control characters, the second for one with wildcards.
const ABOUT_A_PACKET: [u8; 2] = [0x81, 0x82];

pub(super) fn find_poison_evidence(
    disconnection: &Disconnection,
    topic: Option<&str>,
) -> PoisonEvidence {
    let reached = disconnection.reached;
    // A receiver may treat a name with non-characters as a malformed packet (MQTT 5.0 section 1.5.4).
    let is_name =
        |code| ABOUT_A_PACKET.contains(&code) && topic.is_some_and(limits::has_noncharacters);
    let reason = match disconnection.reason_code {
        Some(code) if ABOUT_A_MESSAGE.contains(&code) || is_name(code) => {
            Some(disconnection.message.clone())
        }
        Some(code) if !ABOUT_A_PACKET.contains(&code) => return PoisonEvidence::Unrelated,
        // The broker broke the protocol, or there was no memory.
        None if disconnection.exit != Exit::Unavailable => return PoisonEvidence::Unrelated,
        _ => None,
    };
    PoisonEvidence::ByBroker { reason, reached }
}
