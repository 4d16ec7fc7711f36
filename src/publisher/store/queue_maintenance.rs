//! Changes a queue file from outside: puts dead letters back, removes messages, moves a damaged file
//! aside. No draining process is needed, and a running one is not delayed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::change_watcher::announce_commit;
use super::counters::Counters;
use super::drain_lock::DrainLock;
use super::files::{beside, check_is_queue, open_without_waiting, resolve, sync_directory};
use super::open;
use super::paging::{self, AvailableColumns, ListedMessage, Table};
use super::queue_faults::{fault_with_reason, write_error};
use super::sqlite::{
    self, corrupt, count_rows, int, is_busy, is_damage, is_full, quick_check, retry_while_busy,
};
use super::transaction::CountedTransaction;
use crate::common::fault::{Exit, Fault, FaultCause};
use crate::common::runtime::clock::boot_ms;
use crate::publisher::queue::store_requests::RowId;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequeueResult {
    pub moved: u64,
    pub missing: Vec<RowId>,
    /// These stay.
    pub damaged: u64,
}

pub struct QueueFileEditor {
    path: PathBuf,
    connection: Connection,
    /// Its close, also by the kernel if this process is killed, announces what was committed. None without the file.
    _lock_file: Option<File>,
}

impl QueueFileEditor {
    /// Migrates the file to the newest version.
    pub fn open_and_migrate(path: &Path) -> Result<Self, Fault> {
        let path = resolve(path)?;
        check_is_queue(&path)?;
        let (connection, _) = open::open_existing(&path, !DrainLock::read_drainer(&path).0)?;
        Ok(Self {
            _lock_file: open_without_waiting(&beside(&path, "-lock"), true).ok(),
            path,
            connection,
        })
    }

    /// Whether the file's structure is sound and it has as many messages as it counts.
    pub fn is_sound(&self) -> Result<bool, Fault> {
        let check = || -> rusqlite::Result<()> {
            // All of one time, although a publisher may write.
            let snapshot = self.connection.unchecked_transaction()?;
            quick_check(&snapshot)?;
            let rows = count_rows(&snapshot, "queue")?;
            let counters = Counters::read(&snapshot)?;
            let waiting = counters.waiting;
            if rows != waiting {
                return Err(corrupt(format!("{rows} messages in place of {waiting}")));
            }
            counters.check_rows(&snapshot)
        };
        match retry_while_busy(check) {
            Ok(()) => Ok(true),
            Err(e) if is_damage(&e) => Ok(false),
            Err(e) => Err(write_error(&self.path, &e)),
        }
    }

    /// Puts dead letters at the end of the queue, all or those in `ids`; they keep stream and number.
    /// Each portion has its own transaction, so that memory is bounded and a running publisher can write
    /// in between; each is announced. Messages that die meanwhile stay.
    pub fn requeue_dead(&mut self, ids: &[RowId]) -> Result<RequeueResult, Fault> {
        let mut wanted: BTreeSet<RowId> = ids.iter().copied().collect();
        let mut retried = RequeueResult::default();
        let done = self.retry_dead_letters(ids.is_empty(), &mut wanted, &mut retried);
        retried.missing = wanted.into_iter().collect();
        let moved = retried.moved;
        done.map(|()| retried).map_err(|e| {
            let mut fault = write_error(&self.path, &e);
            if moved > 0 {
                fault.message = format!("{}; {moved} are back in the queue", fault.message);
            }
            fault
        })
    }

    fn retry_dead_letters(
        &mut self,
        all: bool,
        wanted: &mut BTreeSet<RowId>,
        retried: &mut RequeueResult,
    ) -> rusqlite::Result<()> {
        let connection = &mut self.connection;
        let highest = "SELECT coalesce(max(id), 0) FROM dead";
        let end: RowId = retry_while_busy(|| connection.query_row(highest, [], |row| row.get(0)))?;
        let columns = AvailableColumns::detect(connection);
        let mut last = 0;
        while last < end && (all || !wanted.is_empty()) {
            let portion =
                retry_while_busy(|| paging::read(connection, columns, Table::DeadLetters, last))?;
            let Some(reached) = portion.last() else {
                break;
            };
            last = paging::row_id(reached);
            let mut chosen = Vec::new();
            for entry in portion.iter().filter(|entry| paging::row_id(entry) <= end) {
                match entry {
                    Ok(item) if all || wanted.contains(&item.row) => chosen.push(item),
                    Ok(_) => {}
                    Err(_) => retried.damaged += 1,
                }
            }
            if !chosen.is_empty() {
                retried.moved += retry_while_busy(|| requeue_dead_letters(connection, &chosen))?;
                announce_commit(&self.path);
            }
            for item in chosen {
                wanted.remove(&item.row);
            }
        }
        Ok(())
    }

    /// What a running publisher has in flight is sent all the same.
    pub fn purge(&mut self, table: Table) -> Result<u64, Fault> {
        let connection = &mut self.connection;
        let removed = retry_while_busy(|| delete_all(connection, table))
            .map_err(|e| write_error(&self.path, &e))?;
        announce_commit(&self.path);
        // In a separate transaction; if it fails, the space is used by later messages.
        match sqlite::release_free_pages(connection, 0) {
            Err(e) if !is_full(&e) && !is_busy(&e) => Err(write_error(&self.path, &e)),
            _ => Ok(removed),
        }
    }
}

pub(super) fn delete_all(connection: &mut Connection, table: Table) -> rusqlite::Result<u64> {
    let mut counted = CountedTransaction::begin(connection, "")?;
    let (transaction, counters) = (&counted.transaction, &mut counted.counters);
    let removed = match table {
        Table::DeadLetters => {
            let removed = transaction.execute("DELETE FROM dead", [])? as u64;
            counters.count_dead_purged(removed);
            removed
        }
        Table::Queue => {
            transaction.execute(
                "INSERT OR REPLACE INTO fate
                 SELECT id, owner, coalesce(seq, 0), 1, NULL, ?1 FROM queue
                 WHERE owner IS NOT NULL",
                params![int(boot_ms())],
            )?;
            let removed = transaction.execute("DELETE FROM queue", [])? as u64;
            counters.count_queue_purged(removed);
            removed
        }
    };
    counted.commit()?;
    Ok(removed)
}

pub(super) fn requeue_dead_letters(
    connection: &mut Connection,
    chosen: &[&ListedMessage],
) -> rusqlite::Result<u64> {
    let mut counted = CountedTransaction::begin(connection, "")?;
    let mut moved = 0;
    for item in chosen {
        moved += u64::from(counted.requeue_dead(item.row, &item.message)?);
    }
    counted.commit()?;
    // Keeps the log short, however many portions follow.
    if sqlite::is_log_long(connection, u64::MAX)? {
        sqlite::checkpoint(connection, sqlite::CheckpointMode::Copy)?;
    }
    Ok(moved)
}

/// Renames a damaged queue and the files that belong to it, so that the next run makes a new one.
/// `stamp` becomes part of the new name, which is returned. Fails if a process uses the queue.
pub fn move_aside(path: &Path, stamp: &str) -> Result<PathBuf, Fault> {
    let path = &resolve(path)?;
    match check_is_queue(path) {
        Err(fault) if fault.kind != FaultCause::Damaged => return Err(fault),
        _ => {}
    }
    let lock = DrainLock::open_file(path)?;
    let refuse = |why| Err(fault_with_reason(path, why));
    if !lock.try_take().unwrap_or(false) {
        return refuse("is in use: stop the publisher first");
    }
    let aside = beside(path, &format!(".damaged-{stamp}"));
    // The queue first: a log without a queue is refused, a queue without its log looks sound.
    for suffix in ["", "-wal", "-shm"] {
        let (from, to) = (beside(path, suffix), beside(&aside, suffix));
        if to.exists() {
            return refuse("was moved aside a moment ago: try again");
        }
        match std::fs::rename(&from, &to) {
            Err(e) if suffix.is_empty() || e.kind() != ErrorKind::NotFound => {
                let message = format!("{}: cannot be renamed: {e}", from.display());
                return Err(Fault::permanent(Exit::CannotCreate, message));
            }
            _ => {}
        }
    }
    let failed = |e| Fault::permanent(Exit::Io, format!("{}: {e}", path.display()));
    sync_directory(path).map_err(failed).map(|()| aside)
}

#[cfg(test)]
mod tests {
    use super::super::QueueFile;
    use super::super::change_watcher::{ChangeWatcher, WakeUp};
    use super::*;

    #[test]
    fn the_end_of_an_editor_is_announced() {
        let directory = tempfile::tempdir().unwrap();
        let queue = directory.path().join("queue.db");
        let _publisher = QueueFile::open(&queue, "me", "stream").unwrap();
        let watcher = ChangeWatcher::new(&queue, &queue, WakeUp::new().unwrap()).unwrap();
        let editor = QueueFileEditor::open_and_migrate(&queue).unwrap();
        assert!(!watcher.take_changes().committed);
        drop(editor);
        assert!(watcher.take_changes().committed);
    }
}
