//! A queue file as the store keeps it, without the file: what a commit does, what a crash
//! leaves. Everything here happens at once or not at all, as a transaction does.

use std::collections::BTreeMap;
use std::sync::Arc;

use iot_pubsub::common::mqtt::outgoing_message::OutgoingMessage;
use iot_pubsub::publisher::queue::store_requests::{
    Counts, MessageOutcome, OpenedQueue, RowId, StoreResult, StoredMessage, WriteBatch,
};

/// The name of a process.
pub(super) type Owner = u32;

#[derive(Clone, Debug)]
struct Stored {
    message: OutgoingMessage,
    owner: Option<Owner>,
}

#[derive(Debug, Default)]
pub(super) struct Disk {
    rows: BTreeMap<RowId, Stored>,
    pub(super) dead: Vec<OutgoingMessage>,
    fates: Vec<(RowId, Owner, u64, MessageOutcome)>,
    last_id: RowId,
    /// How many rows were ever inserted and delivered, and how many dead letters never were rows.
    pub(super) inserted: usize,
    pub(super) delivered: usize,
    pub(super) dead_at_once: usize,
    stream: String,
    next_seq: u64,
    running: bool,
    /// Who drains.
    pub(super) lock: Option<Owner>,
    /// Nothing more fits.
    pub(super) full: bool,
    /// Counts the commits.
    pub(super) version: u64,
}

impl Disk {
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    pub(super) fn has(&self, payload: &[u8]) -> bool {
        let mut stored = self.rows.values().map(|row| &row.message).chain(&self.dead);
        stored.any(|message| message.draft.payload == payload)
    }

    pub(super) fn counts(&self) -> Counts {
        let bytes = |messages: &mut dyn Iterator<Item = &OutgoingMessage>| {
            messages.map(|m| m.draft.content_size()).sum()
        };
        Counts {
            rows: self.rows.len() as u64,
            bytes: bytes(&mut self.rows.values().map(|row| &row.message)),
            dead_bytes: bytes(&mut self.dead.iter()),
        }
    }

    /// A process begins: to drain, if nobody does.
    pub(super) fn open(&mut self, me: Owner, new_stream: &str) -> OpenedQueue {
        let drains = self.lock.is_none();
        if drains {
            self.lock = Some(me);
            if self.running || self.stream.is_empty() {
                new_stream.clone_into(&mut self.stream);
                self.next_seq = 1;
            }
            self.running = true;
            self.version += 1;
        }
        OpenedQueue {
            drains,
            stream: self.stream.as_str().into(),
            next_seq: self.next_seq,
            counts: self.counts(),
        }
    }

    /// The one that drains ends in order.
    pub(super) fn close(&mut self, next_seq: u64) {
        self.next_seq = next_seq;
        self.running = false;
        self.lock = None;
        self.version += 1;
    }

    pub(super) fn commit(&mut self, batch: WriteBatch, me: Owner, drains: bool) -> StoreResult {
        if self.full && !batch.inserts.is_empty() {
            let why = "full".into();
            return StoreResult::DiskFull { batch, why };
        }
        for (row, numbered) in &batch.numbers {
            if let Some(stored) = self.rows.get_mut(row) {
                stored.message.stream = Arc::clone(&numbered.stream);
                stored.message.seq = numbered.seq;
            }
        }
        for (row, end) in &batch.ends {
            self.remove(*row, end, me);
        }
        for dead in &batch.dead {
            self.dead.push(OutgoingMessage::clone(&dead.message));
            match dead.row {
                Some(row) => self.remove(row, &MessageOutcome::Dead(dead.reason.clone()), me),
                None => self.dead_at_once += 1,
            }
        }
        let mut ids = Vec::new();
        for message in &batch.inserts {
            self.last_id += 1;
            ids.push(self.last_id);
            let stored = Stored {
                message: OutgoingMessage::clone(message),
                owner: (!drains).then_some(me),
            };
            self.rows.insert(self.last_id, stored);
            self.inserted += 1;
        }
        self.version += 1;
        StoreResult::Committed {
            ids,
            evicted: Vec::new(),
            counts: self.counts(),
        }
    }

    fn remove(&mut self, row: RowId, end: &MessageOutcome, me: Owner) {
        let Some(stored) = self.rows.remove(&row) else {
            return;
        };
        self.delivered += usize::from(*end == MessageOutcome::Delivered);
        if let Some(owner) = stored.owner.filter(|owner| *owner != me) {
            self.fates
                .push((row, owner, stored.message.seq, end.clone()));
        }
    }

    pub(super) fn load(&self, after: RowId, most: usize) -> StoreResult {
        let found = self.rows.range(after + 1..).take(most);
        let rows: Vec<_> = found
            .map(|(id, stored)| StoredMessage {
                row: *id,
                message: stored.message.clone(),
            })
            .collect();
        StoreResult::Loaded {
            last: rows.last().map(|stored| stored.row),
            rows,
            damaged: 0,
            counts: self.counts(),
        }
    }

    pub(super) fn ask(&mut self, numbered: RowId, me: Owner) -> StoreResult {
        let mine = || self.rows.iter().filter(|(_, row)| row.owner == Some(me));
        let known = mine().filter(|(id, row)| **id > numbered && row.message.seq > 0);
        let answer = StoreResult::Outcomes {
            numbered: known.map(|(id, row)| (*id, row.message.seq)).collect(),
            ends: {
                let of_mine = self.fates.iter().filter(|fate| fate.1 == me);
                of_mine
                    .map(|(id, _, seq, end)| (*id, *seq, end.clone()))
                    .collect()
            },
            oldest: mine().next().map(|(id, _)| *id),
        };
        self.fates.retain(|fate| fate.1 != me);
        answer
    }
}
