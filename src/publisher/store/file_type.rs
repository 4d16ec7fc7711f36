//! Whether a file is a queue, before SQLite opens it: another file is never changed, and is never
//! reported as a damaged queue.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;

use super::errors::{cannot_open, damaged, io_error};
use super::files::beside;
use super::schema::APPLICATION_ID;
use crate::common::fault::Fault;

/// The first bytes of every SQLite database, and the offset of `application_id`:
/// <https://www.sqlite.org/fileformat2.html#the_database_header>.
const MAGIC: &[u8] = b"SQLite format 3\0";
const ID_AT: usize = 68;

/// Does not wait for the other end of a FIFO.
pub(super) fn open_to_read(queue: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags.bits()).open(queue)
}

/// Fails with `Kind::Damaged` if the file is empty: a queue never is.
pub(super) fn check_is_queue(queue: &Path) -> Result<(), Fault> {
    let unreadable = |e: io::Error| io_error(queue, &e);
    // By its name first: opening a device may do something.
    let metadata = std::fs::metadata(queue).map_err(unreadable)?;
    check_is_file(queue, metadata.file_type())?;
    let file = open_to_read(queue).map_err(unreadable)?;
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
