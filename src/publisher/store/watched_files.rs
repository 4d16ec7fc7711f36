//! Detects that a file of the open queue was removed, moved or replaced: what is written to it would
//! be lost with it, and the open file works as before.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::files::{Identity, SizeAndMtime, beside};
use crate::common::fault::{Exit, Fault};

#[derive(Clone, Debug)]
pub(super) struct FileGone {
    pub(super) fault: Fault,
    pub(super) exists: bool,
}

#[derive(Debug)]
pub(super) struct WatchedFiles {
    queue: PathBuf,
    /// The path that the user gave: there may be symbolic links in it.
    given: PathBuf,
    file: WatchedFile,
    log: WatchedFile,
    others: [(&'static str, Identity); 2],
}

/// Open as a path only: closing that gives up no locks.
#[derive(Debug)]
struct WatchedFile {
    descriptor: File,
    identity: Identity,
}

impl WatchedFile {
    fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        let mut options = OpenOptions::new();
        let descriptor = options.read(true).custom_flags(flags.bits()).open(path)?;
        let identity = Identity::of(&descriptor.metadata()?);
        Ok(Self {
            descriptor,
            identity,
        })
    }

    fn is_removed(&self) -> bool {
        let found = self.descriptor.metadata();
        found.is_ok_and(|file| file.nlink() == 0)
    }

    fn describe(&self, path: &Path, name: &str) -> String {
        if self.is_removed() {
            return format!("{name} was removed");
        }
        let now = format!("/proc/self/fd/{}", self.descriptor.as_raw_fd());
        match std::fs::read_link(now) {
            Ok(now) if now.is_absolute() && now != path => {
                format!("{name} is now {}", now.display())
            }
            _ => format!("{name} is not to be found at its name"),
        }
    }
}

impl WatchedFiles {
    /// `identity` is of the file that was opened: fails if the queue is another one by now.
    pub(super) fn new(queue: &Path, given: &Path, identity: Identity) -> io::Result<Self> {
        let other =
            |suffix| -> io::Result<_> { Ok((suffix, Identity::at(&beside(queue, suffix))?)) };
        let file = WatchedFile::open(queue)?;
        if file.identity != identity {
            let cause = "it was replaced while it was being opened";
            return Err(io::Error::other(cause));
        }
        Ok(Self {
            queue: queue.to_owned(),
            given: given.to_owned(),
            file,
            log: WatchedFile::open(&beside(queue, "-wal"))?,
            others: [other("-lock")?, other("-shm")?],
        })
    }

    pub(super) fn check(&self) -> Result<(), FileGone> {
        let Some(what) = self.describe_missing_file() else {
            return Ok(());
        };
        let exists = !self.file.is_removed() && !self.log.is_removed();
        let remedy = if exists {
            "put everything back where it was, under its name, before the next run"
        } else {
            "stop the publisher before you remove its queue"
        };
        Err(self.file_gone_error(&what, exists, remedy))
    }

    fn describe_missing_file(&self) -> Option<String> {
        let file = self.file.identity;
        if let Some(found) = mismatch(&self.queue, file).or_else(|| mismatch(&self.given, file)) {
            let what = self.file.describe(&self.queue, "the file");
            return Some(what + &found);
        }
        let path = beside(&self.queue, "-wal");
        if let Some(found) = mismatch(&path, self.log.identity) {
            let what = self.log.describe(&path, &path.display().to_string());
            return Some(what + &found);
        }
        self.others.iter().find_map(|(suffix, identity)| {
            let path = beside(&self.queue, suffix);
            let found = mismatch(&path, *identity)?;
            Some(format!("{} was removed{found}", path.display()))
        })
    }

    pub(super) fn overwritten_error(&self) -> FileGone {
        let remedy = "stop the publisher before you put a copy back or change the file";
        self.file_gone_error("the file was overwritten", false, remedy)
    }

    fn file_gone_error(&self, what: &str, exists: bool, remedy: &str) -> FileGone {
        let queue = self.queue.display();
        let message = format!("{queue}: the queue is gone while it is in use: {what}");
        FileGone {
            fault: Fault::permanent(Exit::Io, message).with_remedy(remedy),
            exists,
        }
    }

    pub(super) fn file_stamp(&self) -> Option<SizeAndMtime> {
        let file = self.file.descriptor.metadata().ok()?;
        Some(SizeAndMtime::of(&file))
    }

    pub(super) fn is_in_place(&self) -> bool {
        mismatch(&self.queue, self.file.identity).is_none()
    }
}

/// What is at this path in place of the file with that identity; none if it is that file.
fn mismatch(path: &Path, identity: Identity) -> Option<String> {
    match Identity::at(path) {
        Ok(found) if found == identity => None,
        Ok(_) => Some(", and another file has its name".into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Some(String::new()),
        Err(e) => Some(format!(" ({e})")),
    }
}
