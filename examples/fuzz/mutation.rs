//! Mutations of packets and of sequences of packets.

use fastrand::Rng;

use crate::packets::put_length;

/// Boundary values of bytes.
const EDGES: [u8; 8] = [0x00, 0x01, 0x02, 0x7f, 0x80, 0x81, 0xfe, 0xff];

/// Unusual and invalid encodings of the remaining length.
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

/// Mutates one packet.
pub(crate) fn mutate_packet(rng: &mut Rng, packet: &mut Vec<u8>) {
    if packet.is_empty() {
        return packet.push(rng.u8(..));
    }
    // Prefer the headers.
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
            // Remove a part, with or without correcting the length.
            let to = rng.usize(at..=packet.len());
            packet.drain(at..to);
            if rng.bool() {
                correct_length(packet);
            }
        }
        4 => packet.truncate(at),
        5 => {
            packet.truncate(at);
            correct_length(packet);
        }
        6 => {
            let count = rng.usize(1..6);
            for _ in 0..count {
                packet.insert(at, rng.choice(EDGES).unwrap_or_default());
            }
            if rng.bool() {
                correct_length(packet);
            }
        }
        7 => {
            let length = rng.choice(LENGTHS).unwrap_or_default();
            let body = body_offset(packet);
            packet.splice(1..body, length.iter().copied());
        }
        8 => {
            // A remaining length that is slightly wrong.
            let body = body_offset(packet);
            let length = (packet.len() - body + rng.usize(..4)).saturating_sub(2);
            let mut bytes = Vec::new();
            put_length(&mut bytes, length);
            packet.splice(1..body, bytes);
        }
        _ => mutate_identifier(rng, packet),
    }
}

/// Changes the first two bytes of the body, where most packets have their identifier.
fn mutate_identifier(rng: &mut Rng, packet: &mut [u8]) {
    let body = body_offset(packet);
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

/// Offset of the body, according to the encoded remaining length.
fn body_offset(packet: &[u8]) -> usize {
    let length = packet.iter().skip(1).take(4);
    let more = length.take_while(|byte| **byte >= 0x80).count();
    (2 + more).min(packet.len())
}

/// Corrects the remaining length.
fn correct_length(packet: &mut Vec<u8>) {
    if packet.is_empty() {
        return;
    }
    let body = body_offset(packet);
    let mut bytes = Vec::new();
    put_length(&mut bytes, packet.len() - body);
    packet.splice(1..body, bytes);
}

/// Duplicates, swaps, removes, inserts, splices or mutates packets. `unexpected` is the packet to insert.
pub(crate) fn mutate_sequence(rng: &mut Rng, packets: &mut Vec<Vec<u8>>, unexpected: Vec<u8>) {
    if packets.is_empty() {
        return packets.push(unexpected);
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
        3 => packets.insert(at, unexpected),
        4 => {
            let head = rng.usize(..=packets[at].len());
            let tail = rng.usize(..=packets[other].len());
            let rest = packets[other][tail..].to_vec();
            packets[at].truncate(head);
            packets[at].extend(rest);
        }
        _ => mutate_packet(rng, &mut packets[at]),
    }
}
