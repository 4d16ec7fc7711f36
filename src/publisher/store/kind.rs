//! What stands at the name of a queue, before anything opens it as a database: something else is
//! left as it is, and is never said to be a damaged queue.

use std::fs::{File, FileType, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;

use super::file::{beside, cannot, damaged, open_remedy};
use super::schema::APPLICATION_ID;
use crate::common::fault::Fault;

/// The first bytes of every SQLite database, and where `application_id` follows:
/// <https://www.sqlite.org/fileformat2.html#the_database_header>.
const MAGIC: &[u8] = b"SQLite format 3\0";
const ID_AT: usize = 68;

/// Opens a file to look at its bytes. Nobody on the other end of a FIFO is waited for.
pub(super) fn open_to_read(queue: &Path) -> io::Result<File> {
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags.bits()).open(queue)
}

/// Whether a file is a queue, or was one.
///
/// # Errors
///
/// A fault that says what it is instead, or why nobody can tell. That it is empty is damage: a
/// queue never is.
pub(super) fn examine(queue: &Path) -> Result<(), Fault> {
    let unreadable = |e: io::Error| cannot(queue, &open_remedy(&e));
    // By its name first: opening a device may do something.
    let found = std::fs::metadata(queue).map_err(unreadable)?.file_type();
    let other = |kind: FileType| {
        let what = describe(kind);
        cannot(
            queue,
            &format!("cannot be opened: it is {what}, not a file"),
        )
        .with_remedy("name a file")
    };
    if !found.is_file() {
        return Err(other(found));
    }
    let file = open_to_read(queue).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(other(metadata.file_type()));
    }
    let mut header = Vec::new();
    let length = (ID_AT + 4) as u64;
    file.take(length)
        .read_to_end(&mut header)
        .map_err(unreadable)?;
    let something_else = |what: &str| {
        cannot(queue, &format!("cannot be opened: the file is {what}"))
            .with_remedy("name another file")
    };
    if header.is_empty() {
        return Err(damaged(queue, "the file is empty"));
    }
    let id = header.get(ID_AT..).filter(|_| header.starts_with(MAGIC));
    match id.map(TryInto::try_into) {
        Some(Ok(id)) if i32::from_be_bytes(id) == APPLICATION_ID => Ok(()),
        Some(Ok(_)) => Err(something_else("an SQLite database of something else")),
        // Its beginning is not a database's. Beside a queue there are its lock and its log.
        _ if has_company(queue) => Ok(()),
        _ => Err(something_else("not a queue")),
    }
}

fn has_company(queue: &Path) -> bool {
    ["-lock", "-wal"]
        .iter()
        .any(|suffix| beside(queue, suffix).exists())
}

fn describe(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}
