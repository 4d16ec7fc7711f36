//! What only the subscriber does.

pub mod args;
pub mod config;
pub mod display;
pub mod message_receiver;
pub mod output;
pub mod render;
pub mod run;
pub mod sequence;
pub mod session;
