//! The children of this process. All of them are waited for here, on one thread, which is woken by SIGCHLD: so
//! nobody sends a signal to a process identifier that has been given to another process, and as process 1
//! orphans can be waited for without taking the exit status of a command.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::{Child, ChildStdin, ChildStdout, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::{Pid, getpid};
use signal_hook::consts::SIGCHLD;
use signal_hook::iterator::Signals;

use super::command::NotRun;
use crate::common::runtime::affinity;
use crate::common::runtime::clock::pause;

/// How often, and how long each time, somebody who must not wait tries to look at the table.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(1);

/// A child that has not been waited for.
struct Entry {
    child: Child,
    group: u64,
    end: Arc<End>,
    /// Its group was ended while it ran.
    stopped: bool,
}

/// Our own children, by process identifier.
static TABLE: Mutex<BTreeMap<u32, Entry>> = Mutex::new(BTreeMap::new());

fn table() -> MutexGuard<'static, BTreeMap<u32, Entry>> {
    TABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a child has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended {
    /// None if the system does not know.
    pub(super) status: Option<ExitStatus>,
    /// Its group was ended before.
    pub(super) stopped: bool,
}

/// The end of a child, when it has come. Its descriptor becomes readable then.
#[derive(Debug)]
pub(super) struct End {
    ended: OnceLock<Ended>,
    event: EventFd,
}

impl End {
    fn new() -> io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            ended: OnceLock::new(),
            event: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    pub(super) fn get(&self) -> Option<Ended> {
        self.ended.get().copied()
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

impl Entry {
    /// Whether it still runs. If not, it has been waited for, and its end is known.
    fn runs(&mut self) -> bool {
        let status = match self.child.try_wait() {
            Ok(None) => return true,
            Ok(status) => status,
            Err(_) => None,
        };
        let stopped = self.stopped;
        let _ = self.end.ended.set(Ended { status, stopped });
        // A counter that is full is readable too.
        let _ = self.end.event.write(1);
        false
    }

    /// Ends it, and its process group, wherever it has gone itself.
    fn kill(&self) {
        let id = Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX));
        // It may have ended and not have been waited for.
        let _ = killpg(id, Signal::SIGKILL);
        let _ = kill(id, Signal::SIGKILL);
    }
}

/// A command that has been started.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) id: u32,
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) end: Arc<End>,
}

pub(super) fn start(command: &mut std::process::Command, group: &Group) -> Result<Started, NotRun> {
    let cannot = |e: io::Error| NotRun::CannotStart(e.to_string());
    let end = Arc::new(End::new().map_err(cannot)?);
    // Under the lock: it is in the table before it can be waited for, and none is started in a closed group.
    let mut table = table();
    if group.closed.load(Ordering::Relaxed) {
        return Err(NotRun::Stopping);
    }
    let mut child = command.spawn().map_err(cannot)?;
    let started = Started {
        id: child.id(),
        stdin: child.stdin.take(),
        stdout: child.stdout.take(),
        end: Arc::clone(&end),
    };
    let entry = Entry {
        child,
        group: group.id,
        end,
        stopped: false,
    };
    table.insert(started.id, entry);
    Ok(started)
}

/// Ends a child and its process group; `false` if it had ended before.
pub(super) fn end(id: u32) -> bool {
    match table().get(&id) {
        Some(entry) => {
            entry.kill();
            true
        }
        None => false,
    }
}

/// Commands that can be ended together.
#[derive(Debug)]
pub struct Group {
    id: u64,
    closed: AtomicBool,
}

impl Group {
    /// A group in which nothing runs yet.
    ///
    /// # Errors
    ///
    /// The operating system's, if there are no more threads to be had.
    pub fn new() -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        watch()?;
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            closed: AtomicBool::new(false),
        })
    }

    /// No further command is started in it.
    pub fn close(&self) {
        let _table = table();
        self.closed.store(true, Ordering::Relaxed);
    }

    /// No further command is started in it; those that run are ended with their process groups.
    pub fn stop(&self) {
        self.stop_in(&mut table());
    }

    /// As [`stop`](Self::stop), but does not wait long for a thread that is just starting a command.
    pub fn abandon(&self) {
        for _ in 0..TRIES {
            if let Ok(mut table) = TABLE.try_lock() {
                self.stop_in(&mut table);
                return;
            }
            pause(PAUSE);
        }
    }

    fn stop_in(&self, table: &mut BTreeMap<u32, Entry>) {
        self.closed.store(true, Ordering::Relaxed);
        for entry in table.values_mut().filter(|entry| entry.group == self.id) {
            entry.stopped = true;
            entry.kill();
        }
    }
}

/// Starts the thread that waits for children, if there is none yet.
pub(super) fn watch() -> io::Result<()> {
    static STARTED: Mutex<bool> = Mutex::new(false);
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if *started {
        return Ok(());
    }
    // Installed before a child is started. It also undoes a SIGCHLD that our parent has ignored: then the system
    // would not keep the exit status.
    let mut signals = Signals::new([SIGCHLD])?;
    std::thread::Builder::new()
        .name("children".into())
        .spawn(move || {
            affinity::spread();
            let mut blocked = SigSet::empty();
            blocked.add(Signal::SIGCHLD);
            // A valid set has no way to fail.
            let _ = blocked.thread_unblock();
            collect();
            for _ in signals.forever() {
                collect();
            }
        })?;
    *started = true;
    Ok(())
}

/// Waits for the children that have ended.
fn collect() {
    let mut table = table();
    table.retain(|_, entry| entry.runs());
    if getpid().as_raw() == 1 {
        collect_orphans(&mut table);
    }
}

/// Waits for the children that have ended and are not our own.
fn collect_orphans(table: &mut BTreeMap<u32, Entry>) {
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        let orphan = match waitid(Id::All, peek) {
            Ok(status) => match status.pid() {
                Some(pid) => pid,
                None => return,
            },
            Err(Errno::EINTR) => continue,
            // Ended by a signal that has no name here, so that it cannot be told who it was.
            Err(Errno::EINVAL) => Pid::from_raw(-1),
            Err(_) => return,
        };
        // Our own may have ended since they were looked at; then this is done with it.
        let before = table.len();
        table.retain(|_, entry| entry.runs());
        let is_ours = table.len() < before;
        if !is_ours && waitpid(orphan, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) {
            return;
        }
    }
}
