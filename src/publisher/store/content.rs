//! Whether the file still holds what was written, when something else has written into it: a copy put
//! back over it, or a shorter length, leave it at its name. SQLite does not notice.
//!
//! The file changes only when the log is copied into it. When it has changed otherwise than by this
//! process, another publisher may have done that; so it is read through a connection that has nothing
//! in memory yet. The log stands above the file: what is in both is read from the log.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior};

use super::counters::{Books, corrupt};
use super::file::{BUSY, shows_damage};
use super::presence::Stamp;
use super::rows::uint;
use super::sqlite::patiently;
use crate::publisher::queue::requests::RowId;

/// A reading may take one part in this many of the time, until the run ends.
const SHARE: u32 = 20;

/// What the file is known to hold.
#[derive(Debug)]
pub(super) struct Content {
    /// What it looked like when that was known; none if it could not be asked.
    stamp: Option<Stamp>,
    /// The highest number of a row that was ever in it.
    highest: RowId,
    /// Not to be read again before.
    due: Instant,
}

impl Content {
    /// Of a file that had that stamp when it was opened.
    pub(super) fn of(
        connection: &Connection,
        stamp: Option<Stamp>,
        now: Instant,
    ) -> rusqlite::Result<Self> {
        Ok(Self {
            stamp,
            highest: highest(connection)?,
            due: now,
        })
    }

    /// Whether nobody else has written into the file.
    pub(super) fn is_untouched(&self, stamp: Option<Stamp>) -> bool {
        self.stamp == stamp
    }

    /// This process has written into the file.
    pub(super) fn has_written(&mut self, stamp: Option<Stamp>) {
        self.stamp = stamp;
    }

    /// This process has added a row.
    pub(super) fn has_added(&mut self, row: RowId) {
        self.highest = self.highest.max(row);
    }

    /// Whether it is time to read it again.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }

    /// Reads it; `false` if it is not what was written. `stamp` is from before that.
    ///
    /// # Errors
    ///
    /// SQLite's, if it cannot be read for another reason.
    pub(super) fn examine(
        &mut self,
        path: &Path,
        connection: &mut Connection,
        stamp: Option<Stamp>,
        clock: impl Fn() -> Instant,
    ) -> rusqlite::Result<bool> {
        // SQLite would remove the log of an empty file.
        if stamp.is_some_and(Stamp::is_empty) {
            return Ok(false);
        }
        let began = clock();
        match patiently(|| read(path, connection, self.highest)) {
            Ok(highest) => self.highest = highest,
            Err(e) if shows_damage(&e) => return Ok(false),
            Err(e) => return Err(e),
        }
        self.stamp = stamp;
        let now = clock();
        let took = now.saturating_duration_since(began);
        self.due = now + took.saturating_mul(SHARE).min(Duration::from_secs(60));
        Ok(true)
    }
}

/// Reads what there is; gives the highest number of a row that was ever in it, at least `highest`.
fn read(path: &Path, connection: &mut Connection, highest: RowId) -> rusqlite::Result<RowId> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let fresh = Connection::open_with_flags(path, flags)?;
    fresh.busy_timeout(BUSY)?;
    fresh.pragma_update(None, "trusted_schema", false)?;
    fresh.pragma_update(None, "cell_size_check", true)?;
    let moment = fresh.unchecked_transaction()?;
    let books = {
        // Nobody writes in between: both see the same, this one partly from memory.
        let ours = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let books = Books::read(&moment)?;
        if books != Books::read(&ours)? {
            return Err(corrupt("its books are others".into()));
        }
        books
    };
    let found = self::highest(&moment)?;
    // Pages of different times do not fit together.
    let sound: String = moment.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if sound != "ok" {
        return Err(corrupt(sound));
    }
    let count = |table| {
        let query = format!("SELECT count(*) FROM {table}");
        moment.query_row(&query, [], |row| row.get(0).map(uint))
    };
    let rows = (count("queue")?, count("dead")?);
    if rows != (books.waiting, books.dead) || found < highest {
        return Err(corrupt("messages are missing".into()));
    }
    Ok(found)
}

/// The highest number of a row that was ever in the queue.
fn highest(connection: &Connection) -> rusqlite::Result<RowId> {
    let query = "SELECT seq FROM sqlite_sequence WHERE name = 'queue'";
    let found = connection.query_row(query, [], |row| row.get(0));
    Ok(found.optional()?.unwrap_or(0))
}
