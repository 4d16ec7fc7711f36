//! Whether the names of a queue still lead to the files that are open. What is written to a file
//! that was removed, moved or replaced under a running process is gone with it, and nothing else
//! says so: the open file works as before.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;

use super::file::beside;
use crate::common::fault::{Exit, Fault};

/// Which file it is: device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

impl Identity {
    pub(super) fn of(file: &Metadata) -> Self {
        Self(file.dev(), file.ino())
    }
}

/// What a file looks like from outside: length, and when it was last written (seconds, nanoseconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(u64, i64, i64);

impl Stamp {
    pub(super) fn of(file: &Metadata) -> Self {
        Self(file.len(), file.mtime(), file.mtime_nsec())
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// A queue that is not at its name any more, or not what was written.
#[derive(Clone, Debug)]
pub(super) struct Gone {
    pub(super) fault: Fault,
    /// File and log both still exist: what was committed is in them.
    pub(super) exists: bool,
}

/// The files of a queue that is open.
#[derive(Debug)]
pub(super) struct Presence {
    queue: PathBuf,
    /// As the user gave it: there may be links in it.
    given: PathBuf,
    file: Held,
    log: Held,
    /// Lock and index of the log.
    others: [(&'static str, Identity); 2],
}

/// A file that is held on to, by a descriptor that gives up no locks when it is closed.
#[derive(Debug)]
struct Held {
    descriptor: File,
    identity: Identity,
}

impl Held {
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

    /// Whether no name leads to it any more.
    fn is_removed(&self) -> bool {
        self.descriptor
            .metadata()
            .is_ok_and(|file| file.nlink() == 0)
    }

    /// Where it is now, if that can be known.
    fn place(&self) -> Option<PathBuf> {
        let link = format!("/proc/self/fd/{}", self.descriptor.as_raw_fd());
        std::fs::read_link(link)
            .ok()
            .filter(|place| place.is_absolute())
    }
}

impl Presence {
    /// Of the queue that a connection has open; `identity` is which file that was.
    ///
    /// # Errors
    ///
    /// The operating system's; one of them is missing already, or is another.
    pub(super) fn of(queue: &Path, given: &Path, identity: Identity) -> io::Result<Self> {
        let of = |suffix| -> io::Result<_> {
            Ok((
                suffix,
                Identity::of(&std::fs::metadata(beside(queue, suffix))?),
            ))
        };
        let found = Self {
            queue: queue.to_owned(),
            given: given.to_owned(),
            file: Held::open(queue)?,
            log: Held::open(&beside(queue, "-wal"))?,
            others: [of("-lock")?, of("-shm")?],
        };
        if found.file.identity != identity {
            return Err(io::Error::other(
                "it was replaced while it was being opened",
            ));
        }
        Ok(found)
    }

    /// What has happened to it; none if everything is where it was.
    pub(super) fn look(&self) -> Option<Gone> {
        let found = look_at(&self.queue, "", self.file.identity);
        let by_given = || look_at(&self.given, "", self.file.identity);
        let log = || look_at(&self.queue, "-wal", self.log.identity);
        let mut others = self.others.iter();
        let file = found.or_else(by_given).map(|found| (&self.file, "", found));
        let file = file.or_else(|| log().map(|found| (&self.log, "-wal", found)));
        let (what, found) = match file {
            Some((held, suffix, found)) => (self.describe(held, suffix), found),
            None => others.find_map(|(suffix, identity)| {
                let found = look_at(&self.queue, suffix, *identity)?;
                let name = beside(&self.queue, suffix);
                Some((format!("{} was removed", name.display()), found))
            })?,
        };
        let exists = !self.file.is_removed() && !self.log.is_removed();
        let remedy = if exists {
            "put everything back where it was, under its name, before the next run"
        } else {
            "stop the publisher before you remove its queue"
        };
        let queue = self.queue.display();
        let message = format!("{queue}: the queue is gone while it is in use: {what}{found}");
        Some(Gone {
            fault: Fault::permanent(Exit::Io, message).with_remedy(remedy),
            exists,
        })
    }

    /// What the file looks like now.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        let file = self.file.descriptor.metadata().ok()?;
        Some(Stamp::of(&file))
    }

    /// It is at its name, but something else was written into it.
    pub(super) fn overwritten(&self) -> Gone {
        let queue = self.queue.display();
        let message =
            format!("{queue}: the queue is gone while it is in use: the file was overwritten");
        let remedy = "stop the publisher before you put a copy back or change the file";
        Gone {
            fault: Fault::permanent(Exit::Io, message).with_remedy(remedy),
            exists: false,
        }
    }

    /// Whether the file is at its name, whatever is beside it.
    pub(super) fn is_in_place(&self) -> bool {
        look_at(&self.queue, "", self.file.identity).is_none()
    }

    fn describe(&self, held: &Held, suffix: &str) -> String {
        let name = beside(&self.queue, suffix);
        let what = if suffix.is_empty() {
            "the file".into()
        } else {
            name.display().to_string()
        };
        if held.is_removed() {
            return format!("{what} was removed");
        }
        match held.place() {
            Some(place) if place != name => {
                format!("{what} is now {}", place.display())
            }
            _ => format!("{what} is not to be found at its name"),
        }
    }
}

/// What stands at a name in the place of what should.
fn look_at(queue: &Path, suffix: &str, identity: Identity) -> Option<String> {
    match std::fs::metadata(beside(queue, suffix)) {
        Ok(found) if Identity::of(&found) == identity => None,
        Ok(_) => Some(", and another file has its name".into()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Some(String::new()),
        Err(e) => Some(format!(" ({e})")),
    }
}
