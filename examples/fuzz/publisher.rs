//! Checks what a publisher sends, and its receipts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use fastrand::Rng;

use crate::codec;
use crate::conversation::payload;
use crate::program::Lines;
use crate::server::{Oracle, Outcome};
use crate::wire::{Fields, Item, Packet, Version, kind, read_publish};

/// Number of conversations for which an acknowledgement without a known message is remembered.
const HISTORY: u64 = 4;

/// With a smaller Maximum Packet Size a message may be rejected. A line that is rejected takes no number of the
/// stream: from there on the numbers of messages are smaller than those of their lines.
const LARGEST: u32 = 2000;

/// The message of an input line.
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: u8,
}

/// The message of the line with this number.
pub(crate) fn message(seed: u64, qos: u8, number: u64) -> Message {
    let mut rng = Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let topic = rng.choice(["p/a", "p/b/c", "p/é"]).unwrap_or_default();
    let payload = payload(&mut rng, &number.to_string());
    // 3 selects QoS 1 or 2 for each message.
    let qos = if qos == 3 { rng.u8(1..3) } else { qos };
    Message {
        topic: topic.to_owned(),
        payload,
        qos,
    }
}

/// The input lines.
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

/// The acknowledgements for a packet identifier.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    received: bool,
    delivered: bool,
    refused: bool,
}

/// Checks a publisher that runs with `--receipts`.
pub(crate) struct Publisher {
    version: Version,
    seed: u64,
    qos: u8,
    conversation: u64,
    /// Number in the stream and QoS of the message in flight, by packet identifier.
    in_flight: HashMap<u16, (u64, u8)>,
    /// Acknowledgements by packet identifier; the PUBLISH may not have been read yet.
    said: BTreeMap<u16, Said>,
    /// Messages for which the receipt `delivered` is right.
    good: BTreeSet<u64>,
    /// Messages for which the receipt `dead` is right.
    bad: BTreeSet<u64>,
    /// Acknowledgements for messages that were never read: conversation, deliveries, refusals.
    early: Vec<(u64, usize, usize)>,
    /// The last conversation with a small Maximum Packet Size.
    limited: Option<u64>,
    /// Messages with a final receipt.
    done: BTreeSet<u64>,
    /// Lines that were rejected.
    rejected: BTreeSet<u64>,
    /// Lines rejected before a line, as the numbers of its message and of itself tell; where that changes.
    shifts: BTreeMap<u64, u64>,
    /// Number of messages with a final receipt other than `delivered`.
    pub(crate) undelivered: u64,
    pub(crate) delivered: u64,
}

impl Publisher {
    pub(crate) fn new(version: Version, seed: u64, qos: u8) -> Self {
        Self {
            version,
            seed,
            qos,
            conversation: 0,
            in_flight: HashMap::new(),
            said: BTreeMap::new(),
            good: BTreeSet::new(),
            bad: BTreeSet::new(),
            early: Vec::new(),
            limited: None,
            done: BTreeSet::new(),
            rejected: BTreeSet::new(),
            shifts: BTreeMap::new(),
            undelivered: 0,
            delivered: 0,
        }
    }

    /// Starts a conversation.
    pub(crate) fn begin(&mut self) {
        self.conversation += 1;
        self.in_flight.clear();
        self.said.clear();
        let conversation = self.conversation;
        self.early.retain(|(at, _, _)| at + HISTORY > conversation);
    }

    /// Ends a conversation.
    pub(crate) fn end(&mut self, outcome: &Outcome, valid: bool) -> Result<(), String> {
        let of_none = |said: &(&u16, &Said)| !self.in_flight.contains_key(said.0);
        let early: Vec<_> = self.said.iter().filter(of_none).collect();
        let delivered = early.iter().filter(|said| said.1.delivered).count();
        let refused = early.iter().filter(|said| said.1.refused).count();
        if delivered + refused > 0 {
            self.early.push((self.conversation, delivered, refused));
        }
        if valid && outcome.late == 0 {
            if let Some(fault) = outcome.fault {
                return Err(format!(
                    "error of the fuzzer: a valid conversation has {fault}"
                ));
            }
            if outcome.closed {
                return Err(format!(
                    "closes the connection in a valid conversation: {outcome:?}"
                ));
            }
        }
        Ok(())
    }

    /// Checks a line of the program's output.
    pub(crate) fn line(&mut self, line: &[u8]) -> Result<(), String> {
        let line = String::from_utf8_lossy(line).into_owned();
        let mut words = line.splitn(3, ' ');
        let (what, number) = (words.next().unwrap_or_default(), words.next());
        let number: u64 = number
            .and_then(|number| number.parse().ok())
            .ok_or_else(|| format!("prints a line that is not a receipt: {line}"))?;
        match what {
            "accepted" => return Ok(()),
            "delivered" => {
                let right = self.good.contains(&number)
                    || self
                        .early
                        .iter_mut()
                        .rev()
                        .any(|(_, delivered, _)| take_one(delivered));
                if !right {
                    return Err(format!(
                        "prints the receipt {line:?}, which no server has acknowledged correctly"
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
                        .any(|(_, _, refused)| take_one(refused));
                if !right {
                    return Err(format!(
                        "prints the receipt {line:?}, which no server has refused"
                    ));
                }
                self.undelivered += 1;
            }
            "rejected" if self.is_limited() && self.rejected.insert(number) => {
                self.undelivered += 1;
                return Ok(());
            }
            _ => return Err(format!("prints the receipt {line:?} without a reason")),
        }
        if !self.done.insert(number) {
            return Err(format!(
                "prints the receipt {line:?} after another final receipt"
            ));
        }
        self.good.remove(&number);
        self.bad.remove(&number);
        Ok(())
    }

    fn is_limited(&self) -> bool {
        let since = self.limited.map(|at| self.conversation - at);
        since.is_some_and(|since| since < HISTORY)
    }

    /// Checks that every message has a final receipt.
    pub(crate) fn check_all(&self, fed: u64) -> Result<(), String> {
        let numbered = fed.saturating_sub(self.rejected.len() as u64);
        let missing: Vec<_> = (1..=numbered)
            .filter(|number| !self.done.contains(number))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(format!(
            "printed no final receipt for {} of {fed} messages: {:?}",
            missing.len(),
            &missing[..missing.len().min(9)]
        ))
    }

    /// Whether the message of a line may have this number in the stream. Both go up together, but for lines that were
    /// rejected.
    fn fits(&mut self, line: u64, seq: u64) -> bool {
        let Some(shift) = line.checked_sub(seq) else {
            return false;
        };
        let before = self.shifts.range(..=line).next_back();
        let before = before.map_or(0, |(_, shift)| *shift);
        let behind = self.shifts.range(line..).next().map(|(_, shift)| *shift);
        if shift > before {
            self.shifts.insert(line, shift);
        }
        before <= shift && behind.is_none_or(|behind| shift <= behind)
    }

    /// Applies the acknowledgements for an identifier to the message that has it.
    fn settle(&mut self, id: u16) {
        let (Some((number, _)), Some(said)) = (self.in_flight.get(&id), self.said.get(&id)) else {
            return;
        };
        if said.delivered {
            self.good.insert(*number);
        }
        if said.refused {
            self.bad.insert(*number);
        }
    }

    /// Checks a PUBLISH against the input line.
    fn published(&mut self, packet: &Packet<'_>) -> Result<(), String> {
        let publish = read_publish(packet, self.version)?;
        let text = String::from_utf8_lossy(publish.payload);
        let number = text
            .split(':')
            .next()
            .and_then(|number| number.parse().ok());
        let number: u64 = number
            .ok_or_else(|| format!("publishes a message that is not in the input: {text}"))?;
        let given = message(self.seed, self.qos, number);
        if publish.topic != Some(&given.topic)
            || publish.payload != given.payload
            || publish.qos != given.qos
            || publish.retain
        {
            return Err(format!(
                "publishes message {number} with other contents than the input line: {packet:02x?}"
            ));
        }
        let mut in_stream = number;
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
            let text = String::from_utf8_lossy(seq.unwrap_or_default());
            let seq = text.split('/').nth(1).and_then(|seq| seq.parse().ok());
            in_stream = seq
                .filter(|seq| self.fits(number, *seq))
                .ok_or_else(|| format!("publishes message {number} with the seq {text}"))?;
        }
        self.in_flight.insert(publish.id, (in_stream, publish.qos));
        self.settle(publish.id);
        Ok(())
    }
}

fn take_one(credits: &mut usize) -> bool {
    let some = *credits > 0;
    *credits = credits.saturating_sub(1);
    some
}

impl Oracle for Publisher {
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
                let qos = self.in_flight.get(&id).map(|(_, qos)| *qos);
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
                        // PUBREC accepted the message, so both receipts are right.
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
