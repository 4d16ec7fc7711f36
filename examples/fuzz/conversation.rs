//! A conversation: what a server writes, and which packet it waits for before each write. Generated from a
//! seed, or read from a file.

use std::fmt::{self, Write as _};

use anyhow::{Context as _, bail};
use data_encoding::HEXLOWER;
use fastrand::Rng;

use crate::mutation::mutate_sequence;
use crate::packets::Packets;
use crate::server::Outcome;
use crate::wire::{NAMES, Version, kind};

/// The program under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Publisher,
    Subscriber,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Publisher => "publisher",
            Self::Subscriber => "subscriber",
        }
    }
}

/// What a step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// Nothing.
    Now,
    /// One millisecond, so that the program reads the previous write separately.
    Moment,
    /// This number of packets of this type from the program.
    Packet(u8, usize),
}

/// One write of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) after: After,
    pub(crate) bytes: Vec<u8>,
}

/// What the server does after the last step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Waits briefly for an answer, then closes.
    Close,
    /// Closes at once.
    Cut,
    /// Resets the connection at once.
    Reset,
    /// Answers some packets correctly, then closes.
    Proper,
}

const ENDS: [(&str, End); 4] = [
    ("close", End::Close),
    ("cut", End::Cut),
    ("reset", End::Reset),
    ("proper", End::Proper),
];

/// The reaction that is required of the program, where it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// It ends the connection; with MQTT 5, with this reason code.
    Ends(Option<u8>),
    /// It keeps the connection and handles the message at the end.
    GoesOn,
}

impl Expect {
    pub(crate) fn is_met(self, outcome: &Outcome) -> bool {
        match self {
            Self::Ends(code) => outcome.closed && (code.is_none() || code == outcome.code),
            Self::GoesOn => !outcome.closed && outcome.complete,
        }
    }
}

/// What a server sends to a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conversation {
    pub(crate) role: Role,
    pub(crate) version: Version,
    /// QoS of the publisher's messages.
    pub(crate) qos: u8,
    pub(crate) steps: Vec<Step>,
    pub(crate) end: End,
    /// It was not mutated, so every message must arrive.
    pub(crate) valid: bool,
    /// A requirement in addition to those for every conversation.
    pub(crate) expect: Option<Expect>,
}

/// Packet identifier of the last message of a conversation with a subscriber. Its acknowledgement shows that
/// everything before it has been handled.
pub(crate) const LAST_ID: u16 = 0xfffe;

/// The topic filters of a subscriber.
pub(crate) const FILTERS: [&str; 2] = ["f/#", "g"];

/// A unique payload with a checksum.
pub(crate) fn payload(rng: &mut Rng, name: &str) -> Vec<u8> {
    let noise: String = (0..rng.usize(..20)).map(|_| rng.alphanumeric()).collect();
    let mut text = format!("{name}:{noise}");
    if rng.u32(..12) == 0 {
        text.push('\n');
        text.extend((0..3).map(|_| rng.alphanumeric()));
    }
    let sum = crc32fast::hash(text.as_bytes());
    format!("{text}:{sum:08x}").into_bytes()
}

impl Conversation {
    /// Generates the conversation with this number.
    pub(crate) fn draw(role: Role, version: Version, qos: u8, seed: u64, number: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let valid = number.is_multiple_of(16);
        let mut drawn = Self {
            role,
            version,
            qos,
            steps: Vec::new(),
            end: End::Close,
            valid,
            expect: None,
        };
        let mut packets = Packets {
            rng: &mut rng,
            version,
            hostile: !valid,
        };
        match role {
            Role::Subscriber => drawn.draw_for_subscriber(&mut packets, number),
            Role::Publisher => drawn.draw_for_publisher(&mut packets),
        }
        if !valid {
            drawn.mutate(&mut rng, number);
        }
        if role == Role::Subscriber && drawn.end == End::Close {
            let name = payload(&mut rng, &format!("{number}.last"));
            let mut plain = Packets {
                rng: &mut rng,
                version: Version::V311,
                hostile: false,
            };
            let mut last = plain.publish(1, LAST_ID, "g", &name);
            if version == Version::V5 {
                // No properties.
                last.insert(7, 0);
                last[1] += 1;
            }
            drawn.add(After::Now, last);
        }
        drawn
    }

    fn add(&mut self, after: After, bytes: Vec<u8>) {
        self.steps.push(Step { after, bytes });
    }

    fn draw_for_subscriber(&mut self, packets: &mut Packets<'_>, number: u64) {
        self.add(After::Packet(kind::CONNECT, 1), packets.connack());
        for (id, _) in (1..).zip(FILTERS) {
            let after = After::Packet(kind::SUBSCRIBE, id.into());
            self.add(after, packets.suback(id));
        }
        let mut received = 0;
        for message in 1..=packets.rng.u16(..6) {
            let qos = packets.rng.u8(..3);
            let topic = packets.rng.choice(["f/a", "f/b/c", "g", "f/é"]);
            let name = payload(packets.rng, &format!("{number}.{message}"));
            let publish = packets.publish(qos, message, topic.unwrap_or("g"), &name);
            self.add(After::Now, publish.clone());
            if qos > 0 && packets.hostile && packets.rng.u32(..10) == 0 {
                self.add(After::Now, publish);
            }
            if qos == 2 {
                received += 1;
                let after = After::Packet(kind::PUBREC, received);
                let now = packets.hostile && packets.rng.u32(..4) == 0;
                let after = if now { After::Now } else { after };
                if !packets.hostile || packets.rng.u32(..8) > 0 {
                    self.add(after, packets.ack(kind::PUBREL, message));
                }
            }
        }
        if packets.hostile && packets.rng.u32(..12) == 0 {
            self.add(After::Now, packets.disconnect());
        }
    }

    fn draw_for_publisher(&mut self, packets: &mut Packets<'_>) {
        self.add(After::Packet(kind::CONNECT, 1), packets.connack());
        let count = packets.rng.usize(1..6);
        // Acknowledge the messages one by one, or all together.
        let together = packets.rng.u32(..3) == 0;
        for number in 1..=count {
            let id = u16::try_from(number).unwrap_or_default();
            let seen = if together { count } else { number };
            let after = After::Packet(kind::PUBLISH, seen);
            if self.qos == 1 {
                self.add(after, packets.ack(kind::PUBACK, id));
            } else {
                self.add(after, packets.ack(kind::PUBREC, id));
                let after = After::Packet(kind::PUBREL, number);
                self.add(after, packets.ack(kind::PUBCOMP, id));
            }
        }
        if packets.hostile && packets.rng.u32(..12) == 0 {
            self.add(After::Now, packets.disconnect());
        }
        self.end = End::Proper;
    }

    /// Mutates the packets, their order, and the end.
    fn mutate(&mut self, rng: &mut Rng, number: u64) {
        let steps = std::mem::take(&mut self.steps);
        let (mut when, mut packets): (Vec<_>, Vec<_>) = steps
            .into_iter()
            .map(|step| (step.after, step.bytes))
            .unzip();
        for time in 0..=rng.u32(..6) / 4 {
            let name = payload(rng, &format!("{number}.unexpected{time}"));
            let mut generator = Packets {
                rng,
                version: self.version,
                hostile: true,
            };
            let unexpected = generator.unexpected(&name);
            mutate_sequence(rng, &mut packets, unexpected);
        }
        if rng.u32(..8) == 0 && !when.is_empty() {
            let at = rng.usize(..when.len());
            when[at] = After::Now;
        }
        for (at, bytes) in packets.into_iter().enumerate() {
            let after = when.get(at).copied().unwrap_or(After::Now);
            // Split the packet at any byte.
            if rng.u32(..12) == 0 && bytes.len() > 1 {
                let cut = rng.usize(1..bytes.len());
                self.add(after, bytes[..cut].to_vec());
                self.add(After::Moment, bytes[cut..].to_vec());
            } else {
                self.add(after, bytes);
            }
        }
        if rng.u32(..5) == 0 {
            // End the conversation early, at any byte.
            let at = rng.usize(..self.steps.len().max(1));
            self.steps.truncate(at + 1);
            if let Some(step) = self.steps.last_mut()
                && rng.bool()
            {
                let cut = rng.usize(..=step.bytes.len());
                step.bytes.truncate(cut);
            }
            self.end = if rng.bool() { End::Cut } else { End::Reset };
        }
    }

    /// Parses conversations in the format of `Display`, one after another.
    pub(crate) fn read_all(text: &str) -> anyhow::Result<Vec<Self>> {
        let mut all: Vec<Self> = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            read_line(&mut all, line).with_context(|| format!("line {number}: {line}"))?;
        }
        Ok(all)
    }
}

fn read_line(all: &mut Vec<Conversation>, line: &str) -> anyhow::Result<()> {
    let (head, rest) = line.split_once(':').context("no colon")?;
    let rest = rest.trim();
    if head == "program" {
        let words: Vec<_> = rest.split(' ').collect();
        let [role, "mqtt", version, "qos", qos] = words[..] else {
            bail!("not: program: NAME mqtt VERSION qos N");
        };
        all.push(Conversation {
            role: match role {
                "publisher" => Role::Publisher,
                "subscriber" => Role::Subscriber,
                _ => bail!("neither publisher nor subscriber"),
            },
            version: match version {
                "5" => Version::V5,
                "3.1.1" => Version::V311,
                _ => bail!("neither 5 nor 3.1.1"),
            },
            qos: qos.parse()?,
            steps: Vec::new(),
            end: End::Close,
            valid: false,
            expect: None,
        });
        return Ok(());
    }
    let conversation = all.last_mut().context("no program")?;
    if head == "end" {
        let end = ENDS.iter().find(|(name, _)| *name == rest);
        conversation.end = end.context("no such end")?.1;
        return Ok(());
    }
    if head == "expect" {
        conversation.expect = Some(match rest.split_once(' ') {
            Some(("ends", code)) => Expect::Ends(Some(u8::from_str_radix(code, 16)?)),
            None if rest == "ends" => Expect::Ends(None),
            _ if rest == "goes on" => Expect::GoesOn,
            _ => bail!("neither \"ends\", nor \"ends CODE\", nor \"goes on\""),
        });
        return Ok(());
    }
    let after = match head {
        "now" => After::Now,
        "moment" => After::Moment,
        _ => {
            let (name, count) = head.split_once(' ').context("no count")?;
            let kind = NAMES.iter().position(|known| *known == name);
            let kind = u8::try_from(kind.context("no such packet")?)?;
            After::Packet(kind, count.parse()?)
        }
    };
    let digits: String = rest.split_whitespace().collect();
    conversation.steps.push(Step {
        after,
        bytes: HEXLOWER.decode(digits.as_bytes())?,
    });
    Ok(())
}

impl fmt::Display for Conversation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (role, version) = (self.role.name(), self.version.flag());
        writeln!(f, "program: {role} mqtt {version} qos {}", self.qos)?;
        for step in &self.steps {
            match step.after {
                After::Now => f.write_str("now:")?,
                After::Moment => f.write_str("moment:")?,
                After::Packet(kind, count) => {
                    let name = NAMES.get(usize::from(kind)).unwrap_or(&NAMES[0]);
                    write!(f, "{name} {count}:")?;
                }
            }
            for part in step.bytes.chunks(4) {
                f.write_char(' ')?;
                f.write_str(&HEXLOWER.encode(part))?;
            }
            writeln!(f)?;
        }
        let end = ENDS.iter().find(|(_, end)| *end == self.end);
        writeln!(f, "end: {}", end.map_or("", |(name, _)| name))?;
        match self.expect {
            None => Ok(()),
            Some(Expect::GoesOn) => writeln!(f, "expect: goes on"),
            Some(Expect::Ends(None)) => writeln!(f, "expect: ends"),
            Some(Expect::Ends(Some(code))) => writeln!(f, "expect: ends {code:02x}"),
        }
    }
}
