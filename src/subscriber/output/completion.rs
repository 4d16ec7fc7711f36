//! What happens to a message once it has been written, given to its command, or drawn: it is
//! recorded in the state file, and then may be acknowledged.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::acks::Tickets;
use crate::common::acks::pending::Exchange;
use crate::subscriber::sequence::SequenceRecord;

/// What the event loop has to know of the output.
#[derive(Debug)]
pub enum OutputEvent {
    /// All messages that were wanted have been completed.
    Complete,
    Failed(OutputError),
}

#[derive(Debug)]
pub enum OutputError {
    Write(io::Error),
    Reopen(io::Error),
    StateFile(io::Error),
}

/// What is to be done once messages have been written.
#[derive(Debug, Default)]
pub struct Completion {
    pub tickets: Tickets,
    pub records: Vec<SequenceRecord>,
    /// The messages at QoS 2, to be remembered until PUBREL.
    pub exchanges: Vec<Exchange>,
    pub readings: u64,
    /// No further messages are wanted.
    pub is_last: bool,
}

impl Completion {
    pub fn is_empty(&self) -> bool {
        self.tickets.is_empty() && self.records.is_empty() && self.readings == 0 && !self.is_last
    }

    pub fn append(&mut self, mut later: Self) {
        self.tickets.append(later.tickets);
        self.records.append(&mut later.records);
        self.exchanges.append(&mut later.exchanges);
        self.readings += later.readings;
        self.is_last |= later.is_last;
    }
}

/// Writes to the state file.
pub type Record = Box<dyn FnMut(&[SequenceRecord], &[Exchange]) -> io::Result<()> + Send>;

/// Records messages in the state file, if there is one, and lets the broker have their
/// acknowledgements.
pub struct Acknowledger {
    record: Option<Record>,
    readings: Arc<AtomicU64>,
    notify: Box<dyn Fn(OutputEvent) + Send>,
}

impl Acknowledger {
    pub fn new(record: Option<Record>, notify: impl Fn(OutputEvent) + Send + 'static) -> Self {
        Self {
            record,
            readings: Arc::default(),
            notify: Box::new(notify),
        }
    }

    /// The number of readings completed, as it grows.
    pub fn readings(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.readings)
    }

    /// Records messages, without acknowledging them. `false` if that fails.
    pub fn record(&mut self, completion: &mut Completion) -> bool {
        if let Some(record) = &mut self.record {
            if let Err(cause) = record(&completion.records, &completion.exchanges) {
                (self.notify)(OutputEvent::Failed(OutputError::StateFile(cause)));
                return false;
            }
            completion.records.clear();
            completion.exchanges.clear();
        }
        true
    }

    /// `false` if the messages cannot be recorded: then neither they nor later ones may be
    /// acknowledged.
    pub fn acknowledge(&mut self, mut completion: Completion) -> bool {
        if !self.record(&mut completion) {
            return false;
        }
        self.readings
            .fetch_add(completion.readings, Ordering::Relaxed);
        completion.tickets.settle();
        if completion.is_last {
            (self.notify)(OutputEvent::Complete);
        }
        true
    }
}
