//! The store: the queue on disk. The only room that names `rusqlite`.
//!
//! [`Store`] is a handle to a worker thread that owns the connection to the file, so that a
//! slow disk stops neither the event loop nor the MQTT connection. Orders go to it through a
//! channel, reports come back through a function given at the start, in the order of the
//! requests. What to write and when is decided in `common::queue`.
//!
//! * `schema` is what is in the file; `rows` a message as a row, `books` how many there are;
//! * `file` finds, makes, locks and opens it; `log` looks at its write-ahead log; `home` says where it lives;
//! * `sqlite` knows its errors and empties its log; `transaction` carries out a batch; `space` says whether the disk has room for it;
//! * `kind` says whether a file is a queue at all; `presence` whether it is still at its name, `content` whether it
//!   still holds what was written;
//! * `worker` is the thread;
//! * [`look`] and [`admin`] are for `publisher queue`: a file looked at, and mended, from outside; `pages` are
//!   what they read, [`status`] what they count.

pub mod admin;
mod content;
mod counters;
mod file;
mod home;
mod kind;
mod log;
pub mod look;
pub mod pages;
mod presence;
mod rows;
mod schema;
mod space;
mod sqlite;
pub mod status;
mod transaction;
mod worker;

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use super::queue::requests::{Opened, StoreRequest, StoreResult};
use crate::common::fault::Fault;

/// A queue file that is open, before its worker starts.
pub struct File {
    worker: worker::Worker,
    /// What was found in it.
    pub opened: Opened,
}

impl File {
    /// Opens the queue, or makes it. `owner` is a name that no other process has; `stream`
    /// is one for a new stream, should there have to be one.
    ///
    /// # Errors
    ///
    /// A fault that names the file, the cause and the remedy.
    pub fn open(path: &Path, owner: &str, stream: &str) -> Result<Self, Fault> {
        let given = path;
        let path = file::resolve(given)?;
        let open = file::open(&path, stream)?;
        let (worker, opened) = worker::Worker::new(&path, given, open, owner, stream)?;
        Ok(Self { worker, opened })
    }

    /// Starts the worker. `notify` hands each report over and must not block.
    ///
    /// # Errors
    ///
    /// The operating system's, if there are no more threads to be had.
    pub fn start(self, notify: impl Fn(StoreResult) + Send + 'static) -> std::io::Result<Store> {
        let (requests, inbox) = mpsc::channel();
        let presence = self.worker.presence();
        std::thread::Builder::new()
            .name("store".into())
            .spawn(move || {
                crate::common::runtime::affinity::unpin();
                self.worker.run(&inbox, &notify);
            })?;
        Ok(Store { requests, presence })
    }
}

/// A handle to the worker.
#[derive(Clone, Debug)]
pub struct Store {
    requests: Sender<StoreRequest>,
    presence: Arc<presence::Presence>,
}

impl Store {
    /// Hands an order over.
    pub fn request(&self, request: StoreRequest) {
        // The worker lives as long as the process; without it there is nobody to tell.
        let _ = self.requests.send(request);
    }

    /// Whether the file is still at its name. The worker tells sooner, but not once it is closed.
    pub fn is_in_place(&self) -> bool {
        self.presence.is_in_place()
    }
}
