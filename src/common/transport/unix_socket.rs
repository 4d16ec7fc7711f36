//! A Unix socket of a broker on this machine.

use std::io::{self, ErrorKind};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc::{EMFILE, ENFILE, EPROTOTYPE};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

use crate::common::fault::{Exit, Fault};
use crate::common::runtime::clock::instant_now;

/// Blocks until the deadline while the broker accepts no connections, because it hangs.
pub(super) fn connect_before(path: &Path, deadline: Instant) -> Result<UnixStream, Fault> {
    let try_connect = || -> io::Result<UnixStream> {
        let socket = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let stream = UnixStream::from(socket);
        let left = deadline.saturating_duration_since(instant_now());
        // This limits connect(2) as well (socket(7), SO_SNDTIMEO).
        stream.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
        connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
        stream.set_write_timeout(None)?;
        Ok(stream)
    };
    try_connect().map_err(|error| fault(path, &error))
}

pub(super) fn fault(path: &Path, error: &io::Error) -> Fault {
    let (cause, remedy) = match error.kind() {
        ErrorKind::NotFound => (
            "the socket does not exist".into(),
            "is the broker running, and the path in --endpoint right?",
        ),
        ErrorKind::ConnectionRefused => (
            "no broker listens on this socket (connection refused)".into(),
            "is the broker running, and is this its socket?",
        ),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            ("no answer".into(), "does the broker hang? see its log")
        }
        ErrorKind::PermissionDenied => (
            format!("the socket cannot be opened: {error}"),
            "this user needs the right to write to the socket, and to search its directories",
        ),
        _ if error.raw_os_error() == Some(EPROTOTYPE) => (
            "the socket is not one for a stream of bytes".into(),
            "is this the broker's socket?",
        ),
        _ => (
            format!("cannot connect: {error}"),
            "is this the broker's socket?",
        ),
    };
    let exit = match error.raw_os_error() {
        Some(EMFILE | ENFILE) => Exit::Io,
        _ => Exit::Unavailable,
    };
    let message = format!("unix://{}: {cause}", path.display());
    Fault::passing(exit, message).with_remedy(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{Backlog, bind, listen};

    #[test]
    fn a_broker_that_accepts_no_connection_is_waited_for_until_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let flags = SockFlag::SOCK_CLOEXEC;
        let listener = socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let wait = Duration::from_millis(200);
        let mut accepted = Vec::new();
        let (took, fault) = loop {
            let since = instant_now();
            match connect_before(&path, since + wait) {
                Ok(stream) => accepted.push(stream),
                Err(fault) => break (instant_now().saturating_duration_since(since), fault),
            }
            assert!(accepted.len() < 10, "the backlog has no end");
        };
        assert!((wait / 2..wait * 10).contains(&took), "{took:?}");
        assert!(fault.message.ends_with("no answer"), "{fault}");
    }
}
