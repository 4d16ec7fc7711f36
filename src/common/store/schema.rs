//! The schema of a queue file, and the way to it from every earlier one.
//!
//! `user_version` counts the migrations that a file has been through; `application_id` says
//! that it is a queue at all. A published migration is never changed: a new one follows it.

use rusqlite::Connection;

/// `IoTq`: what tells a queue from any other SQLite database.
pub(super) const APPLICATION_ID: i32 = 0x496f_5471;

/// Each brings a file to the version that is its place in the list, from 1.
pub(super) const MIGRATIONS: [&str; 1] = [VERSION_1];

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

/// What a file says of itself.
pub(super) struct Found {
    pub(super) application_id: i32,
    pub(super) version: usize,
}

/// Reads it.
pub(super) fn inspect(connection: &Connection) -> rusqlite::Result<Found> {
    let pragma = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i32>(0));
    Ok(Found {
        application_id: pragma("application_id")?,
        version: usize::try_from(pragma("user_version")?).unwrap_or(usize::MAX),
    })
}

/// Brings a file from `version` to the newest, in one transaction.
pub(super) fn migrate(connection: &mut Connection, version: usize) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for migration in MIGRATIONS.iter().skip(version) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(
        None,
        "user_version",
        i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX),
    )?;
    transaction.commit()
}

/// Fills a new file.
pub(super) fn create(connection: &mut Connection, stream: &str) -> rusqlite::Result<()> {
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    migrate(connection, 0)?;
    connection.execute(
        "INSERT INTO books VALUES (1, ?1, 1, 0, 0, 0, 0, 0, 0, 0, 0)",
        [stream],
    )?;
    Ok(())
}
