//! The one row of a queue file that says how much there is in it, and what the next message
//! will be called.
//!
//! It has a checksum of its own (CRC-32 over the text and the numbers, little-endian): a
//! number that went backwards would make two messages look like one to their receiver.

use rusqlite::ffi::{self, SQLITE_CORRUPT};
use rusqlite::{Connection, params};

use super::rows::{int, uint};
use crate::common::mqtt::message::Message;
use crate::publisher::queue::requests::{Counts, Outcome};
use crate::publisher::queue::size;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Books {
    /// The stream that numbers the messages.
    pub(super) stream: String,
    /// Its next number.
    pub(super) next_seq: u64,
    /// A process drains, or has crashed while it did.
    pub(super) running: bool,
    /// Messages waiting or in flight, and their topics and payloads in bytes.
    pub(super) waiting: u64,
    pub(super) bytes: u64,
    /// Dead letters, and their topics and payloads in bytes.
    pub(super) dead: u64,
    pub(super) dead_bytes: u64,
    /// Messages dropped, expired and died since the file was made.
    pub(super) dropped: u64,
    pub(super) expired: u64,
    pub(super) died: u64,
}

impl Books {
    /// Those of a new file.
    pub(super) fn new(stream: &str) -> Self {
        Self {
            stream: stream.to_owned(),
            next_seq: 1,
            ..Self::default()
        }
    }

    /// Reads them, and believes them only if the checksum fits.
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        Self::read_as(connection, true)
    }

    /// The same; those of the first version have no checksum.
    pub(super) fn read_as(connection: &Connection, has_crc: bool) -> rusqlite::Result<Self> {
        let (books, crc) = Self::select(connection, if has_crc { "crc" } else { "NULL" })?;
        if crc.is_none_or(|crc| i64::from(books.crc()) == crc) {
            Ok(books)
        } else {
            Err(corrupt("its books are not what was written".into()))
        }
    }

    /// Reads them, whatever the checksum.
    pub(super) fn unchecked(connection: &Connection) -> rusqlite::Result<Self> {
        Ok(Self::select(connection, "NULL")?.0)
    }

    fn select(connection: &Connection, crc: &str) -> rusqlite::Result<(Self, Option<i64>)> {
        let mut statement = connection.prepare_cached(&format!(
            "SELECT stream, next_seq, running, waiting, bytes, dead, dead_bytes, dropped, expired,
             died, {crc} FROM books"
        ))?;
        statement.query_row([], |row| {
            let number = |index| row.get(index).map(uint);
            let books = Self {
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
            Ok((books, row.get(10)?))
        })
    }

    /// Writes them in the place of those that are there.
    pub(super) fn write(&self, connection: &Connection) -> rusqlite::Result<()> {
        let mut statement = connection.prepare_cached(
            "INSERT OR REPLACE INTO books (one, stream, next_seq, running, waiting, bytes, dead,
             dead_bytes, dropped, expired, died, crc)
             VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?;
        let [
            next_seq,
            waiting,
            bytes,
            dead,
            dead_bytes,
            dropped,
            expired,
            died,
        ] = self.numbers().map(int);
        statement.execute(params![
            self.stream,
            next_seq,
            self.running,
            waiting,
            bytes,
            dead,
            dead_bytes,
            dropped,
            expired,
            died,
            self.crc()
        ])?;
        Ok(())
    }

    /// What the queue in memory needs to know of them.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            rows: self.waiting,
            bytes: self.bytes,
            dead_bytes: self.dead_bytes,
        }
    }

    /// A row of so many bytes is new.
    pub(super) fn add(&mut self, bytes: u64) {
        self.waiting += 1;
        self.bytes += bytes;
    }

    /// A row of so many bytes is gone.
    pub(super) fn take(&mut self, bytes: u64, end: &Outcome) {
        self.waiting = self.waiting.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        match end {
            Outcome::Dropped(_) => self.dropped += 1,
            Outcome::Expired => self.expired += 1,
            Outcome::Delivered | Outcome::Dead(_) => {}
        }
    }

    /// There is one dead letter more.
    pub(super) fn bury(&mut self, bytes: u64) {
        self.dead += 1;
        self.dead_bytes += bytes;
        self.died += 1;
    }

    /// A dead letter waits again.
    pub(super) fn revive(&mut self, message: &Message) {
        self.dead = self.dead.saturating_sub(1);
        self.dead_bytes = self.dead_bytes.saturating_sub(size(message));
        self.add(size(message));
    }

    fn numbers(&self) -> [u64; 8] {
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
    }

    fn crc(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(self.stream.as_bytes());
        hasher.update(&[u8::from(self.running)]);
        for number in self.numbers() {
            hasher.update(&int(number).to_le_bytes());
        }
        hasher.finalize()
    }
}

/// The file says something that cannot be.
pub(super) fn corrupt(how: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(SQLITE_CORRUPT), Some(how))
}
