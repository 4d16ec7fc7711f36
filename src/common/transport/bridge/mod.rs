//! Relays packets between the broker and the client library, which holds the other end of a local socket.
//!
//! The thread that has dialled a connection sleeps in `poll(2)` until there is something to relay. Every packet of
//! the broker is checked; what the client library sends is passed on as it is. Little is buffered in each
//! direction, so a slow reader slows the writer down.

mod bridge_callbacks;
mod broker_sender;
mod byte_queue;
mod event;
mod packet_buffer;
mod packet_handler;
#[cfg(test)]
mod packet_table_tests;
mod read_pause;
mod ready_sides;
mod relay;
mod tcp_progress;

pub use bridge_callbacks::{
    EndedExchanges, MessageCallbacks, OnMessage, OnQos2ExchangesEnded, OnSkipped, OutOfMemory,
    SkippedMessage,
};
pub use event::{AnswerProgress, BridgeEvent, ConnectionEnd, EndReason, SentPublishCount};
pub use packet_handler::ConnectParameters;
pub use relay::{END_TIMEOUT, relay_packets};
