//! Reads a file that people write by hand. A path that is given by mistake may lead to a device
//! without an end or to a pipe without a writer: size and time are limited.

use std::fs::{File, Metadata, OpenOptions};
use std::io::ErrorKind::{FileTooLarge, Interrupted, IsADirectory, TimedOut, WouldBlock};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::clock::instant_now;
use super::stdio;
use crate::common::fault::{Exit, Fault};

/// In bytes. No certificate store is larger.
const MAX_SIZE: u64 = 16 << 20;

/// How long a pipe or a terminal may take. A command that fetches a key from a vault takes a second or two.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct FileContent {
    pub bytes: Vec<u8>,
    pub metadata: Metadata,
}

/// Reads a file to its end. A file above 16 MiB is an error, and a pipe or a device that does not end within 5 s.
pub fn read(path: &Path) -> io::Result<FileContent> {
    // A pipe without a writer would block already in open(2).
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits() | OFlag::O_NOCTTY.bits())
        .open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_dir() {
        return Err(io::Error::new(IsADirectory, "it is a directory"));
    }
    let mut bytes = Vec::new();
    if metadata.is_file() {
        file.take(MAX_SIZE + 1).read_to_end(&mut bytes)?;
    } else {
        read_stream(file, &mut bytes)?;
    }
    if bytes.len() as u64 > MAX_SIZE {
        return Err(io::Error::new(FileTooLarge, "it is larger than 16 MiB"));
    }
    Ok(FileContent { bytes, metadata })
}

fn read_stream(mut file: File, bytes: &mut Vec<u8>) -> io::Result<()> {
    let until = instant_now() + TIMEOUT;
    let mut chunk = [0; 4096];
    while bytes.len() as u64 <= MAX_SIZE {
        let left = until.saturating_duration_since(instant_now());
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut fds = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        if left == PollTimeout::ZERO || poll(&mut fds, left)? == 0 {
            let why = "it is a pipe or a device, and has not ended within 5 s";
            return Err(io::Error::new(TimedOut, why));
        }
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(e) if matches!(e.kind(), WouldBlock | Interrupted) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// As [`read`], with a fault that names `flag`, which may be empty.
pub fn read_for(flag: &str, path: &Path) -> Result<FileContent, Fault> {
    read(path).map_err(|error| {
        let remedy = match error.kind() {
            FileTooLarge | TimedOut | IsADirectory => "give the path of a regular file",
            _ => "check the path and its permissions",
        };
        let space = if flag.is_empty() { "" } else { " " };
        let message = format!("{}: {flag}{space}cannot be read: {error}", path.display());
        Fault::permanent(Exit::NoInput, message).with_remedy(remedy)
    })
}

/// As [`read_for`], but `-` is standard input, which may take any time.
pub fn read_for_or_stdin(flag: &str, path: &Path) -> Result<Vec<u8>, Fault> {
    if path != Path::new("-") {
        return Ok(read_for(flag, path)?.bytes);
    }
    stdio::check_stdin(flag)?;
    let mut bytes = Vec::new();
    let read = stdio::stdin().take(MAX_SIZE + 1).read_to_end(&mut bytes);
    let cause = match read {
        Ok(_) if bytes.len() as u64 <= MAX_SIZE => return Ok(bytes),
        Ok(_) => "it is larger than 16 MiB".to_owned(),
        Err(error) => error.to_string(),
    };
    let message = format!("standard input: {flag} cannot be read: {cause}");
    Err(Fault::permanent(Exit::NoInput, message).with_remedy("give less, or a file"))
}

/// As [`read_for`], for UTF-8 text, without its byte order mark.
pub fn read_text(flag: &str, path: &Path) -> Result<String, Fault> {
    let bytes = read_for(flag, path)?.bytes;
    let invalid = || invalid_file(flag, path, "is not UTF-8 text").with_remedy("save it as UTF-8");
    let text = String::from_utf8(bytes).map_err(|_| invalid())?;
    Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
}

/// The fault of a file that does not hold what it should. `cause` continues "FILE: FLAG".
pub fn invalid_file(flag: &str, path: &Path, cause: impl std::fmt::Display) -> Fault {
    Fault::permanent(Exit::Config, format!("{}: {flag} {cause}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_is_refused() {
        for (path, kind) in [("/dev/zero", FileTooLarge), ("/", IsADirectory)] {
            assert_eq!(read(Path::new(path)).unwrap_err().kind(), kind);
        }
        assert_eq!(read(Path::new("/dev/null")).unwrap().bytes, b"");
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
