//! The store's thread: carries out orders, looks whether another process has written, and
//! takes over when the one that drained has gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode};

use super::file::{self, DrainLock, Open};
use super::rows::{self, uint};
use super::transaction::{self, patiently};
use crate::common::fault::Fault;
use crate::common::queue::order::{Batch, End, Opened, Order, Report, RowId};

/// How often to look for what other processes have done.
const LOOK: Duration = Duration::from_millis(50);

/// What is left of the file's free pages when a process ends in order: so many are given
/// back to the disk at most, so that it takes no time.
const VACUUM: u32 = 4_096;

pub(super) struct Worker {
    path: PathBuf,
    connection: Connection,
    lock: DrainLock,
    drains: bool,
    owner: String,
    stream: String,
    /// Changes when another connection has committed.
    data_version: i64,
}

impl Worker {
    pub(super) fn new(
        path: &Path,
        open: Open,
        owner: &str,
        stream: &str,
    ) -> Result<(Self, Opened), Fault> {
        let mut worker = Self {
            path: path.to_owned(),
            connection: open.connection,
            lock: open.lock,
            drains: open.drains,
            owner: owner.to_owned(),
            stream: stream.to_owned(),
            data_version: 0,
        };
        let opened = worker.begin().map_err(|e| file::broken(path, &e))?;
        Ok((worker, opened))
    }

    fn begin(&mut self) -> rusqlite::Result<Opened> {
        let (connection, stream) = (&mut self.connection, &self.stream);
        if self.drains {
            patiently(|| transaction::begin(connection, stream))
        } else {
            transaction::look(connection, false)
        }
    }

    pub(super) fn run(mut self, inbox: &Receiver<Order>, notify: &impl Fn(Report)) {
        loop {
            let report = match inbox.recv_timeout(LOOK) {
                Ok(Order::Close { next_seq }) => {
                    let end = self.close(next_seq);
                    return notify(end.map_or_else(Report::Broken, |()| Report::Closed));
                }
                Ok(order) => self.carry_out(order).map(Some),
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            match report {
                Ok(report) => report.into_iter().for_each(notify),
                Err(error) => {
                    notify(Report::Broken(file::broken(&self.path, &error)));
                    // Closing the connection would sync the file again, and after a failed
                    // sync a second one may claim success for what is lost.
                    std::mem::forget(self.connection);
                    return;
                }
            }
        }
    }

    fn carry_out(&mut self, order: Order) -> rusqlite::Result<Report> {
        match order {
            Order::Commit(batch) => self.commit(batch),
            Order::Load { after, rows, bytes } => patiently(|| self.load(after, rows, bytes)),
            Order::Ask { numbered } => patiently(|| self.ask(numbered)),
            // Handled before.
            Order::Close { .. } => Ok(Report::Closed),
        }
    }

    fn commit(&mut self, batch: Batch) -> rusqlite::Result<Report> {
        let (connection, owner, drains) = (&mut self.connection, &self.owner, self.drains);
        match patiently(|| transaction::commit(connection, &batch, owner, drains)) {
            Ok((ids, counts)) => Ok(Report::Committed { ids, counts }),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                // Gives back what the log takes, so that deleting rows has somewhere to write.
                let _ = connection.pragma_query(None, "wal_checkpoint(TRUNCATE)", |_| Ok(()));
                let why = format!("{}: {error}", self.path.display());
                Ok(Report::Full { batch, why })
            }
            Err(error) => Err(error),
        }
    }

    fn load(&mut self, after: RowId, rows: usize, bytes: u64) -> rusqlite::Result<Report> {
        let mut found = Vec::new();
        let mut damaged = Vec::new();
        let mut last = None;
        {
            let columns = rows::COLUMNS;
            let mut statement = self.connection.prepare_cached(&format!(
                "SELECT {columns} FROM queue WHERE id > ?1 ORDER BY id LIMIT ?2"
            ))?;
            let limit = i64::try_from(rows).unwrap_or(i64::MAX);
            let mut rows = statement.query([after, limit])?;
            let mut topic: Arc<str> = Arc::from("");
            let mut size = 0;
            while size < bytes
                && let Some(row) = rows.next()?
            {
                match rows::read(row, &mut topic)? {
                    Ok(row) => {
                        last = Some(row.id);
                        size += row.message.draft.payload.len() as u64;
                        found.push(row);
                    }
                    Err(id) => {
                        last = Some(id);
                        damaged.push(id);
                    }
                }
            }
        }
        let (connection, owner) = (&mut self.connection, &self.owner);
        let counts = if damaged.is_empty() {
            transaction::counts(connection)?
        } else {
            patiently(|| transaction::bury_damaged(connection, &damaged, owner))?
        };
        Ok(Report::Loaded {
            rows: found,
            last,
            damaged: damaged.len(),
            counts,
        })
    }

    fn ask(&mut self, numbered: RowId) -> rusqlite::Result<Report> {
        // One moment for all three questions.
        let transaction = self.connection.transaction()?;
        let numbered = transaction
            .prepare_cached(
                "SELECT id, seq FROM queue WHERE owner = ?1 AND id > ?2 AND seq IS NOT NULL
                 ORDER BY id",
            )?
            .query_map((&self.owner, numbered), |row| {
                Ok((row.get(0)?, uint(row.get(1)?)))
            })?
            .collect::<Result<_, _>>()?;
        let ends = transaction
            .prepare_cached("SELECT id, seq, kind, reason FROM fate WHERE owner = ?1")?
            .query_map([&self.owner], |row| {
                let reason: Option<String> = row.get(3)?;
                let end = match row.get(2)? {
                    1 => End::Dropped,
                    2 => End::Expired,
                    3 => End::Dead(reason.unwrap_or_default()),
                    _ => End::Delivered,
                };
                Ok((row.get(0)?, uint(row.get(1)?), end))
            })?
            .collect::<Result<Vec<(RowId, u64, End)>, _>>()?;
        let oldest = transaction
            .prepare_cached("SELECT min(id) FROM queue WHERE owner = ?1")?
            .query_row([&self.owner], |row| row.get(0))?;
        transaction.finish()?;
        if !ends.is_empty() {
            let (connection, owner) = (&mut self.connection, &self.owner);
            let last = ends.iter().map(|(row, ..)| *row).max();
            // Read is read; if this fails, it is read again.
            let _ = connection.execute(
                "DELETE FROM fate WHERE owner = ?1 AND id <= ?2",
                (owner, last),
            );
        }
        Ok(Report::Answer {
            numbered,
            ends,
            oldest,
        })
    }

    /// Looks for what other processes have done.
    fn look(&mut self) -> rusqlite::Result<Option<Report>> {
        if !self.drains && self.lock.try_take().unwrap_or(false) {
            self.drains = true;
            return self.begin().map(|opened| Some(Report::Ours(opened)));
        }
        let version = self
            .connection
            .pragma_query_value(None, "data_version", |row| row.get(0))?;
        if std::mem::replace(&mut self.data_version, version) == version {
            return Ok(None);
        }
        let counts = transaction::counts(&self.connection)?;
        Ok(Some(Report::Changed { counts }))
    }

    fn close(self, next_seq: Option<u64>) -> Result<(), Fault> {
        let Self {
            path, connection, ..
        } = self;
        let done = || -> rusqlite::Result<()> {
            let Some(next_seq) = next_seq else {
                return Ok(());
            };
            if transaction::counts(&connection)?.rows == 0 {
                transaction::give_back(&connection, VACUUM)?;
            }
            patiently(|| transaction::end(&connection, next_seq))
        };
        let done = done();
        if done.is_err() {
            std::mem::forget(connection);
        } else {
            // The log stays if this fails, and is read next time.
            let _ = connection.close();
        }
        done.map_err(|e| file::broken(&path, &e))
        // The lock goes last: whoever takes it finds everything written.
    }
}
