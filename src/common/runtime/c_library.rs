//! What the C library can do and no crate offers without `unsafe`.

#![allow(
    unsafe_code,
    reason = "nix has none of these functions, or has them as unsafe"
)]

use std::mem::MaybeUninit;
use std::ptr;

use nix::libc::{self, c_int};

/// Has all threads that start later share one heap, unless the user has chosen otherwise (`MALLOC_ARENA_MAX`).
///
/// By default glibc gives each thread that allocates an arena, for which it reserves 64 MiB or more of address space, and
/// which it extends page by page (mallopt(3), `M_ARENA_MAX`). Other C libraries have no arenas.
pub fn use_one_malloc_arena() {
    #[cfg(target_env = "gnu")]
    if std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        // SAFETY: it takes two numbers, and locks the heap of this thread. Another thread that allocates meanwhile (the
        // one for child processes of a process 1) finds the number before or after.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}

/// Whether the program ignores a signal, as it may have done since its start.
pub(super) fn is_signal_ignored(signal: c_int) -> bool {
    let mut current = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action nothing is changed, and the structure is large enough for the current one; all its
    // bits may be zero.
    let current = unsafe {
        if libc::sigaction(signal, ptr::null(), current.as_mut_ptr()) != 0 {
            return false;
        }
        current.assume_init()
    };
    current.sa_sigaction == libc::SIG_IGN
}

/// Changes the scheduling policy of this thread, and of those that it starts later, if it is `from` (sched(7)); whether it
/// was, and could be changed. Neither policy has a priority.
pub(super) fn replace_scheduling_policy(from: c_int, to: c_int) -> bool {
    let parameters = MaybeUninit::<libc::sched_param>::zeroed();
    // SAFETY: 0 is this thread, and the structure is only read; all its bits may be zero.
    unsafe {
        libc::sched_getscheduler(0) == from
            && libc::sched_setscheduler(0, to, parameters.as_ptr()) == 0
    }
}
