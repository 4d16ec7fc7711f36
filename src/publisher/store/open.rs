//! Creates, locks, checks and opens a queue file.
//!
//! A new file is made under another name, synced and then renamed. So an empty or incomplete file
//! under the name of a queue is always damage.

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::drain_lock::DrainLock;
use super::files::{self, Identity, beside, sync_directory};
use super::queue_faults::{cannot_open, damaged, fault_with_reason, open_error, open_io_fault};
use super::schema::{self, APPLICATION_ID, MIGRATIONS};
use super::sqlite::{
    BUSY_TIMEOUT, CheckpointMode, begin_write, checkpoint, distrust_file, retry_at_most,
    retry_while_busy,
};
use super::wal_damage;
use crate::common::fault::Fault;
use crate::common::runtime::clock::{instant_now, sleep};

/// Attempts to open a file that another process has locked exclusively, of one second each.
const OPEN_ATTEMPTS: u32 = 30;

const READ_WRITE: OpenFlags =
    OpenFlags::SQLITE_OPEN_READ_WRITE.union(OpenFlags::SQLITE_OPEN_NO_MUTEX);

pub(super) struct OpenQueue {
    pub(super) connection: Connection,
    pub(super) lock: DrainLock,
    pub(super) drains: bool,
    pub(super) identity: Identity,
}

pub(super) fn open_or_create(queue: &Path, stream: &str) -> Result<OpenQueue, Fault> {
    let exists = || queue.try_exists().unwrap_or(false);
    if exists() {
        // Creates no lock beside a file that is not a queue.
        files::check_is_queue(queue)?;
    }
    let lock = DrainLock::open_file(queue)?;
    let take = || {
        lock.try_take().map_err(|e| {
            let why = format!("cannot be locked: {e}; it must lie on a local disk");
            fault_with_reason(queue, &why)
        })
    };
    let mut drains = take()?;
    let mut attempts = 0;
    while !exists() {
        if drains {
            create(queue, stream)?;
            break;
        }
        // The process that holds the lock is creating the file.
        attempts += 1;
        if attempts > 100 * OPEN_ATTEMPTS {
            let why = "is not made by the process that holds its lock";
            return Err(fault_with_reason(queue, why));
        }
        sleep(Duration::from_millis(10));
        drains = take()?;
    }
    // If another process drains, it has checked the log.
    let (connection, identity) = open_existing(queue, drains)?;
    // SQLite ignores an error when it syncs the name of a new log.
    sync_directory(queue).map_err(|e| cannot_open(queue, &e.to_string()))?;
    Ok(OpenQueue {
        connection,
        lock,
        drains,
        identity,
    })
}

fn create(queue: &Path, stream: &str) -> Result<(), Fault> {
    let create = || -> Result<(), Box<dyn Error>> {
        let new = beside(queue, "-new");
        for suffix in ["-new", "-new-wal", "-new-shm"] {
            match std::fs::remove_file(beside(queue, suffix)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o600);
        let file = options.open(&new)?;
        let mut connection = Connection::open_with_flags(&new, READ_WRITE)?;
        schema::create(&mut connection, stream)?;
        // The log is not renamed with the file.
        if !checkpoint(&connection, CheckpointMode::Truncate)? {
            return Err("there is no space for it".into());
        }
        connection.close().map_err(|(_, e)| e)?;
        file.sync_all()?;
        std::fs::rename(&new, queue)?;
        Ok(sync_directory(queue)?)
    };
    if beside(queue, "-wal").exists() {
        let why = "is not there, but its log is, the file with -wal at its end: put the queue back beside it, or remove it";
        return Err(fault_with_reason(queue, why));
    }
    create().map_err(|e| fault_with_reason(queue, &format!("cannot be created: {e}")))
}

/// How long the process that drains may take to migrate the file.
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(2);

/// If `alone`, no other process writes to it, and the log is checked as well. A damaged file is not changed.
pub(super) fn open_existing(queue: &Path, alone: bool) -> Result<(Connection, Identity), Fault> {
    // For the system's error, which SQLite does not pass on. The descriptor is closed before SQLite
    // opens the file: closing one gives up all locks of the process on that file.
    let file = files::open_without_waiting(queue, true).and_then(|file| file.metadata());
    let file = file.map_err(|e| open_io_fault(queue, &e))?;
    if file.len() == 0 {
        return Err(damaged(queue, "the file is empty"));
    }
    let failed = |e: rusqlite::Error| open_error(queue, &e);
    let open = || -> rusqlite::Result<_> {
        let connection = Connection::open_with_flags(queue, READ_WRITE)?;
        keep_log_on_close(&connection, true)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // See `sqlite::checkpoint`.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        distrust_file(&connection)?;
        // SQLite also compares the length of the file with the one in its header now.
        let version = schema::read_version(&connection)?;
        Ok((connection, version))
    };
    let (mut connection, version) = retry_at_most(OPEN_ATTEMPTS, open).map_err(failed)?;
    if version.application_id != APPLICATION_ID {
        let why = "the file is an SQLite database of something else; name another file";
        return Err(cannot_open(queue, why));
    }
    check_version(queue, version.schema)?;
    schema::enable_log(&connection).map_err(failed)?;
    if alone {
        check_log(queue, &mut connection)?;
    }
    if version.schema < MIGRATIONS.len() {
        if !alone && !becomes_current(&connection).map_err(failed)? {
            let why = "a publisher of an older version is using it";
            return Err(cannot_open(queue, why).with_remedy("end that one first"));
        }
        retry_while_busy(|| schema::migrate(&mut connection)).map_err(failed)?;
    }
    keep_log_on_close(&connection, false).map_err(failed)?;
    Ok((connection, Identity::of(&file)))
}

/// Whether the process that drains migrates the file within this time. One of an older version never does, and takes
/// rows of a newer schema for damaged ones.
fn becomes_current(connection: &Connection) -> rusqlite::Result<bool> {
    let until = instant_now() + MIGRATION_TIMEOUT;
    loop {
        if schema::read_version(connection)?.schema >= MIGRATIONS.len() {
            return Ok(true);
        }
        if instant_now() >= until {
            return Ok(false);
        }
        sleep(Duration::from_millis(20));
    }
}

pub(super) fn check_version(queue: &Path, version: usize) -> Result<(), Fault> {
    let known = MIGRATIONS.len();
    if version <= known {
        return Ok(());
    }
    let why = format!("it has schema {version} and this program knows {known}");
    Err(cannot_open(queue, &why).with_remedy("use the newer program"))
}

/// A log that is not known to be sound stays when the last process closes the file.
fn keep_log_on_close(connection: &Connection, keep: bool) -> rusqlite::Result<bool> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, keep)
}

fn check_log(queue: &Path, connection: &mut Connection) -> Result<(), Fault> {
    let found = retry_while_busy(|| {
        let _lock = begin_write(connection)?;
        Ok(wal_damage::find_damage(&beside(queue, "-wal")))
    });
    check_wal_result(queue, found.map_err(|e| open_error(queue, &e))?)
}

pub(super) fn check_wal_result(
    queue: &Path,
    found: io::Result<Option<wal_damage::WalDamage>>,
) -> Result<(), Fault> {
    match found {
        Ok(None) => Ok(()),
        Ok(Some(damage)) => Err(damaged(queue, &damage.to_string())),
        Err(e) => Err(cannot_open(queue, &format!("its log: {e}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn an_older_file_is_opened_once_the_process_that_drains_has_migrated_it() {
        let dir = tempfile::tempdir().unwrap();
        let queue = dir.path().join("queue.db");
        let older = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/queue-7.db");
        std::fs::copy(older, &queue).unwrap();
        let adding = Connection::open(&queue).unwrap();
        let schema_of = |connection| schema::read_version(connection).unwrap().schema;
        assert_eq!(schema_of(&adding), MIGRATIONS.len() - 1);
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut draining = Connection::open(&queue).unwrap();
                schema::migrate(&mut draining).unwrap();
            });
            assert!(becomes_current(&adding).unwrap());
        });
        open_existing(&queue, false).unwrap();
    }
}
