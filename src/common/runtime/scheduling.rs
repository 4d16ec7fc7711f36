//! When a thread that is woken gets its core.
//!
//! A message passes through several threads, each of which wakes the next. Usually that one takes over the core at once,
//! with one message, waits for the next, and the core goes back: two changes of threads for one message. With
//! `SCHED_BATCH` (sched(7)) it runs when the core is free, and finds several messages. Not only the program's threads
//! are spared: it takes no core from another program in the middle of its work.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::libc::{SCHED_BATCH, SCHED_OTHER};

use super::c_library::replace_scheduling_policy;

static AWAITS_FREE_CORE: AtomicBool = AtomicBool::new(false);

/// Has this thread, and those that it starts later, wait for a free core, unless the program was started with another
/// policy than the default one.
pub fn wait_for_free_core() {
    AWAITS_FREE_CORE.store(
        replace_scheduling_policy(SCHED_OTHER, SCHED_BATCH),
        Ordering::Relaxed,
    );
}

/// Does `act` without [`wait_for_free_core`]: what it starts is scheduled as the program was at its start.
pub(super) fn with_usual_scheduling<T>(act: impl FnOnce() -> T) -> T {
    let is_changed = AWAITS_FREE_CORE.load(Ordering::Relaxed)
        && replace_scheduling_policy(SCHED_BATCH, SCHED_OTHER);
    let done = act();
    if is_changed {
        replace_scheduling_policy(SCHED_OTHER, SCHED_BATCH);
    }
    done
}
