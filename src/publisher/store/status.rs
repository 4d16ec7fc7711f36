//! What a queue file holds, in short.

use std::collections::BTreeMap;

use crate::common::mqtt::age::Timestamp;

/// What a file holds, in short.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Messages waiting or in flight.
    pub waiting: u64,
    /// Their topics and payloads, in bytes.
    pub bytes: u64,
    /// When the oldest of them was taken.
    pub oldest: Option<Timestamp>,
    /// Dead letters.
    pub dead: u64,
    /// Their topics and payloads, in bytes.
    pub dead_bytes: u64,
    /// How many died of what.
    pub reasons: BTreeMap<String, u64>,
    /// Messages dropped since the file was made.
    pub dropped: u64,
    /// Messages expired since then.
    pub expired: u64,
    /// Messages that became dead letters since then.
    pub died: u64,
    /// Whether a process drains it now.
    pub draining: bool,
}
