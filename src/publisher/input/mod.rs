//! Reads from the source and makes the messages that are offered to the outbox: `source` reads on a
//! thread, `source_reader` holds what was read, `reading_parser` checks it, `batch` joins readings to messages.

pub mod batch;
pub mod config;
pub mod reading_parser;
mod simulated;
pub mod source;
pub mod source_reader;
mod stamp;
