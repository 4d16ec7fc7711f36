//! The queue file itself: found or made, locked, checked, opened.
//!
//! A new file is made under another name, synced and then renamed, so that a file that is
//! empty or half made never stands in the place of a queue: whatever does is damage.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::schema::{self, APPLICATION_ID, MIGRATIONS};
use crate::common::fault::{Exit, Fault};

/// How long SQLite itself waits for another process's transaction.
const BUSY: Duration = Duration::from_secs(1);

/// The lock beside the queue: whoever holds it drains.
pub(super) struct DrainLock(File);

impl DrainLock {
    pub(super) fn open(queue: &Path) -> Result<Self, Fault> {
        let path = beside(queue, "-lock");
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        options.open(&path).map(Self).map_err(|e| {
            let remedy = "the directory must exist and be writable";
            cannot(
                queue,
                &format!("{} cannot be opened: {e}; {remedy}", path.display()),
            )
        })
    }

    /// Takes the lock, if nobody has it.
    pub(super) fn try_take(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }
}

/// `FILE` with something at the end of its name, as SQLite does with its own.
pub(super) fn beside(queue: &Path, suffix: &str) -> PathBuf {
    let mut name = queue.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

pub(super) fn cannot(queue: &Path, why: &str) -> Fault {
    Fault::permanent(
        Exit::CannotCreate,
        format!("{}: the queue {why}", queue.display()),
    )
}

/// A file that is open, and whether this process drains it.
pub(super) struct Open {
    pub(super) connection: Connection,
    pub(super) lock: DrainLock,
    pub(super) drains: bool,
}

/// Opens the queue for a publisher; makes the file if there is none.
pub(super) fn open(queue: &Path, stream: &str) -> Result<Open, Fault> {
    let lock = DrainLock::open(queue)?;
    let take = || {
        lock.try_take().map_err(|e| {
            cannot(
                queue,
                &format!("cannot be locked: {e}; it must lie on a local disk"),
            )
        })
    };
    let mut drains = take()?;
    let mut attempts = 0;
    while !queue.try_exists().unwrap_or(false) {
        if drains {
            create(queue, stream)?;
            break;
        }
        // Whoever holds the lock is making it.
        attempts += 1;
        if attempts > 200 {
            return Err(cannot(
                queue,
                "is not made by the process that holds its lock",
            ));
        }
        std::thread::park_timeout(Duration::from_millis(10));
        drains = take()?;
    }
    let connection = open_existing(queue, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    Ok(Open {
        connection,
        lock,
        drains,
    })
}

fn create(queue: &Path, stream: &str) -> Result<(), Fault> {
    let new = beside(queue, "-new");
    let made = || -> Result<(), Box<dyn std::error::Error>> {
        for suffix in ["-new", "-new-wal", "-new-shm"] {
            match std::fs::remove_file(beside(queue, suffix)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        let mut connection = Connection::open_with_flags(
            &new,
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )?;
        schema::create(&mut connection, stream)?;
        // Takes everything out of the write-ahead log, and syncs.
        connection.close().map_err(|(_, e)| e)?;
        file.sync_all()?;
        std::fs::rename(&new, queue)?;
        let directory = queue
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(())
    };
    made().map_err(|e| cannot(queue, &format!("cannot be created: {e}")))
}

/// Opens a file that exists, after a look at whether it is what it should be.
pub(super) fn open_existing(queue: &Path, access: OpenFlags) -> Result<Connection, Fault> {
    let length = std::fs::metadata(queue)
        .map_err(|e| cannot(queue, &format!("cannot be opened: {e}")))?
        .len();
    if length == 0 {
        return Err(damaged(queue, "the file is empty"));
    }
    let opened = || -> rusqlite::Result<(Connection, schema::Found)> {
        let connection =
            Connection::open_with_flags(queue, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        // The first look also compares the length of the file with what it says of itself.
        let found = schema::inspect(&connection)?;
        Ok((connection, found))
    };
    let (mut connection, found) = opened().map_err(|e| open_error(queue, &e))?;
    if found.application_id != APPLICATION_ID {
        return Err(cannot(
            queue,
            "cannot be opened: the file is an SQLite database of something else; name another file",
        ));
    }
    if found.version > MIGRATIONS.len() {
        return Err(cannot(
            queue,
            &format!(
                "cannot be opened: it has schema {} and this program knows {}; use the newer program",
                found.version,
                MIGRATIONS.len()
            ),
        ));
    }
    if found.version < MIGRATIONS.len() && access.contains(OpenFlags::SQLITE_OPEN_READ_WRITE) {
        schema::migrate(&mut connection, found.version).map_err(|e| open_error(queue, &e))?;
    }
    Ok(connection)
}

fn damaged(queue: &Path, how: &str) -> Fault {
    cannot(queue, &format!("{DAMAGED}: {how}; {}", remedy(queue)))
}

const DAMAGED: &str = "is damaged";

/// Whether a file could not be opened because it is damaged.
pub(super) fn is_damage(fault: &Fault) -> bool {
    fault.message.contains(DAMAGED)
}

/// What to do with a damaged file.
fn remedy(queue: &Path) -> String {
    let name = queue.display();
    format!(
        "`publisher queue export --queue {name}` saves what can be read, `publisher queue purge --queue {name}` moves it aside"
    )
}

fn open_error(queue: &Path, error: &rusqlite::Error) -> Fault {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            damaged(queue, &error.to_string())
        }
        _ => cannot(queue, &format!("cannot be opened: {error}")),
    }
}

/// What an error in the middle of the work means: nothing may be written any more.
pub(super) fn broken(queue: &Path, error: &rusqlite::Error) -> Fault {
    let name = queue.display();
    let message = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            format!("{name}: the queue {DAMAGED}: {error}; {}", remedy(queue))
        }
        _ => format!(
            "{name}: the queue cannot be written: {error}; what was accepted before is on disk; check the disk"
        ),
    };
    Fault::permanent(Exit::Io, message)
}
