//! Commands that the user has given (`--exec` of both programs): found, run, fed, limited, and ended with all that
//! they have started.
//!
//! * `command` is a command line, and one run of it;
//! * `children` has every child of this process until it has been waited for, also those that others have left
//!   behind when this process is the first of its PID namespace;
//! * `program` looks for the program before anything is run;
//! * `tally` keeps repeated failures out of the log.
//!
//! A command leads a process group of its own. It has the three standard descriptors and no other
//! ([`keep_descriptors`]). Its run ends when the command itself has ended; a child that it leaves behind in the background
//! goes on, and what that child writes is waited for half a second at most. A command that takes too long, or that
//! runs when this program ends, is ended with its process group. A child that has made itself the leader of another
//! group or session (`setsid`) is not reached, and nothing waits for it.

mod children;
mod command;
mod program;
pub mod tally;

use nix::unistd::getpid;

pub use children::Group;
pub use command::{Command, NotRun, Outcome, Task};

/// Sees to it that commands get the three standard descriptors and no other, neither ours nor what was left open by
/// whoever started us. Call it before there are threads.
pub fn keep_descriptors() {
    close_fds::set_fds_cloexec(3, &[]);
}

/// As process 1, waits for processes whose parents have ended, so that they do not stay as zombies.
///
/// # Errors
///
/// The operating system's, if there are no more threads to be had.
pub fn adopt_orphans() -> std::io::Result<()> {
    if getpid().as_raw() == 1 {
        children::watch()?;
    }
    Ok(())
}
