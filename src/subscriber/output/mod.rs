//! What is done with received messages: written, given to a command, or drawn.

pub mod batch;
pub mod command;
pub mod consumer;
pub mod destination;
pub mod executor;
pub mod writer;
