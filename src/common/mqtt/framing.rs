//! Where control packets begin and end in a stream of bytes (MQTT 5.0 section 2.1). PURE.
//!
//! [`parse_header`] is for what a broker sends, which may be anything; [`PacketSplitter`] for what we send.

use super::limits::MAX_STRING;
use super::packet_type::PacketType;
use super::violation::Violation;

/// Where the packet identifier of a PUBLISH with the longest topic ends.
const IDENTIFIER_END: usize = 5 + 2 + MAX_STRING + 2;

/// Bytes of memory that are kept from one unfinished packet to the next.
const SHORT_HEAD: usize = 1024;

pub const PINGRESP: [u8; 2] = [PacketType::Pingresp.first_byte(0), 0];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Type and flags.
    pub first: u8,
    /// Bytes of the header, 2 to 5.
    pub length: usize,
    pub remaining: usize,
}

impl Header {
    pub fn total(&self) -> usize {
        self.length + self.remaining
    }
}

/// The header that these bytes begin with; none as long as it is not complete. A length of more than
/// four bytes is a malformed packet, and with MQTT 5 one of more than it needs (MQTT-1.5.5-1).
pub fn parse_header(bytes: &[u8], v5: bool) -> Result<Option<Header>, Violation> {
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
                return Err(Violation::malformed(cause).in_packet(packet));
            }
            return Ok(Some(Header {
                first,
                length: index + 2,
                remaining,
            }));
        }
    }
    if rest.len() < 4 {
        return Ok(None);
    }
    Err(Violation::malformed("its length has more than four bytes").in_packet(packet))
}

/// Appends a variable byte integer (MQTT 5.0 section 1.5.5); `value` is at most 268,435,455.
pub fn push_variable_int(out: &mut Vec<u8>, mut value: usize) {
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentPacket {
    /// Type and flags.
    pub first: u8,
    /// Of a PUBLISH above QoS 0, and of a PUBREL, SUBSCRIBE or UNSUBSCRIBE; else 0.
    pub packet_id: u16,
}

impl SentPacket {
    pub fn new(first: u8, packet_id: u16) -> Self {
        Self { first, packet_id }
    }

    pub fn qos(&self) -> u8 {
        self.first >> 1 & 3
    }
}

fn sent_packet(header: Header, head: &[u8]) -> Option<SentPacket> {
    let mut packet = SentPacket::new(header.first, 0);
    let body = head.get(header.length..)?;
    let at = match PacketType::of(header.first) {
        Some(PacketType::Publish) if packet.qos() > 0 => {
            2 + usize::from(u16::from_be_bytes(*body.first_chunk()?))
        }
        Some(PacketType::Pubrel | PacketType::Subscribe | PacketType::Unsubscribe) => 0,
        _ => return Some(packet),
    };
    packet.packet_id = u16::from_be_bytes(*body.get(at..)?.first_chunk()?);
    Some(packet)
}

#[derive(Debug, Default)]
pub struct PacketSplitter {
    head: Vec<u8>,
    unfinished: usize,
}

impl PacketSplitter {
    /// How many bytes of an unfinished packet have come; 0 between two packets.
    pub fn unfinished_bytes(&self) -> usize {
        self.unfinished
    }

    pub fn unfinished_type(&self) -> Option<PacketType> {
        self.head.first().and_then(|first| PacketType::of(*first))
    }

    /// Calls `ended` for each of our packets that ends in these bytes.
    pub fn track(&mut self, bytes: &[u8], mut ended: impl FnMut(SentPacket)) {
        self.split(bytes, IDENTIFIER_END, |header, head| {
            ended(sent_packet(header, head).unwrap_or(SentPacket::new(header.first, 0)));
        });
    }

    /// Calls `ended` for each packet that ends in these bytes, with at most `kept` of its bytes.
    pub fn split(&mut self, mut bytes: &[u8], kept: usize, mut ended: impl FnMut(Header, &[u8])) {
        while !bytes.is_empty() {
            if self.unfinished == 0
                && let Ok(Some(header)) = parse_header(bytes, false)
                && let Some((packet, rest)) = bytes.split_at_checked(header.total())
            {
                ended(header, packet.get(..kept).unwrap_or(packet));
                bytes = rest;
                continue;
            }
            // A header ends with a byte below 128, so it is taken byte by byte.
            let begun = parse_header(&self.head, false).ok().flatten();
            let missing = begun.map_or(1, |header| header.total() - self.unfinished);
            let (now, later) = bytes.split_at(missing.min(bytes.len()));
            let space = kept.saturating_sub(self.head.len());
            self.head.extend(now.get(..space).unwrap_or(now));
            self.unfinished += now.len();
            bytes = later;
            let begun = parse_header(&self.head, false).ok().flatten();
            if let Some(header) = begun.filter(|header| header.total() <= self.unfinished) {
                ended(header, &self.head);
                self.head.clear();
                self.head.shrink_to(SHORT_HEAD);
                self.unfinished = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(first: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![first];
        push_variable_int(&mut packet, body.len());
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

    fn any_packet() -> impl Strategy<Value = (Vec<u8>, SentPacket)> {
        prop_oneof![
            (0u8..3, "[a-z]{0,9}", 1u16.., 0usize..300).prop_map(|(qos, topic, id, size)| {
                let sent = SentPacket::new(0x30 | qos << 1, if qos == 0 { 0 } else { id });
                (publish(qos, &topic, id, size), sent)
            }),
            (1u16.., prop_oneof![Just(0x62u8), Just(0x82), Just(0xa2)]).prop_map(
                |(packet_id, first)| {
                    let body = [&packet_id.to_be_bytes()[..], b"\0\x01a\x01"].concat();
                    (packet(first, &body), SentPacket::new(first, packet_id))
                }
            ),
            Just((vec![0xc0, 0], SentPacket::new(0xc0, 0))),
        ]
    }

    proptest! {
        #[test]
        fn every_packet_is_reported_once_however_the_stream_is_cut(
            packets in proptest::collection::vec(any_packet(), 0..20),
            cut in 1usize..50,
        ) {
            let stream: Vec<u8> = packets.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
            let mut splitter = PacketSplitter::default();
            let mut seen = Vec::new();
            let mut done = 0;
            for piece in stream.chunks(cut) {
                splitter.track(piece, |packet| seen.push(packet));
                done += piece.len();
                let complete: usize = packets[..seen.len()].iter().map(|(bytes, _)| bytes.len()).sum();
                prop_assert_eq!(splitter.unfinished_bytes(), done - complete);
            }
            let expected: Vec<SentPacket> = packets.iter().map(|(_, sent)| *sent).collect();
            prop_assert_eq!(seen, expected);
        }

        #[test]
        fn a_header_is_read_as_soon_as_it_is_complete(size in 0usize..40_000) {
            let bytes = publish(1, "a", 7, size);
            let found = parse_header(&bytes, true).unwrap().unwrap();
            prop_assert_eq!(found.total(), bytes.len());
            for end in 0..found.length {
                prop_assert_eq!(parse_header(&bytes[..end], true), Ok(None));
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 1usize..50) {
            let mut splitter = PacketSplitter::default();
            for piece in bytes.chunks(cut) {
                splitter.track(piece, |_| {});
            }
            let _ = parse_header(&bytes, true);
        }
    }

    #[test]
    fn a_length_has_at_most_four_bytes_and_in_mqtt_5_none_that_it_does_not_need() {
        let long = [0x30, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(parse_header(&long[..4], true), Ok(None));
        assert_eq!(parse_header(&long, true).map_err(|v| v.code), Err(0x81));
        let wasteful = [0xd0, 0x80, 0];
        assert_eq!(parse_header(&wasteful, true).map_err(|v| v.code), Err(0x81));
        assert!(parse_header(&wasteful, false).unwrap().is_some());
    }
}
