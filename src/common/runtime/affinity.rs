//! On which cores threads run.
//!
//! A message passes through several threads, one after the other. A thread on the same core takes over at once; one on
//! another core has to be woken first, which takes longer than its work. Paho's threads handle every message under
//! global locks: on two cores they mostly wait for each other. So these threads always share a core, and the others do
//! until there is work for several cores.

use std::sync::OnceLock;

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// Where the process could run before the first thread was pinned.
static ALLOWED_CORES: OnceLock<CpuSet> = OnceLock::new();

fn pid_of_calling_thread() -> Pid {
    Pid::from_raw(0)
}

/// Keeps this thread, and those that it starts later, on the current core, if the system allows that.
pub fn pin_to_current_core() {
    let Ok(allowed) = sched_getaffinity(pid_of_calling_thread()) else {
        return;
    };
    ALLOWED_CORES.get_or_init(|| allowed);
    let mut current = CpuSet::new();
    if sched_getcpu().and_then(|core| current.set(core)).is_ok() {
        let _ = sched_setaffinity(pid_of_calling_thread(), &current);
    }
}

/// Lets this thread, and those that it starts later, run on every core that the process started with.
pub fn unpin() {
    if let Some(allowed) = ALLOWED_CORES.get() {
        let _ = sched_setaffinity(pid_of_calling_thread(), allowed);
    }
}
