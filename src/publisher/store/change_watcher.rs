//! Learns from the kernel (inotify(7)) that another process has committed, or that something has happened to the files
//! of the queue, so that the store's thread need not look while nothing happens.
//!
//! A write to the log is no sign of a commit: others see it only after the sync, by an index that they have mapped,
//! and changes of mapped memory are not reported. So whoever has committed something that matters to others opens and
//! closes the lock file ([`announce_commit`]), which changes nothing on the disk. The kernel does the same for a process
//! that ends. All processes on a queue run on one machine, as SQLite's log demands, so every kind of file system reports
//! this. A look every [`FALLBACK_INTERVAL`] is for what is not reported: a commit by another SQLite client, a file system
//! that is mounted over a directory, and what happens to a directory that cannot be read.

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use super::files::{beside, open_without_waiting};
use crate::common::runtime::clock::instant_now;
use crate::publisher::queue::store_requests::StoreRequest;

/// How often to look without a report.
pub(super) const FALLBACK_INTERVAL: Duration = Duration::from_secs(10);

const REMOVED_OR_MOVED: AddWatchFlags = AddWatchFlags::IN_ATTRIB
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_DELETE_SELF);

#[derive(Debug)]
pub(super) struct ChangeWatcher {
    reports: Inotify,
    lock: WatchDescriptor,
    wake_up: WakeUp,
}

/// Wakes the store's thread, also when it is dropped.
#[derive(Clone, Debug)]
pub(super) struct WakeUp(Arc<EventFd>);

#[derive(Debug)]
pub(super) enum Wait {
    Request(StoreRequest),
    /// [`ChangeWatcher::take_changes`] has something.
    Changed,
    Timeout,
    /// Nobody can send a request any more.
    Disconnected,
}

/// What has been reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// A commit of any process, this one included, or the end of one.
    pub(super) committed: bool,
    /// Something else that may have changed, moved or removed a file.
    pub(super) files: bool,
}

impl WakeUp {
    pub(super) fn new() -> nix::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self(Arc::new(EventFd::from_flags(flags)?)))
    }

    pub(super) fn wake(&self) {
        // Fails only if it has been woken more often than a number can count.
        let _ = self.0.write(1);
    }
}

impl Drop for WakeUp {
    fn drop(&mut self) {
        self.wake();
    }
}

impl ChangeWatcher {
    /// All files of the queue have to exist. `given` is the path by which the user names the queue.
    pub(super) fn new(queue: &Path, given: &Path, wake_up: WakeUp) -> nix::Result<Self> {
        let reports = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let mut paths = paths_on_the_way(given);
        paths.extend(paths_on_the_way(queue));
        for path in &paths {
            let flags = REMOVED_OR_MOVED.difference(AddWatchFlags::IN_ATTRIB);
            match reports.add_watch(path, flags | AddWatchFlags::IN_DONT_FOLLOW) {
                // It may be that it cannot be read.
                Ok(_) | Err(Errno::EACCES) => {}
                Err(other) => return Err(other),
            }
        }
        // After the paths, of which one may be the queue: the last flags for a file count.
        reports.add_watch(queue, REMOVED_OR_MOVED | AddWatchFlags::IN_MODIFY)?;
        for suffix in ["-wal", "-shm"] {
            reports.add_watch(&beside(queue, suffix), REMOVED_OR_MOVED)?;
        }
        let lock = beside(queue, "-lock");
        let lock = reports.add_watch(&lock, REMOVED_OR_MOVED | AddWatchFlags::IN_CLOSE_WRITE)?;
        Ok(Self {
            reports,
            lock,
            wake_up,
        })
    }

    /// Waits for a request until this time; for a report only if `reports` is set.
    pub(super) fn wait(
        &self,
        inbox: &Receiver<StoreRequest>,
        until: Instant,
        reports: bool,
    ) -> Wait {
        loop {
            match inbox.try_recv() {
                Ok(request) => return Wait::Request(request),
                Err(TryRecvError::Disconnected) => return Wait::Disconnected,
                Err(TryRecvError::Empty) => {}
            }
            let left = until.saturating_duration_since(instant_now());
            if left.is_zero() {
                return Wait::Timeout;
            }
            let whole_ms = left.as_micros().div_ceil(1_000);
            let timeout = PollTimeout::try_from(whole_ms).unwrap_or(PollTimeout::MAX);
            let wanted = |source| PollFd::new(source, PollFlags::POLLIN);
            let mut sources = [wanted(self.wake_up.0.as_fd()), wanted(self.reports.as_fd())];
            let sources = &mut sources[..=usize::from(reports)];
            match poll(sources, timeout) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return Wait::Timeout,
            }
            let is_ready = |source: &PollFd| source.any().unwrap_or(true);
            if is_ready(&sources[0]) {
                // Before the next look at the channel: what is sent after that wakes again.
                let _ = self.wake_up.0.read();
            } else if sources.get(1).is_some_and(is_ready) {
                return Wait::Changed;
            }
        }
    }

    pub(super) fn take_changes(&self) -> Changes {
        let mut changes = Changes::default();
        while let Ok(events) = self.reports.read_events() {
            for event in events {
                let of_lock = event.wd == self.lock;
                if of_lock && event.mask == AddWatchFlags::IN_CLOSE_WRITE {
                    changes.committed = true;
                } else {
                    changes.files = true;
                }
            }
        }
        changes
    }
}

/// The path itself, and all directories and symbolic links through which it leads.
fn paths_on_the_way(path: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        // None for the directory in which the process runs: a relative path leads there wherever it is moved.
        let ancestors = path.ancestors().filter(|path| !path.as_os_str().is_empty());
        for path in ancestors {
            if !found.insert(path.to_owned()) {
                // And so are its ancestors.
                break;
            }
            if let (Ok(target), Some(directory)) = (path.read_link(), path.parent()) {
                left.push(directory.join(target));
            }
        }
    }
    found
}

/// Reports to the other processes on the queue that this one has committed.
pub(super) fn announce_commit(queue: &Path) {
    // Without its lock file the queue is gone, which others notice as well.
    let _ = open_without_waiting(&beside(queue, "-lock"), true);
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;

    use super::*;

    const COMMITTED: Changes = Changes {
        committed: true,
        files: false,
    };
    const FILES: Changes = Changes {
        committed: false,
        files: true,
    };

    fn make_queue(directory: &Path) -> std::path::PathBuf {
        fs::create_dir_all(directory).unwrap();
        let queue = directory.join("queue");
        for suffix in ["", "-wal", "-shm", "-lock"] {
            fs::write(beside(&queue, suffix), "x").unwrap();
        }
        queue
    }

    fn soon() -> Instant {
        instant_now() + Duration::from_secs(10)
    }

    #[test]
    fn a_commit_is_reported_and_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let queue = make_queue(directory.path());
        let watcher = ChangeWatcher::new(&queue, &queue, WakeUp::new().unwrap()).unwrap();
        let (_sender, inbox) = mpsc::channel();
        assert_eq!(watcher.take_changes(), Changes::default());
        let before = fs::metadata(beside(&queue, "-lock")).unwrap();
        announce_commit(&queue);
        let after = fs::metadata(beside(&queue, "-lock")).unwrap();
        assert_eq!(before.modified().unwrap(), after.modified().unwrap());
        // Only if it is waited for.
        assert!(matches!(
            watcher.wait(&inbox, instant_now(), true),
            Wait::Timeout
        ));
        let little = instant_now() + Duration::from_millis(1);
        assert!(matches!(watcher.wait(&inbox, little, false), Wait::Timeout));
        assert!(matches!(watcher.wait(&inbox, soon(), true), Wait::Changed));
        assert_eq!(watcher.take_changes(), COMMITTED);
        assert_eq!(watcher.take_changes(), Changes::default());
    }

    #[test]
    fn what_happens_to_the_files_is_reported() {
        type Harm = fn(&Path, &Path);
        let harms: [Harm; 13] = [
            |queue, _| fs::write(queue, "y").unwrap(),
            |queue, _| fs::remove_file(queue).unwrap(),
            |queue, _| fs::remove_file(beside(queue, "-wal")).unwrap(),
            |queue, _| fs::remove_file(beside(queue, "-shm")).unwrap(),
            |queue, _| fs::remove_file(beside(queue, "-lock")).unwrap(),
            |queue, _| fs::rename(queue, beside(queue, "-other")).unwrap(),
            |queue, _| fs::rename(beside(queue, "-other"), queue).unwrap(),
            |_, given| fs::remove_file(given).unwrap(),
            |_, given| fs::remove_file(given.parent().unwrap()).unwrap(),
            |queue, _| {
                let parent = queue.parent().unwrap().parent().unwrap();
                fs::rename(parent, parent.with_file_name("moved")).unwrap();
            },
            |_, given| {
                let parent = given.parent().unwrap().parent().unwrap();
                fs::rename(parent, parent.with_file_name("moved")).unwrap();
            },
            |queue, _| fs::remove_file(queue.ancestors().nth(3).unwrap().join("t")).unwrap(),
            |queue, _| {
                let parent = queue.ancestors().nth(3).unwrap().join("u");
                fs::rename(&parent, parent.with_file_name("moved")).unwrap();
            },
        ];
        for (index, harm) in harms.iter().enumerate() {
            let directory = tempfile::tempdir().unwrap();
            let queue = make_queue(&directory.path().join("a/b"));
            fs::write(beside(&queue, "-other"), "z").unwrap();
            let at = |name| directory.path().join(name);
            let symlink =
                |target: &Path, name| std::os::unix::fs::symlink(target, at(name)).unwrap();
            // c/s/given, by t and u/v, is a/b/given, which is a/b/queue.
            fs::create_dir(at("c")).unwrap();
            fs::create_dir(at("u")).unwrap();
            symlink(Path::new("../t"), "c/s");
            symlink(&at("u/v"), "t");
            symlink(Path::new("../a/b"), "u/v");
            symlink(&queue, "a/b/given");
            let given = at("c/s/given");
            let watcher = ChangeWatcher::new(&queue, &given, WakeUp::new().unwrap()).unwrap();
            harm(&queue, &given);
            assert_eq!(watcher.take_changes(), FILES, "{index}");
        }
    }

    #[test]
    fn a_request_and_the_last_sender_s_end_are_noticed_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let queue = make_queue(directory.path());
        let watcher = ChangeWatcher::new(&queue, &queue, WakeUp::new().unwrap()).unwrap();
        let (sender, inbox) = mpsc::channel();
        let wake_up = watcher.wake_up.clone();
        let thread = std::thread::spawn(move || {
            sender.send(StoreRequest::RecordConnected(true)).unwrap();
            wake_up.wake();
            drop(sender);
            drop(wake_up);
        });
        let wait = || watcher.wait(&inbox, soon(), true);
        assert!(matches!(wait(), Wait::Request(_)));
        assert!(matches!(wait(), Wait::Disconnected));
        thread.join().unwrap();
    }
}
