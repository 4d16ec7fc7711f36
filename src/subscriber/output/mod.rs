//! What is done with received messages: they are written, given to a command, or drawn, and then
//! acknowledged.

pub mod completion;
pub mod consumer;
pub mod destination;
pub mod exec_job;
pub mod executor;
pub mod readings;
pub mod writer;
