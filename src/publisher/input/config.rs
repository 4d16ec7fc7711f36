//! What the input needs to know, checked: the source and how its readings become messages.

use std::sync::Arc;
use std::time::Duration;

use super::batch::BatchLimits;
use crate::common::mqtt::qos::Qos;
use crate::common::runtime::process::ExecCommand;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A simulated temperature at every interval.
    Simulated,
    /// The output of a command, at every interval.
    Command(ExecCommand),
    Lines,
    /// All of standard input as one message.
    Stdin,
    /// One message from the command line or a file.
    Message(Vec<u8>),
}

impl SourceKind {
    /// Whether readings are due at fixed times, so that the source cannot wait.
    pub fn is_timed(&self) -> bool {
        matches!(self, SourceKind::Simulated | SourceKind::Command(_))
    }
}

#[derive(Clone, Debug)]
pub struct InputConfig {
    pub source: SourceKind,
    pub interval: Duration,
    /// Readings until the source is treated as ended.
    pub count: Option<u64>,
    pub json: bool,
    /// None if each line names its own.
    pub topic: Option<Arc<str>>,
    pub qos: Qos,
    pub retain: bool,
    /// In bytes.
    pub max_payload: usize,
    pub batch: BatchLimits,
}

impl InputConfig {
    pub fn has_batches(&self) -> bool {
        self.batch.readings > 1
    }
}
