//! SQLite's own ways: what its errors mean, when to try again, how its log is emptied.

use rusqlite::ffi::SQLITE_IOERR_SHMSIZE;
use rusqlite::{Connection, ErrorCode};

use super::rows::uint;

/// Tries again as long as another process is in the middle of its transaction.
pub(super) fn patiently<T>(attempt: impl FnMut() -> rusqlite::Result<T>) -> rusqlite::Result<T> {
    at_most(u32::MAX, attempt)
}

/// The same, but so many times. SQLite itself waits a second each time.
pub(super) fn at_most<T>(
    times: u32,
    mut attempt: impl FnMut() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    for _ in 1..times {
        match attempt() {
            Err(e) if is_busy(&e) => {}
            done => return done,
        }
    }
    attempt()
}

/// Whether another process is in the middle of its transaction.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

/// Whether there was no space for it on the disk.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|e| (e.code, e.extended_code));
    // The second is about the index of the log.
    matches!(
        code,
        Some((ErrorCode::DiskFull, _) | (_, SQLITE_IOERR_SHMSIZE))
    )
}

/// The log is copied into the file when it has so many pages.
const LOG_PAGES: i64 = 1_000;

/// SQLite's own, in bytes.
const PAGE_SIZE: u64 = 4_096;

/// When the log is copied into the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checkpoint {
    /// Whatever there is in it.
    Now,
    /// And then it is cut off, so that what it took is free.
    Shrink,
}

/// Whether the log has grown long; at the latest it has at so many bytes.
pub(super) fn is_long(connection: &Connection, bytes: u64) -> rusqlite::Result<bool> {
    let pages = run(connection, "NOOP")?;
    Ok(pages >= LOG_PAGES || uint(pages).saturating_mul(PAGE_SIZE) >= bytes)
}

/// Gives how many pages the log has.
fn run(connection: &Connection, mode: &str) -> rusqlite::Result<i64> {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    let mut statement = connection.prepare_cached(&sql)?;
    statement.query_row([], |row| row.get(1))
}

/// Copies the log into the file as far as its readers allow; `false` if there is no space. SQLite does so by
/// itself, but passes over a sync that fails, and syncs again the next time: the system may
/// then claim success for what it has thrown away.
pub(super) fn checkpoint(connection: &Connection, when: Checkpoint) -> rusqlite::Result<bool> {
    let mode = match when {
        Checkpoint::Shrink => "TRUNCATE",
        Checkpoint::Now => "PASSIVE",
    };
    match run(connection, mode) {
        // Another time; what is in the log is safe.
        Err(e) if is_full(&e) || is_busy(&e) => Ok(false),
        done => done.map(|_| true),
    }
}

/// Gives free pages back to the disk, so many at most; 0 is all.
pub(super) fn give_back(connection: &Connection, pages: u32) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut steps = statement.query([])?;
    // Each step is one page.
    while steps.next()?.is_some() {}
    Ok(())
}

/// Bytes of the file's free pages.
pub(super) fn free(connection: &Connection) -> rusqlite::Result<u64> {
    let pages = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    Ok(uint(pages).saturating_mul(PAGE_SIZE))
}
