//! Reads from the source and makes the messages that are offered to the outbox: `source` reads on a
//! thread, `buffer` holds what was read, `draft` checks it, `batch` joins readings to messages.

pub mod batch;
pub mod buffer;
pub mod config;
pub mod draft;
mod simulated;
pub mod source;
