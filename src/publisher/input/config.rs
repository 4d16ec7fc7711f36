//! What the input needs to know, checked: the source and how its readings become messages.

use std::sync::Arc;
use std::time::Duration;

use super::batch::BatchLimits;
use crate::common::mqtt::qos::Qos;
use crate::common::runtime::process::ExecCommand;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceKind {
    Simulated,
    Command(ExecCommand),
    Lines,
    Stdin,
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
    pub count: Option<u64>,
    pub json: bool,
    /// Each reading is wrapped together with its time.
    pub stamp: bool,
    /// How often a single message is published.
    pub repeat: u64,
    pub topic: Option<Arc<str>>,
    pub qos: Qos,
    pub retain: bool,
    pub max_payload: usize,
    pub batch: BatchLimits,
}

impl InputConfig {
    pub fn has_batches(&self) -> bool {
        self.batch.readings > 1
    }
}
