//! The children of this process. One thread waits for all of them, woken by SIGCHLD: so no signal
//! is sent to a process identifier that has been reused, and as process 1 orphans can be waited for
//! without taking the exit status of a command.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpid};
use parking_lot::Mutex;
use signal_hook::consts::SIGCHLD;
use signal_hook::iterator::Signals;

use crate::common::runtime::affinity;
use crate::common::runtime::clock::sleep;
use crate::common::runtime::scheduling::with_usual_scheduling;

/// How often, and at which interval, [`CommandGroup::try_kill_all`] tries to lock the table.
const TRIES: u32 = 50;
const TRY_INTERVAL: Duration = Duration::from_millis(1);

/// Our own children, by process identifier.
static TABLE: Mutex<BTreeMap<u32, Entry>> = Mutex::new(BTreeMap::new());

struct Entry {
    child: Child,
    group: u64,
    notice: Arc<ExitNotice>,
    stopped: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotStarted {
    Stopping,
    CannotStart(String),
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ChildExit {
    /// None if the system does not know.
    pub(super) status: Option<ExitStatus>,
    pub(super) stopped: bool,
}

#[derive(Debug)]
pub(super) struct ExitNotice {
    exit: OnceLock<ChildExit>,
    event: EventFd,
}

impl ExitNotice {
    fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            exit: OnceLock::new(),
            event: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    pub(super) fn get(&self) -> Option<ChildExit> {
        self.exit.get().copied()
    }
}

impl AsFd for ExitNotice {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Entry {
    fn notify_if_exited(&mut self) -> bool {
        let status = match self.child.try_wait() {
            Ok(None) => return true,
            Ok(status) => status,
            Err(_) => None,
        };
        let stopped = self.stopped;
        let _ = self.notice.exit.set(ChildExit { status, stopped });
        // A counter that is full is readable too.
        let _ = self.notice.event.write(1);
        false
    }

    fn kill(&self) {
        let id = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        // It may have ended and not have been waited for.
        let _ = killpg(id, Signal::SIGKILL);
        let _ = kill(id, Signal::SIGKILL);
    }
}

#[derive(Debug)]
pub(super) struct ChildHandle {
    pub(super) id: u32,
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) notice: Arc<ExitNotice>,
}

pub(super) fn start(
    command: &mut Command,
    group: &CommandGroup,
) -> Result<ChildHandle, NotStarted> {
    let cannot = |e: io::Error| NotStarted::CannotStart(e.to_string());
    let notice = Arc::new(ExitNotice::new().map_err(cannot)?);
    // Under the lock: it is in the table before it can be waited for, and none is started in a closed group.
    let mut table = TABLE.lock();
    if group.closed.load(Ordering::Relaxed) {
        return Err(NotStarted::Stopping);
    }
    let mut child = with_usual_scheduling(|| command.spawn()).map_err(cannot)?;
    let started = ChildHandle {
        id: child.id(),
        stdin: child.stdin.take(),
        stdout: child.stdout.take(),
        notice: Arc::clone(&notice),
    };
    let entry = Entry {
        child,
        group: group.id,
        notice,
        stopped: false,
    };
    table.insert(started.id, entry);
    Ok(started)
}

pub(super) fn kill_child(id: u32) -> bool {
    TABLE.lock().get(&id).map(Entry::kill).is_some()
}

/// Commands that are stopped together.
#[derive(Debug)]
pub struct CommandGroup {
    id: u64,
    closed: AtomicBool,
}

impl CommandGroup {
    pub fn new() -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        start_reaper()?;
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            closed: AtomicBool::new(false),
        })
    }

    pub fn forbid_starts(&self) {
        let _table = TABLE.lock();
        self.closed.store(true, Ordering::Relaxed);
    }

    pub fn kill_all(&self) {
        self.kill_entries(&mut TABLE.lock());
    }

    /// As `kill_all`, but does not wait long for a thread that is just starting a command.
    pub fn try_kill_all(&self) {
        // Not `try_lock_for`: under libfaketime it might never return.
        for _ in 0..TRIES {
            if let Some(mut table) = TABLE.try_lock() {
                self.kill_entries(&mut table);
                return;
            }
            sleep(TRY_INTERVAL);
        }
    }

    fn kill_entries(&self, table: &mut BTreeMap<u32, Entry>) {
        self.closed.store(true, Ordering::Relaxed);
        for entry in table.values_mut().filter(|entry| entry.group == self.id) {
            entry.stopped = true;
            entry.kill();
        }
    }
}

pub(super) fn start_reaper() -> io::Result<()> {
    static STARTED: Mutex<bool> = Mutex::new(false);
    let mut started = STARTED.lock();
    if *started {
        return Ok(());
    }
    // Installed before a child is started. It also undoes a SIGCHLD that our parent has ignored:
    // then the system would not keep the exit status.
    let mut signals = Signals::new([SIGCHLD])?;
    std::thread::Builder::new()
        .name("children".into())
        .spawn(move || {
            affinity::unpin();
            let mut blocked = SigSet::empty();
            blocked.add(Signal::SIGCHLD);
            // A valid set has no way to fail.
            let _ = blocked.thread_unblock();
            reap();
            for _ in signals.forever() {
                reap();
            }
        })?;
    *started = true;
    Ok(())
}

fn reap() {
    let mut table = TABLE.lock();
    table.retain(|_, entry| entry.notify_if_exited());
    if getpid().as_raw() == 1 {
        reap_orphans(&mut table);
    }
}

fn reap_orphans(table: &mut BTreeMap<u32, Entry>) {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        let orphan = match waitid(Id::All, peek) {
            Ok(status) => match status.pid() {
                Some(pid) => pid,
                None => return,
            },
            Err(Errno::EINTR) => continue,
            // Ended by a signal that has no name in `nix`, which then does not return the identifier.
            Err(Errno::EINVAL) => Pid::from_raw(-1),
            Err(_) => return,
        };
        // It may be a command that has ended since `reap` looked.
        let before = table.len();
        table.retain(|_, entry| entry.notify_if_exited());
        let is_ours = table.len() < before;
        if !is_ours && waitpid(orphan, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) {
            return;
        }
    }
}
