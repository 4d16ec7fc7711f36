//! Messages of a file in pages of bounded size, for whoever looks at it from outside.

use std::sync::Arc;

use rusqlite::Connection;

use super::rows::{self, uint};
use crate::common::mqtt::message::Message;
use crate::publisher::queue::requests::RowId;
use crate::publisher::queue::size;

/// Rows in a page, at most.
const PAGE: i64 = 256;

/// No further row is in a page after so many bytes.
const PAGE_BYTES: u64 = 1 << 20;

/// Which messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Waiting,
    /// The dead letters.
    Dead,
}

/// A message as it lies in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    pub id: RowId,
    /// The message; its number is 0 if it has none yet.
    pub message: Message,
    /// Of a dead letter: when it died, Unix time in milliseconds, and of what.
    pub died: Option<(u64, String)>,
}

/// Messages in order; or of those that are not what was written, the row.
pub(super) type Page = Vec<Result<Item, RowId>>;

/// What the tables of a file have: older ones lack some columns. What is only looked at is read as it
/// is, not brought to the newest version.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    readings: bool,
    pub(super) boot: bool,
    pub(super) books_crc: bool,
}

impl Layout {
    /// That of the newest version.
    pub(super) const NEWEST: Self = Self {
        readings: true,
        boot: true,
        books_crc: true,
    };

    pub(super) fn of(connection: &Connection) -> Self {
        let has = |table, column| {
            let query = format!("SELECT {column} FROM {table}");
            connection.prepare(&query).is_ok()
        };
        Self {
            readings: has("queue", "readings"),
            boot: has("queue", "boot_id"),
            books_crc: has("books", "crc"),
        }
    }
}

/// The messages behind `after`.
pub(super) fn read(
    connection: &Connection,
    layout: Layout,
    which: Which,
    after: RowId,
) -> rusqlite::Result<Page> {
    let mut columns = match which {
        Which::Waiting => format!("{}, NULL, NULL FROM queue", rows::COLUMNS),
        Which::Dead => {
            rows::COLUMNS
                .replace("expires_ms", "NULL")
                .replace("attempts", "0")
                + ", died_ms, reason FROM dead"
        }
    };
    if !layout.readings {
        columns = columns.replace("readings", "1");
    }
    if !layout.boot {
        columns = columns.replace("boot_id, boot_ms", "NULL, NULL");
    }
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {columns} WHERE id > ?1 ORDER BY id LIMIT ?2"
    ))?;
    let mut found = statement.query([after, PAGE])?;
    let mut page = Vec::new();
    let mut bytes = 0;
    let mut topic: Arc<str> = Arc::from("");
    while bytes < PAGE_BYTES {
        let row = match found.next() {
            Ok(Some(row)) => row,
            Ok(None) => break,
            // What lies before the damage is given first; the next page begins with it.
            Err(_) if !page.is_empty() => break,
            Err(e) => return Err(e),
        };
        let died: Option<i64> = row.get(14)?;
        let reason: Option<String> = row.get(15)?;
        page.push(rows::read(row, &mut topic)?.map(|read| {
            bytes += size(&read.message);
            Item {
                id: read.row,
                message: read.message,
                died: died.map(uint).zip(reason),
            }
        }));
    }
    Ok(page)
}

/// The row of what is in a page.
pub(super) fn id(item: &Result<Item, RowId>) -> RowId {
    match item {
        Ok(item) => item.id,
        Err(id) => *id,
    }
}
