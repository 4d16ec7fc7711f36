//! Being connected: the states, the delays between attempts, and what carries them out.

pub mod backoff;
pub mod driver;
pub mod reload;
pub mod state;
pub mod status_text;
pub mod unexplained_closes;
