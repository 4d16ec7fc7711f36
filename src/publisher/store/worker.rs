//! The store's thread: carries out requests, watches the files and what other processes write, and
//! takes over when the process that drained has ended.

use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use log::info;
use rusqlite::Connection;

use super::change_watcher::{ChangeWatcher, FALLBACK_INTERVAL, Wait, WakeUp, announce_commit};
use super::copy_detection::FileLocation;
use super::counters::Counters;
use super::delegated_outcomes;
use super::disk_reserve::{DiskSpace, stored_size};
use super::drain_lock::DrainLock;
use super::files::read_identity_and_stamp;
use super::log_length::LogLength;
use super::open::OpenQueue;
use super::overwrite_detection::OverwriteDetector;
use super::queue_faults;
use super::rows::{self, LastValues};
use super::sqlite::{self, CheckpointMode, corrupt, is_full, retry_while_busy};
use super::transaction;
use super::watched_files::{FileGone, WatchedFiles};
use crate::common::fault::Fault;
use crate::common::runtime::clock::instant_now;
use crate::common::runtime::timed_receive::receive_within;
use crate::publisher::queue::store_requests::{
    OpenedQueue, RowId, StoreRequest, StoreResult, WriteBatch,
};

/// The shortest time between two looks at the file, and how often to look where changes are not reported.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const CHECK_FILES_INTERVAL: Duration = Duration::from_millis(400);
/// A short run is polled for: the kernel takes some 15 ms to end the reports of changes.
const WATCH_DELAY: Duration = Duration::from_secs(1);
/// When to look again after a report: the kernel reports that a process has closed the lock, and then releases it;
/// that a file is removed, and then removes its name. Also for the first reports, since a process that only looks at
/// the lock holds it for a moment.
const LOOK_DELAYS: [Duration; 2] = [POLL_INTERVAL, Duration::from_millis(400)];
const DISK_FULL_RETRY: Duration = Duration::from_secs(1);

/// A log of this length, in bytes of database pages, is copied into the file if the last copy is [`COPY_INTERVAL`] ago.
/// As long as the log grows, each sync costs the file system more than a sync of one that is written again from its start.
/// At full speed fewer copies are faster.
const SHORT_LOG: u64 = 256 << 10;
const COPY_INTERVAL: Duration = Duration::from_secs(10);

const FORGET_OUTCOMES_INTERVAL: Duration = Duration::from_secs(60);

/// The most free pages that are returned to the disk at the end of a run, so that it takes no time: 16 MiB of a new file.
const VACUUM_PAGES: u32 = 16_384;

pub(super) struct StoreWorker {
    path: PathBuf,
    /// The path that the user gave.
    given: PathBuf,
    /// Closed only where the file is sound: closing syncs, and after a failed sync a second one may
    /// report success for what is lost. It also removes the file that has the name of the log.
    connection: ManuallyDrop<Connection>,
    lock: DrainLock,
    drains: bool,
    owner: String,
    stream: String,
    data_version: i64,
    log: LogLength,
    copied_at: Instant,
    /// Whether the length of the log is unknown: others may have written to it, or it could not be copied.
    is_log_unknown: bool,
    space: Option<DiskSpace>,
    /// None at first, and where the system reports no changes.
    watcher: Option<ChangeWatcher>,
    watch_at: Option<Instant>,
    wake_up: Option<WakeUp>,
    /// Whether a change has been reported since the last look.
    is_changed: bool,
    polled_at: Instant,
    poll_at: Instant,
    /// How many of [`LOOK_DELAYS`] are over.
    look_delays_over: usize,
    /// Whether something was committed that matters to other processes.
    has_committed: bool,
    take_over_at: Instant,
    checkpoint_at: Instant,
    forget_at: Instant,
    check_files_at: Instant,
    taken_over: Option<u64>,
    pub(super) files: Arc<WatchedFiles>,
    overwrites: OverwriteDetector,
    gone: bool,
    is_connected: bool,
}

enum RequestError {
    Sqlite(rusqlite::Error),
    FileGone(FileGone),
}

impl From<rusqlite::Error> for RequestError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl StoreWorker {
    pub(super) fn new(
        path: &Path,
        given: &Path,
        open: OpenQueue,
        owner: &str,
        stream: &str,
    ) -> Result<(Self, OpenedQueue), Fault> {
        let now = instant_now();
        let failed = |e: rusqlite::Error| queue_faults::damage_or_write_error(path, &e);
        let mut connection = ManuallyDrop::new(open.connection);
        let stamp = read_identity_and_stamp(path).map(|(_, stamp)| stamp);
        let opened = if open.drains {
            become_drainer(path, &mut connection, &open.lock, owner, stream)
        } else {
            retry_while_busy(|| Ok(Counters::read(&connection)?.to_opened(false)))
        };
        let opened = opened.map_err(failed)?;
        // The log exists since the first transaction.
        let files = WatchedFiles::new(path, given, open.identity).map_err(|e| {
            queue_faults::cannot_open(path, &e.to_string()).with_remedy("try again")
        })?;
        let overwrites = retry_while_busy(|| OverwriteDetector::new(&connection, stamp, now));
        let log = LogLength::of(&mut connection).map_err(failed)?;
        let worker = Self {
            path: path.to_owned(),
            given: given.to_owned(),
            connection,
            lock: open.lock,
            drains: open.drains,
            owner: owner.to_owned(),
            stream: stream.to_owned(),
            data_version: 0,
            log,
            copied_at: now,
            is_log_unknown: true,
            space: DiskSpace::of(path),
            watcher: None,
            watch_at: Some(now + WATCH_DELAY),
            wake_up: WakeUp::new().ok(),
            is_changed: false,
            polled_at: now,
            poll_at: now,
            look_delays_over: 0,
            has_committed: false,
            take_over_at: now,
            checkpoint_at: now,
            forget_at: now + FORGET_OUTCOMES_INTERVAL,
            check_files_at: now,
            taken_over: None,
            files: Arc::new(files),
            overwrites: overwrites.map_err(failed)?,
            gone: false,
            is_connected: false,
        };
        Ok((worker, opened))
    }

    pub(super) fn wake_up(&self) -> Option<WakeUp> {
        self.wake_up.clone()
    }

    pub(super) fn run(mut self, inbox: &Receiver<StoreRequest>, notify: &impl Fn(StoreResult)) {
        loop {
            let done = match self.wait(inbox) {
                Wait::Request(StoreRequest::Close { next_seq }) => {
                    return self.close(next_seq, notify);
                }
                Wait::Request(request) => {
                    let result = self.handle(request);
                    result.map(|result| result.into_iter().for_each(notify))
                }
                Wait::Changed => {
                    self.is_changed = true;
                    self.poll_at = self.poll_at.min(self.polled_at + POLL_INTERVAL);
                    Ok(())
                }
                Wait::Timeout => self.poll_file(notify).map_err(RequestError::from),
                Wait::Disconnected => {
                    return drop(ManuallyDrop::into_inner(self.connection));
                }
            };
            if std::mem::take(&mut self.has_committed) {
                announce_commit(&self.path);
            }
            if let Err(error) = done.and_then(|()| self.maintain()) {
                if !self.report_error(error, notify) {
                    return;
                }
                self.gone = true;
            }
        }
    }

    fn wait(&self, inbox: &Receiver<StoreRequest>) -> Wait {
        if let Some(watcher) = self.watcher.as_ref().filter(|_| !self.gone) {
            return watcher.wait(inbox, self.poll_at, !self.is_changed);
        }
        let within = self.poll_at.saturating_duration_since(instant_now());
        match receive_within(inbox, within) {
            Ok(request) => Wait::Request(request),
            Err(RecvTimeoutError::Timeout) => Wait::Timeout,
            Err(RecvTimeoutError::Disconnected) => Wait::Disconnected,
        }
    }

    /// Whether the cause is that the file is gone, which also leads to errors of SQLite.
    fn report_error(&mut self, mut error: RequestError, notify: &impl Fn(StoreResult)) -> bool {
        if matches!(error, RequestError::Sqlite(_))
            && !self.gone
            && let Err(cause @ RequestError::FileGone(_)) = self.check_file_overwritten()
        {
            error = cause;
        }
        let (result, gone) = match error {
            RequestError::Sqlite(error) => {
                let fault = queue_faults::write_error(&self.path, &error);
                (StoreResult::Failed(fault), false)
            }
            RequestError::FileGone(FileGone { fault, exists }) => {
                (StoreResult::FileMissing { fault, exists }, true)
            }
        };
        notify(result);
        gone
    }

    /// A result is passed on only after this. A large file is not read each time it has changed.
    fn check_file(&mut self) -> Result<(), RequestError> {
        if self.overwrites.is_due(instant_now()) {
            return self.check_file_overwritten();
        }
        self.files.check().map_err(RequestError::FileGone)
    }

    fn check_file_overwritten(&mut self) -> Result<(), RequestError> {
        self.files.check().map_err(RequestError::FileGone)?;
        let (stamp, connection) = (self.files.file_stamp(), &mut self.connection);
        if self.overwrites.stamp == stamp
            || self
                .overwrites
                .check_content(&self.path, connection, stamp, instant_now)?
        {
            return Ok(());
        }
        Err(RequestError::FileGone(self.files.overwritten_error()))
    }

    /// `false` if there is no space.
    fn checkpoint(&mut self, mode: CheckpointMode) -> Result<bool, RequestError> {
        self.check_file()?;
        let unchanged = self.overwrites.stamp == self.files.file_stamp();
        let done = sqlite::checkpoint(&self.connection, mode);
        self.log.forget();
        self.is_log_unknown |= !matches!(done, Ok(true));
        self.copied_at = instant_now();
        // What others wrote before still has to be checked.
        if unchanged {
            self.overwrites.stamp = self.files.file_stamp();
        }
        Ok(done?)
    }

    fn handle(&mut self, request: StoreRequest) -> Result<Option<StoreResult>, RequestError> {
        Ok(Some(match request {
            StoreRequest::Load { after, rows, bytes } => {
                retry_while_busy(|| self.load(after, rows, bytes))?
            }
            // A file that is gone can only be read, so that the rest of it is sent.
            _ if self.gone => return Ok(None),
            StoreRequest::Commit(batch) => {
                let result = self.commit(batch)?;
                self.check_file()?;
                result
            }
            StoreRequest::AskOutcomes { numbered } => {
                let (connection, owner) = (&mut self.connection, &self.owner);
                retry_while_busy(|| delegated_outcomes::read(connection, owner, numbered))?
            }
            StoreRequest::RecordConnected(is_connected) => {
                self.is_connected = is_connected;
                if self.drains {
                    self.lock.write_connected(is_connected);
                }
                return Ok(None);
            }
            // `run` closes.
            StoreRequest::Close { .. } => return Ok(None),
        }))
    }

    fn commit(&mut self, batch: WriteBatch) -> Result<StoreResult, RequestError> {
        if let Some(why) = self.find_shortage(&batch)? {
            return self.handle_disk_full(batch, &why);
        }
        let (connection, owner, drains) = (&mut self.connection, &self.owner, self.drains);
        match retry_while_busy(|| transaction::write_batch(connection, &batch, owner, drains)) {
            Err(error) if is_full(&error) => self.handle_disk_full(batch, &error.to_string()),
            done => {
                let result = done?;
                self.has_committed = true;
                if let StoreResult::Committed { ids, .. } = &result
                    && let Some(row) = ids.last()
                {
                    self.overwrites.handle_inserted(*row);
                }
                Ok(result)
            }
        }
    }

    fn find_shortage(&mut self, batch: &WriteBatch) -> Result<Option<String>, RequestError> {
        let sizes = batch.inserts.iter().map(|m| m.draft.content_size());
        let bytes = sizes.map(stored_size).sum();
        let shortage = |space: Option<DiskSpace>, free| space?.shortage_reason(bytes, free);
        if batch.inserts.is_empty() || shortage(self.space, 0).is_none() {
            return Ok(None);
        }
        // Is it enough with the space of the log, and with what is free in the file?
        self.checkpoint(CheckpointMode::Truncate)?;
        self.space = DiskSpace::of(&self.path);
        Ok(shortage(self.space, sqlite::free_bytes(&self.connection)?))
    }

    fn handle_disk_full(
        &mut self,
        batch: WriteBatch,
        why: &str,
    ) -> Result<StoreResult, RequestError> {
        // Frees the space of the log, so that rows can be deleted.
        self.checkpoint(CheckpointMode::Truncate)?;
        let why = format!("{}: {why}", self.path.display());
        Ok(StoreResult::DiskFull { batch, why })
    }

    fn maintain(&mut self) -> Result<(), RequestError> {
        let now = instant_now();
        if self.gone {
            return Ok(());
        }
        if now >= self.check_files_at {
            self.check_files_at = now + self.interval(CHECK_FILES_INTERVAL);
            self.check_file()?;
            if self.overwrites.stamp != self.files.file_stamp() {
                // Too early to read the file again.
                self.check_files_at = self.check_files_at.min(self.overwrites.due);
                self.poll_at = self.poll_at.min(self.check_files_at);
            }
        }
        if now < self.checkpoint_at {
            return Ok(());
        }
        self.space = DiskSpace::of(&self.path);
        let mut max_log = self.space.map_or(u64::MAX, DiskSpace::max_log);
        if now >= self.copied_at + COPY_INTERVAL {
            max_log = max_log.min(SHORT_LOG);
        }
        if std::mem::take(&mut self.is_log_unknown) || self.log.is_long(max_log) {
            self.log.measure(&self.connection)?;
        }
        if self.log.is_long(max_log) && !self.checkpoint(CheckpointMode::Copy)? {
            self.checkpoint_at = now + DISK_FULL_RETRY;
            self.poll_at = self.poll_at.min(self.checkpoint_at);
        }
        if self.drains && now >= self.forget_at {
            self.forget_at = now + FORGET_OUTCOMES_INTERVAL;
            match retry_while_busy(|| transaction::delete_old_outcomes(&self.connection)) {
                Err(e) if is_full(&e) => {}
                done => done?,
            }
        }
        Ok(())
    }

    fn load(&mut self, after: RowId, rows: usize, bytes: u64) -> rusqlite::Result<StoreResult> {
        let mut found = Vec::new();
        let mut damaged = Vec::new();
        let mut last = None;
        // Rows and counters have to be of one time.
        let transaction = self.connection.transaction()?;
        {
            let mut statement = transaction.prepare_cached(&format!(
                "SELECT {} FROM queue WHERE id > ?1 ORDER BY id",
                rows::COLUMNS
            ))?;
            // Without LIMIT: SQLite plans with its value, and would compile the statement again for each portion.
            let mut found_rows = statement.query([after])?;
            let mut values = LastValues::default();
            let mut size = 0;
            while found.len() + damaged.len() < rows
                && size < bytes
                && let Some(row) = found_rows.next()?
            {
                let read = rows::read_row(row, &mut values)?;
                let id = *read.as_ref().map_or_else(|id| id, |stored| &stored.row);
                if id <= last.unwrap_or(after) {
                    return Err(corrupt(format!("row {id} is not where it belongs")));
                }
                last = Some(id);
                match read {
                    Ok(row) => {
                        size += row.message.draft.content_size();
                        found.push(row);
                    }
                    Err(id) => damaged.push(id),
                }
            }
        }
        let mut counts = Counters::read(&transaction)?.counts();
        transaction.finish()?;
        if after == 0 && last.is_none() && counts.rows > 0 {
            return Err(corrupt(format!("{} messages are missing", counts.rows)));
        }
        if !damaged.is_empty() && !self.gone {
            let (connection, owner) = (&mut self.connection, &self.owner);
            counts = retry_while_busy(|| transaction::bury_damaged(connection, &damaged, owner))?;
            self.has_committed = true;
        }
        Ok(StoreResult::Loaded {
            rows: found,
            last,
            damaged: damaged.len(),
            counts,
        })
    }

    fn poll_file(&mut self, notify: &impl Fn(StoreResult)) -> rusqlite::Result<()> {
        if self.gone {
            self.poll_at += FORGET_OUTCOMES_INTERVAL;
            return Ok(());
        }
        let now = instant_now();
        if self.watch_at.is_some_and(|at| now >= at) {
            self.start_watching();
        }
        self.schedule_next_look(now);
        if !self.drains && now >= self.take_over_at && self.lock.try_take().unwrap_or(false) {
            return self.take_over_draining(now, notify);
        }
        let connection = &self.connection;
        let read = || connection.pragma_query_value(None, "data_version", |row| row.get(0));
        let version = retry_while_busy(read)?;
        if std::mem::replace(&mut self.data_version, version) != version {
            self.is_log_unknown = true;
            let counts = retry_while_busy(|| Counters::read(connection))?.counts();
            notify(StoreResult::Changed { counts });
        }
        Ok(())
    }

    /// What happened before is noticed by the look that follows.
    fn start_watching(&mut self) {
        self.watch_at = None;
        let Some(wake_up) = self.wake_up.clone() else {
            return;
        };
        match ChangeWatcher::new(&self.path, &self.given, wake_up) {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(cause) => {
                let path = self.path.display();
                info!(
                    "{path}: changes are polled for, because the system does not report them: {cause}"
                );
            }
        }
    }

    fn schedule_next_look(&mut self, now: Instant) {
        self.polled_at = now;
        self.poll_at = now + self.interval(POLL_INTERVAL);
        self.is_changed = false;
        let Some(watcher) = &self.watcher else { return };
        let changes = watcher.take_changes();
        if changes.files || changes.committed && !self.drains {
            self.look_delays_over = 0;
        }
        if changes.files || !changes.committed {
            self.check_files_at = now;
        }
        if let Some(delay) = LOOK_DELAYS.get(self.look_delays_over) {
            self.look_delays_over += 1;
            self.poll_at = now + *delay;
        }
        let take_over_at = (!self.drains).then_some(self.take_over_at);
        let due = [self.checkpoint_at, self.check_files_at].into_iter();
        let due = due.chain(take_over_at).filter(|due| *due > now);
        if let Some(due) = due.min() {
            self.poll_at = self.poll_at.min(due.max(now + POLL_INTERVAL));
        }
    }

    /// `polling` where the system does not report changes.
    fn interval(&self, polling: Duration) -> Duration {
        if self.watcher.is_some() {
            FALLBACK_INTERVAL
        } else {
            polling
        }
    }

    /// The process that drained has ended, so the outcomes of our rows are final.
    fn take_over_draining(
        &mut self,
        now: Instant,
        notify: &impl Fn(StoreResult),
    ) -> rusqlite::Result<()> {
        let (owner, stream) = (&self.owner, &self.stream);
        let connection = &mut self.connection;
        let outcomes = retry_while_busy(|| delegated_outcomes::read(connection, owner, 0))?;
        match become_drainer(&self.path, &mut self.connection, &self.lock, owner, stream) {
            Ok(opened) => {
                self.drains = true;
                self.lock.write_connected(self.is_connected);
                self.taken_over = Some(opened.next_seq);
                notify(outcomes);
                notify(StoreResult::TookOver(opened));
            }
            Err(e) if is_full(&e) => {
                self.take_over_at = now + DISK_FULL_RETRY;
                self.poll_at = self.poll_at.min(self.take_over_at);
                // If this fails, the lock is still ours at the next attempt.
                let _ = self.lock.release();
                // For the other processes, which may have the space.
                self.has_committed = true;
                notify(outcomes);
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn prepare_close(&mut self, next_seq: Option<u64>) -> Result<(), RequestError> {
        if let Some(next_seq) = next_seq {
            self.check_file_overwritten()?;
            let mut stop = |pages| {
                let connection = &mut self.connection;
                retry_while_busy(|| transaction::record_drain_end(connection, next_seq, pages))
            };
            match stop(VACUUM_PAGES) {
                // Returning space to the disk takes some space itself.
                Err(e) if is_full(&e) => stop(0)?,
                done => done?,
            }
            self.checkpoint(CheckpointMode::Copy)?;
        }
        self.check_file_overwritten()
    }

    fn close(mut self, next_seq: Option<u64>, notify: &impl Fn(StoreResult)) {
        if self.gone {
            return notify(StoreResult::Closed);
        }
        // The queue may not know yet that it was taken over.
        let next_seq = next_seq.or(self.taken_over);
        if let Err(error) = self.prepare_close(next_seq) {
            if self.report_error(error, notify) {
                notify(StoreResult::Closed);
            }
            return;
        }
        // With nothing in the log, closing does not sync. If other processes use the file, the log stays.
        let _ = ManuallyDrop::into_inner(self.connection).close();
        if let Some(next_seq) = next_seq {
            self.lock.write_next_seq(next_seq);
        }
        // Last: the next process finds everything written.
        drop(self.lock);
        notify(StoreResult::Closed);
    }
}

fn become_drainer(
    path: &Path,
    connection: &mut Connection,
    lock: &DrainLock,
    owner: &str,
    stream: &str,
) -> rusqlite::Result<OpenedQueue> {
    let location = FileLocation::of(path, lock.read_copy_detection_note());
    let started =
        retry_while_busy(|| transaction::record_drain_start(connection, stream, owner, &location))?;
    lock.write_copy_detection_note(&started.token);
    if started.copied {
        let path = path.display();
        info!("{path}: the file was copied, moved or put back: a new stream begins");
    }
    Ok(started.opened)
}

#[cfg(test)]
mod tests;
