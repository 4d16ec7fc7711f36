//! Reads a queue file of any schema version without changing a byte of it or of the files beside it.
//!
//! While another process has the file open, it is read as by any SQLite client. While none has,
//! SQLite would create a log and its index, or remove an old log. So the file is opened as immutable
//! if its log is empty; otherwise without locks and with the index of the log in memory. After each
//! read it is checked that no process has opened or changed the file; if one has, it is read again.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use super::counters::{Counters, CountersLayout};
use super::drain_lock::DrainLock;
use super::files::{
    self, Identity, SizeAndMtime, beside, check_is_queue, read_identity_and_stamp, resolve,
};
use super::open::{check_version, check_wal_result};
use super::paging::{self, AvailableColumns, ListedMessage, PageRows, Table};
use super::queue_faults::{open_error, open_io_fault, write_error};
use super::rows;
use super::schema;
use super::sqlite::{BUSY_TIMEOUT, distrust_file, is_damage, retry_while_busy, to_u64_or_zero};
use super::totals::Totals;
use super::wal_damage;
use crate::common::fault::{Fault, FaultCause};
use crate::common::mqtt::two_clock_time::TwoClockTime;
use crate::publisher::queue::store_requests::RowId;

const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/');

/// Offset and length of the bytes that SQLite locks in a database
/// (<https://www.sqlite.org/src/file/src/os.h>, `PENDING_BYTE`).
const LOCKS: (libc::off_t, libc::off_t) = (0x4000_0000, 512);

const MAX_SKIPPED: RowId = 100_000;

const MAX_READS: u32 = 1_000;

/// The state of the file and of its log: differs if a process has written.
type FileStamps = [Option<(Identity, SizeAndMtime)>; 2];

#[derive(Clone, Debug, PartialEq)]
pub struct QueueStatus {
    pub counters: Counters,
    /// None in a file of an older schema.
    pub totals: Option<Totals>,
    pub oldest: Option<TwoClockTime>,
    pub reasons: BTreeMap<String, u64>,
    pub draining: bool,
    /// Whether the process that drains is connected, if that is known.
    pub connected: Option<bool>,
}

pub struct QueueReader {
    path: PathBuf,
    // Before the descriptor: closing that gives up the locks of the connection.
    connection: Connection,
    columns: AvailableColumns,
    /// When the file was opened; none while other processes have it open as well.
    alone: Option<FileStamps>,
    descriptor: File,
    pub damaged: Option<Fault>,
}

impl QueueReader {
    pub fn open(path: &Path) -> Result<Self, Fault> {
        Self::try_open(path, false)
    }

    pub fn open_even_damaged(path: &Path) -> Result<Self, Fault> {
        match Self::try_open(path, false) {
            Err(fault) if fault.kind == FaultCause::Damaged => {
                let mut reader = Self::try_open(path, true).map_err(|_| fault.clone())?;
                reader.damaged = Some(fault);
                Ok(reader)
            }
            opened => opened,
        }
    }

    fn try_open(path: &Path, damaged: bool) -> Result<Self, Fault> {
        let path = resolve(path)?;
        check_is_queue(&path)?;
        let descriptor =
            files::open_without_waiting(&path, false).map_err(|e| open_io_fault(&path, &e))?;
        let (connection, alone) = open_for_reading(&path, &descriptor, damaged)?;
        Ok(Self {
            columns: AvailableColumns::detect(&connection),
            path,
            connection,
            alone,
            descriptor,
            damaged: None,
        })
    }

    /// Repeats `read` if the file has changed meanwhile.
    fn read_until_unchanged<T>(
        &mut self,
        read: impl Fn(&Connection, AvailableColumns) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let mut reads = 0;
        loop {
            let found = retry_while_busy(|| read(&self.connection, self.columns));
            let changed = self.alone.is_some_and(|before| {
                is_open_elsewhere(&self.descriptor) || before != file_state(&self.path)
            });
            reads += 1;
            if !changed || reads == MAX_READS {
                return found;
            }
            let damaged = self.damaged.is_some();
            if let Ok((connection, alone)) = open_for_reading(&self.path, &self.descriptor, damaged)
            {
                self.columns = AvailableColumns::detect(&connection);
                (self.connection, self.alone) = (connection, alone);
            }
        }
    }

    pub fn status(&mut self) -> Result<QueueStatus, Fault> {
        let (draining, connected) = DrainLock::read_drainer(&self.path);
        let found = self.read_until_unchanged(|connection, columns| {
            // All of one time, although a publisher may write.
            let snapshot = connection.unchecked_transaction()?;
            let query = columns.select("accepted_ms, boot_id, boot_ms FROM queue");
            let oldest = snapshot.query_row(&format!("{query} ORDER BY id LIMIT 1"), [], |row| {
                Ok(TwoClockTime {
                    wall_ms: to_u64_or_zero(row.get(0)?),
                    boot: rows::boot_time(row.get(1)?, row.get(2)?),
                })
            });
            let reasons = snapshot
                .prepare("SELECT reason, count(*) FROM dead GROUP BY reason")?
                .query_map([], |row| Ok((row.get(0)?, to_u64_or_zero(row.get(1)?))))?
                .collect::<Result<_, _>>()?;
            let layout = CountersLayout::of_schema(schema::read_version(&snapshot)?.schema);
            let counters = Counters::read_layout(&snapshot, layout)?;
            Ok(QueueStatus {
                totals: layout.has_totals().then(|| counters.totals.clone()),
                counters,
                oldest: oldest.optional()?,
                reasons,
                draining,
                connected,
            })
        });
        found.map_err(|e| write_error(&self.path, &e))
    }

    /// Passes the messages to `take` in order until it returns `false`; gives the number of damaged
    /// rows. Rows that cannot be read are skipped, and this fails at the end.
    pub fn for_each(
        &mut self,
        table: Table,
        mut take: impl FnMut(&ListedMessage) -> bool,
    ) -> Result<u64, Fault> {
        let mut last = 0;
        let mut damaged = 0;
        let mut skipped = None;
        loop {
            let found = self.read_until_unchanged(|connection, columns| {
                read_readable(connection, columns, table, last)
            });
            let portion = match found {
                Ok((portion, error)) => {
                    skipped = skipped.or(error);
                    portion
                }
                Err(e) => return Err(write_error(&self.path, &skipped.unwrap_or(e))),
            };
            let Some(end) = portion.last() else {
                return skipped.map_or(Ok(damaged), |e| Err(write_error(&self.path, &e)));
            };
            last = paging::row_id(end);
            for entry in &portion {
                match entry {
                    Ok(message) if !take(message) => return Ok(damaged),
                    Ok(_) => {}
                    Err(_) => damaged += 1,
                }
            }
        }
    }
}

/// The next portion that can be read, and the first error of those before it. The rows behind a
/// damaged page are found by their numbers.
fn read_readable(
    connection: &Connection,
    columns: AvailableColumns,
    table: Table,
    after: RowId,
) -> rusqlite::Result<(PageRows, Option<rusqlite::Error>)> {
    let mut skipped = None;
    for more in 0..MAX_SKIPPED {
        match paging::read(connection, columns, table, after + more) {
            Ok(portion) => return Ok((portion, skipped)),
            Err(e) if is_damage(&e) => skipped = skipped.or(Some(e)),
            Err(e) => return Err(e),
        }
    }
    Err(skipped.unwrap_or(rusqlite::Error::InvalidQuery))
}

fn is_open_elsewhere(descriptor: &File) -> bool {
    #[allow(clippy::cast_possible_truncation, reason = "as the structure has them")]
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: LOCKS.0,
        l_len: LOCKS.1,
        l_pid: 0,
    };
    // A file system that cannot answer has no locks.
    let asked = fcntl(descriptor, FcntlArg::F_GETLK(&mut lock));
    asked.is_ok() && i32::from(lock.l_type) != libc::F_UNLCK
}

fn file_state(queue: &Path) -> FileStamps {
    ["", "-wal"].map(|suffix| read_identity_and_stamp(&beside(queue, suffix)))
}

fn open_for_reading(
    queue: &Path,
    descriptor: &File,
    damaged: bool,
) -> Result<(Connection, Option<FileStamps>), Fault> {
    if is_open_elsewhere(descriptor) {
        let connection = open_checking_version(queue, damaged, || {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(queue, flags)?;
            connection.busy_timeout(BUSY_TIMEOUT)?;
            Ok(connection)
        })?;
        if is_open_elsewhere(descriptor) {
            return Ok((connection, None));
        }
        // The other process has closed the file meanwhile. Closing leaves no log behind.
        let _ = connection.close();
    }
    let before = file_state(queue);
    let has_log = before[1].is_some_and(|(_, stamp)| !stamp.is_empty());
    if has_log && !damaged {
        let found = wal_damage::find_damage(&beside(queue, "-wal"));
        if !matches!(found, Ok(Some(_))) || before == file_state(queue) {
            check_wal_result(queue, found)?;
        }
    }
    let connection = open_checking_version(queue, damaged, || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        if has_log {
            let connection = Connection::open_with_flags_and_vfs(queue, flags, c"unix-none")?;
            connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
            return Ok(connection);
        }
        let path = percent_encode(queue.as_os_str().as_bytes(), PATH);
        let uri = format!("file:{path}?immutable=1");
        Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)
    })?;
    Ok((connection, Some(before)))
}

fn open_checking_version(
    queue: &Path,
    damaged: bool,
    open: impl Fn() -> rusqlite::Result<Connection>,
) -> Result<Connection, Fault> {
    let opened = retry_while_busy(|| {
        let connection = open()?;
        if damaged {
            connection.pragma_update(None, "trusted_schema", false)?;
            // Otherwise SQLite reads no file that is too short. Nothing is written.
            connection.pragma_update(None, "writable_schema", true)?;
            return Ok((connection, 0));
        }
        distrust_file(&connection)?;
        // SQLite also compares the length of the file with the one in its header now.
        let version = schema::read_version(&connection)?.schema;
        Ok((connection, version))
    });
    let (connection, version) = opened.map_err(|e| open_error(queue, &e))?;
    check_version(queue, version)?;
    Ok(connection)
}
