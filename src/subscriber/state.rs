//! What is remembered from run to run, with `--state FILE`: the numbers that were dealt with, whether a
//! session was left with the broker, and what of its QoS 2 messages is not completed. A SQLite database.
//!
//! It is written after the messages have been dealt with and before they are acknowledged. So
//! it never knows more than was written: a crash may cost a repeat, never a message.

mod exchanges;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use log::debug;
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, params};

use self::exchanges::Exchanges;
use super::streams::{MAX_STREAMS, Stream, Streams};
use crate::common::acks::pending::Exchange;
use crate::common::fault::{Exit, Fault};
use crate::common::message::SeqProperty;

/// Marks our files (`PRAGMA application_id`): "IOTS".
const APPLICATION: i32 = 0x494f_5453;

/// The only version of the file's format so far.
const VERSION: i32 = 1;

/// How long to wait for somebody who is about to close the file.
const PATIENCE: Duration = Duration::from_secs(2);

const TABLES: &str = "
    CREATE TABLE streams (
        name    TEXT PRIMARY KEY,
        runs    TEXT NOT NULL,     -- the numbers that were dealt with: 1-40,42-50
        touched INTEGER NOT NULL   -- ascending: the largest was heard of last
    ) WITHOUT ROWID;
    CREATE TABLE sessions (
        client  TEXT PRIMARY KEY,  -- endpoint and client identifier of a session that was left
        filters TEXT NOT NULL      -- its subscriptions, a JSON list
    ) WITHOUT ROWID;";

/// The state of a subscriber.
#[derive(Debug)]
pub struct State {
    connection: Connection,
    streams: Streams,
    touched: i64,
    exchanges: Exchanges,
}

impl State {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    ///
    /// A fault that names the file.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        open(path).map_err(|why| {
            Fault::permanent(
                Exit::CannotCreate,
                format!("--state {}: {why}", path.display()),
            )
        })
    }

    /// The numbers that earlier runs have dealt with.
    ///
    /// # Errors
    ///
    /// SQLite's.
    pub fn streams(&self) -> io::Result<Streams> {
        load(&self.connection).map_err(io::Error::other)
    }

    /// These have been dealt with: their numbers, and the QoS 2 messages among them whose PUBREC may go out now.
    ///
    /// # Errors
    ///
    /// SQLite's, if that cannot be written.
    pub fn record(&mut self, numbers: &[SeqProperty], exchanges: &[Exchange]) -> io::Result<()> {
        if numbers.is_empty() && exchanges.is_empty() {
            return Ok(());
        }
        let mut names = BTreeSet::new();
        for number in numbers {
            self.streams.take(number);
            names.insert(&number.stream);
        }
        self.save(&names, exchanges).map_err(io::Error::other)
    }

    fn save(&mut self, names: &BTreeSet<&String>, exchanges: &[Exchange]) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        self.exchanges.add(&transaction, exchanges)?;
        {
            let mut save =
                transaction.prepare_cached("INSERT OR REPLACE INTO streams VALUES (?1, ?2, ?3)")?;
            for name in names {
                // One with too long a name is not followed.
                if let Some(stream) = self.streams.get(name) {
                    self.touched += 1;
                    save.execute(params![name, stream.text(), self.touched])?;
                }
            }
        }
        transaction.commit()
    }

    /// The QoS 2 messages that earlier runs have dealt with in this session and whose PUBREL is due. What is recorded
    /// from now on belongs to it.
    ///
    /// # Errors
    ///
    /// SQLite's.
    pub fn exchanges(&mut self, client: &str) -> io::Result<Vec<Exchange>> {
        let loaded = self.exchanges.load(&self.connection, client);
        loaded.map_err(io::Error::other)
    }

    /// PUBREL has come for these packet identifiers of the session.
    ///
    /// # Errors
    ///
    /// SQLite's, if that cannot be written.
    pub fn end_exchanges(&mut self, ids: &[u16]) -> io::Result<()> {
        let removed = self.exchanges.remove(&mut self.connection, ids);
        removed.map_err(io::Error::other)
    }

    /// The broker has lost the session.
    ///
    /// # Errors
    ///
    /// SQLite's, if that cannot be written.
    pub fn forget_exchanges(&mut self) -> io::Result<()> {
        let cleared = self.exchanges.clear(&self.connection);
        cleared.map_err(io::Error::other)
    }

    /// Brings all that was written into the file itself: the run is ending. What cannot be stays in
    /// the log beside it.
    pub fn gather(&self) {
        let gathered = self
            .connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(cause) = gathered {
            debug!("the state stays in its log: {cause}");
        }
    }

    /// The filters of the session that an earlier run has left, if it has.
    ///
    /// # Errors
    ///
    /// SQLite's.
    pub fn session(&self, client: &str) -> io::Result<Option<Vec<String>>> {
        let filters: rusqlite::Result<Option<String>> = self
            .connection
            .query_row(
                "SELECT filters FROM sessions WHERE client = ?1",
                [client],
                |row| row.get(0),
            )
            .optional();
        let filters = filters.map_err(io::Error::other)?;
        Ok(filters.and_then(|filters| serde_json::from_str(&filters).ok()))
    }

    /// There is a session with these filters from now on.
    ///
    /// # Errors
    ///
    /// SQLite's.
    pub fn begin_session(&self, client: &str, filters: &[String]) -> io::Result<()> {
        // A list of texts has no way to fail.
        let filters = serde_json::to_string(filters).unwrap_or_default();
        let sql = "INSERT OR REPLACE INTO sessions VALUES (?1, ?2)";
        let done = self.connection.execute(sql, params![client, filters]);
        done.map(drop).map_err(io::Error::other)
    }
}

fn open(path: &Path) -> Result<State, String> {
    let connection = Connection::open(path).map_err(|e| remedy(&e))?;
    lock(&connection).map_err(|e| remedy(&e))?;
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let application = number("application_id").map_err(|e| remedy(&e))?;
    let version = number("user_version").map_err(|e| remedy(&e))?;
    let empty: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|e| remedy(&e))?;
    let new = match (application, version, empty) {
        (0, 0, 0) => true,
        (APPLICATION, VERSION, _) => false,
        (APPLICATION, ..) => {
            return Err(
                "was made by a newer version of subscriber; use that, or another file".into(),
            );
        }
        _ => return Err("is no state of a subscriber; --state needs a file of its own".into()),
    };
    prepare(&connection).map_err(|e| remedy(&e))?;
    if new {
        create(&connection).map_err(|e| remedy(&e))?;
    }
    Exchanges::prepare(&connection).map_err(|e| remedy(&e))?;
    // Only so many are remembered in memory either.
    let sql = "DELETE FROM streams WHERE touched <= (
        SELECT touched FROM streams ORDER BY touched DESC LIMIT 1 OFFSET ?1)";
    connection
        .execute(sql, [i64::try_from(MAX_STREAMS).unwrap_or(i64::MAX)])
        .map_err(|e| remedy(&e))?;
    let streams = load(&connection).map_err(|e| remedy(&e))?;
    let touched = connection
        .query_row("SELECT coalesce(max(touched), 0) FROM streams", [], |row| {
            row.get(0)
        })
        .map_err(|e| remedy(&e))?;
    Ok(State {
        connection,
        streams,
        touched,
        exchanges: Exchanges::default(),
    })
}

/// One subscriber a file: it holds the lock until it ends. Changes nothing: it may be a stranger's.
fn lock(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(PATIENCE)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")
}

/// Our own file, or a new one.
fn prepare(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")
}

fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(&format!(
        "BEGIN; {TABLES}
         PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; COMMIT"
    ))
}

fn load(connection: &Connection) -> rusqlite::Result<Streams> {
    let mut streams = Streams::default();
    let mut rows = connection.prepare("SELECT name, runs FROM streams ORDER BY touched")?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        let (name, runs): (String, String) = (row.get(0)?, row.get(1)?);
        // A row that cannot be read costs a repeat.
        if let Some(stream) = Stream::parse(&runs) {
            streams.restore(&name, stream);
        }
    }
    Ok(streams)
}

fn remedy(error: &rusqlite::Error) -> String {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "is in use by another subscriber; give each a --state file of its own".into()
        }
        Some(ErrorCode::NotADatabase) => {
            "is no state of a subscriber; --state needs a file of its own".into()
        }
        Some(ErrorCode::DatabaseCorrupt) => {
            format!(
                "is damaged ({error}); move it aside: without it nothing is lost, but messages may come twice"
            )
        }
        Some(ErrorCode::CannotOpen) => {
            "cannot be opened or created; look at its directory and their permissions".into()
        }
        _ => error.to_string(),
    }
}
