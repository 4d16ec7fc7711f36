//! Reads the messages of a file in portions of bounded size.

use rusqlite::Connection;

use super::rows::{self, LastValues};
use super::sqlite::{retry_while_busy, to_u64_or_zero};
use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::publisher::queue::store_requests::RowId;

const ROWS: i64 = 256;

/// A portion ends after this many bytes.
const BYTES: u64 = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Queue,
    DeadLetters,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ListedMessage {
    pub row: RowId,
    pub message: OutgoingMessage,
    /// Of a dead letter: Unix time in milliseconds, and the reason.
    pub died: Option<(u64, String)>,
}

/// Rows in order; of a damaged one only the number.
pub(super) type PageRows = Vec<Result<ListedMessage, RowId>>;

/// Older files lack some, and a reader does not migrate them.
#[derive(Clone, Copy, Debug)]
pub(super) struct AvailableColumns {
    readings: bool,
    boot: bool,
    properties: bool,
}

impl AvailableColumns {
    pub(super) fn detect(connection: &Connection) -> Self {
        let has = |table, column| {
            let found = retry_while_busy(|| connection.column_exists(None, table, column));
            // The error comes again when the rows are read, and is reported then.
            found.unwrap_or(true)
        };
        Self {
            readings: has("queue", "readings"),
            boot: has("queue", "boot_id"),
            properties: has("queue", "properties"),
        }
    }

    pub(super) fn select(self, columns: &str) -> String {
        let mut sql = format!("SELECT {columns}");
        if !self.readings {
            sql = sql.replace("readings", "1");
        }
        if !self.boot {
            sql = sql.replace("boot_id, boot_ms", "NULL, NULL");
        }
        if !self.properties {
            sql = sql.replace("properties", "NULL");
        }
        sql
    }
}

/// If a row behind `after` cannot be read, the portion ends before it; if that is the first one, this fails.
pub(super) fn read(
    connection: &Connection,
    columns: AvailableColumns,
    table: Table,
    after: RowId,
) -> rusqlite::Result<PageRows> {
    let selected = columns.select(&match table {
        Table::Queue => format!("{}, NULL, NULL FROM queue", rows::COLUMNS),
        Table::DeadLetters => {
            let without_expiry = rows::COLUMNS.replace("expires_ms", "NULL");
            without_expiry.replace("attempts", "0") + ", died_ms, reason FROM dead"
        }
    });
    let sql = format!("{selected} WHERE id > ?1 ORDER BY id LIMIT {ROWS}");
    let mut statement = connection.prepare_cached(&sql)?;
    let mut found = statement.query([after])?;
    let mut portion = Vec::new();
    let mut bytes = 0;
    let mut last = LastValues::default();
    while bytes < BYTES {
        let row = match found.next() {
            Ok(Some(row)) => row,
            Ok(None) => break,
            Err(_) if !portion.is_empty() => break,
            Err(e) => return Err(e),
        };
        let died: Option<i64> = row.get(15)?;
        let reason: Option<String> = row.get(16)?;
        portion.push(rows::read_row(row, &mut last)?.map(|stored| {
            bytes += stored.message.draft.content_size();
            ListedMessage {
                row: stored.row,
                message: stored.message,
                died: died.map(to_u64_or_zero).zip(reason),
            }
        }));
    }
    Ok(portion)
}

pub(super) fn row_id(entry: &Result<ListedMessage, RowId>) -> RowId {
    entry.as_ref().map_or_else(|row| *row, |item| item.row)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::super::schema;
    use super::*;

    static IS_BUSY: AtomicBool = AtomicBool::new(false);

    #[test]
    fn a_column_is_not_missing_because_the_file_is_locked() {
        let dir = tempfile::tempdir().unwrap();
        let queue = dir.path().join("queue.db");
        schema::create(&mut Connection::open(&queue).unwrap(), "s").unwrap();
        let locking = Connection::open(&queue).unwrap();
        let lock = "PRAGMA locking_mode = EXCLUSIVE; BEGIN IMMEDIATE; UPDATE books SET dropped = 1";
        locking.execute_batch(lock).unwrap();
        let note = |_| {
            IS_BUSY.store(true, Ordering::SeqCst);
            false
        };
        thread::scope(|scope| {
            let found = scope.spawn(|| {
                let mut reader = Connection::open(&queue).unwrap();
                reader.busy_handler(Some(note)).unwrap();
                AvailableColumns::detect(&reader)
            });
            while !IS_BUSY.load(Ordering::SeqCst) {
                thread::yield_now();
            }
            drop(locking);
            let found = found.join().unwrap();
            assert!(found.readings && found.boot && found.properties);
        });
    }
}
