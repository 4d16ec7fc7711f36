//! What is done with received messages: they are written, given to a command, or drawn, and then acknowledged.

pub mod batch_readings;
pub mod completion;
pub mod destination;
pub mod exec_job;
pub mod executor;
pub mod sink;
pub mod writer;
