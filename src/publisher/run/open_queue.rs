//! Opens the queue of a run: in memory, or in a file.

use crate::common::fault::Fault;
use crate::common::runtime::random;
use crate::publisher::config::Config;
use crate::publisher::queue::Queue;
use crate::publisher::queue::durable::DurableQueue;
use crate::publisher::queue::memory::MemoryQueue;
use crate::publisher::store::QueueFile;

pub(super) fn open_queue(config: &Config) -> Result<(Option<QueueFile>, Box<dyn Queue>), Fault> {
    let Some(path) = &config.queue else {
        let queue = MemoryQueue::new(config.limits, random::identifier()?.into());
        return Ok((None, Box::new(queue)));
    };
    let file = QueueFile::open(path, &random::identifier()?, &random::identifier()?)?;
    let queue = DurableQueue::new(config.limits, file.opened.clone());
    Ok((Some(file), Box::new(queue)))
}
