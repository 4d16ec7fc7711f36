//! One process, measured from start to exit: wall time, and CPU and memory as the kernel counts them
//! for it alone.

// The clock is what it is about.
#![allow(clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::{Child, ChildStdin, Command};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use wait4::Wait4 as _;

/// What takes longer hangs, and is ended.
const LIMIT: Duration = Duration::from_secs(300);

/// What a process took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measure {
    /// From its start to its exit, or another span that the work is about.
    pub(crate) wall: Duration,
    /// User and system time.
    pub(crate) cpu: Duration,
    /// The most memory that was resident, in bytes. The kernel counts that of this program in until
    /// the child's own begins, so this one is kept small.
    pub(crate) peak: u64,
    /// Messages that a subscriber received, if one counted them.
    pub(crate) arrived: Option<u32>,
}

impl Measure {
    /// The same, but for a span that began at `since` and ends now.
    pub(crate) fn since(self, since: Instant) -> Self {
        Self {
            wall: since.elapsed(),
            ..self
        }
    }
}

/// A process that runs; it is ended when this is dropped.
pub(crate) struct Running {
    child: Option<Child>,
    name: String,
    /// When it was started.
    pub(crate) since: Instant,
}

/// Starts it.
pub(crate) fn start(command: &mut Command) -> anyhow::Result<Running> {
    let name = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let since = Instant::now();
    let child = command.spawn().with_context(|| format!("{command:?}"))?;
    Ok(Running {
        child: Some(child),
        name,
        since,
    })
}

/// Runs it to its end, which has to be a good one.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<Measure> {
    start(command)?.end(&[0])
}

impl Running {
    pub(crate) fn pid(&self) -> Option<Pid> {
        let id = self.child.as_ref()?.id();
        Some(Pid::from_raw(i32::try_from(id).ok()?))
    }

    /// What the kernel says of it, from a file of `/proc`.
    pub(crate) fn proc(&self, file: &str) -> anyhow::Result<String> {
        let pid = self.pid().context("it has ended")?;
        let file = format!("/proc/{pid}/{file}");
        fs::read_to_string(&file).context(file)
    }

    /// Memory that is resident, in bytes: `VmRSS` now, `VmHWM` at most.
    pub(crate) fn memory(&self, which: &str) -> anyhow::Result<u64> {
        let status = self.proc("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix(which));
        let kib = line.and_then(|rest| rest.trim_matches([':', '\t', ' ', 'k', 'B']).parse().ok());
        let kib: u64 = kib.with_context(|| format!("{which} of {}", self.name))?;
        Ok(kib * 1024)
    }

    /// CPU time of all its threads so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let pid = self.pid().context("it has ended")?;
        let mut sum = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let file = task?.path().join("schedstat");
            // Nanoseconds on a CPU come first. A thread may just have ended.
            let text = fs::read_to_string(file).unwrap_or_default();
            let first = text.split(' ').next().and_then(|n| n.parse::<u64>().ok());
            sum += first.unwrap_or_default();
        }
        Ok(Duration::from_nanos(sum))
    }

    /// How often each of its threads has waited for something, and was woken up.
    pub(crate) fn wake_ups(&self) -> anyhow::Result<BTreeMap<OsString, u64>> {
        let pid = self.pid().context("it has ended")?;
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let task = task?;
            // A thread may just have ended.
            let status = fs::read_to_string(task.path().join("status")).unwrap_or_default();
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            if let Some(count) = line.and_then(|rest| rest.trim().parse().ok()) {
                threads.insert(task.file_name(), count);
            }
        }
        Ok(threads)
    }

    /// Bytes that it has caused to be written to a disk.
    pub(crate) fn written(&self) -> anyhow::Result<u64> {
        let io = self.proc("io")?;
        let line = io
            .lines()
            .find_map(|line| line.strip_prefix("write_bytes:"));
        let count = line.and_then(|rest| rest.trim().parse().ok());
        count.with_context(|| format!("write_bytes of {}", self.name))
    }

    /// Whether it runs still.
    pub(crate) fn runs(&mut self) -> bool {
        let stat = self.proc("stat").unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    }

    /// The end of its pipe, if it has one.
    pub(crate) fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.as_mut()?.stdin.take()
    }

    /// Waits for its end. Other exit codes than these are an error.
    pub(crate) fn end(mut self, codes: &[i32]) -> anyhow::Result<Measure> {
        let pid = self.pid().context("it has ended")?;
        let (_done, watch) = channel::<()>();
        let name = self.name.clone();
        thread::spawn(move || {
            if watch.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                eprintln!("bench: {name} hangs, it is ended");
                let _ = kill(pid, Signal::SIGKILL);
            }
        });
        let mut child = self.child.take().context("it has ended")?;
        let used = child.wait4().context("wait4")?;
        let wall = self.since.elapsed();
        if !used.status.code().is_some_and(|code| codes.contains(&code)) {
            bail!("{} ended with {}", self.name, used.status);
        }
        Ok(Measure {
            wall,
            cpu: used.rusage.utime + used.rusage.stime,
            peak: used.rusage.maxrss,
            arrived: None,
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended without a signal.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Waits until it holds, a hundred times a second.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) -> anyhow::Result<()> {
    let since = Instant::now();
    while !holds() {
        if since.elapsed() > LIMIT {
            bail!("in vain: {what}");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
