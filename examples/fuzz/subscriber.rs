//! Checks what a subscriber prints and acknowledges.

use std::collections::VecDeque;

use data_encoding::BASE64;
use serde::Deserialize;

use crate::codec;
use crate::server::{Oracle, Outcome};
use crate::wire::{Item, Packet, Publish, Version, kind, read_ack};

/// Number of conversations whose messages may still be printed.
const HISTORY: usize = 16;

/// A message that was sent.
struct Sent {
    topic: Option<String>,
    qos: u8,
    retain: bool,
    /// It is marked as sent before.
    dup: bool,
    id: u16,
    skipped: bool,
    readings: Vec<Vec<u8>>,
    printed: Vec<bool>,
    /// PUBREL was sent after it.
    released: bool,
    /// Number of PUBRELs with its identifier that were sent before it.
    released_before: usize,
}

impl Sent {
    fn is_done(&self) -> bool {
        self.skipped || self.printed.iter().all(|printed| *printed)
    }
}

/// Packets of one conversation.
#[derive(Default)]
struct Record {
    sent: Vec<Sent>,
    releases: Vec<u16>,
    /// Kind, identifier and reason code.
    acks: Vec<(u8, u16, u8)>,
}

impl Record {
    /// Whether a message has been dealt with: printed, or known as one that was. Of several with the same content
    /// the program prints the first.
    fn is_done(&self, index: usize) -> bool {
        let (before, from) = self.sent.split_at(index);
        let Some(sent) = from.first() else {
            return false;
        };
        let same = |earlier: &Sent| {
            (earlier.qos, earlier.id) == (sent.qos, sent.id)
                && earlier.topic == sent.topic
                && earlier.readings == sent.readings
        };
        let known = |earlier: &Sent| same(earlier) && earlier.is_done();
        sent.is_done() || (sent.dup && before.iter().any(known))
    }

    fn acks(&self, kind: u8, id: u16) -> usize {
        let acks = self.acks.iter();
        acks.filter(|ack| (ack.0, ack.1) == (kind, id) && ack.2 < 0x80)
            .count()
    }
}

/// Checks a subscriber that prints JSON.
pub(crate) struct Subscriber {
    version: Version,
    records: VecDeque<Record>,
    /// Number of printed messages.
    pub(crate) printed: u64,
}

#[derive(Deserialize)]
struct Line {
    topic: String,
    qos: u8,
    retain: u8,
    payload: Option<String>,
    payload_base64: Option<String>,
}

impl Subscriber {
    pub(crate) fn new(version: Version) -> Self {
        Self {
            version,
            records: VecDeque::new(),
            printed: 0,
        }
    }

    /// Starts a conversation.
    pub(crate) fn begin(&mut self) {
        self.records.push_back(Record::default());
        if self.records.len() > HISTORY {
            self.records.pop_front();
        }
    }

    /// Checks a line of the program's output.
    pub(crate) fn line(&mut self, line: &[u8]) -> Result<(), String> {
        self.printed += 1;
        let shown = || String::from_utf8_lossy(line).into_owned();
        let read: Line = serde_json::from_slice(line).map_err(|error| {
            format!(
                "prints a line that is not its JSON format ({error}): {}",
                shown()
            )
        })?;
        let payload = match (&read.payload, &read.payload_base64) {
            (Some(text), None) => text.clone().into_bytes(),
            (None, Some(text)) => BASE64.decode(text.as_bytes()).unwrap_or_default(),
            _ => Vec::new(),
        };
        // Newest first: a retained message may have been sent in an earlier conversation that was cut.
        let records = self.records.iter_mut().rev();
        for sent in records.flat_map(|record| &mut record.sent) {
            let same = sent.topic.as_deref() == Some(&read.topic)
                && sent.qos == read.qos
                && u8::from(sent.retain) == read.retain;
            let mut parts = sent.readings.iter().zip(&mut sent.printed);
            let part = parts.find(|(part, printed)| same && **part == payload && !**printed);
            if let Some((_, printed)) = part {
                *printed = true;
                return Ok(());
            }
        }
        Err(format!(
            "prints a message that was not sent, or too often: {}",
            shown()
        ))
    }

    /// Whether expected lines of output are missing.
    pub(crate) fn is_short(&self, valid: bool) -> bool {
        let sent = self.records.back().map(|record| &record.sent);
        let all = sent.is_none_or(|sent| sent.iter().all(Sent::is_done));
        valid && !all || self.check_printed().is_err()
    }

    /// Checks that acknowledged messages were printed.
    pub(crate) fn check_printed(&self) -> Result<(), String> {
        let Some(record) = self.records.back() else {
            return Ok(());
        };
        let done = |qos: u8, id: u16| {
            let sent = record.sent.iter().enumerate();
            sent.filter(|(index, sent)| sent.qos == qos && sent.id == id && record.is_done(*index))
                .count()
        };
        for (ack, id, code) in &record.acks {
            let acks = record.acks(*ack, *id);
            let (printed, missing) = match *ack {
                kind::PUBACK if *code < 0x80 => {
                    let printed = done(1, *id);
                    (printed, printed < acks)
                }
                kind::PUBCOMP if *code == 0 => {
                    let printed = done(2, *id);
                    // A PUBCOMP may answer a PUBREL that was sent before the message.
                    let mut sent = record.sent.iter();
                    let first = sent.find(|sent| sent.qos == 2 && sent.id == *id);
                    let due = first.is_some_and(|s| s.released && acks > s.released_before);
                    (printed, due && printed == 0)
                }
                _ => continue,
            };
            if missing {
                return Err(format!(
                    "acknowledges {id} {acks} times, and has printed {printed} such messages"
                ));
            }
        }
        Ok(())
    }

    /// Ends a conversation.
    pub(crate) fn end(&self, outcome: &Outcome, valid: bool) -> Result<(), String> {
        let Some(record) = self.records.back() else {
            return Ok(());
        };
        for (ack, id, _) in &record.acks {
            let acks = record.acks.iter().filter(|a| (a.0, a.1) == (*ack, *id));
            let acks = acks.count();
            let sent = |qos| {
                let sent = record.sent.iter();
                sent.filter(|sent| sent.qos == qos && sent.id == *id)
                    .count()
            };
            let allowed = match *ack {
                kind::PUBACK => sent(1),
                kind::PUBREC => sent(2),
                _ => record
                    .releases
                    .iter()
                    .filter(|release| *release == id)
                    .count(),
            };
            if acks > allowed {
                return Err(format!(
                    "sends {acks} of packet kind {ack} for {id}, and {allowed} are right"
                ));
            }
        }
        self.check_printed()?;
        if valid {
            if let Some(fault) = outcome.fault {
                return Err(format!(
                    "error of the fuzzer: a valid conversation has {fault}"
                ));
            }
            if outcome.closed || !outcome.complete || outcome.late > 0 {
                return Err(format!(
                    "closes the connection, or stalls, in a valid conversation: {outcome:?}"
                ));
            }
            if let Some(sent) = record.sent.iter().find(|sent| !sent.is_done()) {
                return Err(format!(
                    "has not printed message {} of QoS {}",
                    sent.id, sent.qos
                ));
            }
        }
        Ok(())
    }
}

impl Oracle for Subscriber {
    fn packet(&mut self, packet: &Packet<'_>) -> Result<(), String> {
        codec::check(packet, self.version)?;
        if matches!(packet.kind(), kind::PUBACK | kind::PUBREC | kind::PUBCOMP)
            && let Some(record) = self.records.back_mut()
        {
            let (id, code) = read_ack(packet, self.version)?;
            record.acks.push((packet.kind(), id, code));
        }
        Ok(())
    }

    fn item(&mut self, item: Item<'_>) {
        let Some(record) = self.records.back_mut() else {
            return;
        };
        match item {
            Item::Publish(publish) => {
                let before = record.releases.iter();
                let before = before.filter(|id| **id == publish.id).count();
                record.sent.push(sent(&publish, before));
            }
            Item::Ack {
                kind: kind::PUBREL,
                id,
                ..
            } => {
                record.releases.push(id);
                for sent in &mut record.sent {
                    sent.released |= sent.id == id && sent.qos == 2;
                }
            }
            _ => {}
        }
    }
}

fn sent(publish: &Publish<'_>, released_before: usize) -> Sent {
    let readings: Vec<_> = publish.readings().into_iter().map(<[u8]>::to_vec).collect();
    Sent {
        topic: publish
            .topic
            .filter(|topic| !topic.contains('\0'))
            .map(str::to_owned),
        qos: publish.qos,
        retain: publish.retain,
        dup: publish.dup,
        id: publish.id,
        skipped: publish.is_skipped(),
        printed: vec![false; readings.len()],
        readings,
        released: false,
        released_before,
    }
}
