//! What a program does before it starts its first thread.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal};

use super::c_library::use_one_malloc_arena;

/// Prepares the process.
pub fn prepare_process() {
    save_limited_address_space();
    // Commands get the three standard descriptors and no other, whoever opened it.
    close_fds::set_fds_cloexec(3, &[]);
    block_sigxfsz();
}

/// A few arenas would use up a limited address space (`ulimit -v`), and a large message needs it. The user may have chosen
/// their number (`MALLOC_ARENA_MAX`).
fn save_limited_address_space() {
    let is_limited = getrlimit(Resource::RLIMIT_AS).is_ok_and(|(soft, _)| soft != RLIM_INFINITY);
    if is_limited && std::env::var_os("MALLOC_ARENA_MAX").is_none() {
        use_one_malloc_arena();
    }
}

/// Makes a write above the file size limit (`ulimit -f`) an error; SIGXFSZ would end the process.
/// It holds for this thread and all that it starts.
fn block_sigxfsz() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    // A valid set has no way to fail.
    let _ = signals.thread_block();
}
