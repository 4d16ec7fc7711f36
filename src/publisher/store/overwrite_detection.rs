//! Detects that another program has written to the queue file: a backup restored over it, or a
//! truncated file, keeps its name, and SQLite does not notice.
//!
//! The file changes only when the log is copied into it. If it has changed and this process did not
//! do that, another publisher may have; so the file is read through a new connection, which has
//! nothing cached. Where file and log both have a database page, the log's is read.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};

use super::counters::Counters;
use super::files::SizeAndMtime;
use super::sqlite::{
    BUSY_TIMEOUT, begin_write, corrupt, count_rows, distrust_file, is_damage, quick_check,
    retry_while_busy,
};
use crate::publisher::queue::store_requests::RowId;

/// Reading the file takes at most one part in this many of the time, until the run ends.
const SHARE: u32 = 20;

#[derive(Debug)]
pub(super) struct OverwriteDetector {
    /// Of the file when its content was last known; none if the system did not say.
    pub(super) stamp: Option<SizeAndMtime>,
    /// The highest row that was ever in the queue.
    highest: RowId,
    pub(super) due: Instant,
}

impl OverwriteDetector {
    /// `stamp` is from before the file was opened.
    pub(super) fn new(
        connection: &Connection,
        stamp: Option<SizeAndMtime>,
        now: Instant,
    ) -> rusqlite::Result<Self> {
        Ok(Self {
            stamp,
            highest: Counters::read(connection)?.last_row,
            due: now,
        })
    }

    pub(super) fn handle_inserted(&mut self, row: RowId) {
        self.highest = self.highest.max(row);
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        now >= self.due
    }

    /// `false` if the file is not what publishers wrote. `stamp` is from before it is read.
    pub(super) fn check_content(
        &mut self,
        path: &Path,
        connection: &mut Connection,
        stamp: Option<SizeAndMtime>,
        clock: impl Fn() -> Instant,
    ) -> rusqlite::Result<bool> {
        // SQLite would remove the log of an empty file.
        if stamp.is_some_and(SizeAndMtime::is_empty) {
            return Ok(false);
        }
        let began = clock();
        match retry_while_busy(|| check_through_new_connection(path, connection, self.highest)) {
            Ok(highest) => self.highest = highest,
            Err(e) if is_damage(&e) => return Ok(false),
            Err(e) => return Err(e),
        }
        self.stamp = stamp;
        let now = clock();
        let took = now.saturating_duration_since(began);
        self.due = now + took.saturating_mul(SHARE).min(Duration::from_secs(60));
        Ok(true)
    }
}

fn check_through_new_connection(
    path: &Path,
    connection: &mut Connection,
    highest: RowId,
) -> rusqlite::Result<RowId> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut new_connection = Connection::open_with_flags(path, flags)?;
    new_connection.busy_timeout(BUSY_TIMEOUT)?;
    distrust_file(&new_connection)?;
    let snapshot = new_connection.transaction()?;
    // No process writes in between: both see the same, `ours` partly from its cache.
    let ours = begin_write(connection)?;
    let counters = Counters::read(&snapshot)?;
    if counters != Counters::read(&ours)? {
        return Err(corrupt("its counters differ".into()));
    }
    drop(ours);
    counters.check_rows(&snapshot)?;
    // Parts of a file from different times do not fit together.
    quick_check(&snapshot)?;
    if count_rows(&snapshot, "queue")? != counters.waiting
        || count_rows(&snapshot, "dead")? != counters.dead
        || counters.last_row < highest
    {
        return Err(corrupt("messages are missing".into()));
    }
    Ok(counters.last_row)
}
