//! Commands that the user gives with `--exec` of either program.
//!
//! * `exec_command` is a command line, and one run of it;
//! * `children` has every child of this process until it has been waited for, and as process 1 of a PID namespace also
//!   the orphans;
//! * `program` looks for the program before anything is run.
//!
//! A command leads a new process group, and gets the three standard descriptors and no other. Its run ends when the
//! command has ended; children that it leaves running go on, and what they write is read for another half a second at
//! most. A command that takes too long, or that is running when this program ends, is killed with its process group. A
//! child that has become the leader of another group or session (`setsid`) is not reached, and nothing waits for it.

mod children;
mod exec_command;
mod program;

pub use children::{CommandGroup, NotStarted};
pub use exec_command::{CommandOutcome, ExecCommand, RunOptions};

/// As process 1, waits for processes whose parents have ended, so that they do not stay as zombies.
pub fn start_orphan_reaper() -> std::io::Result<()> {
    if nix::unistd::getpid().as_raw() == 1 {
        children::start_reaper()?;
    }
    Ok(())
}
