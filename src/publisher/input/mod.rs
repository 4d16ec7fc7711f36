//! Where readings come from, up to the message that is offered to the outbox.

pub mod batch;
pub mod draft;
pub mod intake;
pub mod simulated;
pub mod source;
