//! Where MQTT's control packets begin and end in a stream of bytes (MQTT 5, section 2.1), as far
//! as holding one back needs to know. What is no MQTT is left alone: the client library will say
//! so. PURE.

/// The kinds of packets that matter here (MQTT 5, section 2.1.2): the broker accepts the
/// connection, or does not.
pub const CONNACK: u8 = 2;
/// A message.
pub const PUBLISH: u8 = 3;
/// The acknowledgement of a QoS 1 PUBLISH.
pub const PUBACK: u8 = 4;
/// The first acknowledgement of a QoS 2 PUBLISH.
pub const PUBREC: u8 = 5;
/// The sender of a QoS 2 PUBLISH has forgotten it.
pub const PUBREL: u8 = 6;
/// Is somebody there?
pub const PINGREQ: u8 = 12;
/// Yes.
pub const PINGRESP: u8 = 13;
/// The last packet of a connection.
pub const DISCONNECT: u8 = 14;

/// A whole PINGREQ.
pub const PINGREQ_PACKET: [u8; 2] = [PINGREQ << 4, 0];

/// A whole PINGRESP.
pub const PINGRESP_PACKET: [u8; 2] = [PINGRESP << 4, 0];

/// What the beginning of a packet tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Its kind, 1 to 15.
    pub kind: u8,
    /// The QoS of a PUBLISH; 0 for anything else.
    pub qos: u8,
    /// The packet identifier of a PUBLISH above QoS 0 and of a PUBREL; else 0.
    pub id: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Start,
    /// In the remaining length, so many bytes of it read.
    Length(u8),
    /// In the length of the topic, in the identifier: so many bytes are to come.
    TopicLength(u8),
    Topic(u32),
    Id(u8),
    Body,
    /// No MQTT.
    Lost,
}

/// Follows a stream through its packets, in pieces of any size.
#[derive(Clone, Debug)]
pub struct Framer {
    at: At,
    head: Head,
    /// Bytes of the packet that are to come, once its length is known.
    left: u32,
    number: u32,
}

impl Default for Framer {
    fn default() -> Self {
        Self {
            at: At::Start,
            head: Head {
                kind: 0,
                qos: 0,
                id: 0,
            },
            left: 0,
            number: 0,
        }
    }
}

impl Framer {
    /// Whether the stream stands between two packets.
    #[must_use]
    pub fn between_packets(&self) -> bool {
        self.at == At::Start
    }

    /// How many of these bytes, which come next, belong to the packet under way.
    #[must_use]
    pub fn rest_of_packet(&self, bytes: &[u8]) -> usize {
        let mut ahead = self.clone();
        let mut done = 0;
        while !ahead.between_packets() && done < bytes.len() {
            done += ahead.step(bytes.get(done..).unwrap_or_default(), &mut |_| {});
        }
        done
    }

    /// Follows the stream through these bytes. `on_head` is told the head of each packet.
    pub fn follow(&mut self, bytes: &[u8], mut on_head: impl FnMut(Head)) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let done = self.step(rest, &mut on_head);
            rest = rest.get(done..).unwrap_or_default();
        }
    }

    /// Takes at least one byte, and none beyond the end of the packet.
    fn step(&mut self, bytes: &[u8], on_head: &mut impl FnMut(Head)) -> usize {
        let Some(&byte) = bytes.first() else { return 0 };
        let known = match self.at {
            At::Lost => return bytes.len(),
            At::Body | At::Topic(_) => {
                let wanted = match self.at {
                    At::Topic(topic) => topic.min(self.left),
                    _ => self.left,
                };
                let done = bytes.len().min(wanted as usize);
                // Not above `wanted`, which is no longer than this.
                let count = u32::try_from(done).unwrap_or(wanted);
                self.left -= count;
                match self.at {
                    At::Topic(_) if count < wanted => self.at = At::Topic(wanted - count),
                    At::Topic(_) => self.await_id(on_head),
                    _ => {}
                }
                self.end_if_over();
                return done;
            }
            At::Start => {
                self.head = Head {
                    kind: byte >> 4,
                    qos: if byte >> 4 == PUBLISH {
                        byte >> 1 & 3
                    } else {
                        0
                    },
                    id: 0,
                };
                self.left = 0;
                self.at = At::Length(0);
                return 1;
            }
            At::Length(read) => {
                self.left |= u32::from(byte & 0x7f) << (7 * u32::from(read));
                self.at = match (byte & 0x80, read) {
                    (0, _) => {
                        self.length_known(on_head);
                        self.at
                    }
                    (_, 3) => At::Lost,
                    _ => At::Length(read + 1),
                };
                self.end_if_over();
                return 1;
            }
            At::TopicLength(n) | At::Id(n) => n,
        };
        self.number = self.number << 8 | u32::from(byte);
        self.left = self.left.saturating_sub(1);
        match (self.at, known) {
            (At::TopicLength(_), 1) => {
                self.at = At::Topic(self.number);
                if self.number == 0 {
                    self.await_id(on_head);
                }
            }
            (At::Id(_), 1) => {
                self.head.id = u16::try_from(self.number & 0xffff).unwrap_or_default();
                on_head(self.head);
                self.at = At::Body;
            }
            (At::TopicLength(_), n) => self.at = At::TopicLength(n.saturating_sub(1)),
            (_, n) => self.at = At::Id(n.saturating_sub(1)),
        }
        self.end_if_over();
        1
    }

    fn length_known(&mut self, on_head: &mut impl FnMut(Head)) {
        self.number = 0;
        self.at = match (self.head.kind, self.head.qos) {
            (PUBLISH, 1 | 2) => At::TopicLength(2),
            (PUBREL, _) => At::Id(2),
            _ => {
                on_head(self.head);
                At::Body
            }
        };
    }

    fn await_id(&mut self, _on_head: &mut impl FnMut(Head)) {
        self.number = 0;
        self.at = At::Id(2);
    }

    fn end_if_over(&mut self) {
        if self.left == 0 && !matches!(self.at, At::Start | At::Length(_) | At::Lost) {
            self.at = At::Start;
        }
    }
}

/// The length of the packet that these bytes begin with, if it is there in full.
#[must_use]
pub fn whole_packet(bytes: &[u8]) -> Option<usize> {
    let mut length = 0_usize;
    for (i, byte) in bytes.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            let end = length + i + 2;
            return (end <= bytes.len()).then_some(end);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(first: u8, body: &[u8]) -> Vec<u8> {
        let mut packet = vec![first];
        let mut length = body.len();
        loop {
            let byte = u8::try_from(length & 0x7f).unwrap();
            length >>= 7;
            packet.push(if length > 0 { byte | 0x80 } else { byte });
            if length == 0 {
                break;
            }
        }
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

    fn any_packet() -> impl Strategy<Value = (Vec<u8>, Head)> {
        prop_oneof![
            (0u8..3, "[a-z]{0,9}", 1u16.., 0usize..300).prop_map(|(qos, topic, id, size)| {
                let id = if qos == 0 { 0 } else { id };
                let kind = PUBLISH;
                (publish(qos, &topic, id, size), Head { kind, qos, id })
            }),
            (1u16..).prop_map(|id| {
                let head = Head {
                    kind: PUBREL,
                    qos: 0,
                    id,
                };
                (packet(0x62, &id.to_be_bytes()), head)
            }),
            Just((
                PINGRESP_PACKET.to_vec(),
                Head {
                    kind: PINGRESP,
                    qos: 0,
                    id: 0
                }
            )),
        ]
    }

    proptest! {
        #[test]
        fn every_packet_is_seen_once_however_the_stream_is_cut(
            packets in proptest::collection::vec(any_packet(), 0..20),
            cut in 1usize..50,
        ) {
            let stream: Vec<u8> = packets.iter().flat_map(|(bytes, _)| bytes.clone()).collect();
            let mut framer = Framer::default();
            let mut heads = Vec::new();
            let mut done = 0;
            for piece in stream.chunks(cut) {
                let until = framer.rest_of_packet(piece);
                let ends = packets.iter().scan(0, |at, (bytes, _)| {
                    *at += bytes.len();
                    Some(*at)
                });
                let end = ends.into_iter().find(|end| *end >= done).unwrap_or(0);
                let expected = if framer.between_packets() { 0 } else { (end - done).min(piece.len()) };
                prop_assert_eq!(until, expected);
                framer.follow(piece, |head| heads.push(head));
                done += piece.len();
            }
            prop_assert!(framer.between_packets());
            let expected: Vec<Head> = packets.iter().map(|(_, head)| *head).collect();
            prop_assert_eq!(heads, expected);
        }

        #[test]
        fn no_bytes_whatever_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..400), cut in 1usize..50) {
            let mut framer = Framer::default();
            for piece in bytes.chunks(cut) {
                let _ = framer.rest_of_packet(piece);
                framer.follow(piece, |_| {});
            }
            let _ = whole_packet(&bytes);
        }

        #[test]
        fn a_whole_packet_is_told_from_a_part(size in 0usize..40_000) {
            let bytes = publish(1, "a", 7, size);
            prop_assert_eq!(whole_packet(&bytes), Some(bytes.len()));
            prop_assert_eq!(whole_packet(&bytes[..bytes.len() - 1]), None);
            prop_assert_eq!(whole_packet(&[]), None);
        }
    }
}
