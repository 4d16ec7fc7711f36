//! SQLite's errors, retries, transactions and checkpoints.

use std::time::Duration;

use rusqlite::ffi::{self, SQLITE_CORRUPT, SQLITE_IOERR_SHMSIZE};
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior};

pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(1);

/// The length at which the log is copied into the file, in bytes of database pages.
const MAX_LOG: u64 = 4 << 20;

pub(super) fn int(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn to_u64_or_zero(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

pub(super) fn retry_while_busy<T>(
    attempt: impl FnMut() -> rusqlite::Result<T>,
) -> rusqlite::Result<T> {
    retry_at_most(u32::MAX, attempt)
}

/// Makes at most `times` attempts of [`BUSY_TIMEOUT`] each.
pub(super) fn retry_at_most<T>(
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

pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy)
}

pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    // The second code is about the index of the log.
    let full =
        |e: &ffi::Error| e.code == ErrorCode::DiskFull || e.extended_code == SQLITE_IOERR_SHMSIZE;
    error.sqlite_error().is_some_and(full)
}

/// Whether the file is not what was written. Our statements are right: SQLite rejects one, or the
/// type of a value, only where the schema has changed.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use ErrorCode::{ConstraintViolation, DatabaseCorrupt, NotADatabase, Unknown};
    let damage = [DatabaseCorrupt, NotADatabase, Unknown, ConstraintViolation];
    let code = error.sqlite_error_code();
    code.is_none_or(|code| damage.contains(&code))
}

pub(super) fn corrupt(how: String) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(ffi::Error::new(SQLITE_CORRUPT), Some(how))
}

pub(super) fn begin_write(connection: &mut Connection) -> rusqlite::Result<Transaction<'_>> {
    connection.transaction_with_behavior(TransactionBehavior::Immediate)
}

/// The file may be damaged or forged.
pub(super) fn distrust_file(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)
}

pub(super) fn quick_check(connection: &Connection) -> rusqlite::Result<()> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" {
        Ok(())
    } else {
        Err(corrupt(found))
    }
}

pub(super) fn count_rows(connection: &Connection, table: &str) -> rusqlite::Result<u64> {
    let query = format!("SELECT count(*) FROM {table}");
    connection.query_row(&query, [], |row| row.get(0).map(to_u64_or_zero))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckpointMode {
    Copy,
    Truncate,
}

/// Whether the log is due to be copied: its database pages have [`MAX_LOG`] bytes, or `bytes`.
pub(super) fn is_log_long(connection: &Connection, bytes: u64) -> rusqlite::Result<bool> {
    let length = log_pages(connection)?.saturating_mul(page_size(connection)?);
    Ok(has_to_be_copied(length, bytes))
}

/// The number of database pages in the log.
pub(super) fn log_pages(connection: &Connection) -> rusqlite::Result<u64> {
    wal_checkpoint(connection, "NOOP").map(to_u64_or_zero)
}

/// Whether a log with `length` bytes of database pages has [`MAX_LOG`], or `bytes`.
pub(super) fn has_to_be_copied(length: u64, bytes: u64) -> bool {
    length >= bytes.min(MAX_LOG)
}

/// In bytes. It never changes while a file exists.
pub(super) fn page_size(connection: &Connection) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached("PRAGMA page_size")?;
    statement.query_row([], |row| row.get(0).map(to_u64_or_zero))
}

/// Gives the number of database pages in the log.
fn wal_checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<i64> {
    let sql = format!("PRAGMA wal_checkpoint({mode})");
    let mut statement = connection.prepare_cached(&sql)?;
    statement.query_row([], |row| row.get(1))
}

/// Copies the log into the file as far as its readers allow; `false` if there is no space. SQLite's
/// automatic checkpoint is off: it ignores a sync that fails, and syncs again the next time, when
/// the kernel may report success for what it has thrown away.
pub(super) fn checkpoint(connection: &Connection, mode: CheckpointMode) -> rusqlite::Result<bool> {
    let mode = match mode {
        CheckpointMode::Truncate => "TRUNCATE",
        CheckpointMode::Copy => "PASSIVE",
    };
    match wal_checkpoint(connection, mode) {
        // It can be done later: what is in the log is safe.
        Err(e) if is_full(&e) || is_busy(&e) => Ok(false),
        done => done.map(|_| true),
    }
}

/// Returns at most this many free database pages to the disk; 0 is all.
pub(super) fn release_free_pages(connection: &Connection, max_pages: u32) -> rusqlite::Result<()> {
    // Each step returns one page.
    let sql = format!("PRAGMA incremental_vacuum({max_pages})");
    step_through(connection, &sql)
}

pub(super) fn step_through(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while rows.next()?.is_some() {}
    Ok(())
}

pub(super) fn free_bytes(connection: &Connection) -> rusqlite::Result<u64> {
    let count = connection.pragma_query_value(None, "freelist_count", |row| row.get(0))?;
    Ok(to_u64_or_zero(count).saturating_mul(page_size(connection)?))
}
