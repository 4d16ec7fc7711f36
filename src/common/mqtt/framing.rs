//! Where control packets begin and end in a stream of bytes (MQTT 5.0 section 2.1). PURE.
//!
//! [`header`] is for what a broker sends, which may be anything; [`Follower`] for what our own
//! client library sends, in pieces of any size.

use super::packet_type::PacketType;
use super::violation::Violation;

/// A whole PINGRESP.
pub const PINGRESP: [u8; 2] = [PacketType::Pingresp.first_byte(0), 0];

/// The fixed header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its first byte: type and flags.
    pub first: u8,
    /// Bytes of the header itself, 2 to 5.
    pub length: usize,
    /// Bytes that follow it.
    pub remaining: usize,
}

impl Header {
    /// Bytes of the whole packet.
    pub fn total(&self) -> usize {
        self.length + self.remaining
    }
}

/// The header that these bytes begin with; none as long as it is not complete.
///
/// # Errors
///
/// A malformed packet for a length of more than four bytes, and with MQTT 5 for one of more than it
/// needs (MQTT-1.5.5-1).
pub fn header(bytes: &[u8], v5: bool) -> Result<Option<Header>, Violation> {
    let Some((&first, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let packet = PacketType::of(first);
    let mut remaining = 0;
    for (index, &byte) in rest.iter().take(4).enumerate() {
        remaining |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            if v5 && byte == 0 && index > 0 {
                let cause = "its length has more bytes than it needs";
                return Err(Violation::malformed(cause).of(packet));
            }
            return Ok(Some(Header {
                first,
                length: index + 2,
                remaining,
            }));
        }
    }
    if rest.len() >= 4 {
        return Err(Violation::malformed("its length has more than four bytes").of(packet));
    }
    Ok(None)
}

/// Appends a variable byte integer (MQTT 5.0 section 1.5.5); `value` is at most 268,435,455.
pub fn push_variable(out: &mut Vec<u8>, mut value: usize) {
    loop {
        // Seven bits fit into a byte.
        let byte = u8::try_from(value & 0x7f).unwrap_or_default();
        value >>= 7;
        out.push(if value > 0 { byte | 0x80 } else { byte });
        if value == 0 {
            return;
        }
    }
}

/// What matters of a packet that has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its first byte: type and flags.
    pub first: u8,
    /// The packet identifier of a PUBLISH above QoS 0, and of a PUBREL, SUBSCRIBE or UNSUBSCRIBE;
    /// else 0.
    pub id: u16,
}

impl Sent {
    /// The QoS of a PUBLISH.
    pub fn qos(&self) -> u8 {
        self.first >> 1 & 3
    }
}

/// The packet that these bytes begin with, and what follows it, if it is there in full. Most are.
fn whole(bytes: &[u8]) -> Option<(Sent, &[u8])> {
    let header = header(bytes, false).ok().flatten()?;
    let (packet, rest) = bytes.split_at_checked(header.total())?;
    let body = packet.get(header.length..)?;
    let sent = Sent {
        first: header.first,
        id: 0,
    };
    let at = match PacketType::of(header.first) {
        Some(PacketType::Publish) if sent.qos() > 0 => {
            let (length, _) = body.split_first_chunk()?;
            2 + usize::from(u16::from_be_bytes(*length))
        }
        Some(PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe) => 0,
        _ => return Some((sent, rest)),
    };
    let (id, _) = body.get(at..)?.split_first_chunk()?;
    let id = u16::from_be_bytes(*id);
    Some((Sent { id, ..sent }, rest))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Start,
    /// In the remaining length, of which this number of bytes has been read.
    Length(u8),
    /// In the length of the topic, in the identifier: this number of bytes is missing.
    TopicLength(u8),
    Topic(u32),
    Id(u8),
    Body,
}

/// Follows a stream of well-formed packets.
#[derive(Clone, Debug)]
pub struct Follower {
    at: At,
    packet: Sent,
    /// Bytes of the packet that are to come, once its length is known.
    left: u32,
    /// Bytes of the packet that have come.
    taken: usize,
    number: u32,
}

impl Default for Follower {
    fn default() -> Self {
        Self {
            at: At::Start,
            packet: Sent { first: 0, id: 0 },
            left: 0,
            taken: 0,
            number: 0,
        }
    }
}

impl Follower {
    /// How many bytes of an unfinished packet have come; 0 between two packets.
    pub fn unfinished(&self) -> usize {
        self.taken
    }

    /// The first byte of an unfinished packet; none between two packets.
    pub fn begun(&self) -> Option<u8> {
        (self.taken > 0).then_some(self.packet.first)
    }

    /// Follows the stream through these bytes. `ended` is called at the end of each packet.
    pub fn follow(&mut self, mut bytes: &[u8], mut ended: impl FnMut(Sent)) {
        while !bytes.is_empty() {
            if self.at == At::Start
                && let Some((packet, rest)) = whole(bytes)
            {
                ended(packet);
                bytes = rest;
                continue;
            }
            let done = self.step(bytes);
            self.taken += done;
            bytes = bytes.get(done..).unwrap_or_default();
            if self.left == 0 && !matches!(self.at, At::Start | At::Length(_)) {
                ended(self.packet);
                *self = Self::default();
            }
        }
    }

    /// Takes at least one byte, and none beyond the end of the packet.
    fn step(&mut self, bytes: &[u8]) -> usize {
        let Some(&byte) = bytes.first() else { return 0 };
        match self.at {
            At::Start => {
                self.packet = Sent { first: byte, id: 0 };
                self.at = At::Length(0);
            }
            At::Length(read) => {
                self.left |= u32::from(byte & 0x7f) << (7 * u32::from(read.min(3)));
                self.at = if byte & 0x80 == 0 {
                    self.first_field()
                } else {
                    At::Length(read + 1)
                };
            }
            At::TopicLength(left) | At::Id(left) => {
                self.number = self.number << 8 | u32::from(byte);
                self.left = self.left.saturating_sub(1);
                self.at = match (self.at, left) {
                    (At::TopicLength(_), 1) if self.number == 0 => self.id_follows(),
                    (At::TopicLength(_), 1) => At::Topic(self.number),
                    (At::TopicLength(_), _) => At::TopicLength(left - 1),
                    (_, 1) => {
                        self.packet.id = u16::try_from(self.number & 0xffff).unwrap_or_default();
                        At::Body
                    }
                    _ => At::Id(left - 1),
                };
            }
            At::Topic(left) => {
                let count = self.skip(bytes, left);
                self.at = match left.saturating_sub(count) {
                    0 => self.id_follows(),
                    left => At::Topic(left),
                };
                return count as usize;
            }
            At::Body => return self.skip(bytes, u32::MAX) as usize,
        }
        1
    }

    /// Passes over bytes of the packet, `most` at most.
    fn skip(&mut self, bytes: &[u8], most: u32) -> u32 {
        let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let count = count.min(most).min(self.left);
        self.left -= count;
        count
    }

    fn first_field(&mut self) -> At {
        match PacketType::of(self.packet.first) {
            Some(PacketType::Publish) if self.packet.qos() > 0 => At::TopicLength(2),
            Some(PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe) => At::Id(2),
            _ => At::Body,
        }
    }

    fn id_follows(&mut self) -> At {
        self.number = 0;
        At::Id(2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(first: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![first];
        push_variable(&mut packet, body.len());
        packet.extend_from_slice(body);
        packet
    }

    fn publish(qos: u8, topic: &str, id: u16, payload: usize) -> Vec<u8> {
        let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
        body.extend_from_slice(topic.as_bytes());
        if qos > 0 {
            body.extend_from_slice(&id.to_be_bytes());
        }
        body.resize(body.len() + payload, 0xff);
        packet(0x30 | qos << 1, &body)
    }

    fn any_packet() -> impl Strategy<Value = (Vec<u8>, Sent)> {
        prop_oneof![
            (0u8..3, "[a-z]{0,9}", 1u16.., 0usize..300).prop_map(|(qos, topic, id, size)| {
                let first = 0x30 | qos << 1;
                let sent = Sent {
                    first,
                    id: if qos == 0 { 0 } else { id },
                };
                (publish(qos, &topic, id, size), sent)
            }),
            (1u16.., prop_oneof![Just(0x62u8), Just(0x82), Just(0xa2)]).prop_map(|(id, first)| {
                let body = [&id.to_be_bytes()[..], b"\0\x01a\x01"].concat();
                (packet(first, &body), Sent { first, id })
            }),
            Just((vec![0xc0, 0], Sent { first: 0xc0, id: 0 })),
        ]
    }

    proptest! {
        #[test]
        fn every_packet_is_seen_once_however_the_stream_is_cut(
            packets in proptest::collection::vec(any_packet(), 0..20),
            cut in 1usize..50,
        ) {
            let stream: Vec<u8> = packets.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
            let mut follower = Follower::default();
            let mut seen = Vec::new();
            let mut done = 0;
            for piece in stream.chunks(cut) {
                follower.follow(piece, |packet| seen.push(packet));
                done += piece.len();
                let complete: usize = packets[..seen.len()].iter().map(|(bytes, _)| bytes.len()).sum();
                prop_assert_eq!(follower.unfinished(), done - complete);
            }
            let expected: Vec<Sent> = packets.iter().map(|(_, sent)| *sent).collect();
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn a_header_is_read_as_soon_as_it_is_complete(size in 0usize..40_000) {
            let bytes = publish(1, "a", 7, size);
            let found = header(&bytes, true).unwrap().unwrap();
            prop_assert_eq!(found.total(), bytes.len());
            for end in 0..found.length {
                prop_assert_eq!(header(&bytes[..end], true), Ok(None));
            }
        }

        #[test]
        fn no_bytes_whatever_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 1usize..50) {
            let mut follower = Follower::default();
            for piece in bytes.chunks(cut) {
                follower.follow(piece, |_| {});
            }
            let _ = header(&bytes, true);
        }
    }

    #[test]
    fn a_length_has_four_bytes_at_most_and_none_too_many_in_mqtt_5() {
        let long = [0x30, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(header(&long[..4], true), Ok(None));
        assert_eq!(header(&long, true).map_err(|v| v.code), Err(0x81));
        let wasteful = [0xd0, 0x80, 0];
        assert_eq!(header(&wasteful, true).map_err(|v| v.code), Err(0x81));
        assert!(header(&wasteful, false).unwrap().is_some());
    }
}
