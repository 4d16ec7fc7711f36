//! Being connected: the states, the delays between attempts, and what carries them out.

pub mod backoff;
pub mod driver;
pub mod outage;
pub mod state;
pub mod unexplained_closes;
