//! The files of a queue: their paths, which file a path leads to, and whether that is a queue.

use std::fs::{File, FileType, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
use rustix::io::Errno;

use super::queue_faults::{cannot_open, damaged, fault_with_reason, open_io_fault};
use super::schema::APPLICATION_ID;
use crate::common::fault::Fault;

/// The first bytes of every SQLite database, and the offset of `application_id`:
/// <https://www.sqlite.org/fileformat2.html#the_database_header>.
const MAGIC: &[u8] = b"SQLite format 3\0";
const ID_AT: usize = 68;

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
    let refuse = |why| Err(fault_with_reason(queue, why));
    if let Ok(found) = queue.canonicalize() {
        if found.is_dir() {
            return refuse("is a directory: name a file in it");
        }
        return Ok(found);
    }
    if queue.is_symlink() {
        return refuse("is a link to a file that does not exist");
    }
    Ok(match (directory(queue).canonicalize(), queue.file_name()) {
        (Ok(directory), Some(name)) => directory.join(name),
        _ => queue.to_owned(),
    })
}

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

    /// Of the file at a path. Does not read when it was changed: after that has been read, Linux (since 6.13) gives the
    /// next write a more exact time, so that a sync may write the inode as well.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        match statx(CWD, path, AtFlags::empty(), StatxFlags::INO) {
            Ok(found) => {
                let device = makedev(found.stx_dev_major, found.stx_dev_minor);
                Ok(Self(device, found.stx_ino))
            }
            // Linux before 4.11, or a sandbox that does not know the call.
            Err(Errno::NOSYS | Errno::PERM) => Ok(Self::of(&std::fs::metadata(path)?)),
            Err(e) => Err(e.into()),
        }
    }
}

/// Length in bytes, and time of the last change (seconds, nanoseconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SizeAndMtime(u64, i64, i64);

impl SizeAndMtime {
    pub(super) fn of(file: &Metadata) -> Self {
        Self(file.len(), file.mtime(), file.mtime_nsec())
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

pub(super) fn read_identity_and_stamp(path: &Path) -> Option<(Identity, SizeAndMtime)> {
    let file = std::fs::metadata(path).ok()?;
    Some((Identity::of(&file), SizeAndMtime::of(&file)))
}

/// Does not wait for the other end of a FIFO.
pub(super) fn open_without_waiting(queue: &Path, write: bool) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut options = File::options();
    options.read(true).write(write).custom_flags(flags.bits());
    options.open(queue)
}

/// Looks before SQLite opens the file: another file is never changed, and never reported as a damaged
/// queue. Fails with `FaultCause::Damaged` if the file is empty: a queue never is.
pub(super) fn check_is_queue(queue: &Path) -> Result<(), Fault> {
    let unreadable = |e: io::Error| open_io_fault(queue, &e);
    // By its name first: opening a device may do something.
    let metadata = std::fs::metadata(queue).map_err(unreadable)?;
    check_is_file(queue, metadata.file_type())?;
    let file = open_without_waiting(queue, false).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    check_is_file(queue, metadata.file_type())?;
    let mut header = Vec::new();
    let mut start = file.take(ID_AT as u64 + 4);
    start.read_to_end(&mut header).map_err(unreadable)?;
    let other = |what: &str| {
        cannot_open(queue, &format!("the file is {what}")).with_remedy("name another file")
    };
    if header.is_empty() {
        return Err(damaged(queue, "the file is empty"));
    }
    let id = header.get(ID_AT..).filter(|_| header.starts_with(MAGIC));
    match id.map(TryInto::try_into) {
        Some(Ok(id)) if i32::from_be_bytes(id) == APPLICATION_ID => Ok(()),
        Some(Ok(_)) => Err(other("an SQLite database of something else")),
        // A damaged queue still has its lock or its log beside it.
        _ if ["-lock", "-wal"]
            .iter()
            .any(|suffix| beside(queue, suffix).exists()) =>
        {
            Ok(())
        }
        _ => Err(other("not a queue")),
    }
}

fn check_is_file(queue: &Path, found: FileType) -> Result<(), Fault> {
    let what = if found.is_file() {
        return Ok(());
    } else if found.is_dir() {
        "a directory"
    } else if found.is_fifo() {
        "a FIFO"
    } else if found.is_socket() {
        "a socket"
    } else {
        "a device"
    };
    Err(cannot_open(queue, &format!("it is {what}, not a file")).with_remedy("name a file"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_the_same_by_its_path_and_by_its_metadata() {
        let directory = tempfile::tempdir().unwrap();
        let [file, symbolic] = ["file", "symbolic"].map(|name| directory.path().join(name));
        std::fs::write(&file, "x").unwrap();
        std::os::unix::fs::symlink(&file, &symbolic).unwrap();
        let identity = Identity::of(&std::fs::metadata(&file).unwrap());
        assert_eq!(Identity::at(&file).unwrap(), identity);
        assert_eq!(Identity::at(&symbolic).unwrap(), identity);
        assert_ne!(Identity::at(directory.path()).unwrap(), identity);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(
            Identity::at(&symbolic).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
        let device = Identity::at(Path::new("/dev/null")).unwrap();
        assert_eq!(
            device,
            Identity::of(&std::fs::metadata("/dev/null").unwrap())
        );
    }
}
