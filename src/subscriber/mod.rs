//! What only the subscriber does.

pub mod args;
pub mod format;
pub mod inbox;
pub mod output;
pub mod page;
pub mod retained;
pub mod run;
pub mod sink;
pub mod subscriptions;
