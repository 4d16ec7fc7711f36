//! A queue file seen from outside: for `publisher queue`. Nothing here needs the process
//! that drains it, nor holds it up: rows are read a page at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior, params};

use super::books::{Books, corrupt};
use super::file::{self, DrainLock};
use super::rows::{self, int, uint};
use super::schema;
use super::sqlite;
use crate::common::event_loop::unix_ms;
use crate::common::fault::{Exit, Fault, Kind};
use crate::common::message::Message;
use crate::common::queue::order::RowId;

/// Rows read at once.
const PAGE: i64 = 256;

/// So many numbers are tried to get past what cannot be read.
const PROBES: u32 = 100_000;

/// What a file holds, in short.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Messages waiting or in flight.
    pub waiting: u64,
    /// Their topics and payloads, in bytes.
    pub bytes: u64,
    /// When the oldest of them was taken, Unix time in milliseconds.
    pub oldest_ms: Option<u64>,
    /// Dead letters.
    pub dead: u64,
    /// Their topics and payloads, in bytes.
    pub dead_bytes: u64,
    /// How many died of what.
    pub reasons: BTreeMap<String, u64>,
    /// Messages dropped since the file was made.
    pub dropped: u64,
    /// Messages expired since then.
    pub expired: u64,
    /// Messages that became dead letters since then.
    pub died: u64,
    /// Whether a process drains it now.
    pub draining: bool,
}

/// Which messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Those that wait.
    Waiting,
    /// The dead letters.
    Dead,
}

/// A message as it lies in the file.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its row.
    pub id: RowId,
    /// The message; its number is 0 if it has none yet.
    pub message: Message,
    /// Of a dead letter: when it died, Unix time in milliseconds, and of what.
    pub died: Option<(u64, String)>,
}

/// An open file.
pub struct Admin {
    path: PathBuf,
    connection: Connection,
    /// Whether it says how many readings a message has. What is damaged is read as it is, not
    /// brought to the newest version.
    has_readings: bool,
    /// The file is damaged; what can be read is read.
    pub damaged: Option<Fault>,
}

impl Admin {
    /// Opens a queue that exists.
    ///
    /// # Errors
    ///
    /// A fault that names the file, the cause and the remedy.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let path = file::resolve(path)?;
        let connection = file::open_existing(&path, !DrainLock::is_taken(&path))?;
        Ok(Self {
            path,
            connection,
            has_readings: true,
            damaged: None,
        })
    }

    /// Opens a queue although it is damaged, to save what can be read.
    ///
    /// # Errors
    ///
    /// The fault, if nothing can be read at all.
    pub fn open_damaged(path: &Path) -> Result<Self, Fault> {
        let path = &file::resolve(path)?;
        match Self::open(path) {
            Err(fault) if fault.kind == Kind::Damaged => {
                let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                let connection =
                    Connection::open_with_flags(path, flags).map_err(|_| fault.clone())?;
                // SQLite reads no file that is too short, but for this; nothing is written.
                let lenient = connection.pragma_update(None, "writable_schema", true);
                lenient.map_err(|_| fault.clone())?;
                Ok(Self {
                    path: path.to_owned(),
                    has_readings: schema::has_readings(&connection),
                    connection,
                    damaged: Some(fault),
                })
            }
            opened => opened,
        }
    }

    /// Whether the whole file is what was written: its structure, its books, and that there is
    /// what they say. Reads all of it.
    ///
    /// # Errors
    ///
    /// A fault that says why that cannot be found out.
    pub fn is_sound(&self) -> Result<bool, Fault> {
        let check = || -> rusqlite::Result<()> {
            // Of one moment, whatever a publisher does meanwhile.
            let moment = self.connection.unchecked_transaction()?;
            let found: String = moment.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
            let rows: i64 = moment.query_row("SELECT count(*) FROM queue", [], |row| row.get(0))?;
            let waiting = Books::read(&moment)?.waiting;
            if found != "ok" {
                Err(corrupt(found))
            } else if uint(rows) != waiting {
                Err(corrupt(format!(
                    "{rows} messages in the place of {waiting}"
                )))
            } else {
                Ok(())
            }
        };
        match sqlite::patiently(check) {
            Ok(()) => Ok(true),
            Err(e) if file::shows_damage(&e) => Ok(false),
            Err(e) => Err(self.fault(&e)),
        }
    }

    fn fault(&self, error: &rusqlite::Error) -> Fault {
        file::broken(&self.path, error)
    }

    /// Counts, ages and reasons.
    ///
    /// # Errors
    ///
    /// A fault that names the file.
    pub fn status(&self) -> Result<Status, Fault> {
        let draining = DrainLock::is_taken(&self.path);
        let read = || -> rusqlite::Result<Status> {
            let oldest: Option<i64> = self
                .connection
                .query_row(
                    "SELECT accepted_ms FROM queue ORDER BY id LIMIT 1",
                    [],
                    |row| row.get(0),
                )
                .optional()?;
            let reasons = self
                .connection
                .prepare("SELECT reason, count(*) FROM dead GROUP BY reason")?
                .query_map([], |row| Ok((row.get(0)?, uint(row.get(1)?))))?
                .collect::<Result<_, _>>()?;
            let books = Books::read(&self.connection)?;
            Ok(Status {
                waiting: books.waiting,
                bytes: books.bytes,
                oldest_ms: oldest.map(uint),
                dead: books.dead,
                dead_bytes: books.dead_bytes,
                reasons,
                dropped: books.dropped,
                expired: books.expired,
                died: books.died,
                draining,
            })
        };
        read().map_err(|e| self.fault(&e))
    }

    /// Hands every message to `take`, in order, until it says `false`. Gives the number of
    /// rows that were damaged. Pages that cannot be read are passed over.
    ///
    /// # Errors
    ///
    /// A fault that names the file, if some of it could not be read.
    pub fn each(&self, which: Which, mut take: impl FnMut(&Item) -> bool) -> Result<u64, Fault> {
        let mut last = 0;
        let mut damaged = 0;
        let mut unread = None;
        let mut probes = 0;
        loop {
            let page = match self.page(which, last) {
                Ok(page) => page,
                // The rows behind a bad page are found by their numbers.
                Err(e) if file::shows_damage(&e) && probes < PROBES => {
                    unread.get_or_insert(e);
                    last += 1;
                    probes += 1;
                    continue;
                }
                Err(e) => return Err(self.fault(&unread.unwrap_or(e))),
            };
            let Some(end) = page.last() else {
                return unread.map_or(Ok(damaged), |e| Err(self.fault(&e)));
            };
            probes = 0;
            last = match end {
                Ok(item) => item.id,
                Err(id) => *id,
            };
            for item in &page {
                match item {
                    Ok(item) if !take(item) => return Ok(damaged),
                    Ok(_) => {}
                    Err(_) => damaged += 1,
                }
            }
        }
    }

    fn page(&self, which: Which, after: RowId) -> rusqlite::Result<Vec<Result<Item, RowId>>> {
        let columns = match which {
            Which::Waiting => format!("{}, NULL, NULL FROM queue", rows::COLUMNS),
            Which::Dead => "id, stream, seq, accepted_ms, NULL, topic, payload, qos, retain, crc,
                0, readings, died_ms, reason FROM dead"
                .into(),
        };
        let columns = if self.has_readings {
            columns
        } else {
            columns.replace("readings", "1")
        };
        let mut statement = self.connection.prepare_cached(&format!(
            "SELECT {columns} WHERE id > ?1 ORDER BY id LIMIT ?2"
        ))?;
        let mut found = statement.query([after, PAGE])?;
        let mut page = Vec::new();
        let mut topic: Arc<str> = Arc::from("");
        loop {
            let row = match found.next() {
                Ok(Some(row)) => row,
                Ok(None) => break,
                // What lies before the damage is given first; the next page begins with it.
                Err(_) if !page.is_empty() => break,
                Err(e) => return Err(e),
            };
            let died: Option<i64> = row.get(12)?;
            let reason: Option<String> = row.get(13)?;
            page.push(rows::read(row, &mut topic)?.map(|read| Item {
                id: read.id,
                message: read.message,
                died: died.map(uint).zip(reason),
            }));
        }
        Ok(page)
    }

    /// Puts dead letters at the end of the queue, all or those named; they keep stream and
    /// number. Gives how many were, those that were not there or damaged, and how many are damaged.
    ///
    /// # Errors
    ///
    /// A fault that names the file; then nothing was changed.
    pub fn retry(&mut self, ids: &[RowId]) -> Result<(u64, Vec<RowId>, u64), Fault> {
        let mut whole = Vec::new();
        let mut not = ids.to_vec();
        let damaged = self.each(Which::Dead, |item| {
            if ids.is_empty() || ids.contains(&item.id) {
                not.retain(|id| *id != item.id);
                whole.push((item.id, item.message.clone()));
            }
            true
        })?;
        let moved = whole.len() as u64;
        let connection = &mut self.connection;
        let done = sqlite::patiently(|| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut books = Books::read(&transaction)?;
            for (id, message) in &whole {
                if transaction.execute("DELETE FROM dead WHERE id = ?1", [id])? == 0 {
                    continue;
                }
                let mut insert = transaction.prepare_cached(rows::INSERT)?;
                rows::insert(&mut insert, message, None)?;
                books.revive(message);
            }
            books.write(&transaction)?;
            transaction.commit()
        });
        done.map_err(|e| file::broken(&self.path, &e))?;
        Ok((moved, not, damaged))
    }

    /// Removes all messages that wait, or all dead letters. What a running publisher has in
    /// flight is sent all the same.
    ///
    /// # Errors
    ///
    /// A fault that names the file; then nothing was changed.
    pub fn purge(&mut self, which: Which) -> Result<u64, Fault> {
        let connection = &mut self.connection;
        let done = sqlite::patiently(|| {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let mut books = Books::read(&transaction)?;
            let removed = match which {
                Which::Dead => {
                    (books.dead, books.dead_bytes) = (0, 0);
                    transaction.execute("DELETE FROM dead", [])?
                }
                Which::Waiting => {
                    transaction.execute(
                        "INSERT OR REPLACE INTO fate
                         SELECT id, owner, coalesce(seq, 0), 1, NULL, ?1 FROM queue
                         WHERE owner IS NOT NULL",
                        params![int(unix_ms())],
                    )?;
                    (books.waiting, books.bytes) = (0, 0);
                    let removed = transaction.execute("DELETE FROM queue", [])?;
                    books.dropped += removed as u64;
                    removed
                }
            };
            books.write(&transaction)?;
            transaction.commit()?;
            Ok(removed as u64)
        });
        let removed = done.map_err(|e| file::broken(&self.path, &e))?;
        // In a transaction of its own; if that cannot be, the next one does it.
        match sqlite::give_back(connection, 0) {
            Err(e) if !sqlite::is_full(&e) && !sqlite::is_busy(&e) => {
                Err(file::broken(&self.path, &e))
            }
            _ => Ok(removed),
        }
    }
}

/// Moves a damaged queue aside, with the files that belong to it, so that the next run
/// makes a new one. `stamp` goes into the new name, which is given back.
///
/// # Errors
///
/// A fault if a process uses the queue, or the files cannot be renamed.
pub fn move_aside(path: &Path, stamp: &str) -> Result<PathBuf, Fault> {
    let path = &file::resolve(path)?;
    let lock = DrainLock::open(path)?;
    if !lock.try_take().unwrap_or(false) {
        return Err(file::cannot(path, "is in use: stop the publisher first"));
    }
    let aside = file::beside(path, &format!(".damaged-{stamp}"));
    // The file first: a log that is left behind is refused, a file without its log looks whole.
    for suffix in ["", "-wal", "-shm"] {
        let (from, to) = (file::beside(path, suffix), file::beside(&aside, suffix));
        if to.exists() {
            return Err(file::cannot(
                path,
                "was moved aside a moment ago: try again",
            ));
        }
        match std::fs::rename(&from, &to) {
            Err(e) if suffix.is_empty() || e.kind() != std::io::ErrorKind::NotFound => {
                let message = format!("{}: cannot be renamed: {e}", from.display());
                return Err(Fault::permanent(Exit::CannotCreate, message));
            }
            _ => {}
        }
    }
    file::sync_directory(path)
        .map_err(|e| Fault::permanent(Exit::Io, format!("{}: {e}", path.display())))?;
    Ok(aside)
}
