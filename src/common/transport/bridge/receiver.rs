//! Who is handed the messages of a connection, and what it is told of them.

use std::sync::Arc;

use crate::common::acks::{ConnectionAcks, Ticket};
use crate::common::mqtt::message::Received;
use crate::common::mqtt::publish::Defect;

/// There is no memory to hold on to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// A message that cannot be handed over, because part of it is no text.
#[derive(Clone, Copy, Debug)]
pub struct Skipped<'a> {
    /// Its topic, as it came.
    pub topic: &'a [u8],
    /// What is wrong with it.
    pub defect: Defect,
}

/// Called for each received message. It must only hand over. The message is acknowledged once
/// its ticket has been settled.
pub type OnMessage = Arc<dyn Fn(&Received<'_>, Ticket) -> Result<(), OutOfMemory> + Send + Sync>;

/// Called for each message that is skipped.
pub type OnSkipped = Arc<dyn Fn(Skipped<'_>) + Send + Sync>;

/// What the broker has ended of what was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended<'a> {
    /// It has no session of an earlier connection.
    Session,
    /// It has sent PUBREL for these packet identifiers, and PUBCOMP is about to go out: then they are free.
    Exchanges(&'a [u16]),
}

/// Called for what must not be remembered any longer. `false` if it cannot be forgotten: then PUBCOMP does not go out.
pub type OnEnded = Arc<dyn Fn(Ended<'_>) -> bool + Send + Sync>;

/// Who receives the messages of one connection.
#[derive(Clone)]
pub struct Receiver {
    /// Is handed each.
    pub on_message: OnMessage,
    /// Is called for each that is skipped.
    pub on_skipped: OnSkipped,
    /// Is called for what the broker has ended.
    pub on_ended: OnEnded,
    /// What waits to be dealt with.
    pub acks: Arc<ConnectionAcks>,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}
