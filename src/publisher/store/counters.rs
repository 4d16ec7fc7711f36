//! The row of a queue file with the number of its messages and the next sequence number.
//!
//! It has its own checksum (CRC-32 over the text and the numbers, little-endian): with a number that
//! went backwards, the receiver would take two messages for one.

use rusqlite::types::ToSql;
use rusqlite::{Connection, params_from_iter};

use super::sqlite::{corrupt, int, to_u64_or_zero};
use crate::publisher::queue::store_requests::{Counts, MessageOutcome, OpenedQueue};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub stream: String,
    pub next_seq: u64,
    pub running: bool,
    /// Messages waiting or in flight, and their topics and payloads in bytes.
    pub waiting: u64,
    pub bytes: u64,
    pub dead: u64,
    pub dead_bytes: u64,
    pub dropped: u64,
    pub expired: u64,
    pub died: u64,
}

impl Counters {
    pub(super) fn new(stream: &str) -> Self {
        Self {
            stream: stream.to_owned(),
            next_seq: 1,
            ..Self::default()
        }
    }

    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        Self::read_any_schema(connection, true)
    }

    /// A file of schema 1 has no checksum.
    pub(super) fn read_any_schema(
        connection: &Connection,
        has_crc: bool,
    ) -> rusqlite::Result<Self> {
        let mut statement = connection.prepare_cached(&format!(
            "SELECT stream, next_seq, running, waiting, bytes, dead, dead_bytes, dropped, expired,
             died, {} FROM books",
            if has_crc { "crc" } else { "NULL" }
        ))?;
        let (counters, crc) = statement.query_row([], |row| {
            let number = |index| row.get(index).map(to_u64_or_zero);
            let counters = Self {
                stream: row.get(0)?,
                next_seq: number(1)?,
                running: row.get(2)?,
                waiting: number(3)?,
                bytes: number(4)?,
                dead: number(5)?,
                dead_bytes: number(6)?,
                dropped: number(7)?,
                expired: number(8)?,
                died: number(9)?,
            };
            Ok((counters, row.get::<_, Option<i64>>(10)?))
        })?;
        if crc.is_none_or(|crc| i64::from(counters.crc()) == crc) {
            Ok(counters)
        } else {
            Err(corrupt("its counters are not what was written".into()))
        }
    }

    pub(super) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(
            "INSERT OR REPLACE INTO books (one, stream, running, crc, next_seq, waiting, bytes,
             dead, dead_bytes, dropped, expired, died)
             VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?;
        let (crc, numbers) = (self.crc(), self.column_values());
        let texts: [&dyn ToSql; 3] = [&self.stream, &self.running, &crc];
        let numbers = numbers.iter().map(|number| number as &dyn ToSql);
        statement.execute(params_from_iter(texts.into_iter().chain(numbers)))?;
        Ok(())
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            rows: self.waiting,
            bytes: self.bytes,
            dead_bytes: self.dead_bytes,
        }
    }

    pub(super) fn to_opened(&self, drains: bool) -> OpenedQueue {
        OpenedQueue {
            drains,
            counts: self.counts(),
            next_seq: self.next_seq.max(1),
            stream: self.stream.as_str().into(),
        }
    }

    pub(super) fn count_inserted(&mut self, bytes: u64) {
        self.waiting += 1;
        self.bytes += bytes;
    }

    pub(super) fn count_removed(&mut self, bytes: u64, outcome: &MessageOutcome) {
        self.waiting = self.waiting.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        match outcome {
            MessageOutcome::Dropped(_) => self.dropped += 1,
            MessageOutcome::Expired => self.expired += 1,
            MessageOutcome::Delivered | MessageOutcome::Dead(_) => {}
        }
    }

    pub(super) fn count_dead_letter(&mut self, bytes: u64) {
        self.dead += 1;
        self.dead_bytes += bytes;
        self.died += 1;
    }

    /// A dead letter was put back into the queue.
    pub(super) fn subtract_dead_letter(&mut self, bytes: u64) {
        self.dead = self.dead.saturating_sub(1);
        self.dead_bytes = self.dead_bytes.saturating_sub(bytes);
    }

    fn column_values(&self) -> [i64; 8] {
        [
            self.next_seq,
            self.waiting,
            self.bytes,
            self.dead,
            self.dead_bytes,
            self.dropped,
            self.expired,
            self.died,
        ]
        .map(int)
    }

    fn crc(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(self.stream.as_bytes());
        hasher.update(&[u8::from(self.running)]);
        for number in self.column_values() {
            hasher.update(&number.to_le_bytes());
        }
        hasher.finalize()
    }
}
