//! The callbacks for the messages of a connection.

use std::sync::Arc;

use crate::common::acks::{ConnectionAcks, Ticket};
use crate::common::mqtt::publish::{Received, TextDefect};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// A message that is not handed over, because part of it is not valid text.
#[derive(Clone, Copy, Debug)]
pub struct SkippedMessage<'a> {
    pub topic: &'a [u8],
    pub defect: TextDefect,
}

/// Called for each received message, on the thread of the connection: it must not block. The message is acknowledged
/// once its ticket has been settled.
pub type OnMessage = Arc<dyn Fn(&Received<'_>, Ticket) -> Result<(), OutOfMemory> + Send + Sync>;

pub type OnSkipped = Arc<dyn Fn(SkippedMessage<'_>) + Send + Sync>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedExchanges<'a> {
    /// It has no session of an earlier connection.
    Session,
    /// It has sent PUBREL for these packet identifiers. They are free once PUBCOMP goes out.
    PacketIds(&'a [u16]),
}

/// Called for what must be forgotten. `false` if that failed: then PUBCOMP does not go out.
pub type OnQos2ExchangesEnded = Arc<dyn Fn(EndedExchanges<'_>) -> bool + Send + Sync>;

#[derive(Clone)]
pub struct MessageCallbacks {
    pub on_message: OnMessage,
    pub on_skipped: OnSkipped,
    pub on_exchanges_ended: OnQos2ExchangesEnded,
    pub acks: Arc<ConnectionAcks>,
}
