//! What happens to a message once it has been written, given to its command, or drawn: it is
//! recorded in the state file, and then may be acknowledged.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::acks::TicketRanges;
use crate::common::acks::owed_acks::Qos2ExchangeKey;
use crate::subscriber::sequence::SavedSeqRecord;

#[derive(Debug)]
pub enum OutputEvent {
    Complete,
    /// The retained messages of these topics have been output (`--remove-retained`).
    RetainedDone(Vec<String>),
    Failed(OutputError),
}

#[derive(Debug)]
pub enum OutputError {
    Write(io::Error),
    Reopen(io::Error),
    StateFile(anyhow::Error),
}

#[derive(Debug, Default)]
pub struct FinishedMessages {
    pub tickets: TicketRanges,
    pub records: Vec<SavedSeqRecord>,
    pub exchanges: Vec<Qos2ExchangeKey>,
    pub readings: u64,
    /// Topics whose retained message may be removed now.
    pub removable: Vec<String>,
    pub is_last: bool,
}

impl FinishedMessages {
    pub fn is_empty(&self) -> bool {
        self.tickets.is_empty() && self.records.is_empty() && self.readings == 0 && !self.is_last
    }

    pub fn append(&mut self, mut later: Self) {
        self.tickets.append(later.tickets);
        self.records.append(&mut later.records);
        self.exchanges.append(&mut later.exchanges);
        self.readings += later.readings;
        self.removable.append(&mut later.removable);
        self.is_last |= later.is_last;
    }
}

pub type SaveRecords =
    Box<dyn FnMut(&[SavedSeqRecord], &[Qos2ExchangeKey]) -> anyhow::Result<()> + Send>;

pub struct Acknowledger {
    pub record: Option<SaveRecords>,
    pub completed_readings: Arc<AtomicU64>,
    pub notify: Box<dyn Fn(OutputEvent) + Send>,
}

impl Acknowledger {
    pub fn save_records(&mut self, completion: &mut FinishedMessages) -> bool {
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

    /// `false` if recording fails: then neither these messages nor later ones may be acknowledged.
    pub fn record_and_acknowledge(&mut self, mut completion: FinishedMessages) -> bool {
        if !self.save_records(&mut completion) {
            return false;
        }
        self.completed_readings
            .fetch_add(completion.readings, Ordering::Relaxed);
        completion.tickets.settle();
        if !completion.removable.is_empty() {
            (self.notify)(OutputEvent::RetainedDone(completion.removable));
        }
        if completion.is_last {
            (self.notify)(OutputEvent::Complete);
        }
        true
    }
}
