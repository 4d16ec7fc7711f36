//! Being connected: the states, the delays between attempts, and what carries them out.

pub mod backoff;
mod connection_counts;
pub mod driver;
mod end_cause;
pub mod outage;
pub mod reload;
pub mod state;
pub mod status_text;
pub mod unexplained_closes;
