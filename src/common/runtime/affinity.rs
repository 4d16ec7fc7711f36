//! On which cores threads run.
//!
//! A message passes through several threads, one after the other. On one core the next one takes over
//! at once; on another core it has to be woken first, which takes longer than what it does. And Paho's
//! threads pass on every message under global locks: on two cores they mostly wait for each other. So
//! these stay together always, and all others until there is work for several cores.

use std::sync::OnceLock;

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// Where the process could run before anything was gathered.
static ALL: OnceLock<CpuSet> = OnceLock::new();

fn this_thread() -> Pid {
    Pid::from_raw(0)
}

/// Keeps this thread, and those that it is going to start, on the core it is on. Where the system does
/// not allow it, nothing is lost.
pub fn gather() {
    let Ok(all) = sched_getaffinity(this_thread()) else {
        return;
    };
    ALL.get_or_init(|| all);
    let mut here = CpuSet::new();
    if sched_getcpu().and_then(|core| here.set(core)).is_ok() {
        let _ = sched_setaffinity(this_thread(), &here);
    }
}

/// Lets this thread, and those that it is going to start, run wherever the process could at first.
pub fn spread() {
    if let Some(all) = ALL.get() {
        let _ = sched_setaffinity(this_thread(), all);
    }
}
