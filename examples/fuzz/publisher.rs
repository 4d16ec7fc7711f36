//! What a publisher may send, and say of it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fastrand::Rng;

use crate::codec;
use crate::conversation::payload;
use crate::program::Lines;
use crate::server::{Judge, Outcome};
use crate::wire::{Fields, Item, Packet, Version, kind, read_publish};

/// Conversations for which the word of a server counts that was given before its time.
const REMEMBERED: u64 = 4;

/// A broker that takes less than that may not take a message.
const LARGEST: u32 = 2000;

/// The message on a line of input.
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
}

/// The message on the line of this number.
pub(crate) fn message(seed: u64, qos: u8, number: u64) -> Message {
    let mut rng = Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let topic = rng.choice(["p/a", "p/b/c", "p/é"]).unwrap_or_default();
    let payload = payload(&mut rng, &number.to_string());
    // Three is for one of both.
    let qos = if qos == 3 { rng.u8(1..3) } else { qos };
    Message {
        topic: topic.to_owned(),
        payload,
        qos,
    }
}

/// The lines themselves.
pub(crate) fn lines(seed: u64, qos: u8) -> Lines {
    Arc::new(move |number| {
        let message = message(seed, qos, number);
        let payload = String::from_utf8_lossy(&message.payload).into_owned();
        let line = serde_json::json!({
            "topic": message.topic, "payload": payload, "qos": message.qos,
        });
        line.to_string().into_bytes()
    })
}

/// What the server has said of a message by its identifier.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    received: bool,
    delivered: bool,
    refused: bool,
}

/// Judges a publisher with `--receipts`.
pub(crate) struct Publisher {
    version: Version,
    seed: u64,
    qos: u8,
    conversation: u64,
    /// By identifier: number and QoS of the message under way.
    under_way: HashMap<u16, (u64, u8)>,
    /// By identifier: what was said, for a message that may not have been read yet.
    said: BTreeMap<u16, Said>,
    /// What may be called delivered.
    good: BTreeSet<u64>,
    /// What may be called dead.
    bad: BTreeSet<u64>,
    /// Words for messages that were never read: conversation, deliveries, refusals.
    early: Vec<(u64, usize, usize)>,
    /// When a broker last took less than a message may have.
    limited: Option<u64>,
    /// Messages that have come to their end.
    done: BTreeSet<u64>,
    /// Those among them that were not delivered.
    pub(crate) gone: u64,
    pub(crate) delivered: u64,
}

impl Publisher {
    pub(crate) fn new(version: Version, seed: u64, qos: u8) -> Self {
        Self {
            version,
            seed,
            qos,
            conversation: 0,
            under_way: HashMap::new(),
            said: BTreeMap::new(),
            good: BTreeSet::new(),
            bad: BTreeSet::new(),
            early: Vec::new(),
            limited: None,
            done: BTreeSet::new(),
            gone: 0,
            delivered: 0,
        }
    }

    /// A conversation begins.
    pub(crate) fn begin(&mut self) {
        self.conversation += 1;
        self.under_way.clear();
        self.said.clear();
        let conversation = self.conversation;
        self.early
            .retain(|(at, _, _)| at + REMEMBERED > conversation);
    }

    /// A conversation is over.
    pub(crate) fn end(&mut self, outcome: &Outcome, valid: bool) -> Result<(), String> {
        let of_none = |said: &(&u16, &Said)| !self.under_way.contains_key(said.0);
        let early: Vec<_> = self.said.iter().filter(of_none).collect();
        let delivered = early.iter().filter(|said| said.1.delivered).count();
        let refused = early.iter().filter(|said| said.1.refused).count();
        if delivered + refused > 0 {
            self.early.push((self.conversation, delivered, refused));
        }
        if valid && outcome.late == 0 {
            if let Some(fault) = outcome.fault {
                return Err(format!(
                    "the fuzzer itself errs: a valid conversation has {fault}"
                ));
            }
            if outcome.hung_up {
                return Err(format!("hangs up in a valid conversation: {outcome:?}"));
            }
        }
        Ok(())
    }

    /// A line of its output.
    pub(crate) fn line(&mut self, line: &[u8]) -> Result<(), String> {
        let line = String::from_utf8_lossy(line).into_owned();
        let mut words = line.splitn(3, ' ');
        let (what, number) = (words.next().unwrap_or_default(), words.next());
        let number: u64 = number
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| format!("prints what is no receipt: {line}"))?;
        match what {
            "accepted" => return Ok(()),
            "delivered" => {
                let right = self.good.contains(&number)
                    || self
                        .early
                        .iter_mut()
                        .rev()
                        .any(|(_, delivered, _)| spend(delivered));
                if !right {
                    return Err(format!(
                        "says {line}, which no server has acknowledged rightly"
                    ));
                }
                self.delivered += 1;
            }
            "dead" => {
                let right = self.bad.contains(&number)
                    || self.is_limited()
                    || self
                        .early
                        .iter_mut()
                        .rev()
                        .any(|(_, _, refused)| spend(refused));
                if !right {
                    return Err(format!("says {line}, which no server has refused"));
                }
                self.gone += 1;
            }
            "rejected" if self.is_limited() => self.gone += 1,
            _ => return Err(format!("says {line}, and there is no reason to")),
        }
        if !self.done.insert(number) {
            return Err(format!(
                "says {line}, and has said what became of it before"
            ));
        }
        self.good.remove(&number);
        self.bad.remove(&number);
        Ok(())
    }

    fn is_limited(&self) -> bool {
        let since = self.limited.map(|at| self.conversation - at);
        since.is_some_and(|since| since < REMEMBERED)
    }

    /// All that it was given has come to its end.
    pub(crate) fn check_all(&self, fed: u64) -> Result<(), String> {
        let missing: Vec<_> = (1..=fed)
            .filter(|number| !self.done.contains(number))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!(
            "has not said what became of {} of {fed} messages: {:?}",
            missing.len(),
            &missing[..missing.len().min(9)]
        ))
    }

    /// Applies what was said of an identifier to the message that has it.
    fn settle(&mut self, id: u16) {
        let (Some((number, _)), Some(said)) = (self.under_way.get(&id), self.said.get(&id)) else {
            return;
        };
        if said.delivered {
            self.good.insert(*number);
        }
        if said.refused {
            self.bad.insert(*number);
        }
    }

    /// A PUBLISH of the program: it has to be a line of the input.
    fn published(&mut self, packet: &Packet<'_>) -> Result<(), String> {
        let publish = read_publish(packet, self.version)?;
        let text = String::from_utf8_lossy(publish.payload);
        let number = text
            .split(':')
            .next()
            .and_then(|number| number.parse().ok());
        let number: u64 =
            number.ok_or_else(|| format!("publishes what it was not given: {text}"))?;
        let given = message(self.seed, self.qos, number);
        if publish.topic != Some(&given.topic)
            || publish.payload != given.payload
            || publish.qos != given.qos
            || publish.retain
        {
            return Err(format!(
                "publishes {number} otherwise than it was given: {packet:02x?}"
            ));
        }
        if self.version == Version::V5 {
            let seq = publish
                .properties
                .iter()
                .find(|property| property.id == 0x26);
            let seq = seq.and_then(|property| {
                let mut fields = Fields(property.bytes);
                fields.binary().ok()?;
                fields.binary().ok()
            });
            let seq = String::from_utf8_lossy(seq.unwrap_or_default());
            if seq.split('/').nth(1) != Some(&number.to_string()) {
                return Err(format!("publishes {number} with the seq {seq}"));
            }
        }
        self.under_way.insert(publish.id, (number, publish.qos));
        self.settle(publish.id);
        Ok(())
    }
}

fn spend(credits: &mut usize) -> bool {
    let some = *credits > 0;
    *credits = credits.saturating_sub(1);
    some
}

impl Judge for Publisher {
    fn packet(&mut self, packet: &Packet<'_>) -> Result<(), String> {
        codec::check(packet, self.version)?;
        if packet.kind() == kind::PUBLISH {
            self.published(packet)?;
        }
        Ok(())
    }

    fn item(&mut self, item: Item<'_>) {
        match item {
            Item::Accepted(properties) => {
                let size = properties.iter().find(|property| property.id == 0x27);
                if size.is_some_and(|size| size.number < LARGEST) {
                    self.limited = Some(self.conversation);
                }
            }
            Item::Ack { kind, id, code } => {
                let qos = self.under_way.get(&id).map(|(_, qos)| *qos);
                let said = self.said.entry(id).or_default();
                match kind {
                    kind::PUBACK if qos != Some(2) => {
                        said.delivered |= matches!(code, 0 | 0x10);
                        said.refused |= code >= 0x80;
                    }
                    kind::PUBREC if qos != Some(1) => {
                        said.received |= matches!(code, 0 | 0x10);
                        said.refused |= code >= 0x80;
                    }
                    kind::PUBCOMP if qos != Some(1) => {
                        // The message was taken, and the handshake is not as it should be.
                        said.delivered |= said.received && matches!(code, 0 | 0x92);
                        said.refused |= code >= 0x80;
                    }
                    _ => {}
                }
                self.settle(id);
            }
            Item::Publish(_) | Item::Other => {}
        }
    }
}
