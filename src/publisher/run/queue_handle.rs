//! Where messages wait: in memory, or in a file that outlives the process. Opens it, and
//! carries the queue's orders to the store.

use std::io;
use std::time::Instant;

use crate::common::fault::Fault;
use crate::common::random;
use crate::publisher::config::Config;
use crate::publisher::outbox::Outbox;
use crate::publisher::queue::Queue;
use crate::publisher::queue::durable::DurableQueue;
use crate::publisher::queue::memory::MemoryQueue;
use crate::publisher::queue::requests::StoreResult;
use crate::publisher::store::{QueueFile, Store};

/// The store, if there is one.
#[derive(Debug)]
pub struct Keeper {
    store: Option<Store>,
}

/// What was opened, before the store's thread starts.
pub struct Opening {
    file: Option<QueueFile>,
    queue: Box<dyn Queue>,
}

impl Opening {
    /// Opens the queue that the configuration asks for.
    ///
    /// # Errors
    ///
    /// A fault that names the file, the cause and the remedy.
    pub fn new(config: &Config) -> Result<Self, Fault> {
        let Some(path) = &config.queue else {
            let queue = MemoryQueue::new(config.limits, random::identifier()?.into());
            return Ok(Self {
                file: None,
                queue: Box::new(queue),
            });
        };
        let file = QueueFile::open(path, &random::identifier()?, &random::identifier()?)?;
        let queue = DurableQueue::new(config.limits, file.opened.clone());
        Ok(Self {
            file: Some(file),
            queue: Box::new(queue),
        })
    }

    /// Starts the store. `notify` hands its reports to the event loop.
    ///
    /// # Errors
    ///
    /// The operating system's, if there are no more threads to be had.
    pub fn start(
        self,
        notify: impl Fn(StoreResult) + Send + 'static,
    ) -> io::Result<(Keeper, Box<dyn Queue>)> {
        let store = self.file.map(|file| file.start(notify)).transpose()?;
        Ok((Keeper { store }, self.queue))
    }
}

impl Keeper {
    /// Hands over what is to be done now.
    pub fn carry(&self, outbox: &mut Outbox, now: Instant) {
        if let Some(store) = &self.store {
            while let Some(order) = outbox.queue_mut().order(now) {
                store.request(order);
            }
        }
    }

    /// Whether the queue, if there is one, is still at its name.
    pub fn is_in_place(&self) -> bool {
        self.store.as_ref().is_none_or(Store::is_in_place)
    }

    /// Whether messages outlive the process.
    pub fn is_durable(&self) -> bool {
        self.store.is_some()
    }
}
