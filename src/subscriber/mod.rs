//! What only the subscriber does.

pub mod args;
pub mod batch;
pub mod command;
pub mod config;
pub mod destination;
pub mod executor;
pub mod fingerprint;
pub mod format;
pub mod inbox;
pub mod outlet;
pub mod output;
pub mod page;
pub mod plot;
pub mod retained;
pub mod run;
pub mod session;
pub mod sink;
pub mod state;
pub mod steps;
pub mod streams;
pub mod subscriptions;
pub mod writer;
