//! How the process gets along with a limited address space (`ulimit -v`, `RLIMIT_AS`).
//!
//! glibc gives each thread that allocates an arena of its own, for which it reserves 64 MiB or more. Under a
//! limit a few threads use up what a large message would need.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

/// What glibc reads at the start of a process.
const VARIABLE: &str = "MALLOC_ARENA_MAX";

/// Starts the program again, in its place and with the same arguments, if its address space is limited and nobody
/// has said how many arenas there may be: with one then. Call it before there are threads. If that fails,
/// the program goes on as it is.
pub fn use_sparingly() {
    let limited = getrlimit(Resource::RLIMIT_AS).is_ok_and(|(soft, _)| soft != RLIM_INFINITY);
    if !limited || std::env::var_os(VARIABLE).is_some() {
        return;
    }
    let mut arguments = std::env::args_os();
    let mut again = Command::new("/proc/self/exe");
    again.env(VARIABLE, "1");
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    // It returns only if it fails.
    let _ = again.args(arguments).exec();
}
