//! What the tests are written with. Everything here waits for an event with a deadline,
//! cleans up when dropped, and shows the whole scene when an expectation fails.

pub(crate) mod aws;
pub(crate) mod broker;
pub(crate) mod certs;
pub(crate) mod clock;
pub(crate) mod fleet;
pub(crate) mod killer;
pub(crate) mod lines;
pub(crate) mod metrics_file;
pub(crate) mod moto;
pub(crate) mod namespace;
pub(crate) mod odd_certs;
pub(crate) mod packet;
pub(crate) mod peer;
pub(crate) mod process;
pub(crate) mod program;
pub(crate) mod proxy;
pub(crate) mod queue_file;
pub(crate) mod rabbitmq;
pub(crate) mod running;
pub(crate) mod screen;
pub(crate) mod scripted;
pub(crate) mod seen;
pub(crate) mod server;
pub(crate) mod service_manager;
pub(crate) mod strace;
pub(crate) mod throttle;
pub(crate) mod tpm;

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

pub(crate) use aws::AwsLike;
pub(crate) use broker::Broker;
pub(crate) use certs::certs;
pub(crate) use fleet::Fleet;
pub(crate) use killer::Killer;
pub(crate) use program::Program;
pub(crate) use proxy::Proxy;
pub(crate) use queue_file::QueueFile;
pub(crate) use scripted::{Reply, ScriptedBroker};
pub(crate) use server::Server;
use tempfile::TempDir;

/// A new attempt to connect every 0.2 s.
pub(crate) const QUICKLY: [&str; 6] = [
    "--base-backoff",
    "0.2",
    "--max-backoff",
    "0.2",
    "--jitter",
    "0",
];

/// Long enough for anything that should happen at once, on a busy machine too.
pub(crate) const SOON: Duration = Duration::from_secs(10);

/// Whether `condition` came true in time. For what has no event to wait for.
#[must_use]
pub(crate) fn wait_until(within: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + within;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::park_timeout(Duration::from_millis(5));
    }
}

/// What a number in the environment says, or what is usual.
pub(crate) fn times(variable: &str, usual: usize) -> usize {
    std::env::var(variable).map_or(usual, |n| n.parse().expect(variable))
}

/// A loopback port that nobody listens on. It lies below the range from which the kernel
/// takes ports for outgoing connections, so it stays free while its broker is down.
pub(crate) fn free_port() -> u16 {
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 12_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes that run side by side start at different places.
    let start = u16::try_from(std::process::id() % u32::from(COUNT / 100)).unwrap() * 100;
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (start + step) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

pub(crate) fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    name.trim().to_owned()
}

/// A directory that goes when the value is dropped.
pub(crate) fn temp_dir() -> TempDir {
    TempDir::new_in(process_dir()).expect("a temporary directory")
}

/// This test process's own place below `target`, so that a run that was killed leaves
/// nothing elsewhere. The next run clears what such a run left.
fn process_dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for entry in all.read_dir().expect("cargo made it").flatten() {
            let name = entry.file_name();
            let owner = name.to_str().and_then(|name| name.strip_prefix("it-"));
            if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                // Another test process may be clearing the same one.
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let own = all.join(format!("it-{}", std::process::id()));
        std::fs::create_dir_all(&own).expect("a directory below target");
        own
    })
}
