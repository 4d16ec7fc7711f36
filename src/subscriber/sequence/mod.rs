//! The `seq` properties of received messages: which numbers are missing, and which messages are repeats. PURE.

pub mod fingerprint;
pub mod numbers;
pub mod partial_stream_detector;
pub mod streams;

use self::fingerprint::Fingerprint;
use crate::common::mqtt::publish::Received;
use crate::common::mqtt::seq_property::SeqProperty;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedSeqRecord {
    pub seq: SeqProperty,
    pub retained: bool,
    /// None if the message is a repeat, whose fingerprint is known.
    pub fingerprint: Option<Fingerprint>,
}

impl SavedSeqRecord {
    pub fn of(message: &Received<'_>, fingerprint: Option<Fingerprint>) -> Option<Self> {
        Some(Self {
            seq: message.seq.clone()?,
            retained: message.retained,
            fingerprint,
        })
    }
}
