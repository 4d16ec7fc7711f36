//! A strict parser of MQTT packets, independent of the code under test.

use std::ops::ControlFlow;
use std::str;

/// The protocol version of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V311,
    V5,
}

impl Version {
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::V311 => "3.1.1",
            Self::V5 => "5",
        }
    }
}

/// Types of control packets: the upper half of the first byte.
pub(crate) mod kind {
    pub(crate) const CONNECT: u8 = 1;
    pub(crate) const CONNACK: u8 = 2;
    pub(crate) const PUBLISH: u8 = 3;
    pub(crate) const PUBACK: u8 = 4;
    pub(crate) const PUBREC: u8 = 5;
    pub(crate) const PUBREL: u8 = 6;
    pub(crate) const PUBCOMP: u8 = 7;
    pub(crate) const SUBSCRIBE: u8 = 8;
    pub(crate) const SUBACK: u8 = 9;
    pub(crate) const UNSUBACK: u8 = 11;
    pub(crate) const PINGREQ: u8 = 12;
    pub(crate) const PINGRESP: u8 = 13;
    pub(crate) const DISCONNECT: u8 = 14;
    pub(crate) const AUTH: u8 = 15;
}

/// Names of the packet types.
pub(crate) const NAMES: [&str; 16] = [
    "reserved",
    "connect",
    "connack",
    "publish",
    "puback",
    "pubrec",
    "pubrel",
    "pubcomp",
    "subscribe",
    "suback",
    "unsubscribe",
    "unsuback",
    "pingreq",
    "pingresp",
    "disconnect",
    "auth",
];

/// Encoding of a property's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Byte,
    Two,
    Four,
    Length,
    Text,
    Binary,
    Pair,
}

/// Identifier, encoding, and packet types of each property (MQTT 5, table 2-4).
pub(crate) const PROPERTIES: [(u8, Form, &[u8]); 27] = [
    (0x01, Form::Byte, &[3]),
    (0x02, Form::Four, &[3]),
    (0x03, Form::Text, &[3]),
    (0x08, Form::Text, &[3]),
    (0x09, Form::Binary, &[3]),
    (0x0b, Form::Length, &[3, 8]),
    (0x11, Form::Four, &[1, 2, 14]),
    (0x12, Form::Text, &[2]),
    (0x13, Form::Two, &[2]),
    (0x15, Form::Text, &[1, 2, 15]),
    (0x16, Form::Binary, &[1, 2, 15]),
    (0x17, Form::Byte, &[1]),
    (0x18, Form::Four, &[]),
    (0x19, Form::Byte, &[1]),
    (0x1a, Form::Text, &[2]),
    (0x1c, Form::Text, &[2, 14]),
    (0x1f, Form::Text, &[2, 4, 5, 6, 7, 9, 11, 14, 15]),
    (0x21, Form::Two, &[1, 2]),
    (0x22, Form::Two, &[1, 2]),
    (0x23, Form::Two, &[3]),
    (0x24, Form::Byte, &[2]),
    (0x25, Form::Byte, &[2]),
    (
        0x26,
        Form::Pair,
        &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 15],
    ),
    (0x27, Form::Four, &[1, 2]),
    (0x28, Form::Byte, &[2]),
    (0x29, Form::Byte, &[2]),
    (0x2a, Form::Byte, &[2]),
];

/// A parsed property.
#[derive(Clone, Debug)]
pub(crate) struct Property<'a> {
    pub(crate) id: u8,
    /// The value of a number.
    pub(crate) number: u32,
    /// The encoded value.
    pub(crate) bytes: &'a [u8],
    /// A string in it has U+0000.
    pub(crate) has_nul: bool,
}

/// A complete packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub(crate) first: u8,
    pub(crate) body: &'a [u8],
}

impl Packet<'_> {
    pub(crate) fn kind(&self) -> u8 {
        self.first >> 4
    }
}

/// What is wrong with a packet.
pub(crate) type Fault = &'static str;

/// Takes the first packet; none if it is not complete.
pub(crate) fn take_packet<'a>(bytes: &mut &'a [u8]) -> Result<Option<Packet<'a>>, Fault> {
    let mut fields = Fields(bytes);
    let Some(first) = fields.byte().ok() else {
        return Ok(None);
    };
    let mut length = 0;
    for shift in [0, 7, 14, 21, 28] {
        if shift == 28 {
            return Err("remaining length of more than four bytes");
        }
        let Some(part) = fields.byte().ok() else {
            return Ok(None);
        };
        length |= usize::from(part & 0x7f) << shift;
        if part < 0x80 {
            break;
        }
    }
    let Some(body) = fields.take(length).ok() else {
        return Ok(None);
    };
    *bytes = fields.0;
    Ok(Some(Packet { first, body }))
}

/// The unread rest of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or("a field reaches past the end")?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn two(&mut self) -> Result<u16, Fault> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn four(&mut self) -> Result<u32, Fault> {
        Ok(u32::from(self.two()?) << 16 | u32::from(self.two()?))
    }

    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.two()?;
        self.take(length.into())
    }

    fn text(&mut self) -> Result<&'a str, Fault> {
        str::from_utf8(self.binary()?).map_err(|_| "a string that is not UTF-8")
    }

    pub(crate) fn length(&mut self) -> Result<u32, Fault> {
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let part = self.byte()?;
            length |= u32::from(part & 0x7f) << shift;
            if part < 0x80 {
                return Ok(length);
            }
        }
        Err("a variable byte integer of more than four bytes")
    }

    fn property(&mut self, kind: u8) -> Result<Property<'a>, Fault> {
        let id = self.byte()?;
        let known = PROPERTIES.iter().find(|(known, _, _)| *known == id);
        let (_, form, packets) = known.ok_or("an unknown property")?;
        if !packets.contains(&kind) {
            return Err("a property that this packet does not have");
        }
        let mut has_nul = false;
        let before = self.0;
        let number = match form {
            Form::Byte => self.byte()?.into(),
            Form::Two => self.two()?.into(),
            Form::Four => self.four()?,
            Form::Length => self.length()?,
            Form::Text => {
                has_nul = self.text()?.contains('\0');
                0
            }
            Form::Binary => {
                self.binary()?;
                0
            }
            Form::Pair => {
                has_nul = self.text()?.contains('\0');
                has_nul |= self.text()?.contains('\0');
                0
            }
        };
        let bytes = &before[..before.len() - self.0.len()];
        match (id, number) {
            (0x21 | 0x27 | 0x23 | 0x0b, 0) => return Err("a property of 0 where 0 is no value"),
            (0x01 | 0x24 | 0x25 | 0x28..=0x2a | 0x17 | 0x19, 2..) => {
                return Err("a property that may be 0 or 1 and is neither");
            }
            _ => {}
        }
        Ok(Property {
            id,
            number,
            bytes,
            has_nul,
        })
    }

    /// Parses all properties of a packet of this type.
    pub(crate) fn properties(&mut self, kind: u8) -> Result<Vec<Property<'a>>, Fault> {
        let length = self.length()? as usize;
        let mut inner = Fields(self.take(length)?);
        let mut properties: Vec<Property<'a>> = Vec::new();
        while !inner.0.is_empty() {
            let property = inner.property(kind)?;
            let again = properties.iter().any(|other| other.id == property.id);
            if again && property.id != 0x26 && !(property.id == 0x0b && kind == kind::PUBLISH) {
                return Err("a property twice");
            }
            properties.push(property);
        }
        Ok(properties)
    }

    fn end(self) -> Result<(), Fault> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err("more bytes than fields")
        }
    }
}

/// A PUBLISH.
#[derive(Clone, Debug)]
pub(crate) struct Publish<'a> {
    /// None if it is not UTF-8.
    pub(crate) topic: Option<&'a str>,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    /// 0 at QoS 0.
    pub(crate) id: u16,
    pub(crate) properties: Vec<Property<'a>>,
}

impl Publish<'_> {
    /// Whether a subscriber acknowledges it without printing it.
    pub(crate) fn is_skipped(&self) -> bool {
        self.topic.is_none_or(|topic| topic.contains('\0'))
            || self.properties.iter().any(|property| property.has_nul)
    }

    /// The readings that a subscriber prints: the payload, or the lines of a batch.
    pub(crate) fn readings(&self) -> Vec<&[u8]> {
        let content = self.properties.iter().find(|property| property.id == 0x03);
        let content = content.and_then(|property| str::from_utf8(&property.bytes[2..]).ok());
        let kind = content.map(|content| content.split(';').next().unwrap_or_default().trim());
        if kind.is_none_or(|kind| !kind.eq_ignore_ascii_case("application/x-ndjson")) {
            return vec![self.payload];
        }
        let lines = self.payload.strip_suffix(b"\n").unwrap_or(self.payload);
        lines.split(|byte| *byte == b'\n').collect()
    }
}

pub(crate) fn read_publish<'a>(
    packet: &Packet<'a>,
    version: Version,
) -> Result<Publish<'a>, Fault> {
    let mut fields = Fields(packet.body);
    let qos = packet.first >> 1 & 3;
    if qos == 3 {
        return Err("QoS 3");
    }
    if qos == 0 && packet.first & 8 != 0 {
        return Err("DUP with QoS 0");
    }
    let topic = str::from_utf8(fields.binary()?).ok();
    let id = if qos > 0 { fields.two()? } else { 0 };
    if qos > 0 && id == 0 {
        return Err("packet identifier 0");
    }
    let properties = match version {
        Version::V5 => fields.properties(kind::PUBLISH)?,
        Version::V311 => Vec::new(),
    };
    // A message with U+0000 in its topic is skipped, with or without wildcards.
    if topic.is_some_and(|topic| topic.contains(['+', '#']) && !topic.contains('\0')) {
        return Err("a topic with wildcards");
    }
    if topic == Some("") {
        return Err("an empty topic");
    }
    Ok(Publish {
        topic,
        payload: fields.0,
        qos,
        retain: packet.first & 1 != 0,
        dup: packet.first & 8 != 0,
        id,
        properties,
    })
}

/// Parses PUBACK, PUBREC, PUBREL or PUBCOMP: packet identifier and reason code.
pub(crate) fn read_ack(packet: &Packet<'_>, version: Version) -> Result<(u16, u8), Fault> {
    let mut fields = Fields(packet.body);
    let wanted = if packet.kind() == kind::PUBREL { 2 } else { 0 };
    if packet.first & 15 != wanted {
        return Err("wrong flags");
    }
    let id = fields.two()?;
    if id == 0 {
        return Err("packet identifier 0");
    }
    if version == Version::V311 || fields.0.is_empty() {
        return fields.end().map(|()| (id, 0));
    }
    let code = fields.byte()?;
    if !fields.0.is_empty() {
        fields.properties(packet.kind())?;
        fields.end()?;
    }
    Ok((id, code))
}

/// Parses CONNACK: code and properties.
pub(crate) fn read_connack<'a>(
    packet: &Packet<'a>,
    version: Version,
) -> Result<(u8, Vec<Property<'a>>), Fault> {
    let mut fields = Fields(packet.body);
    if packet.first & 15 != 0 {
        return Err("wrong flags");
    }
    if fields.byte()? > 1 {
        return Err("reserved bits of CONNACK");
    }
    let code = fields.byte()?;
    let properties = match version {
        Version::V5 => fields.properties(kind::CONNACK)?,
        Version::V311 => Vec::new(),
    };
    fields.end()?;
    Ok((code, properties))
}

/// A valid packet of a server.
#[derive(Clone, Debug)]
pub(crate) enum Item<'a> {
    /// CONNACK with success.
    Accepted(Vec<Property<'a>>),
    Publish(Publish<'a>),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack {
        kind: u8,
        id: u16,
        code: u8,
    },
    Other,
}

/// Parses the packets of a server, up to the first one that ends the connection. It does not check whether an
/// acknowledgement belongs to something outstanding: only the client knows that.
pub(crate) struct ServerStream {
    version: Version,
    /// The client is a subscriber, so it expects no PUBACK, PUBREC or PUBCOMP.
    subscriber: bool,
    accepted: bool,
    fault: Option<Fault>,
    bytes: Vec<u8>,
    done: usize,
}

impl ServerStream {
    pub(crate) fn new(version: Version, subscriber: bool) -> Self {
        Self {
            version,
            subscriber,
            accepted: false,
            fault: None,
            bytes: Vec::new(),
            done: 0,
        }
    }

    /// Why the connection has to end.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Parses further bytes, and reports each complete packet.
    pub(crate) fn follow(&mut self, bytes: &[u8], mut tell: impl FnMut(Item<'_>)) {
        self.bytes.extend_from_slice(bytes);
        let all = std::mem::take(&mut self.bytes);
        let mut rest = &all[self.done..];
        while self.fault.is_none() {
            let step = match take_packet(&mut rest) {
                Ok(Some(packet)) => self.read(&packet),
                Ok(None) => break,
                Err(fault) => Err(fault),
            };
            match step {
                Ok(ControlFlow::Continue(item)) => tell(item),
                Ok(ControlFlow::Break(why)) => self.fault = Some(why),
                Err(fault) => self.fault = Some(fault),
            }
        }
        self.done = all.len() - rest.len();
        self.bytes = all;
    }

    fn read<'a>(&mut self, packet: &Packet<'a>) -> Result<ControlFlow<Fault, Item<'a>>, Fault> {
        let (kind, flags) = (packet.kind(), packet.first & 15);
        if !self.accepted {
            if kind != kind::CONNACK {
                return Err("something else before CONNACK");
            }
            let (code, properties) = read_connack(packet, self.version)?;
            if code != 0 {
                return Ok(ControlFlow::Break("refused"));
            }
            if properties.iter().any(|p| matches!(p.id, 0x15 | 0x16)) {
                return Err("authentication that nobody asked for");
            }
            self.accepted = true;
            return Ok(ControlFlow::Continue(Item::Accepted(properties)));
        }
        let item = match kind {
            kind::PUBLISH => {
                let publish = read_publish(packet, self.version)?;
                if publish.properties.iter().any(|p| p.id == 0x23) {
                    return Err("a topic alias that nobody allowed");
                }
                Item::Publish(publish)
            }
            kind::PUBACK | kind::PUBREC | kind::PUBREL | kind::PUBCOMP => {
                if self.subscriber && kind != kind::PUBREL {
                    return Err("an acknowledgement of what was never sent");
                }
                let (id, code) = read_ack(packet, self.version)?;
                Item::Ack { kind, id, code }
            }
            kind::SUBACK | kind::UNSUBACK => {
                if flags != 0 {
                    return Err("wrong flags");
                }
                if !self.subscriber || kind == kind::UNSUBACK {
                    return Err("an acknowledgement of what was never sent");
                }
                let mut fields = Fields(packet.body);
                fields.two()?;
                if self.version == Version::V5 {
                    fields.properties(kind)?;
                }
                if fields.0.len() != 1 {
                    return Err("one code for each filter");
                }
                Item::Other
            }
            kind::PINGRESP if flags == 0 && packet.body.is_empty() => Item::Other,
            kind::DISCONNECT if self.version == Version::V5 && flags == 0 => {
                let mut fields = Fields(packet.body);
                if !fields.0.is_empty() {
                    fields.byte()?;
                }
                if !fields.0.is_empty() {
                    fields.properties(kind)?;
                    fields.end()?;
                }
                return Ok(ControlFlow::Break("DISCONNECT"));
            }
            _ => return Err("a packet that no server sends here"),
        };
        Ok(ControlFlow::Continue(item))
    }
}
