//! The row of a queue file with the number of its messages and the next sequence number.
//!
//! It has its own checksum (CRC-32 over the text and the numbers, little-endian): with a number that
//! went backwards, the receiver would take two messages for one.
//!
//! The highest row number is here, and not left to SQLite's AUTOINCREMENT, because that keeps it in a separate page, which
//! each commit would write as well.

use rusqlite::types::ToSql;
use rusqlite::{Connection, params_from_iter};

use super::sqlite::{corrupt, int, to_u64_or_zero};
use super::totals::Totals;
use crate::publisher::queue::store_requests::{Counts, MessageOutcome, OpenedQueue, RowId};

/// Which columns the row has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(super) enum CountersLayout {
    /// Schema 1.
    Plain,
    /// Schema 2 to 6.
    WithChecksum,
    /// Schema 7.
    WithTotals,
    /// Schema 8.
    WithLastRow,
}

impl CountersLayout {
    /// Of a file with this schema version, which is to be read in the transaction that reads the counters: another
    /// process may convert the file at any time.
    pub(super) fn of_schema(version: usize) -> Self {
        match version {
            0 | 1 => Self::Plain,
            2..=6 => Self::WithChecksum,
            7 => Self::WithTotals,
            _ => Self::WithLastRow,
        }
    }

    pub(super) fn has_totals(self) -> bool {
        self >= Self::WithTotals
    }
}

const NUMBERS: &str = "next_seq, waiting, bytes, dead, dead_bytes, dropped, expired, died";
const TOTALS: &str = "since_ms, accepted, accepted_bytes, delivered, delivered_bytes, rows_dropped, rows_expired, purged, retried";

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
    /// Ever, with those that were never written to the file.
    pub dropped: u64,
    pub expired: u64,
    pub died: u64,
    pub totals: Totals,
    /// The highest number that a row of the queue ever had; 0 if there was none.
    pub last_row: RowId,
}

impl Counters {
    /// Of a new file; `now_ms` is a Unix time.
    pub(super) fn new(stream: &str, now_ms: u64) -> Self {
        Self {
            stream: stream.to_owned(),
            next_seq: 1,
            totals: Totals {
                since_ms: now_ms,
                ..Totals::default()
            },
            ..Self::default()
        }
    }

    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        Self::read_layout(connection, CountersLayout::WithLastRow)
    }

    /// What the layout lacks is zero.
    pub(super) fn read_layout(
        connection: &Connection,
        layout: CountersLayout,
    ) -> rusqlite::Result<Self> {
        let crc = if layout >= CountersLayout::WithChecksum {
            "crc"
        } else {
            "NULL"
        };
        let totals = if layout.has_totals() {
            TOTALS
        } else {
            "0, 0, 0, 0, 0, 0, 0, 0, 0"
        };
        let last_row = if layout >= CountersLayout::WithLastRow {
            "last_row"
        } else {
            "0"
        };
        let mut statement = connection.prepare_cached(&format!(
            "SELECT stream, running, {crc}, {NUMBERS}, {totals}, {last_row} FROM books"
        ))?;
        let (counters, crc) = statement.query_row([], |row| {
            let number = |index| row.get(index).map(to_u64_or_zero);
            let counters = Self {
                stream: row.get(0)?,
                running: row.get(1)?,
                next_seq: number(3)?,
                waiting: number(4)?,
                bytes: number(5)?,
                dead: number(6)?,
                dead_bytes: number(7)?,
                dropped: number(8)?,
                expired: number(9)?,
                died: number(10)?,
                totals: Totals {
                    since_ms: number(11)?,
                    accepted: number(12)?,
                    accepted_bytes: number(13)?,
                    delivered: number(14)?,
                    delivered_bytes: number(15)?,
                    dropped: number(16)?,
                    expired: number(17)?,
                    purged: number(18)?,
                    retried: number(19)?,
                },
                last_row: row.get(20)?,
            };
            Ok((counters, row.get::<_, Option<i64>>(2)?))
        })?;
        if crc.is_none_or(|crc| i64::from(counters.crc(layout)) == crc) {
            Ok(counters)
        } else {
            Err(corrupt("its counters are not what was written".into()))
        }
    }

    pub(super) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(&format!(
            "INSERT OR REPLACE INTO books (one, stream, running, crc, {NUMBERS}, {TOTALS}, last_row)
             VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
             ?18, ?19, ?20, ?21)"
        ))?;
        let (crc, numbers) = (self.crc(CountersLayout::WithLastRow), self.numbers());
        let (totals, last_row) = (self.totals_numbers(), [self.last_row]);
        let texts: [&dyn ToSql; 3] = [&self.stream, &self.running, &crc];
        let numbers = numbers.iter().chain(&totals).chain(&last_row);
        let numbers = numbers.map(|number| number as &dyn ToSql);
        statement.execute(params_from_iter(texts.into_iter().chain(numbers)))?;
        Ok(())
    }

    /// Fails if there is a row with a number that no publisher has given: the next one would get it, too. The counters
    /// are from before the connection's transaction has changed anything.
    pub(super) fn check_rows(&self, connection: &Connection) -> rusqlite::Result<()> {
        let highest = highest_row(connection)?;
        if highest <= self.last_row {
            return Ok(());
        }
        let last = self.last_row;
        Err(corrupt(format!(
            "it has a row {highest}, and the last one that was written is {last}"
        )))
    }

    /// The number of a new row. Rows are never given a number twice: their owners, and what is in memory, refer to it.
    pub(super) fn next_row(&mut self) -> RowId {
        self.last_row = self.last_row.saturating_add(1);
        self.last_row
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
        self.totals.count_accepted(bytes);
        self.count_waiting(bytes);
    }

    fn count_waiting(&mut self, bytes: u64) {
        self.waiting += 1;
        self.bytes += bytes;
    }

    /// This number of rows, which have `bytes` together, left the queue.
    pub(super) fn count_removed(&mut self, rows: u64, bytes: u64, outcome: &MessageOutcome) {
        self.totals.count_removed(rows, bytes, outcome);
        self.waiting = self.waiting.saturating_sub(rows);
        self.bytes = self.bytes.saturating_sub(bytes);
        match outcome {
            MessageOutcome::Dropped(_) => self.dropped += rows,
            MessageOutcome::Expired => self.expired += rows,
            MessageOutcome::Delivered | MessageOutcome::Dead(_) => {}
        }
    }

    pub(super) fn count_dead_letter(&mut self, bytes: u64) {
        self.dead += 1;
        self.dead_bytes += bytes;
        self.died += 1;
    }

    /// A dead letter was put back into the queue.
    pub(super) fn count_retried(&mut self, bytes: u64) {
        self.dead = self.dead.saturating_sub(1);
        self.dead_bytes = self.dead_bytes.saturating_sub(bytes);
        self.totals.retried += 1;
        self.count_waiting(bytes);
    }

    /// The user has removed all that waited, this number of messages.
    pub(super) fn count_queue_purged(&mut self, removed: u64) {
        (self.waiting, self.bytes) = (0, 0);
        self.dropped += removed;
        self.totals.purged += removed;
    }

    /// The user has removed all dead letters, this number.
    pub(super) fn count_dead_purged(&mut self, removed: u64) {
        (self.dead, self.dead_bytes) = (0, 0);
        self.totals.purged += removed;
    }

    /// In the order of `NUMBERS`.
    fn numbers(&self) -> [i64; 8] {
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

    /// In the order of `TOTALS`.
    fn totals_numbers(&self) -> [i64; 9] {
        let totals = &self.totals;
        [
            totals.since_ms,
            totals.accepted,
            totals.accepted_bytes,
            totals.delivered,
            totals.delivered_bytes,
            totals.dropped,
            totals.expired,
            totals.purged,
            totals.retried,
        ]
        .map(int)
    }

    pub(super) fn crc(&self, layout: CountersLayout) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(self.stream.as_bytes());
        hasher.update(&[u8::from(self.running)]);
        for number in self.numbers() {
            hasher.update(&number.to_le_bytes());
        }
        if layout.has_totals() {
            for number in self.totals_numbers() {
                hasher.update(&number.to_le_bytes());
            }
        }
        if layout >= CountersLayout::WithLastRow {
            hasher.update(&self.last_row.to_le_bytes());
        }
        hasher.finalize()
    }
}

/// Of those that are in the queue; 0 if it is empty.
pub(super) fn highest_row(connection: &Connection) -> rusqlite::Result<RowId> {
    let mut statement = connection.prepare_cached("SELECT coalesce(max(id), 0) FROM queue")?;
    statement.query_row([], |row| row.get(0))
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::*;

    #[test]
    fn a_file_that_another_process_converts_is_read_in_its_new_layout() {
        let dir = tempfile::tempdir().unwrap();
        let queue = dir.path().join("queue.db");
        let older = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/queue-6.db");
        std::fs::copy(older, &queue).unwrap();
        let reader = Connection::open(&queue).unwrap();
        let read = || {
            let version = schema::read_version(&reader).unwrap().schema;
            let layout = CountersLayout::of_schema(version);
            (layout, Counters::read_layout(&reader, layout).unwrap())
        };
        let (layout, before) = read();
        assert_eq!(layout, CountersLayout::WithChecksum);
        schema::migrate(&mut Connection::open(&queue).unwrap()).unwrap();
        let (layout, after) = read();
        assert_eq!(layout, CountersLayout::WithLastRow);
        assert_eq!(after.totals.accepted, before.waiting + before.dead);
        assert_eq!(after.next_seq, before.next_seq);
        assert_eq!(after.last_row, 3);
    }
}
