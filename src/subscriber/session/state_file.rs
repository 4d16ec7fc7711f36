//! `--state FILE`: remembers from run to run the numbers and fingerprints of messages received, the
//! session with the broker, and its unfinished QoS 2 exchanges. It is a SQLite database.
//!
//! It is written after the messages have been written and before they are acknowledged. So it never
//! knows of a message that was not written: a crash may cost a repeat, never a message. It
//! remembers as much as is kept in memory, and is cut back to that while the run lasts.

mod qos2_table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::{debug, warn};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row, Transaction, params};

use self::qos2_table::Qos2Table;
use crate::common::acks::owed_acks::Qos2ExchangeKey;
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::random;
use crate::subscriber::sequence::SavedSeqRecord;
use crate::subscriber::sequence::fingerprint::{Fingerprint, FingerprintKey};
use crate::subscriber::sequence::numbers::ReceivedNumbers;
use crate::subscriber::sequence::streams::{
    MAX_FINGERPRINTS, MAX_STREAMS, SHARED, Streams, fair_length_limit,
};

/// `PRAGMA application_id` of state files: "IOTS".
const APPLICATION: i32 = 0x494f_5453;

/// How long to wait for another process that is about to close the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Streams beyond [`MAX_STREAMS`] that the file may hold before the oldest are removed: the search
/// for them takes longer than adding one.
const SURPLUS: usize = 1_024;

const MAX_SESSIONS: i64 = 100;

const FINGERPRINT: usize = size_of::<u64>();

/// Each migrates to the version (`PRAGMA user_version`) of its position, from 1.
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

/// Repeats are recognised by fingerprints.
const VERSION_2: &str = "
    ALTER TABLE streams RENAME TO streams_1;
    CREATE TABLE streams (
        id      INTEGER PRIMARY KEY,
        name    TEXT NOT NULL UNIQUE,
        runs    TEXT NOT NULL,     -- the numbers that were dealt with: 1-40,42-50
        last    TEXT NOT NULL,     -- the highest of a message that was not retained; '' for none
        touched INTEGER NOT NULL   -- ascending: the largest was used last
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

pub struct StateFile {
    connection: Connection,
    key: FingerprintKey,
    /// The numbers in the file. Fingerprints are only in the file.
    streams: Streams,
    touched: i64,
    /// Streams added to the file since it held at most [`MAX_STREAMS`].
    added: usize,
    fingerprints: usize,
    qos2_table: Qos2Table,
}

impl StateFile {
    pub fn open(path: &Path) -> Result<Self, Fault> {
        open(path).map_err(|Unusable(why)| {
            let message = format!("--state {}: {why}", path.display());
            Fault::permanent(Exit::CannotCreate, message)
        })
    }

    pub fn fingerprint_key(&self) -> FingerprintKey {
        self.key
    }

    pub fn load_streams(&self) -> rusqlite::Result<Streams> {
        let mut streams = load_numbers(&self.connection)?;
        let mut rows = self.connection.prepare(
            "SELECT streams.name, fingerprints.latest FROM fingerprints
             JOIN streams ON streams.id = fingerprints.stream
             ORDER BY streams.touched, fingerprints.id",
        )?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            // It must not replace a stream that was used later.
            if streams.received_numbers(&name).is_some() {
                for fingerprint in decode_fingerprints(row.get_ref(1)?.as_blob()?) {
                    streams.insert_fingerprint(&name, fingerprint);
                }
            }
        }
        Ok(streams)
    }

    /// Records written messages, and QoS 2 exchanges whose PUBREC may go out now.
    pub fn record_messages(
        &mut self,
        records: &[SavedSeqRecord],
        exchanges: &[Qos2ExchangeKey],
    ) -> rusqlite::Result<()> {
        if records.is_empty() && exchanges.is_empty() {
            return Ok(());
        }
        let mut changed: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        for record in records {
            let name = &record.seq.stream;
            self.added += usize::from(self.streams.received_numbers(name).is_none());
            self.streams.handle_number(&record.seq, record.retained);
            let new = changed.entry(name).or_default();
            if let Some(Fingerprint(fingerprint)) = record.fingerprint {
                new.extend(fingerprint.to_le_bytes());
            }
        }
        let transaction = self.connection.transaction()?;
        self.qos2_table.add(&transaction, exchanges)?;
        for (name, new) in changed {
            // None if its name is too long.
            let Some(numbers) = self.streams.received_numbers(name) else {
                continue;
            };
            self.touched += 1;
            let last = numbers.last();
            let last = last.map_or(String::new(), |last| last.to_string());
            let id: i64 = transaction
                .prepare_cached(
                    "INSERT INTO streams (name, runs, last, touched) VALUES (?1, ?2, ?3, ?4)
                     ON CONFLICT (name) DO UPDATE SET runs = ?2, last = ?3, touched = ?4
                     RETURNING id",
                )?
                .query_row(params![name, numbers.text(), last, self.touched], |row| {
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
            remove_oldest_streams(&transaction)?;
            self.added = 0;
        }
        if self.fingerprints > MAX_FINGERPRINTS {
            self.fingerprints = remove_oldest_fingerprints(&transaction)?;
        }
        transaction.commit()
    }

    /// Those that await PUBREL. Exchanges recorded from now on belong to this session.
    pub fn load_exchanges(&mut self, session: &str) -> rusqlite::Result<Vec<Qos2ExchangeKey>> {
        self.qos2_table.load(&self.connection, session)
    }

    /// PUBREL has come for these packet identifiers.
    pub fn remove_exchanges(&mut self, ids: &[u16]) -> rusqlite::Result<()> {
        self.qos2_table.remove(&mut self.connection, ids)
    }

    pub fn forget_exchanges(&mut self) -> rusqlite::Result<()> {
        self.qos2_table.clear(&self.connection)
    }

    /// Moves the write-ahead log into the file. If that fails, the log stays.
    pub fn checkpoint(&self) {
        let sql = "PRAGMA wal_checkpoint(TRUNCATE)";
        if let Err(cause) = self.connection.query_row(sql, [], |_| Ok(())) {
            debug!("the write-ahead log of --state stays: {cause}");
        }
    }

    /// The filters of a session that an earlier run has left with the broker.
    pub fn session_filters(&self, key: &str) -> rusqlite::Result<Option<Vec<String>>> {
        let sql = "SELECT filters FROM sessions WHERE client = ?1";
        let filters = self.connection.query_row(sql, [key], |row| row.get(0));
        let filters: Option<String> = filters.optional()?;
        Ok(filters.and_then(|filters| serde_json::from_str(&filters).ok()))
    }

    pub fn save_filters(&self, key: &str, filters: &[String]) -> rusqlite::Result<()> {
        // A list of strings cannot fail.
        let filters = serde_json::to_string(filters).unwrap_or_default();
        self.connection.execute(
            "INSERT OR REPLACE INTO sessions (client, filters, touched)
             VALUES (?1, ?2, (SELECT coalesce(max(touched), 0) + 1 FROM sessions))",
            params![key, filters],
        )?;
        self.connection.execute(
            "DELETE FROM sessions WHERE client NOT IN
             (SELECT client FROM sessions ORDER BY touched DESC LIMIT ?1)",
            [MAX_SESSIONS],
        )?;
        Ok(())
    }
}

struct Unusable(String);

impl From<rusqlite::Error> for Unusable {
    fn from(error: rusqlite::Error) -> Self {
        Self(match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                "is in use by another subscriber; give each its own --state file".into()
            }
            Some(ErrorCode::NotADatabase) => NOT_A_STATE_FILE.into(),
            Some(ErrorCode::DatabaseCorrupt) => format!(
                "is damaged ({error}); move it aside: without it nothing is lost, but messages may \
                 come twice"
            ),
            Some(ErrorCode::CannotOpen) => {
                "cannot be opened or created; check its directory and their permissions".into()
            }
            _ => error.to_string(),
        })
    }
}

const NOT_A_STATE_FILE: &str = "is not a state file of subscriber; choose another name for --state";

fn open(path: &Path) -> Result<StateFile, Unusable> {
    create_if_missing(path);
    let mut connection = Connection::open(path)?;
    lock(&connection)?;
    let number = |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let (application, version) = (number("application_id")?, number("user_version")?);
    let count = "SELECT count(*) FROM sqlite_schema";
    let objects: i64 = connection.query_row(count, [], |row| row.get(0))?;
    let version = match (application, usize::try_from(version), objects) {
        (0, Ok(0), 0) => 0,
        (APPLICATION, Ok(version), _) if (1..=MIGRATIONS.len()).contains(&version) => version,
        (APPLICATION, ..) => {
            let why = "was made by a newer version of subscriber; use that, or another file";
            return Err(Unusable(why.into()));
        }
        _ => return Err(Unusable(NOT_A_STATE_FILE.into())),
    };
    restrict(path);
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    if version < MIGRATIONS.len() {
        let [Ok(first), Ok(second)] = [random::bits(), random::bits()] else {
            let why = "needs a random key, and the operating system provides no random numbers";
            return Err(Unusable(why.into()));
        };
        migrate(&mut connection, version, [first, second])?;
    }
    Ok(load(connection)?)
}

/// Creates a missing file with mode 0600 whatever the umask. If that fails, SQLite reports why.
fn create_if_missing(path: &Path) {
    let mut options = OpenOptions::new();
    let created = options.write(true).create_new(true).mode(0o600).open(path);
    // A umask may have removed permissions of the owner.
    let created = created.and_then(|file| file.set_permissions(Permissions::from_mode(0o600)));
    if let Err(cause) = created {
        debug!("--state {}: not created: {cause}", path.display());
    }
}

/// Removes the permissions of group and others from the file and its log, because the file holds
/// the key of the fingerprints. Earlier versions created it with the umask.
fn restrict(path: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        let file = PathBuf::from(name);
        let Ok(metadata) = fs::metadata(&file) else {
            continue;
        };
        let mode = metadata.permissions().mode() & 0o777;
        let restricted = mode & 0o700;
        if !metadata.is_file() || mode == restricted {
            continue;
        }
        let name = file.display();
        match fs::set_permissions(&file, Permissions::from_mode(restricted)) {
            Ok(()) if suffix.is_empty() => warn!(
                "--state {name}: its mode {mode:04o} gave others access; set to {restricted:04o}"
            ),
            Ok(()) => {}
            Err(cause) => warn!(
                "--state {name}: its mode {mode:04o} gives others access and cannot be changed: \
                 {cause}"
            ),
        }
    }
}

/// Locks the file until the end of the process. Changes nothing: it may belong to another program.
fn lock(connection: &Connection) -> rusqlite::Result<()> {
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    connection.execute_batch("BEGIN EXCLUSIVE; COMMIT")
}

fn migrate(connection: &mut Connection, version: usize, key: [u64; 2]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for migration in MIGRATIONS.iter().skip(version) {
        transaction.execute_batch(migration)?;
    }
    let key: Vec<u8> = key.iter().flat_map(|half| half.to_le_bytes()).collect();
    transaction.execute("INSERT INTO secret (one, key) VALUES (1, ?1)", [key])?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    let version = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()
}

fn load(mut connection: Connection) -> rusqlite::Result<StateFile> {
    Qos2Table::create(&connection)?;
    let transaction = connection.transaction()?;
    remove_oldest_streams(&transaction)?;
    let fingerprints = remove_oldest_fingerprints(&transaction)?;
    transaction.commit()?;
    let streams = load_numbers(&connection)?;
    let one = |sql| connection.query_row(sql, [], |row| row.get(0));
    let touched = one("SELECT coalesce(max(touched), 0) FROM streams")?;
    let key: Vec<u8> = connection.query_row("SELECT key FROM secret", [], |row| row.get(0))?;
    let mut halves = decode_fingerprints(&key);
    let mut half = || halves.next().map_or(0, |half| half.0);
    Ok(StateFile {
        key: FingerprintKey([half(), half()]),
        streams,
        touched,
        added: 0,
        fingerprints,
        qos2_table: Qos2Table::default(),
        connection,
    })
}

fn load_numbers(connection: &Connection) -> rusqlite::Result<Streams> {
    let mut streams = Streams::default();
    let mut rows = connection.prepare("SELECT name, runs, last FROM streams ORDER BY touched")?;
    let mut rows = rows.query([])?;
    while let Some(row) = rows.next()? {
        let (name, runs, last): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        // A damaged row costs only an unreported gap.
        if let Some(numbers) = ReceivedNumbers::parse(&runs, last.parse().ok()) {
            streams.restore(&name, numbers);
        }
    }
    Ok(streams)
}

fn decode_fingerprints(blob: &[u8]) -> impl Iterator<Item = Fingerprint> {
    let (fingerprints, _) = blob.as_chunks::<FINGERPRINT>();
    let read = |bytes: &[u8; FINGERPRINT]| Fingerprint(u64::from_le_bytes(*bytes));
    fingerprints.iter().map(read)
}

/// Removes the streams that do not fit into memory either.
fn remove_oldest_streams(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let sql = "DELETE FROM streams WHERE touched <= (
        SELECT touched FROM streams ORDER BY touched DESC LIMIT 1 OFFSET ?1)";
    transaction.execute(sql, [i64::try_from(MAX_STREAMS).unwrap_or(i64::MAX)])?;
    Ok(())
}

/// Removes the fingerprints of removed streams and, as in memory, the oldest of the streams that
/// have most. Returns how many are left.
fn remove_oldest_fingerprints(transaction: &Transaction<'_>) -> rusqlite::Result<usize> {
    let sql = "DELETE FROM fingerprints WHERE stream NOT IN (SELECT id FROM streams)";
    transaction.execute(sql, [])?;
    let lengths: Vec<usize> = transaction
        .prepare_cached("SELECT sum(length(latest)) FROM fingerprints GROUP BY stream")?
        .query_map([], |row| read_usize(row, 0))?
        .map(|bytes| Ok(bytes? / FINGERPRINT))
        .collect::<rusqlite::Result<_>>()?;
    let total = lengths.iter().sum();
    if total <= MAX_FINGERPRINTS {
        return Ok(total);
    }
    let share = fair_length_limit(lengths, SHARED) * FINGERPRINT;
    let rows: Vec<(i64, i64, usize)> = transaction
        .prepare_cached("SELECT id, stream, length(latest) FROM fingerprints ORDER BY id DESC")?
        .query_map([], |row| {
            Ok((row.get(0)?, row.get(1)?, read_usize(row, 2)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut shares: HashMap<i64, usize> = HashMap::new();
    let mut left = 0;
    for (id, stream, length) in rows {
        let share = shares.entry(stream).or_insert(share);
        let kept = length.min(*share);
        *share -= kept;
        left += kept;
        if kept == 0 {
            let sql = "DELETE FROM fingerprints WHERE id = ?1";
            transaction.prepare_cached(sql)?.execute([id])?;
        } else if kept < length {
            let sql = "UPDATE fingerprints SET latest = substr(latest, -?2) WHERE id = ?1";
            let kept = i64::try_from(kept).unwrap_or(i64::MAX);
            transaction.prepare_cached(sql)?.execute([id, kept])?;
        }
    }
    Ok(left / FINGERPRINT)
}

fn read_usize(row: &Row<'_>, column: usize) -> rusqlite::Result<usize> {
    Ok(usize::try_from(row.get::<_, i64>(column)?).unwrap_or(0))
}
