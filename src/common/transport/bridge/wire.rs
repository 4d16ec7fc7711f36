//! The broker's end of a bridge: bytes, or a WebSocket's messages, in pieces.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use log::{Level, debug, log_enabled};
use nix::poll::PollTimeout;

use crate::common::mqtt::describe::Describer;
use crate::common::runtime::clock::clock;
use crate::common::transport::stream::Stream;
use crate::common::transport::websocket::WebSocket;

/// The largest piece: a TLS record carries no more, and a WebSocket message need not.
pub(super) const PIECE: usize = 16 << 10;

/// Bytes on their way.
#[derive(Debug, Default)]
pub(super) struct Piece {
    pub(super) bytes: Vec<u8>,
    done: usize,
}

impl Piece {
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.done..).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    pub(super) fn advance(&mut self, by: usize) {
        self.done += by;
        if self.is_empty() {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        self.done = 0;
        self.bytes.clear();
        // One large message is no reason to hold so much for ever.
        self.bytes.shrink_to(4 * PIECE);
    }
}

/// Whether to try again later.
pub(super) fn is_patient(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

/// Appends as much as is there, `most` at most: in TLS one read gives one record, which may be one small
/// packet.
fn fill(stream: &mut Stream, into: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    let before = into.len();
    into.try_reserve_exact(most)
        .map_err(|_| io::ErrorKind::OutOfMemory)?;
    into.resize(before + most, 0);
    let read = read_all(stream, into.get_mut(before..).unwrap_or_default());
    into.truncate(before + *read.as_ref().unwrap_or(&0));
    read
}

fn read_all(stream: &mut Stream, into: &mut [u8]) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = into.get_mut(count..)
        && !rest.is_empty()
    {
        match stream.read(rest) {
            Ok(read) if read > 0 => count += read,
            // Whatever it is, it will be there again.
            _ if count > 0 => break,
            end => return end,
        }
    }
    Ok(count)
}

/// Reads on, after our side is closed, until the broker has closed too, but not for ever. If something unread
/// is left the system resets the connection, and a broker that is told so need not read what came before:
/// Mosquitto does not, and the last acknowledgements are lost.
pub(super) fn linger(mut tcp: &TcpStream, limit: Duration) {
    let until = clock() + limit;
    let mut unread = [0; 4096];
    while let left = until.saturating_duration_since(clock())
        && !left.is_zero()
        && tcp.set_nonblocking(false).is_ok()
        && tcp.set_read_timeout(Some(left)).is_ok()
        && tcp.read(&mut unread).is_ok_and(|count| count > 0)
    {}
}

/// How long to wait until then; not less, though `poll(2)` counts whole milliseconds.
pub(super) fn timeout(until: Instant) -> PollTimeout {
    let left = until.saturating_duration_since(clock()) + Duration::from_micros(999);
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}

/// Writes as much as the broker takes; how many bytes. Each packet is a line of the debug log.
pub(super) fn send(
    wire: &mut Wire,
    piece: &Piece,
    describer: &mut Describer,
    v5: bool,
) -> io::Result<usize> {
    let count = wire.send(piece.rest())?;
    if log_enabled!(Level::Debug) {
        let written = piece.rest().get(..count).unwrap_or_default();
        describer.follow(written, v5, |packet| debug!("sent {packet}"));
    }
    Ok(count)
}

/// A stream of bytes to the broker.
#[derive(Debug)]
pub(in crate::common::transport) enum Wire {
    Bytes(Stream),
    WebSocket(Box<WebSocket>),
}

impl Wire {
    pub(in crate::common::transport) fn stream(&self) -> &Stream {
        match self {
            Wire::Bytes(stream) => stream,
            Wire::WebSocket(socket) => socket.stream(),
        }
    }

    /// Appends what has come; 0 at the end. A WebSocket's messages are taken whole, whatever `most` is.
    pub(super) fn receive(&mut self, into: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        match self {
            Wire::Bytes(stream) => fill(stream, into, most),
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

    pub(super) fn is_unflushed(&self) -> bool {
        match self {
            Wire::Bytes(_) => false,
            Wire::WebSocket(socket) => socket.is_unflushed(),
        }
    }

    pub(super) fn close(&mut self) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpListener};

    const LIMIT: Duration = Duration::from_millis(500);

    /// Two ends of a connection, of which ours has something unread.
    fn connected() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        theirs.write_all(&[0; 10_000]).unwrap();
        ours.peek(&mut [0]).unwrap();
        (ours, theirs)
    }

    #[test]
    fn what_is_unread_does_not_reset_the_connection() {
        let (mut ours, mut theirs) = connected();
        let thread = std::thread::spawn(move || {
            ours.write_all(b"last").unwrap();
            Stream::Plain(ours.try_clone().unwrap().into()).close();
            linger(&ours, LIMIT);
        });
        let mut said = Vec::new();
        theirs.read_to_end(&mut said).unwrap();
        assert_eq!(said, b"last");
        // A reset would come at once, behind what was said.
        std::thread::park_timeout(LIMIT / 5);
        assert_eq!(theirs.take_error().unwrap().map(|e| e.kind()), None);
        drop(theirs);
        thread.join().unwrap();
    }

    #[test]
    fn a_broker_that_does_not_close_is_not_waited_for() {
        let (ours, _theirs) = connected();
        let since = clock();
        Stream::Plain(ours.try_clone().unwrap().into()).close();
        linger(&ours, LIMIT);
        let took = clock().saturating_duration_since(since);
        assert!((LIMIT..LIMIT * 4).contains(&took), "{took:?}");
    }
}
