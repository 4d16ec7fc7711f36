//! What is remembered from run to run, with `--state FILE`: the numbers and fingerprints of messages that
//! were dealt with, whether a session was left with the broker, and what of its QoS 2 messages is not
//! completed. A SQLite database, which only its owner may read.
//!
//! It is written after the messages have been dealt with and before they are acknowledged. So
//! it never knows more than was written: a crash may cost a repeat, never a message. It holds
//! as much as is remembered in memory, and is cut back to that while the run lasts.

mod exchanges;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::{debug, warn};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, Transaction, params};

use self::exchanges::Exchanges;
use crate::common::acks::pending::Exchange;
use crate::common::fault::{Exit, Fault};
use crate::common::random;
use crate::subscriber::inbox::Noted;
use crate::subscriber::sequence::fingerprint::{Fingerprint, Key};
use crate::subscriber::sequence::streams::{
    MAX_KNOWN, MAX_STREAMS, SHARED, Stream, Streams, fair_share,
};

/// Marks our files (`PRAGMA application_id`): "IOTS".
const APPLICATION: i32 = 0x494f_5453;

/// How long to wait for somebody who is about to close the file.
const PATIENCE: Duration = Duration::from_secs(2);

/// Streams beyond [`MAX_STREAMS`] that the file may hold before the oldest are taken out: looking
/// for them takes longer than adding one.
const SURPLUS: usize = 1_024;

/// Sessions remembered, the latest.
const MAX_SESSIONS: i64 = 100;

/// Bytes of a fingerprint in the file.
const FINGERPRINT: usize = size_of::<u64>();

/// Each brings a file to the version that is its place in the list, from 1 (`PRAGMA user_version`).
const MIGRATIONS: [&str; 2] = [VERSION_1, VERSION_2];

const VERSION_1: &str = "
    CREATE TABLE streams (
        name    TEXT PRIMARY KEY,
        runs    TEXT NOT NULL,
        touched INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE sessions (
        client  TEXT PRIMARY KEY,  -- endpoint and client identifier of a session that was left
        filters TEXT NOT NULL      -- its subscriptions, a JSON list
    ) WITHOUT ROWID;";

/// Version 2: what is a repeat is decided by fingerprints.
const VERSION_2: &str = "
    ALTER TABLE streams RENAME TO streams_1;
    CREATE TABLE streams (
        id      INTEGER PRIMARY KEY,
        name    TEXT NOT NULL UNIQUE,
        runs    TEXT NOT NULL,     -- the numbers that were dealt with: 1-40,42-50
        last    TEXT NOT NULL,     -- the highest of a message that was not retained; '' for none
        touched INTEGER NOT NULL   -- ascending: the largest was heard of last
    );
    INSERT INTO streams (name, runs, last, touched)
        SELECT name, runs, substr(runs, length(rtrim(runs, '0123456789')) + 1), touched
        FROM streams_1;
    DROP TABLE streams_1;
    CREATE TABLE fingerprints (
        id      INTEGER PRIMARY KEY, -- ascending
        stream  INTEGER NOT NULL,    -- its id
        latest  BLOB NOT NULL        -- of messages dealt with, in order: 8 bytes each, little-endian
    );
    CREATE TABLE secret (
        one     INTEGER PRIMARY KEY CHECK (one = 1),
        key     BLOB NOT NULL        -- what fingerprints are made with: two numbers like them
    );
    ALTER TABLE sessions ADD COLUMN touched INTEGER NOT NULL DEFAULT 0; -- as of streams";

/// The state of a subscriber.
#[derive(Debug)]
pub struct State {
    connection: Connection,
    key: Key,
    /// The numbers in the file; fingerprints are only in the file.
    streams: Streams,
    touched: i64,
    /// Streams added to the file since there were [`MAX_STREAMS`] at most.
    added: usize,
    /// Fingerprints in the file.
    fingerprints: usize,
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

    /// What fingerprints are made with.
    pub fn key(&self) -> Key {
        self.key
    }

    /// The numbers and fingerprints of what earlier runs have dealt with.
    ///
    /// # Errors
    ///
    /// SQLite's.
    pub fn streams(&self) -> io::Result<Streams> {
        let load = || {
            let mut streams = load_numbers(&self.connection)?;
            load_fingerprints(&self.connection, &mut streams)?;
            Ok(streams)
        };
        load().map_err(|e: rusqlite::Error| io::Error::other(e))
    }

    /// These have been dealt with: their numbers, and the QoS 2 messages among them whose PUBREC may go out now.
    ///
    /// # Errors
    ///
    /// SQLite's, if that cannot be written.
    pub fn record(&mut self, noted: &[Noted], exchanges: &[Exchange]) -> io::Result<()> {
        if noted.is_empty() && exchanges.is_empty() {
            return Ok(());
        }
        let mut changed: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        for Noted {
            seq,
            retained,
            fingerprint,
        } in noted
        {
            self.added += usize::from(self.streams.get(&seq.stream).is_none());
            self.streams.take(seq, *retained);
            let new = changed.entry(&seq.stream).or_default();
            if let Some(Fingerprint(fingerprint)) = fingerprint {
                new.extend(fingerprint.to_le_bytes());
            }
        }
        self.save(&changed, exchanges).map_err(io::Error::other)
    }

    fn save(
        &mut self,
        changed: &BTreeMap<&str, Vec<u8>>,
        exchanges: &[Exchange],
    ) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        self.exchanges.add(&transaction, exchanges)?;
        for (name, new) in changed {
            // One with too long a name is not followed.
            let Some(stream) = self.streams.get(name) else {
                continue;
            };
            self.touched += 1;
            let last = stream.last().map_or(String::new(), |last| last.to_string());
            let id: i64 = transaction
                .prepare_cached(
                    "INSERT INTO streams (name, runs, last, touched) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (name) DO UPDATE SET runs = ?2, last = ?3, touched = ?4
                     RETURNING id",
                )?
                .query_row(params![name, stream.text(), last, self.touched], |row| {
                    row.get(0)
                })?;
            if !new.is_empty() {
                transaction
                    .prepare_cached("INSERT INTO fingerprints (stream, latest) VALUES (?1, ?2)")?
                    .execute(params![id, new])?;
                self.fingerprints += new.len() / FINGERPRINT;
            }
        }
        if self.added > SURPLUS {
            forget_silent_streams(&transaction)?;
            self.added = 0;
        }
        if self.fingerprints > MAX_KNOWN {
            self.fingerprints = forget_oldest_fingerprints(&transaction)?;
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
        let save = || {
            self.connection.execute(
                "INSERT OR REPLACE INTO sessions (client, filters, touched)
                 VALUES (?1, ?2, (SELECT coalesce(max(touched), 0) + 1 FROM sessions))",
                params![client, filters],
            )?;
            self.connection.execute(
                "DELETE FROM sessions WHERE client NOT IN
                 (SELECT client FROM sessions ORDER BY touched DESC LIMIT ?1)",
                [MAX_SESSIONS],
            )
        };
        save().map(drop).map_err(io::Error::other)
    }
}

fn open(path: &Path) -> Result<State, String> {
    create(path);
    let mut connection = Connection::open(path).map_err(|e| remedy(&e))?;
    lock(&connection).map_err(|e| remedy(&e))?;
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let application = number("application_id").map_err(|e| remedy(&e))?;
    let version = number("user_version").map_err(|e| remedy(&e))?;
    let empty: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(|e| remedy(&e))?;
    let version = match (application, usize::try_from(version), empty) {
        (0, Ok(0), 0) => 0,
        (APPLICATION, Ok(version), _) if (1..=MIGRATIONS.len()).contains(&version) => version,
        (APPLICATION, ..) => {
            return Err(
                "was made by a newer version of subscriber; use that, or another file".into(),
            );
        }
        _ => return Err("is no state of a subscriber; --state needs a file of its own".into()),
    };
    restrict(path);
    prepare(&connection).map_err(|e| remedy(&e))?;
    if version < MIGRATIONS.len() {
        let key = [random::bits(), random::bits()];
        let [Ok(first), Ok(second)] = key else {
            return Err("a key cannot be drawn: the system gives no random numbers".into());
        };
        migrate(&mut connection, version, Key([first, second])).map_err(|e| remedy(&e))?;
    }
    read(connection).map_err(|e| remedy(&e))
}

/// Makes the file if there is none, with mode 0600 whatever the umask. If it cannot be made, the
/// error is SQLite's.
fn create(path: &Path) {
    let mut options = OpenOptions::new();
    let made = options.write(true).create_new(true).mode(0o600).open(path);
    // A umask may have taken from the owner what he needs.
    let made = made.and_then(|file| file.set_permissions(Permissions::from_mode(0o600)));
    if let Err(cause) = made {
        debug!("--state {}: not made: {cause}", path.display());
    }
}

/// Closes our own file and its log to others: the fingerprints' key is in it. Earlier versions made it
/// with the umask.
fn restrict(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let file = PathBuf::from(name);
        let Ok(found) = fs::metadata(&file) else {
            continue;
        };
        let mode = found.permissions().mode() & 0o777;
        let of_others = mode & 0o077;
        if !found.is_file() || of_others == 0 {
            continue;
        }
        let done = fs::set_permissions(&file, Permissions::from_mode(mode & 0o700));
        let name = file.display();
        match done {
            // Its log goes with it.
            Ok(()) if !suffix.is_empty() => {}
            Ok(()) => {
                let now = mode & 0o700;
                warn!("--state {name}: its mode {mode:04o} let others in: set to {now:04o}");
            }
            Err(cause) => warn!(
                "--state {name}: its mode {mode:04o} lets others in and cannot be changed: {cause}"
            ),
        }
    }
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

/// Brings a file from a version to the newest, in one transaction.
fn migrate(connection: &mut Connection, version: usize, key: Key) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for migration in MIGRATIONS.iter().skip(version) {
        transaction.execute_batch(migration)?;
    }
    let key: Vec<u8> = key.0.iter().flat_map(|half| half.to_le_bytes()).collect();
    transaction.execute("INSERT INTO secret (one, key) VALUES (1, ?1)", [key])?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    let version = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()
}

/// Reads what there is, after it was cut back to what is remembered.
fn read(mut connection: Connection) -> rusqlite::Result<State> {
    Exchanges::prepare(&connection)?;
    let transaction = connection.transaction()?;
    forget_silent_streams(&transaction)?;
    let fingerprints = forget_oldest_fingerprints(&transaction)?;
    transaction.commit()?;
    let streams = load_numbers(&connection)?;
    let one = |sql| connection.query_row(sql, [], |row| row.get(0));
    let touched = one("SELECT coalesce(max(touched), 0) FROM streams")?;
    let key: Vec<u8> = connection.query_row("SELECT key FROM secret", [], |row| row.get(0))?;
    let mut halves = fingerprints_in(&key);
    let mut half = || halves.next().map_or(0, |half| half.0);
    Ok(State {
        key: Key([half(), half()]),
        streams,
        touched,
        added: 0,
        fingerprints,
        exchanges: Exchanges::default(),
        connection,
    })
}

fn load_numbers(connection: &Connection) -> rusqlite::Result<Streams> {
    let mut streams = Streams::default();
    let mut rows = connection.prepare("SELECT name, runs, last FROM streams ORDER BY touched")?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        let (name, runs, last): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        // A row that cannot be read costs a gap that is not told.
        if let Some(stream) = Stream::parse(&runs, last.parse().ok()) {
            streams.restore(&name, stream);
        }
    }
    Ok(streams)
}

fn load_fingerprints(connection: &Connection, streams: &mut Streams) -> rusqlite::Result<()> {
    let mut rows = connection.prepare(
        "SELECT streams.name, fingerprints.latest FROM fingerprints
         JOIN streams ON streams.id = fingerprints.stream
         ORDER BY streams.touched, fingerprints.id",
    )?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        // It is not to take the place of a stream that was heard of later.
        if streams.get(&name).is_none() {
            continue;
        }
        for fingerprint in fingerprints_in(row.get_ref(1)?.as_blob()?) {
            streams.meet(&name, fingerprint);
        }
    }
    Ok(())
}

fn fingerprints_in(blob: &[u8]) -> impl Iterator<Item = Fingerprint> {
    let (fingerprints, _) = blob.as_chunks::<FINGERPRINT>();
    let read = |bytes: &[u8; FINGERPRINT]| Fingerprint(u64::from_le_bytes(*bytes));
    fingerprints.iter().map(read)
}

/// Takes the streams out that are not remembered in memory either.
fn forget_silent_streams(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let sql = "DELETE FROM streams WHERE touched <= (
        SELECT touched FROM streams ORDER BY touched DESC LIMIT 1 OFFSET ?1)";
    transaction.execute(sql, [i64::try_from(MAX_STREAMS).unwrap_or(i64::MAX)])?;
    Ok(())
}

/// Takes the oldest fingerprints of those streams out that have the most, as in memory, and those of streams
/// that are gone. Gives how many are left.
fn forget_oldest_fingerprints(transaction: &Transaction<'_>) -> rusqlite::Result<usize> {
    transaction.execute(
        "DELETE FROM fingerprints WHERE stream NOT IN (SELECT id FROM streams)",
        [],
    )?;
    let lengths: Vec<usize> = transaction
        .prepare_cached("SELECT sum(length(latest)) FROM fingerprints GROUP BY stream")?
        .query_map([], |row| length(row, 0))?
        .map(|bytes| Ok(bytes? / FINGERPRINT))
        .collect::<rusqlite::Result<_>>()?;
    let total = lengths.iter().sum();
    if total <= MAX_KNOWN {
        return Ok(total);
    }
    let share = fair_share(lengths, SHARED) * FINGERPRINT;
    let rows: Vec<(i64, i64, usize)> = transaction
        .prepare_cached("SELECT id, stream, length(latest) FROM fingerprints ORDER BY id DESC")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, length(row, 2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut room: HashMap<i64, usize> = HashMap::new();
    let mut left = 0;
    for (id, stream, length) in rows {
        let room = room.entry(stream).or_insert(share);
        let kept = length.min(*room);
        *room -= kept;
        left += kept;
        if kept == 0 {
            transaction
                .prepare_cached("DELETE FROM fingerprints WHERE id = ?1")?
                .execute([id])?;
        } else if kept < length {
            transaction
                .prepare_cached(
                    "UPDATE fingerprints SET latest = substr(latest, -?2) WHERE id = ?1",
                )?
                .execute(params![id, i64::try_from(kept).unwrap_or(i64::MAX)])?;
        }
    }
    Ok(left / FINGERPRINT)
}

fn length(row: &Row<'_>, column: usize) -> rusqlite::Result<usize> {
    Ok(usize::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
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
