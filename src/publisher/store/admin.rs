//! A queue file mended from outside: dead letters put back, messages removed, a damaged file
//! moved aside. Nothing here needs the process that drains it, nor holds it up for long.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior, params};

use super::counters::{Books, corrupt};
use super::file::{self, DrainLock};
use super::kind;
use super::pages::{self, Item, Layout, Which};
use super::rows::{self, int, uint};
use super::sqlite;
use crate::common::fault::{Exit, Fault, Kind};
use crate::common::runtime::clock::boot_ms;
use crate::publisher::queue::requests::RowId;

/// What putting dead letters back has come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retried {
    /// Messages that are back in the queue.
    pub moved: u64,
    /// Those that were asked for and are not there, or damaged.
    pub missing: Vec<RowId>,
    /// Messages that are damaged, and stay.
    pub damaged: u64,
}

/// An open file.
pub struct Admin {
    path: PathBuf,
    connection: Connection,
}

impl Admin {
    /// Opens a queue that exists, and brings it to the newest version.
    ///
    /// # Errors
    ///
    /// A fault that names the file, the cause and the remedy.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        let path = file::resolve(path)?;
        kind::examine(&path)?;
        let (connection, _) = file::open_existing(&path, !DrainLock::is_taken(&path))?;
        Ok(Self { path, connection })
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
            Err(e) => Err(file::broken(&self.path, &e)),
        }
    }

    /// Puts dead letters at the end of the queue, all or those named; they keep stream and
    /// number. A page at a time, each in a transaction of its own: however many there are, neither
    /// memory nor a running publisher's patience runs out. Those that die meanwhile stay.
    ///
    /// # Errors
    ///
    /// A fault that names the file, and how many are back in the queue all the same.
    pub fn retry(&mut self, ids: &[RowId]) -> Result<Retried, Fault> {
        let mut wanted: BTreeSet<RowId> = ids.iter().copied().collect();
        let mut retried = Retried::default();
        let mut last = 0;
        let connection = &mut self.connection;
        let done = sqlite::patiently(|| {
            connection.query_row("SELECT coalesce(max(id), 0) FROM dead", [], |row| {
                row.get(0)
            })
        })
        .and_then(|end: RowId| {
            while last < end {
                let page = sqlite::patiently(|| {
                    pages::read(connection, Layout::NEWEST, Which::Dead, last)
                })?;
                let Some(reached) = page.last() else {
                    break;
                };
                last = pages::id(reached);
                let whole = page.iter().filter(|item| pages::id(item) <= end);
                retried.damaged += whole.clone().filter(|item| item.is_err()).count() as u64;
                let whole = whole.filter_map(|item| item.as_ref().ok());
                let whole = whole.filter(|item| ids.is_empty() || wanted.contains(&item.id));
                let whole: Vec<_> = whole.collect();
                if !whole.is_empty() {
                    retried.moved += sqlite::patiently(|| revive(connection, &whole))?;
                }
                for item in whole {
                    wanted.remove(&item.id);
                }
                if !ids.is_empty() && wanted.is_empty() {
                    break;
                }
            }
            Ok(())
        });
        retried.missing = wanted.into_iter().collect();
        match done {
            Ok(()) => Ok(retried),
            Err(e) => {
                let mut fault = file::broken(&self.path, &e);
                if retried.moved > 0 {
                    let moved = retried.moved;
                    fault.message = format!("{}; {moved} are back in the queue", fault.message);
                }
                Err(fault)
            }
        }
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
                        params![int(boot_ms())],
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

/// Puts these back; gives how many were still there.
fn revive(connection: &mut Connection, items: &[&Item]) -> rusqlite::Result<u64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut books = Books::read(&transaction)?;
    let mut moved = 0;
    for item in items {
        let mut delete = transaction.prepare_cached("DELETE FROM dead WHERE id = ?1")?;
        if delete.execute([item.id])? == 0 {
            continue;
        }
        let mut insert = transaction.prepare_cached(rows::INSERT)?;
        rows::insert(&mut insert, &item.message, None)?;
        books.revive(&item.message);
        moved += 1;
    }
    books.write(&transaction)?;
    transaction.commit()?;
    // The log stays short, however many pages follow.
    if sqlite::is_long(connection, u64::MAX)? {
        sqlite::checkpoint(connection, sqlite::Checkpoint::Now)?;
    }
    Ok(moved)
}

/// Moves a damaged queue aside, with the files that belong to it, so that the next run
/// makes a new one. `stamp` goes into the new name, which is given back.
///
/// # Errors
///
/// A fault if a process uses the queue, or the files cannot be renamed.
pub fn move_aside(path: &Path, stamp: &str) -> Result<PathBuf, Fault> {
    let path = &file::resolve(path)?;
    match kind::examine(path) {
        Err(fault) if fault.kind != Kind::Damaged => return Err(fault),
        _ => {}
    }
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
