//! What goes wrong with packets on their way, or in the head of who sends them.

use fastrand::Rng;

use crate::packets::put_length;

/// Bytes at which readers of lengths and numbers go wrong.
const EDGES: [u8; 8] = [0x00, 0x01, 0x02, 0x7f, 0x80, 0x81, 0xfe, 0xff];

/// Remaining lengths that no packet has, or hardly any.
const LENGTHS: [&[u8]; 8] = [
    &[0x00],
    &[0x01],
    &[0x80, 0x00],
    &[0xff, 0xff, 0xff, 0x7f],
    &[0xff, 0xff, 0xff, 0xff],
    &[0x80, 0x80, 0x80, 0x80, 0x01],
    &[0xff, 0x7f],
    &[0x80, 0x80, 0x01],
];

/// Changes one packet.
pub(crate) fn change(rng: &mut Rng, packet: &mut Vec<u8>) {
    if packet.is_empty() {
        return packet.push(rng.u8(..));
    }
    // Most of what can go wrong stands in front.
    let end = if rng.bool() {
        packet.len().min(16)
    } else {
        packet.len()
    };
    let at = rng.usize(..end);
    match rng.u32(..10) {
        0..2 => packet[at] ^= 1 << rng.u32(..8),
        2 => packet[at] = rng.choice(EDGES).unwrap_or_default(),
        3 => {
            // A part is missing, and the length knows of it or not.
            let to = rng.usize(at..=packet.len());
            packet.drain(at..to);
            if rng.bool() {
                set_right(packet);
            }
        }
        4 => packet.truncate(at),
        5 => {
            packet.truncate(at);
            set_right(packet);
        }
        6 => {
            let count = rng.usize(1..6);
            for _ in 0..count {
                packet.insert(at, rng.choice(EDGES).unwrap_or_default());
            }
            if rng.bool() {
                set_right(packet);
            }
        }
        7 => {
            let length = rng.choice(LENGTHS).unwrap_or_default();
            let body = body_of(packet);
            packet.splice(1..body, length.iter().copied());
        }
        8 => {
            // One more or one less than there is.
            let body = body_of(packet);
            let length = (packet.len() - body + rng.usize(..4)).saturating_sub(2);
            let mut bytes = Vec::new();
            put_length(&mut bytes, length);
            packet.splice(1..body, bytes);
        }
        _ => identify(rng, packet),
    }
}

/// Gives a packet another identifier, if it is one of those that begin with it.
fn identify(rng: &mut Rng, packet: &mut [u8]) {
    let body = body_of(packet);
    let Some([high, low]) = packet.get_mut(body..body + 2) else {
        return;
    };
    let old = u16::from_be_bytes([*high, *low]);
    let new = match rng.u32(..5) {
        0 => 0,
        1 => old.wrapping_add(1),
        2 => old.wrapping_sub(1),
        3 => rng.u16(..6),
        _ => rng.u16(..),
    };
    [*high, *low] = new.to_be_bytes();
}

/// Where the body of a packet begins, by its own account.
fn body_of(packet: &[u8]) -> usize {
    let length = packet.iter().skip(1).take(4);
    let more = length.take_while(|byte| **byte >= 0x80).count();
    (2 + more).min(packet.len())
}

/// Writes the length that a packet has.
fn set_right(packet: &mut Vec<u8>) {
    if packet.is_empty() {
        return;
    }
    let body = body_of(packet);
    let mut bytes = Vec::new();
    put_length(&mut bytes, packet.len() - body);
    packet.splice(1..body, bytes);
}

/// Changes the order and number of packets, or one of them. `stray` is a packet that does not belong.
pub(crate) fn confuse(rng: &mut Rng, packets: &mut Vec<Vec<u8>>, stray: Vec<u8>) {
    if packets.is_empty() {
        return packets.push(stray);
    }
    let at = rng.usize(..packets.len());
    let other = rng.usize(..packets.len());
    match rng.u32(..12) {
        0 => {
            let copy = packets[at].clone();
            packets.insert(other, copy);
        }
        1 => packets.swap(at, other),
        2 => drop(packets.remove(at)),
        3 => packets.insert(at, stray),
        4 => {
            let head = rng.usize(..=packets[at].len());
            let tail = rng.usize(..=packets[other].len());
            let rest = packets[other][tail..].to_vec();
            packets[at].truncate(head);
            packets[at].extend(rest);
        }
        _ => change(rng, &mut packets[at]),
    }
}
