//! What only the subscriber does.

pub mod args;
pub mod inbox;
pub mod output;
pub mod plot;
pub mod run;
pub mod sink;
pub mod subscriptions;
