//! The store's thread: carries out orders, looks whether another process has written, and
//! takes over when the one that drained has gone.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use ::log::info;
use rusqlite::{Connection, TransactionBehavior};

use super::content::Content;
use super::counters::{Books, corrupt};
use super::file::{self, DrainLock, Open};
use super::home::Home;
use super::presence::{Gone, Presence, Stamp};
use super::rows::{self, uint};
use super::space::{self, Space};
use super::sqlite::{self, Checkpoint, patiently};
use super::transaction;
use crate::common::fault::Fault;
use crate::common::runtime::channel::receive_within;
use crate::common::runtime::clock::clock;
use crate::publisher::queue::requests::{
    Opened, Outcome, RowId, StoreRequest, StoreResult, WriteBatch,
};
use crate::publisher::queue::size;

/// How often to look for what other processes have done.
const LOOK: Duration = Duration::from_millis(50);

/// How often to look whether the file is still at its name.
const LOOK_AT_NAMES: Duration = Duration::from_millis(400);

/// How long a full disk is left alone.
const DISK_RETRY: Duration = Duration::from_secs(1);

/// How often to forget how rows have ended whose owners do not ask any more.
const FORGET: Duration = Duration::from_secs(60);

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
    space: Option<Space>,
    /// When to look for that.
    due: Instant,
    /// Not before then: the disk was full.
    take_over_at: Instant,
    tidy_at: Instant,
    /// When to forget fates.
    forget_at: Instant,
    /// The next number at the time when the queue was taken over.
    taken_over: Option<u64>,
    presence: Arc<Presence>,
    content: Content,
    /// When to look at the names.
    names_at: Instant,
    /// The file is not at its name any more, or not what was written: nothing is written to it. It can still be read.
    gone: bool,
}

/// Why an order was not carried out.
enum Stop {
    Failed(rusqlite::Error),
    Gone(Gone),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error)
    }
}

impl Worker {
    pub(super) fn new(
        path: &Path,
        given: &Path,
        open: Open,
        owner: &str,
        stream: &str,
    ) -> Result<(Self, Opened), Fault> {
        let now = clock();
        let (mut connection, lock, drains) = (open.connection, open.lock, open.drains);
        let stamp = std::fs::metadata(path).ok().map(|file| Stamp::of(&file));
        let opened = if drains {
            begin(path, &mut connection, &lock, owner, stream)
        } else {
            patiently(|| transaction::look(&connection))
        };
        let opened = opened.map_err(|e| file::begin_error(path, &e));
        // From here on its log is there.
        let found = opened.and_then(|opened| {
            let presence = Presence::of(path, given, open.identity);
            let presence = presence.map_err(|e| {
                file::cannot(path, &format!("cannot be opened: {e}")).with_remedy("try again")
            })?;
            let content = patiently(|| Content::of(&connection, stamp, now));
            let content = content.map_err(|e| file::begin_error(path, &e))?;
            Ok((opened, Arc::new(presence), content))
        });
        let (opened, presence, content) = match found {
            Ok(found) => found,
            Err(fault) => {
                leave(connection);
                return Err(fault);
            }
        };
        let worker = Self {
            path: path.to_owned(),
            connection,
            lock,
            drains,
            owner: owner.to_owned(),
            stream: stream.to_owned(),
            data_version: 0,
            space: Space::of(path),
            due: now,
            take_over_at: now,
            tidy_at: now,
            forget_at: now + FORGET,
            taken_over: None,
            presence,
            content,
            names_at: now,
            gone: false,
        };
        Ok((worker, opened))
    }

    pub(super) fn presence(&self) -> Arc<Presence> {
        Arc::clone(&self.presence)
    }

    pub(super) fn run(mut self, inbox: &Receiver<StoreRequest>, notify: &impl Fn(StoreResult)) {
        loop {
            let done = match receive_within(inbox, self.due.saturating_duration_since(clock())) {
                Ok(StoreRequest::Close { next_seq }) => return self.close(next_seq, notify),
                Ok(order) if self.gone => self.read_on(&order, notify),
                Ok(order) => self.carry_out(order).map(notify),
                Err(RecvTimeoutError::Timeout) if self.gone => {
                    self.due += FORGET;
                    Ok(())
                }
                Err(RecvTimeoutError::Timeout) => self.look(notify).map_err(Stop::from),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let done = done.and_then(|()| self.tidy_up());
            // What fails because of that is not the disk's fault.
            let error = match done.map_err(|stop| self.cause(stop)) {
                Ok(()) => continue,
                Err(Stop::Gone(gone)) => {
                    self.gone = true;
                    notify(StoreResult::FileMissing {
                        fault: gone.fault,
                        exists: gone.exists,
                    });
                    continue;
                }
                Err(Stop::Failed(error)) => error,
            };
            notify(StoreResult::Failed(file::broken(&self.path, &error)));
            return leave(self.connection);
        }
    }

    /// An error of a file that is gone is about that.
    fn cause(&mut self, stop: Stop) -> Stop {
        match stop {
            Stop::Failed(error) if !self.gone => match self.in_place_at_last(()) {
                Err(Stop::Gone(gone)) => Stop::Gone(gone),
                _ => Stop::Failed(error),
            },
            stop => stop,
        }
    }

    /// Nothing that was done is reported before the file is known to be where it was.
    fn in_place<T>(&mut self, done: T) -> Result<T, Stop> {
        if let Some(gone) = self.presence.look() {
            return Err(Stop::Gone(gone));
        }
        // With a long queue what others do to the file is looked at now and then only.
        if self.content.is_due(clock()) {
            self.as_written()?;
        }
        Ok(done)
    }

    /// The same, when there is no later.
    fn in_place_at_last<T>(&mut self, done: T) -> Result<T, Stop> {
        if let Some(gone) = self.presence.look() {
            return Err(Stop::Gone(gone));
        }
        self.as_written()?;
        Ok(done)
    }

    /// Reads the file if somebody else has written into it.
    fn as_written(&mut self) -> Result<(), Stop> {
        let stamp = self.presence.stamp();
        if self.content.is_untouched(stamp) {
            return Ok(());
        }
        let connection = &mut self.connection;
        if self.content.examine(&self.path, connection, stamp, clock)? {
            Ok(())
        } else {
            Err(Stop::Gone(self.presence.overwritten()))
        }
    }

    /// Copies the log into a file that is where it was; `false` if there is no space.
    fn checkpoint(&mut self, when: Checkpoint) -> Result<bool, Stop> {
        self.in_place(())?;
        let untouched = self.content.is_untouched(self.presence.stamp());
        let done = sqlite::checkpoint(&self.connection, when);
        // What others have done before is still to be looked at.
        if untouched {
            self.content.has_written(self.presence.stamp());
        }
        Ok(done?)
    }

    fn carry_out(&mut self, order: StoreRequest) -> Result<StoreResult, Stop> {
        match order {
            StoreRequest::Commit(batch) => {
                let report = self.commit(batch)?;
                self.in_place(report)
            }
            StoreRequest::Load { after, rows, bytes } => {
                Ok(patiently(|| self.load(after, rows, bytes))?)
            }
            StoreRequest::AskOutcomes { numbered } => Ok(patiently(|| self.ask(numbered))?),
            // Handled before.
            StoreRequest::Close { .. } => Ok(StoreResult::Closed),
        }
    }

    /// What a file is good for that is gone: the rest of what is in it can be sent.
    fn read_on(&mut self, order: &StoreRequest, notify: &impl Fn(StoreResult)) -> Result<(), Stop> {
        if let StoreRequest::Load { after, rows, bytes } = *order {
            notify(patiently(|| self.load(after, rows, bytes))?);
        }
        Ok(())
    }

    fn commit(&mut self, batch: WriteBatch) -> Result<StoreResult, Stop> {
        if let Some(why) = self.too_little_space(&batch)? {
            return self.full(batch, &why);
        }
        let (connection, owner, drains) = (&mut self.connection, &self.owner, self.drains);
        match patiently(|| transaction::commit(connection, &batch, owner, drains)) {
            Err(error) if sqlite::is_full(&error) => self.full(batch, &error.to_string()),
            done => {
                let report = done?;
                if let StoreResult::Committed { ids, .. } = &report
                    && let Some(row) = ids.last()
                {
                    self.content.has_added(*row);
                }
                Ok(report)
            }
        }
    }

    /// Why there is no space for the inserts of a batch, if there is none.
    fn too_little_space(&mut self, batch: &WriteBatch) -> Result<Option<String>, Stop> {
        let sizes = batch.inserts.iter().map(|message| size(message));
        let bytes = sizes.map(space::on_disk).sum();
        let short = |space: Option<Space>, free| space.and_then(|s| s.too_little_for(bytes, free));
        if batch.inserts.is_empty() || short(self.space, 0).is_none() {
            return Ok(None);
        }
        // With what the log takes, and what is free in the file itself?
        self.checkpoint(Checkpoint::Shrink)?;
        self.space = Space::of(&self.path);
        Ok(short(self.space, sqlite::free(&self.connection)?))
    }

    fn full(&mut self, batch: WriteBatch, why: &str) -> Result<StoreResult, Stop> {
        // Gives back what the log takes, so that deleting rows has somewhere to write.
        self.checkpoint(Checkpoint::Shrink)?;
        let why = format!("{}: {why}", self.path.display());
        Ok(StoreResult::DiskFull { batch, why })
    }

    /// Keeps the log short, and forgets what nobody asks for. After a disk without space for
    /// it, not before a while.
    fn tidy_up(&mut self) -> Result<(), Stop> {
        let now = clock();
        if self.gone {
            return Ok(());
        }
        if now >= self.names_at {
            self.names_at = now + LOOK_AT_NAMES;
            self.in_place(())?;
        }
        if now < self.tidy_at {
            return Ok(());
        }
        self.space = Space::of(&self.path);
        let longest = self.space.map_or(u64::MAX, Space::log_size);
        if sqlite::is_long(&self.connection, longest)? && !self.checkpoint(Checkpoint::Now)? {
            self.tidy_at = now + DISK_RETRY;
        }
        if self.drains && now >= self.forget_at {
            self.forget_at = now + FORGET;
            match patiently(|| transaction::forget_fates(&self.connection)) {
                Err(e) if sqlite::is_full(&e) => {}
                done => done?,
            }
        }
        Ok(())
    }

    fn load(&mut self, after: RowId, rows: usize, bytes: u64) -> rusqlite::Result<StoreResult> {
        let mut found = Vec::new();
        let mut damaged = Vec::new();
        let mut last = None;
        // Rows and counts of one moment.
        let transaction = self.connection.transaction()?;
        {
            let columns = rows::COLUMNS;
            let mut statement = transaction.prepare_cached(&format!(
                "SELECT {columns} FROM queue WHERE id > ?1 ORDER BY id LIMIT ?2"
            ))?;
            let limit = i64::try_from(rows).unwrap_or(i64::MAX);
            let mut rows = statement.query([after, limit])?;
            let mut topic: Arc<str> = Arc::from("");
            let mut size = 0;
            while size < bytes
                && let Some(row) = rows.next()?
            {
                let read = rows::read(row, &mut topic)?;
                let id = *read.as_ref().map_or_else(|id| id, |stored| &stored.row);
                if id <= last.unwrap_or(after) {
                    return Err(corrupt(format!("row {id} is not where it belongs")));
                }
                last = Some(id);
                match read {
                    Ok(row) => {
                        size += row.message.draft.payload.len() as u64;
                        found.push(row);
                    }
                    Err(id) => damaged.push(id),
                }
            }
        }
        let mut counts = Books::read(&transaction)?.counts();
        transaction.finish()?;
        if after == 0 && last.is_none() && counts.rows > 0 {
            return Err(corrupt(format!("{} messages are missing", counts.rows)));
        }
        if !damaged.is_empty() && !self.gone {
            let (connection, owner) = (&mut self.connection, &self.owner);
            counts = patiently(|| transaction::bury_damaged(connection, &damaged, owner))?;
        }
        Ok(StoreResult::Loaded {
            rows: found,
            last,
            damaged: damaged.len(),
            counts,
        })
    }

    fn ask(&mut self, numbered: RowId) -> rusqlite::Result<StoreResult> {
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
                    1 => Outcome::DROPPED_ELSEWHERE,
                    2 => Outcome::Expired,
                    3 => Outcome::Dead(reason.unwrap_or_default()),
                    _ => Outcome::Delivered,
                };
                Ok((row.get(0)?, uint(row.get(1)?), end))
            })?
            .collect::<Result<Vec<(RowId, u64, Outcome)>, _>>()?;
        let oldest = transaction
            .prepare_cached("SELECT min(id) FROM queue WHERE owner = ?1")?
            .query_row([&self.owner], |row| row.get(0))?;
        transaction.finish()?;
        if !ends.is_empty() {
            match self.forget(&ends) {
                // It is read again, and told once all the same.
                Err(e) if sqlite::is_full(&e) || sqlite::is_busy(&e) => {}
                done => done?,
            }
        }
        Ok(StoreResult::Outcomes {
            numbered,
            ends,
            oldest,
        })
    }

    /// Takes fates off the file that have been read, and no others: one that is written at this
    /// moment may be of a row before them.
    fn forget(&mut self, read: &[(RowId, u64, Outcome)]) -> rusqlite::Result<()> {
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        for (row, ..) in read {
            transaction
                .prepare_cached("DELETE FROM fate WHERE id = ?1")?
                .execute([row])?;
        }
        transaction.commit()
    }

    /// Looks for what other processes have done.
    fn look(&mut self, notify: &impl Fn(StoreResult)) -> rusqlite::Result<()> {
        let now = clock();
        self.due = now + LOOK;
        if !self.drains && now >= self.take_over_at && self.lock.try_take().unwrap_or(false) {
            // Whoever drained has gone. What it has done to our rows is known for good now.
            let answer = patiently(|| self.ask(0))?;
            self.drains = true;
            let (owner, stream) = (&self.owner, &self.stream);
            match begin(&self.path, &mut self.connection, &self.lock, owner, stream) {
                Ok(opened) => {
                    self.taken_over = Some(opened.next_seq);
                    notify(answer);
                    notify(StoreResult::TookOver(opened));
                }
                Err(e) if sqlite::is_full(&e) => {
                    self.drains = false;
                    self.take_over_at = now + DISK_RETRY;
                    // Should this fail, it is ours all the same at the next look.
                    let _ = self.lock.give_back();
                    notify(answer);
                }
                Err(e) => return Err(e),
            }
            return Ok(());
        }
        let connection = &self.connection;
        let version =
            patiently(|| connection.pragma_query_value(None, "data_version", |row| row.get(0)))?;
        if std::mem::replace(&mut self.data_version, version) != version {
            let counts = patiently(|| Books::read(&self.connection))?.counts();
            notify(StoreResult::Changed { counts });
        }
        Ok(())
    }

    /// Writes the end of a run in order, if this one drains.
    fn end(&mut self, next_seq: Option<u64>) -> Result<(), Stop> {
        if let Some(next_seq) = next_seq {
            self.in_place_at_last(())?;
            let connection = &mut self.connection;
            match patiently(|| transaction::end(connection, next_seq, VACUUM)) {
                // Giving pages back takes some itself.
                Err(e) if sqlite::is_full(&e) => {
                    patiently(|| transaction::end(connection, next_seq, 0))?;
                }
                done => done?,
            }
            self.checkpoint(Checkpoint::Now)?;
        }
        self.in_place_at_last(())
    }

    fn close(mut self, next_seq: Option<u64>, notify: &impl Fn(StoreResult)) {
        if self.gone {
            notify(StoreResult::Closed);
            return leave(self.connection);
        }
        // One that was taken over at the very end was given back as it was.
        let next_seq = next_seq.or(self.taken_over);
        let done = self.end(next_seq);
        match done.map_err(|stop| self.cause(stop)) {
            Ok(()) => {
                // With nothing in the log there is nothing left to sync. If others use the file, it
                // stays theirs.
                let _ = self.connection.close();
                if let Some(next_seq) = next_seq {
                    self.lock.end_note(next_seq);
                }
                // The lock goes last: whoever takes it finds everything written.
                drop(self.lock);
                return notify(StoreResult::Closed);
            }
            Err(Stop::Gone(gone)) => {
                notify(StoreResult::FileMissing {
                    fault: gone.fault,
                    exists: gone.exists,
                });
                notify(StoreResult::Closed);
            }
            Err(Stop::Failed(error)) => {
                notify(StoreResult::Failed(file::broken(&self.path, &error)));
            }
        }
        leave(self.connection);
    }
}

/// Begins to drain the queue.
fn begin(
    path: &Path,
    connection: &mut Connection,
    lock: &DrainLock,
    owner: &str,
    stream: &str,
) -> rusqlite::Result<Opened> {
    let home = Home::of(path, lock.note());
    let begin = || transaction::begin(connection, stream, &home, owner);
    let (opened, token, moved) = patiently(begin)?;
    lock.begin_note(&token);
    if moved {
        info!(
            "{}: the file was copied, moved or put back: a new stream begins",
            path.display()
        );
    }
    Ok(opened)
}

/// Leaves the file as it is. Closing the connection would sync it again, and after a failed sync a
/// second one may claim success for what is lost; and it would remove what has the name of its log.
fn leave(connection: Connection) {
    std::mem::forget(connection);
}
