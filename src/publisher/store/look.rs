//! A queue file that is only looked at: not a byte of it is changed, nor of what lies beside it,
//! whichever version wrote it.
//!
//! While another process has the file open, it is read as SQLite's clients do. While nobody has,
//! SQLite would make a log and its index and take the old log apart. So then it is told that the file
//! is immutable, if there is nothing in the log; otherwise that nobody else is there (no locks, and the
//! index of the log in memory). Whether that is still so is looked at after each reading; if not,
//! what was read is read again.

use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use super::counters::Books;
use super::file::{self, DrainLock};
use super::kind;
use super::log;
use super::pages::{self, Item, Layout, Page, Which};
use super::rows::uint;
use super::schema::{self, MIGRATIONS};
use super::sqlite::patiently;
use super::status::Status;
use crate::common::fault::{Fault, Kind};
use crate::common::mqtt::age::{BootId, BootTime, Timestamp};
use crate::publisher::queue::requests::RowId;

/// What of a path stands in a URI as it is.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/');

/// Where SQLite locks a database, and how many bytes
/// (<https://www.sqlite.org/src/file/src/os.h>, `PENDING_BYTE`).
const LOCKS: (libc::off_t, libc::off_t) = (0x4000_0000, 512);

/// How many numbers are tried to get past what cannot be read.
const PROBES: RowId = 100_000;

/// So often it is read again because it has changed meanwhile.
const TRIES: u32 = 1_000;

/// What a file and its log look like from outside: changed, if somebody has written.
type Outside = [Option<(u64, u64, i64, i64)>; 2];

/// A file that is looked at.
pub struct Look {
    path: PathBuf,
    // Before the descriptor: closing that gives up the locks of the connection.
    connection: Connection,
    layout: Layout,
    /// What it looked like when it was opened; none while others have it open as well.
    alone: Option<Outside>,
    descriptor: File,
    /// The file is damaged; what can be read is read.
    pub damaged: Option<Fault>,
}

impl Look {
    /// Opens a queue that exists.
    ///
    /// # Errors
    ///
    /// A fault that names the file, the cause and the remedy.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        Self::open_as(path, false)
    }

    /// Opens a queue although it is damaged, to save what can be read.
    ///
    /// # Errors
    ///
    /// The fault, if nothing can be read at all.
    pub fn open_damaged(path: &Path) -> Result<Self, Fault> {
        match Self::open_as(path, false) {
            Err(fault) if fault.kind == Kind::Damaged => {
                let mut look = Self::open_as(path, true).map_err(|_| fault.clone())?;
                look.damaged = Some(fault);
                Ok(look)
            }
            opened => opened,
        }
    }

    fn open_as(path: &Path, damaged: bool) -> Result<Self, Fault> {
        let path = file::resolve(path)?;
        kind::examine(&path)?;
        let descriptor =
            kind::open_to_read(&path).map_err(|e| file::cannot(&path, &file::open_remedy(&e)))?;
        let (connection, alone) = connect(&path, &descriptor, damaged)?;
        let layout = Layout::of(&connection);
        Ok(Self {
            path,
            connection,
            layout,
            alone,
            descriptor,
            damaged: None,
        })
    }

    /// Reads something of one moment; again, if the file has changed meanwhile.
    fn read<T>(
        &mut self,
        read: impl Fn(&Connection, Layout) -> rusqlite::Result<T>,
    ) -> Result<T, rusqlite::Error> {
        let mut tries = 0;
        loop {
            let found = patiently(|| read(&self.connection, self.layout));
            let changed = self
                .alone
                .is_some_and(|before| is_open(&self.descriptor) || before != outside(&self.path));
            tries += 1;
            if !changed || tries == TRIES {
                return found;
            }
            // What has come in its place is looked at next time.
            if let Ok((connection, alone)) =
                connect(&self.path, &self.descriptor, self.damaged.is_some())
            {
                self.layout = Layout::of(&connection);
                (self.connection, self.alone) = (connection, alone);
            }
        }
    }

    /// Counts, ages and reasons.
    ///
    /// # Errors
    ///
    /// A fault that names the file.
    pub fn status(&mut self) -> Result<Status, Fault> {
        let draining = DrainLock::is_taken(&self.path);
        let found = self.read(|connection, layout| {
            // Of one moment, whatever a publisher does meanwhile.
            let moment = connection.unchecked_transaction()?;
            let boot = if layout.boot {
                "boot_id, boot_ms"
            } else {
                "NULL, NULL"
            };
            let oldest = moment
                .query_row(
                    &format!("SELECT accepted_ms, {boot} FROM queue ORDER BY id LIMIT 1"),
                    [],
                    |row| {
                        let (id, ms): (Option<[u8; 16]>, Option<i64>) = (row.get(1)?, row.get(2)?);
                        Ok(Timestamp {
                            wall_ms: uint(row.get(0)?),
                            boot: id.zip(ms).map(|(id, ms)| BootTime {
                                boot: BootId(id),
                                ms: uint(ms),
                            }),
                        })
                    },
                )
                .optional()?;
            let reasons = moment
                .prepare("SELECT reason, count(*) FROM dead GROUP BY reason")?
                .query_map([], |row| Ok((row.get(0)?, uint(row.get(1)?))))?
                .collect::<Result<_, _>>()?;
            let books = Books::read_as(&moment, layout.books_crc)?;
            Ok(Status {
                waiting: books.waiting,
                bytes: books.bytes,
                oldest,
                dead: books.dead,
                dead_bytes: books.dead_bytes,
                reasons,
                dropped: books.dropped,
                expired: books.expired,
                died: books.died,
                draining,
            })
        });
        found.map_err(|e| file::broken(&self.path, &e))
    }

    /// Hands every message to `take`, in order, until it says `false`. Gives the number of
    /// rows that were damaged. Pages that cannot be read are passed over.
    ///
    /// # Errors
    ///
    /// A fault that names the file, if some of it could not be read.
    pub fn each(
        &mut self,
        which: Which,
        mut take: impl FnMut(&Item) -> bool,
    ) -> Result<u64, Fault> {
        let mut last = 0;
        let mut damaged = 0;
        let mut unread = None;
        loop {
            let found =
                self.read(|connection, layout| past_damage(connection, layout, which, last));
            let page = match found {
                Ok((page, error)) => {
                    unread = unread.or(error);
                    page
                }
                Err(e) => return Err(file::broken(&self.path, &unread.unwrap_or(e))),
            };
            let Some(end) = page.last() else {
                return unread.map_or(Ok(damaged), |e| Err(file::broken(&self.path, &e)));
            };
            last = pages::id(end);
            for item in &page {
                match item {
                    Ok(item) if !take(item) => return Ok(damaged),
                    Ok(_) => {}
                    Err(_) => damaged += 1,
                }
            }
        }
    }
}

/// The next page that can be read, and why one before it could not: the rows behind a bad page are
/// found by their numbers.
fn past_damage(
    connection: &Connection,
    layout: Layout,
    which: Which,
    after: RowId,
) -> rusqlite::Result<(Page, Option<rusqlite::Error>)> {
    let mut unread = None;
    for probe in 0..PROBES {
        match pages::read(connection, layout, which, after + probe) {
            Ok(page) => return Ok((page, unread)),
            Err(e) if file::shows_damage(&e) => unread = unread.or(Some(e)),
            Err(e) => return Err(e),
        }
    }
    // The first of them says what is wrong.
    Err(unread.unwrap_or(rusqlite::Error::InvalidQuery))
}

/// Whether another process has the file open as a database: each of its connections holds a lock on it
/// for as long as it lives.
fn is_open(descriptor: &File) -> bool {
    #[allow(clippy::cast_possible_truncation, reason = "as the structure has them")]
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: LOCKS.0,
        l_len: LOCKS.1,
        l_pid: 0,
    };
    // Where that cannot be asked there are no locks.
    let asked = fcntl(descriptor, FcntlArg::F_GETLK(&mut lock));
    asked.is_ok() && i32::from(lock.l_type) != libc::F_UNLCK
}

fn outside(queue: &Path) -> Outside {
    ["", "-wal"].map(|suffix| {
        let found = std::fs::metadata(file::beside(queue, suffix)).ok()?;
        Some((found.ino(), found.len(), found.mtime(), found.mtime_nsec()))
    })
}

fn connect(
    queue: &Path,
    descriptor: &File,
    damaged: bool,
) -> Result<(Connection, Option<Outside>), Fault> {
    if is_open(descriptor)
        && let Some(connection) = connect_to_open(queue, descriptor, damaged)?
    {
        return Ok((connection, None));
    }
    let before = outside(queue);
    let has_log = before[1].is_some_and(|(_, length, ..)| length > 0);
    if has_log && !damaged {
        let unreadable =
            |e: io::Error| file::cannot(queue, &format!("cannot be opened: its log: {e}"));
        let found = log::inspect(&file::beside(queue, "-wal")).map_err(unreadable)?;
        if let Some(damage) = found
            && before == outside(queue)
        {
            return Err(file::damaged_log(queue, damage));
        }
    }
    let open = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = if has_log {
            let connection = Connection::open_with_flags_and_vfs(queue, flags, c"unix-none")?;
            connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            connection
        } else {
            let path = percent_encode(queue.as_os_str().as_bytes(), PATH);
            let uri = format!("file:{path}?immutable=1");
            Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)?
        };
        prepare(&connection, damaged)?;
        Ok(connection)
    };
    let connection = open().map_err(|e| file::open_error(queue, &e))?;
    if !damaged {
        check_version(queue, &connection)?;
    }
    Ok((connection, Some(before)))
}

/// None if nobody else has it open any more.
fn connect_to_open(
    queue: &Path,
    descriptor: &File,
    damaged: bool,
) -> Result<Option<Connection>, Fault> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> rusqlite::Result<Connection> {
        let connection = Connection::open_with_flags(queue, flags)?;
        connection.busy_timeout(file::BUSY)?;
        prepare(&connection, damaged)?;
        Ok(connection)
    };
    let connection = patiently(open).map_err(|e| file::open_error(queue, &e))?;
    if !is_open(descriptor) {
        // Closed in order it leaves nothing behind.
        let _ = connection.close();
        return Ok(None);
    }
    if !damaged {
        check_version(queue, &connection)?;
    }
    Ok(Some(connection))
}

fn prepare(connection: &Connection, damaged: bool) -> rusqlite::Result<()> {
    connection.pragma_update(None, "trusted_schema", false)?;
    if damaged {
        // SQLite reads no file that is too short, but for this; nothing is written.
        return connection.pragma_update(None, "writable_schema", true);
    }
    connection.pragma_update(None, "cell_size_check", true)?;
    // The first look also compares the length of the file with what it says of itself.
    schema::inspect(connection).map(drop)
}

fn check_version(queue: &Path, connection: &Connection) -> Result<(), Fault> {
    let found = schema::inspect(connection).map_err(|e| file::open_error(queue, &e))?;
    if found.version > MIGRATIONS.len() {
        return Err(file::too_new(queue, found.version));
    }
    Ok(())
}
