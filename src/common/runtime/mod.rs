//! What the programs use of the operating system: clock, signals, log, processes, files.

pub mod address_space;
pub mod affinity;
pub mod clock;
pub mod logging;
pub mod process;
pub mod secret_file;
pub mod signals;
pub mod small_file;
pub mod stdio;
pub mod terminal;
