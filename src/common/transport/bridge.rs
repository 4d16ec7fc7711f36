//! Carries bytes between the broker and the client library, which holds the other end of a
//! local socket and believes that it is connected.
//!
//! One thread for each connection, which has dialled it before: it sleeps in `poll(2)` until
//! there is something to carry. It holds at most one piece in either direction, so that whoever
//! is slow holds the other up, as on any connection.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Connected, Handle, Stream, Wire, tls};
use crate::common::fault::Fault;

/// The largest piece: a TLS record carries no more, and a WebSocket message need not.
const PIECE: usize = 16 << 10;

/// How a connection came to its end.
#[derive(Clone, Debug)]
pub struct Severed {
    /// The client library closed it, and all that it had sent has gone out.
    pub by_us: bool,
    /// What it said in TLS at the end, if it said anything.
    pub fault: Option<Fault>,
    /// What the operating system says of the end; none for a close in order.
    pub cause: Option<String>,
}

/// Carries bytes until either side has had enough.
///
/// `certified` is whether a client certificate was shown.
///
/// The end of the connection is reported before the client library can see it: it sees it when
/// `local` is dropped.
pub fn carry(
    connected: Connected,
    certified: bool,
    local: &UnixStream,
    handle: &Handle,
) -> Severed {
    let way = connected.way;
    let mut bridge = Bridge {
        wire: connected.wire,
        local,
        local_open: true,
        deaf: false,
        ended: false,
        broken: None,
        handle,
        up: Piece::default(),
        down: Piece::default(),
    };
    let ended = bridge.set_up().and_then(|()| bridge.run());
    let severed = Severed {
        by_us: matches!(ended, Ok(true)),
        fault: ended
            .as_ref()
            .err()
            .and_then(|error| tls::last_words(&way, certified, error)),
        cause: ended.err().map(|error| error.to_string()),
    };
    bridge.wire.close();
    severed
}

/// Bytes on their way.
#[derive(Debug, Default)]
struct Piece {
    bytes: Vec<u8>,
    done: usize,
}

impl Piece {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.done..).unwrap_or_default()
    }

    fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    fn advance(&mut self, by: usize) {
        self.done += by;
        if self.is_empty() {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.done = 0;
        self.bytes.clear();
        // One large message is no reason to hold so much for ever.
        self.bytes.shrink_to(4 * PIECE);
    }
}

struct Bridge<'a> {
    wire: Wire,
    local: &'a UnixStream,
    handle: &'a Handle,
    /// The client library has not closed its end.
    local_open: bool,
    /// The client library takes nothing more.
    deaf: bool,
    /// The broker has closed its end.
    ended: bool,
    /// Nothing can be sent any more.
    broken: Option<io::Error>,
    /// To the broker.
    up: Piece,
    /// From the broker.
    down: Piece,
}

impl Bridge<'_> {
    fn set_up(&mut self) -> io::Result<()> {
        self.wire.stream().tcp().set_nonblocking(true)?;
        self.local.set_nonblocking(true)
    }

    /// `true` if the client library closed, `false` if the broker did.
    fn run(&mut self) -> io::Result<bool> {
        loop {
            let moved = self.step_down()? | self.step_up();
            if let Some(error) = self.broken.take_if(|_| !moved) {
                return Err(error);
            }
            if !self.local_open && self.up.is_empty() && !self.wire.is_unflushed() {
                return self.broken.take().map_or(Ok(true), Err);
            }
            if self.ended && self.down.is_empty() {
                return self.broken.take().map_or(Ok(false), Err);
            }
            if !moved {
                self.wait()?;
            }
        }
    }

    /// From the broker to the client library; whether anything moved.
    fn step_down(&mut self) -> io::Result<bool> {
        let mut moved = false;
        if self.down.is_empty() && !self.ended {
            match self.wire.receive(&mut self.down.bytes) {
                Ok(0) => self.ended = true,
                Ok(_) => {
                    self.handle.heard.store(true, Ordering::Release);
                    moved = true;
                }
                Err(e) if is_patient(&e) => {}
                Err(e) => return Err(e),
            }
        }
        if self.deaf {
            self.down.clear();
        }
        if !self.down.is_empty() {
            match self.local.write(self.down.rest()) {
                Ok(count) => {
                    self.down.advance(count);
                    moved |= count > 0;
                }
                Err(e) if is_patient(&e) => {}
                // It has closed, and nobody wants the rest; but it may have said something before.
                Err(_) => {
                    self.down.clear();
                    self.deaf = true;
                }
            }
        }
        Ok(moved)
    }

    /// From the client library to the broker; whether anything moved.
    fn step_up(&mut self) -> bool {
        if self.broken.is_some() {
            return false;
        }
        let mut moved = false;
        if self.up.is_empty() && self.local_open {
            self.up.bytes.resize(PIECE, 0);
            let count = match self.local.read(&mut self.up.bytes) {
                Ok(count) => {
                    self.local_open = count > 0;
                    count
                }
                Err(e) if is_patient(&e) => 0,
                Err(_) => {
                    self.local_open = false;
                    0
                }
            };
            self.up.bytes.truncate(count);
            moved = count > 0;
        }
        match self.wire.send(self.up.rest()) {
            Ok(count) => {
                self.up.advance(count);
                moved |= count > 0;
            }
            Err(e) if is_patient(&e) => {}
            // What the broker has said before it closed is still to be carried down.
            Err(e) => {
                self.up.clear();
                self.broken = Some(e);
                moved = true;
            }
        }
        moved
    }

    /// Sleeps until a step can move something. A side that is not waited for is left out:
    /// that it has hung up would be reported again and again.
    fn wait(&self) -> io::Result<()> {
        let mut wanted: Vec<PollFd<'_>> = Vec::with_capacity(2);
        let mut want = |fd, read: bool, write: bool| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::POLLIN, read);
            flags.set(PollFlags::POLLOUT, write);
            if !flags.is_empty() {
                wanted.push(PollFd::new(fd, flags));
            }
        };
        let unsent = !self.up.is_empty() || self.wire.is_unflushed();
        let hears = self.down.is_empty() && !self.ended;
        want(self.wire.as_fd(), hears, unsent);
        let takes = self.up.is_empty() && self.local_open;
        want(self.local.as_fd(), takes, !self.down.is_empty());
        match poll(&mut wanted, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Whether to try again later.
fn is_patient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

impl Wire {
    pub(super) fn stream(&self) -> &Stream {
        match self {
            Wire::Bytes(stream) => stream,
            Wire::WebSocket(socket) => socket.stream(),
        }
    }

    fn receive(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Wire::Bytes(stream) => {
                into.resize(PIECE, 0);
                let read = stream.read(into);
                into.truncate(*read.as_ref().unwrap_or(&0));
                read
            }
            Wire::WebSocket(socket) => socket.receive(into),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Wire::Bytes(_) if bytes.is_empty() => Ok(0),
            Wire::Bytes(stream) => stream.write(bytes),
            Wire::WebSocket(socket) if bytes.is_empty() => socket.flush().map(|()| 0),
            Wire::WebSocket(socket) => socket.send(bytes),
        }
    }

    fn is_unflushed(&self) -> bool {
        match self {
            Wire::Bytes(_) => false,
            Wire::WebSocket(socket) => socket.is_unflushed(),
        }
    }

    fn close(&mut self) {
        match self {
            Wire::Bytes(stream) => stream.close(),
            Wire::WebSocket(socket) => socket.close(),
        }
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream().as_fd()
    }
}
