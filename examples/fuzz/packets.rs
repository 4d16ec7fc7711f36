//! Generates packets of a server: valid ones, or with invalid contents now and then.

use fastrand::Rng;

use crate::wire::{Form, PROPERTIES, Version, kind};

/// Invalid and unusual strings.
const HOSTILE: [&[u8]; 14] = [
    b"",
    b"\0",
    b"a\0b",
    b"\xed\xa0\x80",
    b"\xed\xb0\x80\xed\xa0\x80",
    b"\xc0\x80",
    b"\xe0\x80\x80",
    b"\xf0\x80\x80\x80",
    b"\xff",
    b"\xf4\x90\x80\x80",
    b"\xe2\x82",
    b"\xef\xbf\xbf",
    b"\x1b[2J\x07\r\n",
    b"%s%n%n%n",
];

const CONNACK_CODES: [u8; 8] = [0x80, 0x84, 0x87, 0x88, 0x89, 0x8a, 0x9d, 0x01];
const PUBACK_CODES: [u8; 9] = [0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99, 0x01];
const DISCONNECT_CODES: [u8; 8] = [0x00, 0x80, 0x81, 0x8b, 0x8e, 0x97, 0x98, 0x04];

/// Generates packets.
pub(crate) struct Packets<'a> {
    pub(crate) rng: &'a mut Rng,
    pub(crate) version: Version,
    /// Some packets have invalid contents.
    pub(crate) hostile: bool,
}

/// Appends a variable byte integer.
pub(crate) fn put_length(out: &mut Vec<u8>, mut length: usize) {
    loop {
        let part = u8::try_from(length & 0x7f).unwrap_or_default();
        length >>= 7;
        if length == 0 {
            return out.push(part);
        }
        out.push(part | 0x80);
    }
}

pub(crate) fn put_binary(out: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    out.extend(length.to_be_bytes());
    out.extend(&bytes[..usize::from(length)]);
}

/// Encodes a packet.
pub(crate) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    put_length(&mut out, body.len());
    out.extend(body);
    out
}

impl Packets<'_> {
    /// Whether to generate invalid contents, one time in `n`.
    fn hostile_once_in(&mut self, n: u32) -> bool {
        self.hostile && self.rng.u32(..n) == 0
    }

    fn text(&mut self) -> Vec<u8> {
        if self.hostile_once_in(60) {
            return self.rng.choice(HOSTILE).unwrap_or_default().to_vec();
        }
        let length = match self.rng.u32(..40) {
            0 if self.hostile => self.rng.usize(..65_536),
            1..5 => self.rng.usize(..300),
            _ => self.rng.usize(1..12),
        };
        let one = |rng: &mut Rng| match rng.u32(..10) {
            0 => 'é',
            1 => '💧',
            _ => rng.alphanumeric(),
        };
        let text: String = (0..length).map(|_| one(self.rng)).collect();
        text.into_bytes()
    }

    fn property(&mut self, out: &mut Vec<u8>, id: u8, form: Form) {
        out.push(id);
        match form {
            Form::Byte => out.push(if self.hostile_once_in(40) {
                self.rng.u8(..)
            } else {
                1
            }),
            Form::Two => {
                let number = if self.hostile_once_in(40) {
                    0
                } else {
                    self.rng.u16(20..)
                };
                out.extend(number.to_be_bytes());
            }
            Form::Four => {
                let number = if self.hostile_once_in(40) {
                    self.rng.u32(..1000)
                } else {
                    self.rng.u32(1 << 20..)
                };
                out.extend(number.to_be_bytes());
            }
            Form::Length => {
                let number = self.rng.usize(1..1 << 21);
                put_length(out, number);
            }
            Form::Text | Form::Binary => {
                let text = match id {
                    0x03 if self.rng.u32(..3) == 0 => b"application/x-ndjson".to_vec(),
                    _ => self.text(),
                };
                put_binary(out, &text);
            }
            Form::Pair => {
                let seq = self.rng.u32(..4) == 0;
                let name = if seq { b"seq".to_vec() } else { self.text() };
                put_binary(out, &name);
                let number = self.rng.u32(..9);
                let text = if seq {
                    format!("s{number}/{number}/1769846400250").into_bytes()
                } else {
                    self.text()
                };
                put_binary(out, &text);
            }
        }
    }

    /// Appends the properties of a packet of this type, with their length; nothing for MQTT 3.1.1.
    fn properties(&mut self, out: &mut Vec<u8>, kind: u8) {
        if self.version == Version::V311 {
            return;
        }
        let mut inner = Vec::new();
        for (id, form, packets) in PROPERTIES {
            let allowed = packets.contains(&kind);
            // Not valid for this client.
            let unasked = matches!(
                (id, kind),
                (0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x24, kind::CONNACK)
                    | (0x11, kind::DISCONNECT)
                    | (0x0b | 0x23, kind::PUBLISH)
            );
            let (chance, of) = match (allowed, unasked) {
                (true, false) => (1, 5),
                _ if self.hostile => (1, 800),
                _ => (0, 1),
            };
            if self.rng.u32(..of) < chance {
                self.property(&mut inner, id, form);
                if id == 0x26 || self.hostile_once_in(200) {
                    self.property(&mut inner, id, form);
                }
            }
        }
        if self.hostile_once_in(150) {
            inner.push(self.rng.u8(..));
        }
        let wrong = if self.hostile_once_in(150) {
            self.rng.usize(..5)
        } else {
            0
        };
        put_length(out, (inner.len() + wrong).saturating_sub(wrong / 3 * 4));
        out.extend(inner);
    }

    pub(crate) fn connack(&mut self) -> Vec<u8> {
        let code = if self.hostile_once_in(30) {
            self.code(&CONNACK_CODES)
        } else {
            0
        };
        let mut body = vec![u8::from(self.hostile_once_in(25)), code];
        self.properties(&mut body, kind::CONNACK);
        packet(0x20, &body)
    }

    fn code(&mut self, codes: &[u8]) -> u8 {
        if self.rng.u32(..6) == 0 {
            return self.rng.u8(..);
        }
        self.rng.choice(codes).copied().unwrap_or_default()
    }

    pub(crate) fn suback(&mut self, id: u16) -> Vec<u8> {
        let mut body = id.to_be_bytes().to_vec();
        self.properties(&mut body, kind::SUBACK);
        body.push(if self.hostile_once_in(15) {
            self.rng.u8(..)
        } else {
            2
        });
        if self.hostile_once_in(30) {
            body.push(0);
        }
        packet(0x90, &body)
    }

    pub(crate) fn unsuback(&mut self, id: u16) -> Vec<u8> {
        let mut body = id.to_be_bytes().to_vec();
        self.properties(&mut body, kind::UNSUBACK);
        if self.version == Version::V5 {
            body.push(0);
        }
        packet(0xb0, &body)
    }

    pub(crate) fn publish(&mut self, qos: u8, id: u16, topic: &str, payload: &[u8]) -> Vec<u8> {
        let mut topic = topic.as_bytes().to_vec();
        if self.hostile_once_in(15) {
            topic.extend(*self.rng.choice(HOSTILE.iter()).unwrap_or(&HOSTILE[0]));
        }
        if self.hostile_once_in(60) {
            topic = self.text();
        }
        let mut body = Vec::new();
        put_binary(&mut body, &topic);
        if qos > 0 {
            body.extend(id.to_be_bytes());
        }
        self.properties(&mut body, kind::PUBLISH);
        body.extend(payload);
        let dup = u8::from(qos > 0 && self.rng.u32(..8) == 0);
        let retain = u8::from(self.rng.u32(..8) == 0);
        packet(0x30 | dup << 3 | qos << 1 | retain, &body)
    }

    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    pub(crate) fn ack(&mut self, kind: u8, id: u16) -> Vec<u8> {
        let mut body = id.to_be_bytes().to_vec();
        if self.version == Version::V5 && self.rng.u32(..2) == 0 {
            let refuses = matches!(kind, kind::PUBACK | kind::PUBREC);
            body.push(if self.hostile_once_in(16) {
                self.code(&PUBACK_CODES)
            } else if refuses && self.rng.u32(..4) == 0 {
                0x10
            } else {
                0
            });
            if self.rng.u32(..3) > 0 {
                self.properties(&mut body, kind);
            }
        }
        packet(kind << 4 | if kind == kind::PUBREL { 2 } else { 0 }, &body)
    }

    pub(crate) fn disconnect(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        if self.version == Version::V5 && self.rng.u32(..4) > 0 {
            body.push(self.code(&DISCONNECT_CODES));
            if self.rng.u32(..2) == 0 {
                self.properties(&mut body, kind::DISCONNECT);
            }
        }
        packet(0xe0, &body)
    }

    pub(crate) fn auth(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        if self.rng.bool() {
            body.push(0x18);
            self.properties(&mut body, kind::AUTH);
        }
        packet(0xf0, &body)
    }

    pub(crate) fn pingresp() -> Vec<u8> {
        packet(0xd0, &[])
    }

    /// A packet that may not be expected at this point.
    pub(crate) fn unexpected(&mut self, payload: &[u8]) -> Vec<u8> {
        let id = self.rng.u16(..12);
        match self.rng.u32(..12) {
            0 => self.connack(),
            1 => self.suback(id),
            2 => self.unsuback(id),
            3 => {
                let qos = self.rng.u8(..3);
                self.publish(qos, id, "f/unexpected", payload)
            }
            4 => self.ack(kind::PUBACK, id),
            5 => self.ack(kind::PUBREC, id),
            6 => self.ack(kind::PUBREL, id),
            7 => self.ack(kind::PUBCOMP, id),
            8 => self.disconnect(),
            9 => self.auth(),
            10 => Self::pingresp(),
            _ => {
                let length = self.rng.usize(..20);
                (0..length).map(|_| self.rng.u8(..)).collect()
            }
        }
    }
}
