//! What only the publisher does.

pub mod args;
pub mod config;
pub mod input;
pub mod outbox;
pub mod queue;
pub mod queue_command;
pub mod report;
pub mod run;
pub mod store;
