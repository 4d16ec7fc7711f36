//! What both programs are made of. See `docs/architecture.md` for who may import whom.

pub mod acks;
pub mod broker;
pub mod check;
pub mod cli;
pub mod client;
pub mod connection;
pub mod escape;
pub mod fault;
pub mod metrics;
pub mod mqtt;
pub mod runtime;
pub mod transport;
