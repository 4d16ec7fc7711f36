//! As much of the MQTT wire format as a scripted broker must understand, 3.1.1 and 5.

use std::{
    io::{self, Read},
    time::Instant,
};

/// The kind of a control packet: the upper half of its first byte.
pub(crate) mod kind {
    pub(crate) const CONNECT: u8 = 1;
    pub(crate) const PUBLISH: u8 = 3;
    pub(crate) const PUBACK: u8 = 4;
    pub(crate) const PUBREC: u8 = 5;
    pub(crate) const PUBREL: u8 = 6;
    pub(crate) const PUBCOMP: u8 = 7;
    pub(crate) const SUBSCRIBE: u8 = 8;
    pub(crate) const UNSUBSCRIBE: u8 = 10;
    pub(crate) const PINGREQ: u8 = 12;
    pub(crate) const DISCONNECT: u8 = 14;
}

/// A control packet as it came.
pub(crate) struct Packet {
    first: u8,
    body: Vec<u8>,
    /// The bytes of all of it.
    size: usize,
}

/// A CONNECT, in so far as the tests look at it.
#[derive(Clone, Debug)]
pub(crate) struct Connect {
    /// 4 is MQTT 3.1.1, 5 is MQTT 5.
    pub(crate) level: u8,
    pub(crate) keep_alive: u16,
    pub(crate) client_id: String,
    /// MQTT 5's Maximum Packet Size.
    pub(crate) maximum_packet_size: Option<u32>,
    pub(crate) user_properties: Vec<(String, String)>,
    pub(crate) at: Instant,
}

#[derive(Clone, Debug)]
pub(crate) struct Publish {
    /// Which connection it came on, counted from 0.
    pub(crate) connection: usize,
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    /// 0 at QoS 0.
    pub(crate) packet_id: u16,
    pub(crate) user_properties: Vec<(String, String)>,
    /// The bytes of the whole packet.
    pub(crate) size: usize,
    pub(crate) at: Instant,
}

/// Reads one packet; an error also at the end of the connection.
pub(crate) fn read_packet(stream: &mut (impl Read + ?Sized)) -> io::Result<Packet> {
    let mut byte = || {
        let mut byte = [0];
        stream.read_exact(&mut byte).map(|()| byte[0])
    };
    let first = byte()?;
    let mut length = 0;
    let mut size = 1;
    for shift in [0, 7, 14, 21] {
        let part = byte()?;
        size += 1;
        length |= usize::from(part & 0x7f) << shift;
        if part < 0x80 {
            break;
        }
    }
    size += length;
    let mut body = vec![0; length];
    stream.read_exact(&mut body)?;
    Ok(Packet { first, body, size })
}

/// A PUBLISH at QoS 1, to be sent to a subscriber.
pub(crate) fn publish(level: u8, id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
    body.extend(topic.as_bytes());
    body.extend(id.to_be_bytes());
    if level == 5 {
        body.push(0);
    }
    body.extend(payload);
    let mut packet = vec![0x32];
    let mut length = body.len();
    while length >= 0x80 {
        packet.push(u8::try_from(length % 0x80).unwrap() | 0x80);
        length /= 0x80;
    }
    packet.push(u8::try_from(length).unwrap());
    packet.extend(body);
    packet
}

impl Packet {
    pub(crate) fn kind(&self) -> u8 {
        self.first >> 4
    }

    pub(crate) fn body(&self) -> Fields<'_> {
        Fields(&self.body)
    }

    pub(crate) fn connect(&self) -> Connect {
        let mut fields = self.body();
        fields.text();
        let level = fields.byte();
        fields.byte();
        let keep_alive = fields.number();
        let mut user_properties = Vec::new();
        let maximum_packet_size = match level {
            5 => {
                user_properties = Fields(fields.0).properties();
                fields.maximum_packet_size()
            }
            _ => None,
        };
        Connect {
            level,
            keep_alive,
            maximum_packet_size,
            user_properties,
            client_id: fields.text(),
            at: Instant::now(),
        }
    }

    pub(crate) fn publish(&self, connection: usize, level: u8) -> Publish {
        let mut fields = self.body();
        let qos = self.first >> 1 & 3;
        Publish {
            connection,
            topic: fields.text(),
            qos,
            retain: self.first & 1 != 0,
            dup: self.first & 8 != 0,
            packet_id: if qos > 0 { fields.number() } else { 0 },
            user_properties: match level {
                5 => fields.properties(),
                _ => Vec::new(),
            },
            payload: fields.0.to_vec(),
            size: self.size,
            at: Instant::now(),
        }
    }

    /// The packet identifier and the filters, each with the QoS asked for.
    pub(crate) fn subscribe(&self, level: u8) -> (u16, Vec<(String, u8)>) {
        let mut fields = self.body();
        let id = fields.number();
        if level == 5 {
            fields.properties();
        }
        let mut filters = Vec::new();
        while !fields.is_empty() {
            filters.push((fields.text(), fields.byte() & 3));
        }
        (id, filters)
    }
}

/// What is left of a packet to read. A malformed packet is a panic: it comes from a
/// client under test.
pub(crate) struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    pub(crate) fn number(&mut self) -> u16 {
        u16::from_be_bytes(self.take(2).try_into().unwrap())
    }

    fn text(&mut self) -> String {
        let length = self.number();
        String::from_utf8(self.take(length.into()).to_vec()).expect("UTF-8 in a text field")
    }

    /// The Maximum Packet Size among the properties of a CONNECT.
    fn maximum_packet_size(&mut self) -> Option<u32> {
        let before = self.0;
        self.properties();
        let length = before.len() - self.0.len();
        // No other property that our CONNECT has holds this byte.
        let at = before[1..length].iter().position(|byte| *byte == 0x27)?;
        let value = before[1..length].get(at + 1..at + 5)?;
        Some(u32::from_be_bytes(value.try_into().unwrap()))
    }

    /// The user properties; the others are skipped.
    fn properties(&mut self) -> Vec<(String, String)> {
        let mut user = Vec::new();
        let length = self.length();
        let mut inner = Fields(self.take(length));
        while !inner.is_empty() {
            match inner.byte() {
                0x26 => user.push((inner.text(), inner.text())),
                0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2a => drop(inner.take(1)),
                0x13 | 0x21..=0x23 => drop(inner.take(2)),
                0x02 | 0x11 | 0x18 | 0x27 => drop(inner.take(4)),
                0x0b => drop(inner.length()),
                0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => {
                    let length = inner.number();
                    inner.take(length.into());
                }
                unknown => panic!("no MQTT property has the identifier {unknown:#x}"),
            }
        }
        user
    }

    /// A variable byte integer.
    fn length(&mut self) -> usize {
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let part = self.byte();
            length |= usize::from(part & 0x7f) << shift;
            if part < 0x80 {
                break;
            }
        }
        length
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        taken
    }
}
