//! What a program does before it starts its first thread.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::signal::{SigSet, Signal};

const MALLOC_ARENAS: &str = "MALLOC_ARENA_MAX";

/// Prepares the process. Call it first: it may start the program again.
pub fn prepare_process() {
    restart_with_one_malloc_arena();
    // Commands get the three standard descriptors and no other, whoever opened it.
    close_fds::set_fds_cloexec(3, &[]);
    block_sigxfsz();
}

/// Starts the program again with one malloc arena if its address space is limited (`ulimit -v`, `RLIMIT_AS`) and the
/// environment does not set their number. glibc gives each thread that allocates an arena, for which it reserves 64 MiB
/// or more: a few threads would use up what a large message needs.
fn restart_with_one_malloc_arena() {
    let is_limited = getrlimit(Resource::RLIMIT_AS).is_ok_and(|(soft, _)| soft != RLIM_INFINITY);
    if !is_limited || std::env::var_os(MALLOC_ARENAS).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let mut again = Command::new("/proc/self/exe");
    again.env(MALLOC_ARENAS, "1");
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // It returns only if it fails; then the program goes on with its arenas.
    let _ = again.args(arguments).exec();
}

/// Makes a write above the file size limit (`ulimit -f`) an error; SIGXFSZ would end the process.
/// It holds for this thread and all that it starts.
fn block_sigxfsz() {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGXFSZ);
    // A valid set has no way to fail.
    let _ = signals.thread_block();
}
