//! What the programs use of the operating system: clock, channels, signals, log, processes, files.

pub mod affinity;
pub mod c_library;
pub mod clock;
pub mod daily_stamp;
pub mod duration_text;
pub mod escaping_writer;
pub mod host_identity;
pub mod logging;
pub mod process;
pub mod random;
pub mod repeat_filter;
pub mod replaced_file;
pub mod scheduling;
pub mod secret_source;
pub mod service_manager;
mod service_notifications;
pub mod signals;
pub mod small_file;
pub mod startup;
pub mod stdio;
pub mod timed_receive;
