//! Standard input, output and error as they were given to the program: closed, non-blocking, or a pipe without a
//! reader.
//!
//! `O_NONBLOCK` is a property of the open file, which others share: the shell, `ssh`, a process at the other end of a
//! terminal. So it may change at any time, and makes no difference here. The standard library's handles return an error
//! instead, and treat a closed descriptor as empty or endless.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::{SFlag, fstat};

use crate::common::fault::{Exit, Fault};

/// A descriptor whose reads and writes wait, whether or not it is set to `O_NONBLOCK`. Nothing is buffered.
#[derive(Debug)]
pub struct Blocking<D>(pub D);

pub fn stdin() -> Blocking<io::Stdin> {
    Blocking(io::stdin())
}

pub fn stdout() -> Blocking<io::Stdout> {
    Blocking(io::stdout())
}

pub fn blocking_stderr() -> Blocking<io::Stderr> {
    Blocking(io::stderr())
}

impl<D: AsFd> Blocking<D> {
    /// Repeats a call until it is neither interrupted nor would block.
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

/// What a pipe takes without blocking when it is ready for writing.
const PIPE_CHUNK: usize = 4096;

impl<D: AsFd> Blocking<D> {
    /// As `write_all`; calls `on_wait` before each part, and at this interval while the reader does not read.
    pub fn write_all_and_call(
        &mut self,
        mut bytes: &[u8],
        interval: Duration,
        mut on_wait: impl FnMut(),
    ) -> io::Result<()> {
        let timeout = PollTimeout::try_from(interval).unwrap_or(PollTimeout::MAX);
        while !bytes.is_empty() {
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLOUT)];
            let polled = poll(&mut fds, timeout);
            on_wait();
            match polled {
                Ok(0) => continue,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
            if fds[0].any() == Some(false) {
                continue;
            }
            match nix::unistd::write(self.0.as_fd(), &bytes[..bytes.len().min(PIPE_CHUNK)]) {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
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

/// Waits until the descriptor is ready or has an error, which the next call returns.
fn wait(fd: BorrowedFd<'_>, ready: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::new(fd, ready)], PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

pub fn print_error(line: &str) {
    // Without standard error nobody reads it.
    let _ = blocking_stderr().write_all(format!("{line}\n").as_bytes());
}

/// A fault if standard output is closed. `use_of_it` continues the error: "`--summary` prints there".
pub fn check_stdout(use_of_it: &str) -> Result<(), Fault> {
    let message = format!("standard output is closed, and {use_of_it}");
    let remedy = "open it, or redirect it to a file or to /dev/null";
    check_open(io::stdout().as_fd(), OFlag::O_WRONLY, message, remedy)
}

pub fn check_stdin(flag: &str) -> Result<(), Fault> {
    let message = format!("standard input is closed, and {flag} reads it");
    let remedy = "redirect it from a file or a program";
    check_open(io::stdin().as_fd(), OFlag::O_RDONLY, message, remedy)
}

fn check_open(
    fd: BorrowedFd<'_>,
    access: OFlag,
    message: String,
    remedy: &str,
) -> Result<(), Fault> {
    let closed = || Fault::permanent(Exit::Io, message).with_remedy(remedy);
    is_open_for(fd, access).then_some(()).ok_or_else(closed)
}

/// Whether the descriptor was opened for this access. One that was closed when the program started
/// is open for the other (`standard_descriptors.c`).
fn is_open_for(fd: BorrowedFd<'_>, access: OFlag) -> bool {
    fcntl(fd, FcntlArg::F_GETFL).is_ok_and(|flags| {
        let mode = OFlag::from_bits_retain(flags) & OFlag::O_ACCMODE;
        mode == access || mode == OFlag::O_RDWR
    })
}

/// Waits until standard output has no reader any more. Returns `false` at once if that cannot be
/// observed: it is neither a pipe nor a socket. When the peer of a TCP connection closes its end,
/// only the next write shows it: the peer might have closed one direction.
pub fn wait_until_stdout_closed() -> bool {
    let out = io::stdout();
    let Ok(status) = fstat(&out) else {
        return false;
    };
    let kind = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT;
    if kind != SFlag::S_IFIFO && kind != SFlag::S_IFSOCK {
        return false;
    }
    loop {
        // POLLERR and POLLHUP are always reported.
        let mut fds = [PollFd::new(out.as_fd(), PollFlags::empty())];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(Errno::EINTR) => {}
            Err(_) => return false,
            Ok(_) => {
                let events = fds[0].revents().unwrap_or(PollFlags::empty());
                return events.intersects(PollFlags::POLLERR | PollFlags::POLLHUP);
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
    fn reads_and_writes_wait_for_a_non_blocking_pipe() {
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
    fn the_access_mode_shows_for_what_a_descriptor_is_open() {
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
