//! The path of a queue file and of the files beside it.

use std::fs::File;
use std::io;
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

/// The canonical path: a process that opens the queue through a symbolic link has to find the same
/// lock and log.
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

/// Makes new and changed names in the queue's directory durable.
pub(super) fn sync_directory(queue: &Path) -> io::Result<()> {
    File::open(directory(queue))?.sync_all()
}
