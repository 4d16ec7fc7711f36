//! Waits in `poll(2)` until a descriptor can be read from or written to.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::common::runtime::clock::instant_now;

/// Which sides of a bridge are worth trying: what was not possible is not until `poll(2)` reports it.
pub(super) struct ReadySides {
    pub(super) wire_read: bool,
    pub(super) local_read: bool,
    pub(super) local_write: bool,
}

impl Default for ReadySides {
    fn default() -> Self {
        Self {
            wire_read: true,
            local_read: true,
            local_write: true,
        }
    }
}

pub(super) fn is_temporary(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// None without events: that a descriptor has hung up would be reported again and again.
pub(super) fn poll_fd_for_events(fd: BorrowedFd<'_>, events: PollFlags) -> Option<PollFd<'_>> {
    (!events.is_empty()).then(|| PollFd::new(fd, events))
}

pub(super) fn poll_until<const N: usize>(
    wanted: [Option<PollFd<'_>>; N],
    until: Option<Instant>,
) -> io::Result<[PollFlags; N]> {
    let is_wanted = wanted.each_ref().map(Option::is_some);
    let mut fds: Vec<PollFd<'_>> = wanted.into_iter().flatten().collect();
    match poll(&mut fds, until.map_or(PollTimeout::NONE, timeout)) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => return Err(errno.into()),
    }
    let mut events = fds
        .iter()
        .map(|fd| fd.revents().unwrap_or_else(PollFlags::empty));
    Ok(is_wanted.map(|is_wanted| {
        let event = is_wanted.then(|| events.next()).flatten();
        event.unwrap_or_else(PollFlags::empty)
    }))
}

fn timeout(until: Instant) -> PollTimeout {
    let left = until.saturating_duration_since(instant_now()) + Duration::from_micros(999);
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}
