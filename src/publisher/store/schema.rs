//! The schema of a queue file, and its migrations.
//!
//! `user_version` is the number of migrations that were applied to a file; `application_id` marks it
//! as a queue. A published migration is never changed: a new one follows it. A new file is made by all of them.
//!
//! In files of version 8 the table `queue` is with or without AUTOINCREMENT: [`add_last_row`] says why. Its columns are
//! the same.

use rusqlite::ffi::{self, SQLITE_IOERR};
use rusqlite::{Connection, OptionalExtension as _, params};

use super::counters::{Counters, CountersLayout, highest_row};
use super::sqlite::{begin_write, int, step_through};
use super::totals::Totals;
use crate::common::runtime::clock::unix_ms;
use crate::publisher::queue::store_requests::RowId;

/// `IoTq`.
pub(super) const APPLICATION_ID: i32 = 0x496f_5471;

type Migration = fn(&Connection) -> rusqlite::Result<()>;

/// The index is the version that a file has before the migration.
pub(super) const MIGRATIONS: [Migration; 8] = [
    |connection| connection.execute_batch(VERSION_1),
    add_counters_checksum,
    |connection| connection.execute_batch(VERSION_3),
    |connection| connection.execute_batch(VERSION_4),
    |connection| connection.execute_batch(VERSION_5),
    |connection| connection.execute_batch(VERSION_6),
    add_totals,
    add_last_row,
];

const VERSION_1: &str = "
    -- Messages that wait or are in flight, in the order in which they go out.
    CREATE TABLE queue (
        id          INTEGER PRIMARY KEY AUTOINCREMENT,
        stream      TEXT,             -- with seq: NULL until the draining process gives them
        seq         INTEGER,
        accepted_ms INTEGER NOT NULL, -- Unix time
        expires_ms  INTEGER,          -- Unix time; NULL is never
        topic       TEXT    NOT NULL,
        payload     BLOB    NOT NULL,
        qos         INTEGER NOT NULL,
        retain      INTEGER NOT NULL,
        attempts    INTEGER NOT NULL, -- connections lost with it at the head
        owner       TEXT,             -- the process that waits for its end and does not drain
        crc         INTEGER NOT NULL  -- CRC-32 of the message; see rows.rs
    ) STRICT;
    CREATE INDEX owned ON queue (owner, id) WHERE owner IS NOT NULL;

    -- Messages that nobody could deliver.
    CREATE TABLE dead (
        id          INTEGER PRIMARY KEY AUTOINCREMENT,
        stream      TEXT,
        seq         INTEGER,
        accepted_ms INTEGER NOT NULL,
        topic       TEXT    NOT NULL,
        payload     BLOB    NOT NULL,
        qos         INTEGER NOT NULL,
        retain      INTEGER NOT NULL,
        crc         INTEGER NOT NULL,
        died_ms     INTEGER NOT NULL,
        reason      TEXT    NOT NULL
    ) STRICT;

    -- How rows with an owner have ended, until the owner has read it.
    CREATE TABLE fate (
        id     INTEGER PRIMARY KEY,
        owner  TEXT    NOT NULL,
        seq    INTEGER NOT NULL,
        kind   INTEGER NOT NULL, -- 0 delivered, 1 dropped, 2 expired, 3 dead
        reason TEXT,
        at_ms  INTEGER NOT NULL
    ) STRICT;

    -- One row.
    CREATE TABLE books (
        one        INTEGER PRIMARY KEY CHECK (one = 1),
        stream     TEXT    NOT NULL,
        next_seq   INTEGER NOT NULL,
        running    INTEGER NOT NULL, -- 1 while a process drains, or after one that crashed
        waiting    INTEGER NOT NULL, -- rows of queue
        bytes      INTEGER NOT NULL, -- their topics and payloads
        dead       INTEGER NOT NULL, -- rows of dead
        dead_bytes INTEGER NOT NULL,
        dropped    INTEGER NOT NULL, -- ever, as are these
        expired    INTEGER NOT NULL,
        died       INTEGER NOT NULL
    ) STRICT;
";

/// Version 2. See counters.rs.
fn add_counters_checksum(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch("ALTER TABLE books ADD COLUMN crc INTEGER NOT NULL DEFAULT 0")?;
    // A new file has no counters yet.
    let found = Counters::read_layout(connection, CountersLayout::Plain).optional()?;
    if let Some(counters) = found {
        let crc = counters.crc(CountersLayout::WithChecksum);
        connection.execute("UPDATE books SET crc = ?1", [crc])?;
    }
    Ok(())
}

const VERSION_3: &str = "
    -- Readings in the payload: with more than one each of them ends with a newline.
    ALTER TABLE queue ADD COLUMN readings INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE dead ADD COLUMN readings INTEGER NOT NULL DEFAULT 1;
";

const VERSION_4: &str = "
    -- Where the file was when a process last began to drain it: no row, or one. See copy_detection.rs.
    CREATE TABLE home (
        one   INTEGER PRIMARY KEY CHECK (one = 1),
        place TEXT NOT NULL, -- machine, file system, file
        token TEXT NOT NULL  -- what that process has written into FILE-lock
    ) STRICT;
";

const VERSION_5: &str = "
    -- When it was accepted by the clock that nobody sets: which boot (random/boot_id, 16 bytes), and
    -- milliseconds since. NULL if that is not known. From now on fate.at_ms is the time since boot as well.
    ALTER TABLE queue ADD COLUMN boot_id BLOB;
    ALTER TABLE queue ADD COLUMN boot_ms INTEGER;
    ALTER TABLE dead ADD COLUMN boot_id BLOB;
    ALTER TABLE dead ADD COLUMN boot_ms INTEGER;
";

const VERSION_6: &str = "
    -- MQTT 5 properties that the user has set, as in a PUBLISH, their length first; NULL is none.
    ALTER TABLE queue ADD COLUMN properties BLOB;
    ALTER TABLE dead ADD COLUMN properties BLOB;
";

const VERSION_7: &str = "
    -- Of the messages that were ever written to the file; see totals.rs.
    ALTER TABLE books ADD COLUMN since_ms INTEGER NOT NULL DEFAULT 0; -- Unix time
    ALTER TABLE books ADD COLUMN accepted INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE books ADD COLUMN accepted_bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE books ADD COLUMN delivered INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE books ADD COLUMN delivered_bytes INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE books ADD COLUMN rows_dropped INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE books ADD COLUMN rows_expired INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE books ADD COLUMN purged INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE books ADD COLUMN retried INTEGER NOT NULL DEFAULT 0;
";

/// Version 7. What is in the file by now counts as accepted; what was in it before is not known.
fn add_totals(connection: &Connection) -> rusqlite::Result<()> {
    let found = Counters::read_layout(connection, CountersLayout::WithChecksum).optional()?;
    connection.execute_batch(VERSION_7)?;
    // A new file has no counters yet.
    let Some(mut counters) = found else {
        return Ok(());
    };
    counters.totals = Totals {
        since_ms: unix_ms(),
        accepted: counters.waiting + counters.dead,
        accepted_bytes: counters.bytes + counters.dead_bytes,
        ..Totals::default()
    };
    let (totals, crc) = (&counters.totals, counters.crc(CountersLayout::WithTotals));
    connection.execute(
        "UPDATE books SET since_ms = ?1, accepted = ?2, accepted_bytes = ?3, crc = ?4",
        params![
            int(totals.since_ms),
            int(totals.accepted),
            int(totals.accepted_bytes),
            crc
        ],
    )?;
    Ok(())
}

const VERSION_8: &str = "
    -- The highest id that was ever given in queue.
    ALTER TABLE books ADD COLUMN last_row INTEGER NOT NULL DEFAULT 0;
";

/// The table of version 1 with the columns that were added since, and without AUTOINCREMENT.
const QUEUE_WITHOUT_AUTOINCREMENT: &str = "
    DROP TABLE queue;
    -- Messages that wait or are in flight, in the order in which they go out.
    CREATE TABLE queue (
        id          INTEGER PRIMARY KEY, -- never used again; see counters.rs
        stream      TEXT,             -- with seq: NULL until the draining process gives them
        seq         INTEGER,
        accepted_ms INTEGER NOT NULL, -- Unix time
        expires_ms  INTEGER,          -- Unix time; NULL is never
        topic       TEXT    NOT NULL,
        payload     BLOB    NOT NULL,
        qos         INTEGER NOT NULL,
        retain      INTEGER NOT NULL,
        attempts    INTEGER NOT NULL, -- connections lost with it at the head
        owner       TEXT,             -- the process that waits for its end and does not drain
        crc         INTEGER NOT NULL, -- CRC-32 of the message; see rows.rs
        readings    INTEGER NOT NULL DEFAULT 1, -- in the payload
        boot_id     BLOB,             -- with boot_ms: when it was accepted; see version 5
        boot_ms     INTEGER,
        properties  BLOB              -- see version 6
    ) STRICT;
    CREATE INDEX owned ON queue (owner, id) WHERE owner IS NOT NULL;
";

/// Version 8. The publisher numbers the rows, and no commit needs to write the page of `sqlite_sequence`, where SQLite
/// keeps the last number of a table with AUTOINCREMENT. A queue with messages keeps its table, because copying ten
/// million rows takes minutes and as much space again; SQLite writes that page for it as before. An empty one, which
/// that of a new file is, gets another table.
fn add_last_row(connection: &Connection) -> rusqlite::Result<()> {
    let found = Counters::read_layout(connection, CountersLayout::WithTotals).optional()?;
    let given = "SELECT seq FROM sqlite_sequence WHERE name = 'queue'";
    let given = connection.query_row(given, [], |row| row.get::<_, RowId>(0));
    let (given, highest) = (given.optional()?.unwrap_or(0), highest_row(connection)?);
    connection.execute_batch(VERSION_8)?;
    if !connection.query_row("SELECT EXISTS (SELECT 1 FROM queue)", [], |row| row.get(0))? {
        connection.execute_batch(QUEUE_WITHOUT_AUTOINCREMENT)?;
    }
    // A new file has no counters yet.
    let Some(mut counters) = found else {
        return Ok(());
    };
    counters.last_row = given.max(highest);
    counters.write(connection)
}

pub(super) struct Version {
    pub(super) application_id: i32,
    pub(super) schema: usize,
}

pub(super) fn read_version(connection: &Connection) -> rusqlite::Result<Version> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    Ok(Version {
        application_id: pragma("application_id")?,
        schema: usize::try_from(pragma("user_version")?).unwrap_or(usize::MAX),
    })
}

pub(super) fn migrate(connection: &mut Connection) -> rusqlite::Result<()> {
    let transaction = begin_write(connection)?;
    // Another process may have done it since the version was read.
    let version = read_version(&transaction)?.schema;
    for migration in MIGRATIONS.iter().skip(version) {
        migration(&transaction)?;
    }
    let newest = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
    transaction.pragma_update(None, "user_version", newest)?;
    transaction.commit()
}

/// SQLite may continue without one after an error: it gives its result first, and then the error.
pub(super) fn enable_log(connection: &Connection) -> rusqlite::Result<()> {
    let mode = || -> rusqlite::Result<String> {
        connection.pragma_query_value(None, "journal_mode", |row| row.get(0))
    };
    if mode()? == "wal" {
        return Ok(());
    }
    step_through(connection, "PRAGMA journal_mode = WAL")?;
    if mode()? == "wal" {
        return Ok(());
    }
    let why = "the write-ahead log cannot be switched on".to_owned();
    let failed = ffi::Error::new(SQLITE_IOERR);
    Err(rusqlite::Error::SqliteFailure(failed, Some(why)))
}

/// In bytes. Each commit writes whole database pages to the log, two at least: with small ones a reading that is
/// stored alone costs flash memory half as much as with SQLite's 4,096. A file keeps the size it was made with.
const PAGE_SIZE: u32 = 1_024;

pub(super) fn create(connection: &mut Connection, stream: &str) -> rusqlite::Result<()> {
    connection.pragma_update(None, "page_size", PAGE_SIZE)?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    enable_log(connection)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    migrate(connection)?;
    Counters::new(stream, unix_ms()).write(connection)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of schema 7, changed and then migrated.
    fn migrated(changes: &str) -> (tempfile::TempDir, Connection) {
        let directory = tempfile::tempdir().unwrap();
        let queue = directory.path().join("queue.db");
        let older = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/queue-7.db");
        std::fs::copy(older, &queue).unwrap();
        let mut connection = Connection::open(&queue).unwrap();
        connection.execute_batch(changes).unwrap();
        migrate(&mut connection).unwrap();
        (directory, connection)
    }

    fn table(connection: &Connection) -> String {
        let sql = "SELECT group_concat(sql) FROM sqlite_schema WHERE tbl_name = 'queue'";
        connection.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn an_older_queue_gets_the_table_of_a_new_one_if_it_is_empty_and_its_numbers_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let mut new = Connection::open(directory.path().join("queue.db")).unwrap();
        create(&mut new, "s").unwrap();
        assert!(!table(&new).contains("AUTOINCREMENT"));
        let (filled, empty) = ("SELECT 1", "DELETE FROM queue");
        let given = "UPDATE sqlite_sequence SET seq = 41 WHERE name = 'queue'";
        let forgotten = "DELETE FROM sqlite_sequence WHERE name = 'queue'";
        for (rows, number, last_row) in [
            (filled, given, 41),
            (filled, forgotten, 3),
            (empty, given, 41),
            (empty, forgotten, 0),
        ] {
            let (_directory, connection) = migrated(&format!("{rows}; {number}"));
            assert_eq!(Counters::read(&connection).unwrap().last_row, last_row);
            assert_eq!(table(&connection) == table(&new), rows == empty);
        }
    }
}
