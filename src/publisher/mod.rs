//! What only the publisher does.

pub mod args;
pub mod batch;
pub mod broker;
pub mod config;
pub mod draft;
pub mod intake;
pub mod keeper;
pub mod outbox;
pub mod progress;
pub mod queue_command;
pub mod reading;
pub mod report;
pub mod run;
pub mod source;
pub mod verdict;
