//! What a program does before it starts its first thread.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal};

use super::c_library::use_one_malloc_arena;

/// Call it before the first thread is started: what it sets holds for those that start later.
pub fn prepare_process() {
    use_one_heap_if_memory_is_limited();
    // Commands get the three standard descriptors and no other, whoever opened it.
    close_fds::set_fds_cloexec(3, &[]);
    block_sigxfsz();
}

/// Has all threads share one heap if the address space is limited (`ulimit -v`): a few would use up what a large message
/// needs.
fn use_one_heap_if_memory_is_limited() {
    if getrlimit(Resource::RLIMIT_AS).is_ok_and(|(soft, _)| soft != RLIM_INFINITY) {
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
