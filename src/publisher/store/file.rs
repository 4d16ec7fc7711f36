//! The queue file itself: found or made, locked, checked, opened.
//!
//! A new file is made under another name, synced and then renamed, so that a file that is
//! empty or half made never stands in the place of a queue: whatever does is damage.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::log::debug;
use nix::fcntl::OFlag;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::kind;
use super::log;
use super::presence::Identity;
use super::schema::{self, APPLICATION_ID, MIGRATIONS};
use super::sqlite::{Checkpoint, at_most, checkpoint, is_full, patiently};
use crate::common::fault::{Exit, Fault, Kind};
use crate::common::runtime::clock::sleep;

/// How long SQLite itself waits for another process's transaction.
pub(super) const BUSY: Duration = Duration::from_secs(1);

/// How often to try to open it while another process keeps it to itself.
const OPEN_TRIES: u32 = 30;

/// Bytes of a token, and of the number behind it.
const TOKEN: usize = 16;
const NUMBER: usize = 20;

/// The lock beside the queue: whoever holds it drains. It also has a note in it, so that a queue
/// file that is put back from a copy is found out: see `home`.
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

    /// Whether a process drains the queue now. Makes no file.
    pub(super) fn is_taken(queue: &Path) -> bool {
        let lock = File::open(beside(queue, "-lock")).map(Self);
        lock.is_ok_and(|lock| matches!(lock.try_take(), Ok(false)))
    }

    /// Leaves it to somebody else.
    pub(super) fn give_back(&self) -> io::Result<()> {
        self.0.unlock()
    }

    /// What the process that drained last has written into it: a token and, if it ended in order, the
    /// next number. None if it is new.
    pub(super) fn note(&self) -> Option<String> {
        let mut note = [0; TOKEN + NUMBER];
        self.0.read_exact_at(&mut note, 0).ok()?;
        Some(String::from_utf8_lossy(&note).into_owned())
    }

    /// Writes a token, and that the file is being drained.
    pub(super) fn begin_note(&self, token: &str) {
        self.write_note(format!("{token}{:->NUMBER$}", "").as_bytes(), 0);
    }

    /// Writes the next number behind the token.
    pub(super) fn end_note(&self, next_seq: u64) {
        self.write_note(format!("{next_seq:0NUMBER$}").as_bytes(), TOKEN as u64);
    }

    /// It is not synced, and may fail: without it the next run takes the file for a copy, and all that
    /// comes of it is a new stream.
    fn write_note(&self, note: &[u8], offset: u64) {
        if let Err(cause) = self.0.write_all_at(note, offset) {
            debug!("the lock beside the queue cannot be written: {cause}");
        }
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
    pub(super) identity: Identity,
}

/// Opens the queue for a publisher; makes the file if there is none.
pub(super) fn open(queue: &Path, stream: &str) -> Result<Open, Fault> {
    if queue.try_exists().unwrap_or(false) {
        // Beside something else no lock is made.
        kind::examine(queue)?;
    }
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
        if attempts > 100 * OPEN_TRIES {
            return Err(cannot(
                queue,
                "is not made by the process that holds its lock",
            ));
        }
        sleep(Duration::from_millis(10));
        drains = take()?;
    }
    // Where another process drains, that one has looked at the log.
    let (connection, identity) = open_existing(queue, drains)?;
    // The log is there, by name too: SQLite passes over an error at this.
    sync_directory(queue).map_err(|e| cannot(queue, &format!("cannot be opened: {e}")))?;
    Ok(Open {
        connection,
        lock,
        drains,
        identity,
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
        // Everything has to be in the file that gets the name.
        if !checkpoint(&connection, Checkpoint::Shrink)? {
            return Err("there is no space for it".into());
        }
        connection.close().map_err(|(_, e)| e)?;
        file.sync_all()?;
        std::fs::rename(&new, queue)?;
        sync_directory(queue)?;
        Ok(())
    };
    if beside(queue, "-wal").exists() {
        return Err(cannot(
            queue,
            "is not there, but its log is, the file with -wal at its end: put the queue back beside it, or remove it",
        ));
    }
    made().map_err(|e| cannot(queue, &format!("cannot be created: {e}")))
}

/// Makes the names beside the queue last.
pub(super) fn sync_directory(queue: &Path) -> io::Result<()> {
    let directory = queue.parent().filter(|name| !name.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// Opens a file that exists, after a look at whether it is what it should be; at the log
/// as well if `alone`: nobody else writes to it. One that is damaged is left as it is.
/// Gives which file it is that was opened.
pub(super) fn open_existing(queue: &Path, alone: bool) -> Result<(Connection, Identity), Fault> {
    // The system's own words, which SQLite keeps to itself. Before SQLite has it open: closing
    // a file gives up the process's locks on it.
    let look = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(queue)?
            .metadata()
    };
    let found = look().map_err(|e| cannot(queue, &open_remedy(&e)))?;
    let identity = Identity::of(&found);
    if found.len() == 0 {
        return Err(damaged(queue, "the file is empty"));
    }
    let opened = || -> rusqlite::Result<(Connection, schema::Found)> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(queue, flags)?;
        leave_log_alone(&connection, true)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        // SQLite itself passes over errors while it empties the log: see `sqlite`.
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        // The first look also compares the length of the file with what it says of itself.
        let found = schema::inspect(&connection)?;
        Ok((connection, found))
    };
    let (mut connection, found) = at_most(OPEN_TRIES, opened).map_err(|e| open_error(queue, &e))?;
    if found.application_id != APPLICATION_ID {
        return Err(cannot(
            queue,
            "cannot be opened: the file is an SQLite database of something else; name another file",
        ));
    }
    if found.version > MIGRATIONS.len() {
        return Err(too_new(queue, found.version));
    }
    schema::switch_log_on(&connection).map_err(|e| open_error(queue, &e))?;
    if alone {
        inspect_log(queue, &mut connection)?;
    }
    if found.version < MIGRATIONS.len() {
        patiently(|| schema::migrate(&mut connection)).map_err(|e| open_error(queue, &e))?;
    }
    // It is sound: the log may be taken apart when the last process closes the file.
    leave_log_alone(&connection, false).map_err(|e| open_error(queue, &e))?;
    Ok((connection, identity))
}

/// A file of a newer program.
pub(super) fn too_new(queue: &Path, version: usize) -> Fault {
    let known = MIGRATIONS.len();
    cannot(
        queue,
        &format!("cannot be opened: it has schema {version} and this program knows {known}"),
    )
    .with_remedy("use the newer program")
}

/// Why a file cannot be opened, and what to do.
pub(super) fn open_remedy(error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "; nothing was ever queued there, or the name is another",
        io::ErrorKind::PermissionDenied => "; run this as the user of the publisher",
        _ => "",
    };
    format!("cannot be opened: {error}{remedy}")
}

fn leave_log_alone(connection: &Connection, alone: bool) -> rusqlite::Result<bool> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, alone)
}

/// Looks at the log while nobody can write to it.
fn inspect_log(queue: &Path, connection: &mut Connection) -> Result<(), Fault> {
    let found = patiently(|| {
        let _lock = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        Ok(log::inspect(&beside(queue, "-wal")))
    });
    let found = found
        .map_err(|e| open_error(queue, &e))?
        .map_err(|e| cannot(queue, &format!("cannot be opened: its log: {e}")))?;
    found.map_or(Ok(()), |damage| Err(damaged_log(queue, damage)))
}

/// A log that cannot be believed.
pub(super) fn damaged_log(queue: &Path, damage: log::Damage) -> Fault {
    match damage {
        log::Damage::Header => damaged(queue, "its log does not begin as it should"),
        log::Damage::Commits(lost) => {
            damaged(queue, &format!("{lost} commits in its log cannot be read"))
        }
    }
}

pub(super) fn damaged(queue: &Path, how: &str) -> Fault {
    cannot(queue, &format!("{DAMAGED}: {how}"))
        .with_remedy(remedy(queue))
        .of_kind(Kind::Damaged)
}

const DAMAGED: &str = "is damaged";

/// The queue under its one name: whoever comes by a link has to find the same lock and log.
pub(super) fn resolve(queue: &Path) -> Result<PathBuf, Fault> {
    if let Ok(found) = queue.canonicalize() {
        if found.is_dir() {
            return Err(cannot(queue, "is a directory: name a file in it"));
        }
        return Ok(found);
    }
    if queue.is_symlink() {
        return Err(cannot(queue, "is a link to a file that does not exist"));
    }
    // Still to be made, or to be refused.
    let directory = queue.parent().filter(|name| !name.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new(".")).canonicalize();
    Ok(match (directory, queue.file_name()) {
        (Ok(directory), Some(name)) => directory.join(name),
        _ => queue.to_owned(),
    })
}

/// What to do with a damaged file.
fn remedy(queue: &Path) -> String {
    let name = queue.display();
    format!(
        "`publisher queue export --queue {name}` saves what can be read, `publisher queue purge --queue {name}` moves it aside"
    )
}

/// Whether an error means that the file is not what was written. Our statements are right:
/// SQLite finds fault with one, or with a value's type, only where the schema has changed.
pub(super) fn shows_damage(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    code.is_none_or(|code| {
        let damage = [
            ErrorCode::DatabaseCorrupt,
            ErrorCode::NotADatabase,
            ErrorCode::Unknown,
            ErrorCode::ConstraintViolation,
        ];
        damage.contains(&code)
    })
}

pub(super) fn open_error(queue: &Path, error: &rusqlite::Error) -> Fault {
    if shows_damage(error) {
        damaged(queue, &error.to_string())
    } else if is_full(error) {
        broken(queue, error)
    } else {
        cannot(queue, &format!("cannot be opened: {error}"))
    }
}

/// What an error means with which a process begins its work.
pub(super) fn begin_error(queue: &Path, error: &rusqlite::Error) -> Fault {
    if shows_damage(error) {
        damaged(queue, &error.to_string())
    } else {
        broken(queue, error)
    }
}

/// What an error in the middle of the work means: nothing may be written any more.
pub(super) fn broken(queue: &Path, error: &rusqlite::Error) -> Fault {
    let name = queue.display();
    let message = if shows_damage(error) {
        format!("{name}: the queue {DAMAGED}: {error}; {}", remedy(queue))
    } else {
        format!(
            "{name}: the queue cannot be written: {error}; what was accepted before is on disk; check the disk"
        )
    };
    Fault::permanent(Exit::Io, message)
}
