//! What both programs are made of. See `docs/architecture.md` for who may import whom.

pub mod aws_host;
pub mod backoff;
pub mod check;
pub mod cli;
pub mod client;
pub mod connection;
pub mod cores;
pub mod endpoint;
pub mod escape;
pub mod event_loop;
pub mod fault;
pub mod flow;
pub mod json;
pub mod limits;
pub mod link;
pub mod logging;
pub mod message;
pub mod pacing;
pub mod pattern;
pub mod profile;
pub mod queue;
pub mod signals;
pub mod store;
pub mod throttle;
pub mod transport;
pub mod units;
