//! The paths of a queue's files, and which file a path leads to.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::errors::cannot;
use crate::common::fault::Fault;

/// The path of the queue with `suffix` appended, as SQLite names its own files.
pub(super) fn beside(queue: &Path, suffix: &str) -> PathBuf {
    let mut name = queue.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn directory(queue: &Path) -> &Path {
    let directory = queue.parent().filter(|name| !name.as_os_str().is_empty());
    directory.unwrap_or(Path::new("."))
}

/// Canonical: a process that uses a symbolic link has to find the same lock and log.
pub(super) fn resolve(queue: &Path) -> Result<PathBuf, Fault> {
    if let Ok(found) = queue.canonicalize() {
        if found.is_dir() {
            return Err(cannot(queue, "is a directory: name a file in it"));
        }
        return Ok(found);
    }
    if queue.is_symlink() {
        return Err(cannot(queue, "is a link to a file that does not exist"));
    }
    Ok(match (directory(queue).canonicalize(), queue.file_name()) {
        (Ok(directory), Some(name)) => directory.join(name),
        _ => queue.to_owned(),
    })
}

/// Makes changes of names durable.
pub(super) fn sync_directory(queue: &Path) -> io::Result<()> {
    File::open(directory(queue))?.sync_all()
}

/// Device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

impl Identity {
    pub(super) fn of(file: &Metadata) -> Self {
        Self(file.dev(), file.ino())
    }
}

/// Length in bytes, and time of the last change (seconds, nanoseconds).
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

pub(super) fn identify(path: &Path) -> Option<(Identity, Stamp)> {
    let file = std::fs::metadata(path).ok()?;
    Some((Identity::of(&file), Stamp::of(&file)))
}
