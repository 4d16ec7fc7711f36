//! The durable queue's file. The only module that uses `rusqlite`.
//!
//! **Promise**: a message whose insert was reported as committed is on disk. It leaves the file only when it is
//! delivered, dropped, expired or removed by the user, or it becomes a dead letter; never because of a crash, a power
//! cut, a full disk or another process. Damage is detected and reported, never repaired silently.
//!
//! Why this holds:
//! * Each request is one transaction in SQLite's write-ahead log with `synchronous=FULL`, and its result is sent after
//!   the sync. After an error nothing more is written, and the file is not closed, because a second sync may report
//!   success for what the first one lost (`worker`).
//! * SQLite has no checksums in the file and silently ends a damaged log. So messages (`rows`) and `counters` have
//!   checksums, and the log is checked before it is read (`wal_damage`).
//! * A file that was removed, moved (`watched_files`) or written to by another program (`overwrite_detection`) is
//!   noticed before a result is reported.
//! * One process drains, by a lock (`drain_lock`); others add to the file. No sequence number is given twice, not even
//!   by a copy of the file (`copy_detection`).
//! * A reserve of disk space is kept, so that a queue on a full disk can drain (`disk_reserve`).
//!
//! [`StoreThread`] stands for the thread that owns the connection, so that a slow disk delays neither the event loop
//! nor the MQTT connection. Requests go there through a channel; results come back in their order through a function.
//! What to write and when is decided in `publisher::queue`. [`reader`] and [`queue_maintenance`] are for `publisher
//! queue`.

mod change_watcher;
mod copy_detection;
mod counters;
mod delegated_outcomes;
mod disk_reserve;
mod drain_lock;
mod files;
mod log_length;
mod open;
mod overwrite_detection;
pub mod paging;
mod queue_faults;
pub mod queue_maintenance;
pub mod reader;
mod rows;
mod schema;
mod sqlite;
pub mod totals;
mod transaction;
mod wal_damage;
mod watched_files;
mod worker;

use std::cell::Cell;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use self::change_watcher::WakeUp;
use self::watched_files::WatchedFiles;
use self::worker::StoreWorker;
use super::queue::store_requests::{OpenedQueue, StoreRequest, StoreResult};
use crate::common::fault::Fault;
use crate::common::runtime::affinity;

pub struct QueueFile {
    worker: StoreWorker,
    pub opened: OpenedQueue,
}

impl QueueFile {
    /// Creates the file if there is none. `owner` is unique to this process; `stream` is the name of a
    /// new stream, should one begin.
    pub fn open(given: &Path, owner: &str, stream: &str) -> Result<Self, Fault> {
        let path = files::resolve(given)?;
        let open = open::open_or_create(&path, stream)?;
        let (worker, opened) = StoreWorker::new(&path, given, open, owner, stream)?;
        Ok(Self { worker, opened })
    }

    /// `notify` receives each result and must not block.
    pub fn start(
        self,
        notify: impl Fn(StoreResult) + Send + 'static,
    ) -> std::io::Result<StoreThread> {
        let (requests, inbox) = mpsc::channel();
        let files = Arc::clone(&self.worker.files);
        let wake_up = self.worker.wake_up();
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                affinity::unpin();
                self.worker.run(&inbox, &notify);
            })?;
        Ok(StoreThread {
            requests,
            wake_up,
            files,
            recorded: Cell::new(None),
        })
    }
}

#[derive(Clone, Debug)]
pub struct StoreThread {
    requests: Sender<StoreRequest>,
    /// Dropped after the sender, and so the thread notices that there is none any more.
    wake_up: Option<WakeUp>,
    files: Arc<WatchedFiles>,
    /// The last state of the connection that was recorded.
    recorded: Cell<Option<bool>>,
}

impl StoreThread {
    /// Records whether there is a connection, if that has changed.
    pub fn record_connected(&self, is_connected: bool) {
        if self.recorded.replace(Some(is_connected)) != Some(is_connected) {
            self.send_request(StoreRequest::RecordConnected(is_connected));
        }
    }

    pub fn send_request(&self, request: StoreRequest) {
        // The thread has ended only after a failure that it has reported.
        let _ = self.requests.send(request);
        if let Some(wake_up) = &self.wake_up {
            wake_up.wake();
        }
    }

    /// Also once the thread has closed the file.
    pub fn is_in_place(&self) -> bool {
        self.files.is_in_place()
    }

    /// The fault of a file that no later run will find. Only for one that is not closed in the end, because it was missing:
    /// SQLite removes the log of a file that it closes.
    pub fn find_removal(&self) -> Option<Fault> {
        let gone = self.files.check().err().filter(|gone| !gone.exists)?;
        Some(gone.fault)
    }
}
