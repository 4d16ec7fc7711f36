//! Invalid and unusual input lines for `publisher --input json`, and the expected result of each.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use data_encoding::BASE64;
use fastrand::Rng;
use serde_json::{Value, json};

use crate::codec;
use crate::conversation::payload;
use crate::program::Lines;
use crate::server::Oracle;
use crate::wire::{Item, Packet, Version, kind, read_publish};

/// The expected result of a line.
pub(crate) enum Expected {
    /// It is published as this message.
    Published(Given),
    Rejected,
}

/// The message that a line describes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Given {
    topic: String,
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
}

/// Invalid topic names.
const NO_TOPICS: [&str; 12] = [
    "",
    "+",
    "a/+/b",
    "#",
    "a/#",
    "a\0b",
    "\0",
    "a+",
    "p/\u{1}\u{1b}[2J\u{7f}\u{85}",
    "p/\r\n\t",
    "p/\u{ffff}",
    "p/\u{fdd0}\u{10ffff}",
];

/// Invalid lines.
const NO_LINES: [&[u8]; 14] = [
    b"",
    b" ",
    b"{",
    b"null",
    b"[]",
    b"\"t\"",
    b"{\"topic\":\"p/a\",\"payload\":\"\xff\"}",
    b"{\"topic\":\"p/\xed\xa0\x80\",\"payload\":\"1\"}",
    b"{\"topic\":\"p/\\ud800\",\"payload\":\"1\"}",
    b"{\"topic\":\"p/a\",\"payload\":\"1\",\"qos\":3}",
    b"{\"topic\":\"p/a\",\"payload\":\"1\",\"qos\":-1}",
    b"{\"topic\":\"p/a\",\"payload\":\"1\",\"retain\":2}",
    b"{\"topic\":\"p/a\",\"payload\":\"1\",\"payload_base64\":\"MQ==\"}",
    b"{\"topic\":\"p/a\",\"payload_base64\":\"?\"}",
];

/// The line with this number, and its expected result.
pub(crate) fn line(seed: u64, number: u64) -> (Vec<u8>, Expected) {
    let mut rng = Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    if rng.u32(..8) == 0 {
        let line = rng.choice(NO_LINES).unwrap_or_default();
        return (line.to_vec(), Expected::Rejected);
    }
    let name = payload(&mut rng, &number.to_string());
    let text = String::from_utf8_lossy(&name).into_owned();
    let qos = rng.u8(1..3);
    let retain = rng.u32(..5) == 0;
    if rng.u32(..6) == 0 {
        let topic = match rng.u32(..9) {
            0 => "a".repeat(65_536 + rng.usize(..20)),
            _ => rng.choice(NO_TOPICS).unwrap_or_default().to_owned(),
        };
        let line = json!({"topic": topic, "payload": text, "qos": qos});
        return (line.to_string().into_bytes(), Expected::Rejected);
    }
    let topic = match rng.u32(..12) {
        0 => "/".to_owned(),
        1 => "//p//".to_owned(),
        2 => "a".repeat(rng.usize(1..=65_535)),
        3 => "p/\u{feff}\u{fffd}\u{fdcf}\u{10fffd}".to_owned(),
        4 => "p/\u{a0}\u{202e}\u{2028}".to_owned(),
        5 => "$SYS/p %s%n".to_owned(),
        6 => "p/ \u{1f4a7}é".to_owned(),
        _ => "p/a".to_owned(),
    };
    let (field, value, bytes): (_, Value, Vec<u8>) = match rng.u32(..6) {
        0 => {
            let mut bytes = name.clone();
            let length = rng.usize(..200);
            bytes.extend((0..length).map(|_| rng.u8(..)));
            ("payload_base64", BASE64.encode(&bytes).into(), bytes)
        }
        1 => {
            let value = json!({"name": text, "value": [number, true, null]});
            let bytes = value.to_string().into_bytes();
            ("payload", value, bytes)
        }
        2 => {
            let text = format!("{text}\0\u{1b}\u{ffff}\n");
            ("payload", text.clone().into(), text.into_bytes())
        }
        3 if rng.u32(..10) == 0 => {
            let text = text + &"x".repeat(rng.usize(..200_000));
            ("payload", text.clone().into(), text.into_bytes())
        }
        _ => ("payload", text.clone().into(), text.into_bytes()),
    };
    let line = json!({"topic": topic, field: value, "qos": qos, "retain": retain, "more": [{}]});
    let given = Given {
        topic,
        payload: bytes,
        qos,
        retain,
    };
    (line.to_string().into_bytes(), Expected::Published(given))
}

/// All lines.
pub(crate) fn lines(seed: u64) -> Lines {
    Arc::new(move |number| line(seed, number).0)
}

/// Checks the result of each line.
pub(crate) struct Inputs {
    version: Version,
    seed: u64,
    /// Lines generated so far.
    drawn: u64,
    /// Messages to be published, with their line numbers.
    open: HashMap<Given, u64>,
    published: BTreeSet<u64>,
    rejected: BTreeSet<u64>,
    accepted: u64,
    delivered: u64,
}

impl Inputs {
    pub(crate) fn new(version: Version, seed: u64) -> Self {
        Self {
            version,
            seed,
            drawn: 0,
            open: HashMap::new(),
            published: BTreeSet::new(),
            rejected: BTreeSet::new(),
            accepted: 0,
            delivered: 0,
        }
    }

    /// Generates the lines up to this one.
    fn draw_to(&mut self, number: u64) {
        while self.drawn < number {
            self.drawn += 1;
            if let (_, Expected::Published(given)) = line(self.seed, self.drawn) {
                self.open.insert(given, self.drawn);
            }
        }
    }

    /// Checks a line of the program's output.
    pub(crate) fn line(&mut self, text: &[u8]) -> Result<(), String> {
        let text = String::from_utf8_lossy(text).into_owned();
        let mut words = text.splitn(3, ' ');
        let (what, number) = (words.next().unwrap_or_default(), words.next());
        let number: u64 = number
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| format!("prints a line that is not a receipt: {text}"))?;
        match what {
            "accepted" => self.accepted += 1,
            "delivered" => self.delivered += 1,
            "rejected" => {
                let (line, expected) = line(self.seed, number);
                if let Expected::Published(_) = expected {
                    let line = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
                    return Err(format!(
                        "prints the receipt {text:?} for a valid line: {line}"
                    ));
                }
                self.rejected.insert(number);
            }
            _ => return Err(format!("prints the receipt {text:?} without a reason")),
        }
        Ok(())
    }

    pub(crate) fn has_rejected(&self) -> bool {
        !self.rejected.is_empty()
    }

    /// Checks that each line had its expected result.
    pub(crate) fn check_all(&self, fed: u64) -> Result<(), String> {
        for number in 1..=fed {
            let (line, expected) = line(self.seed, number);
            let (set, what) = match expected {
                Expected::Published(_) => (&self.published, "published"),
                Expected::Rejected => (&self.rejected, "rejected"),
            };
            if !set.contains(&number) {
                let line = String::from_utf8_lossy(&line[..line.len().min(200)]).into_owned();
                return Err(format!("line {number} is not {what}: {line}"));
            }
        }
        let right = self.published.len() as u64;
        if (self.accepted, self.delivered) != (right, right) {
            let (accepted, delivered) = (self.accepted, self.delivered);
            return Err(format!(
                "accepted {accepted} and delivered {delivered} where {right} is right"
            ));
        }
        Ok(())
    }
}

impl Oracle for Inputs {
    fn packet(&mut self, packet: &Packet<'_>) -> Result<(), String> {
        codec::check(packet, self.version)?;
        if packet.kind() != kind::PUBLISH {
            return Ok(());
        }
        let publish = read_publish(packet, self.version)?;
        let given = Given {
            topic: publish.topic.unwrap_or_default().to_owned(),
            payload: publish.payload.to_vec(),
            qos: publish.qos,
            retain: publish.retain,
        };
        // The message cannot be far ahead of the last one.
        let ahead = self.published.last().copied().unwrap_or(0) + 200;
        self.draw_to(ahead);
        match self.open.get(&given) {
            Some(number) => {
                self.published.insert(*number);
                Ok(())
            }
            None => Err(format!(
                "publishes a message that is not in the input: {given:?}"
            )),
        }
    }

    fn item(&mut self, _: Item<'_>) {}
}
