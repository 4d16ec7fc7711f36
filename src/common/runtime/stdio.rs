//! Standard input, output and error as they were given to the program: closed, non-blocking, a pipe that
//! nobody reads any more.
//!
//! Whether a descriptor blocks is a property of the open file, which others share: the shell, `ssh`, a process at the
//! other end of a terminal. So it may change at any time, and here it makes no difference. The standard library's
//! own handles return an error instead, and take a closed descriptor for an empty or an endless one.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};

use crate::common::fault::{Exit, Fault};

/// A descriptor whose reads and writes wait, whether or not it is set to `O_NONBLOCK`.
#[derive(Debug)]
pub struct Blocking<D>(pub D);

/// Standard input.
pub fn stdin() -> Blocking<io::Stdin> {
    Blocking(io::stdin())
}

/// Standard output. Nothing is buffered.
pub fn stdout() -> Blocking<io::Stdout> {
    Blocking(io::stdout())
}

/// Standard error.
pub fn stderr() -> Blocking<io::Stderr> {
    Blocking(io::stderr())
}

impl<D: AsFd> Blocking<D> {
    /// Repeats a call until it has neither been interrupted nor would have blocked.
    fn repeat(
        &self,
        ready: PollFlags,
        mut call: impl FnMut(BorrowedFd<'_>) -> nix::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match call(self.0.as_fd()) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => wait(self.0.as_fd(), ready)?,
                done => return Ok(done?),
            }
        }
    }
}

impl<D: AsRawFd> AsRawFd for Blocking<D> {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl<D: AsFd> Read for Blocking<D> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.repeat(PollFlags::POLLIN, |fd| nix::unistd::read(fd, buffer))
    }
}

impl<D: AsFd> Write for Blocking<D> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.repeat(PollFlags::POLLOUT, |fd| nix::unistd::write(fd, bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Waits for one of these, or for an error, of which the next call tells more.
fn wait(fd: BorrowedFd<'_>, ready: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(fd, ready)], PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Writes a line to standard error, in one call.
pub fn error_line(line: &str) {
    // Without standard error nobody reads it.
    let _ = stderr().write_all(format!("{line}\n").as_bytes());
}

/// A fault if standard output cannot be written because it is closed. `what` is what would be written there.
///
/// # Errors
///
/// That fault.
pub fn check_stdout(what: &str) -> Result<(), Fault> {
    if is_open_for(io::stdout().as_fd(), OFlag::O_WRONLY) {
        return Ok(());
    }
    let message = format!("standard output is closed, and {what}");
    Err(Fault::permanent(Exit::Io, message)
        .with_remedy("open it, or redirect it to a file or to /dev/null"))
}

/// A fault if standard input cannot be read because it is closed. `flag` is the one that asks for it.
///
/// # Errors
///
/// That fault.
pub fn check_stdin(flag: &str) -> Result<(), Fault> {
    if is_open_for(io::stdin().as_fd(), OFlag::O_RDONLY) {
        return Ok(());
    }
    let message = format!("standard input is closed, and {flag} reads it");
    Err(Fault::permanent(Exit::Io, message).with_remedy("redirect it from a file or a program"))
}

/// Whether the descriptor was opened for reading, or for writing. One that was closed at the start of the program is
/// open the wrong way round (`standard_descriptors.c`).
fn is_open_for(fd: BorrowedFd<'_>, access: OFlag) -> bool {
    let Ok(flags) = fcntl(fd, FcntlArg::F_GETFL) else {
        return false;
    };
    let mode = OFlag::from_bits_retain(flags) & OFlag::O_ACCMODE;
    mode == access || mode == OFlag::O_RDWR
}

/// Waits until nobody can read any more what is written to standard output. Returns `false` at once where that
/// cannot be known: it is neither a pipe nor a socket. A peer of a TCP connection that has closed its
/// end is noticed at the next write only: it might have closed one direction.
pub fn reader_has_left() -> bool {
    let out = io::stdout();
    let Ok(status) = fstat(&out) else {
        return false;
    };
    let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFIFO && kind != SFlag::S_IFSOCK {
        return false;
    }
    loop {
        // These two are reported whatever is asked for.
        let mut ends = [PollFd::new(out.as_fd(), PollFlags::empty())];
        match poll(&mut ends, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(_) => return false,
            Ok(_) => {
                let seen = ends[0].revents().unwrap_or(PollFlags::empty());
                return seen.intersects(PollFlags::POLLERR | PollFlags::POLLHUP);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::pipe;
    use std::thread;

    use super::*;

    fn set_non_blocking(fd: impl AsFd) {
        fcntl(fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    }

    #[test]
    fn a_non_blocking_pipe_is_waited_for_at_both_ends() {
        let (reader, writer) = pipe().unwrap();
        set_non_blocking(&reader);
        set_non_blocking(&writer);
        let bytes: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        let expected = bytes.clone();
        let sender = thread::spawn(move || Blocking(writer).write_all(&bytes));
        let mut got = Vec::new();
        Blocking(reader).read_to_end(&mut got).unwrap();
        sender.join().unwrap().unwrap();
        assert!(got == expected);
    }

    #[test]
    fn which_way_a_descriptor_is_open_is_told_by_its_access_mode() {
        let (reader, writer) = pipe().unwrap();
        assert!(is_open_for(reader.as_fd(), OFlag::O_RDONLY));
        assert!(!is_open_for(reader.as_fd(), OFlag::O_WRONLY));
        assert!(is_open_for(writer.as_fd(), OFlag::O_WRONLY));
        let mut options = std::fs::File::options();
        let both = options.read(true).write(true).open("/dev/null").unwrap();
        assert!(is_open_for(both.as_fd(), OFlag::O_RDONLY));
        assert!(is_open_for(both.as_fd(), OFlag::O_WRONLY));
    }
}
