//! Reads a file that people write by hand. What is given by mistake may have no end, as a device, or may never
//! begin, as a pipe into which nobody writes: the size is bounded, and so is the wait.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::clock::clock;
use crate::common::fault::{Exit, Fault};

/// The largest file that is read, in bytes. No certificate store is larger.
const MOST: u64 = 16 << 20;

/// How long a pipe or a terminal may take. A command that asks a vault for a key takes a second or two.
const PATIENCE: Duration = Duration::from_secs(5);

/// A file that was read.
#[derive(Debug)]
pub struct Content {
    pub bytes: Vec<u8>,
    /// What the operating system says of it.
    pub metadata: Metadata,
}

/// Reads all that is in the file.
///
/// # Errors
///
/// The operating system's, and one for a file above 16 MiB, and for a pipe or a device that does not end within 5 s.
pub fn read(path: &Path) -> io::Result<Content> {
    // A pipe that nobody writes into would not even open.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits() | OFlag::O_NOCTTY.bits())
        .open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::IsADirectory,
            "it is a directory",
        ));
    }
    let mut bytes = Vec::new();
    if metadata.is_file() {
        file.take(MOST + 1).read_to_end(&mut bytes)?;
    } else {
        read_slowly(file, &mut bytes)?;
    }
    if bytes.len() as u64 > MOST {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            "it is larger than 16 MiB",
        ));
    }
    Ok(Content { bytes, metadata })
}

/// Reads what others write, to its end.
fn read_slowly(mut file: File, bytes: &mut Vec<u8>) -> io::Result<()> {
    let until = clock() + PATIENCE;
    let mut piece = [0; 4096];
    loop {
        let left = until.saturating_duration_since(clock());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut waits = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        if left == PollTimeout::ZERO || poll(&mut waits, left)? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "it is a pipe or a device, and has not ended within 5 s",
            ));
        }
        match file.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(e) if is_passing(e.kind()) => {}
            Err(e) => return Err(e),
        }
        if bytes.len() as u64 > MOST {
            return Ok(());
        }
    }
}

fn is_passing(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// As [`read`], with an error that names the flag.
///
/// # Errors
///
/// A fault that names the file and the flag that gave it.
pub fn read_for(flag: &str, path: &Path) -> Result<Content, Fault> {
    read(path).map_err(|e| unreadable(flag, path, &e))
}

/// As [`read_for`], for text. A byte order mark is not part of it.
///
/// # Errors
///
/// As there, and for what is not UTF-8.
pub fn read_text(flag: &str, path: &Path) -> Result<String, Fault> {
    let bytes = read_for(flag, path)?.bytes;
    let text = String::from_utf8(bytes)
        .map_err(|_| wrong(flag, path, "is not UTF-8 text").with_remedy("save it as UTF-8"))?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(text) => text.to_owned(),
        None => text,
    })
}

/// A file that cannot be read; `flag` may be empty.
pub fn unreadable(flag: &str, path: &Path, error: &io::Error) -> Fault {
    let remedy = match error.kind() {
        io::ErrorKind::FileTooLarge | io::ErrorKind::TimedOut | io::ErrorKind::IsADirectory => {
            "give the path of a regular file"
        }
        _ => "check the path and its permissions",
    };
    let space = if flag.is_empty() { "" } else { " " };
    let message = format!("{}: {flag}{space}cannot be read: {error}", path.display());
    Fault::permanent(Exit::NoInput, message).with_remedy(remedy)
}

/// A file that does not hold what it should.
pub fn wrong(flag: &str, path: &Path, cause: &str) -> Fault {
    Fault::permanent(Exit::Config, format!("{}: {flag} {cause}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_is_refused() {
        let error = read(Path::new("/dev/zero")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(read(Path::new("/dev/null")).unwrap().bytes, b"");
        let error = read(Path::new("/")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
    }

    #[test]
    fn a_pipe_is_read_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || std::fs::write(path, vec![7; 100_000])
        });
        assert_eq!(read(&path).unwrap().bytes, vec![7; 100_000]);
        writer.join().unwrap().unwrap();
    }
}
