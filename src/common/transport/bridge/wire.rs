//! The broker's end of a bridge: bytes, or a WebSocket's messages, in pieces.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use crate::common::transport::{Stream, Wire};

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

/// Reads as much as is there: in TLS one read gives one record, which may be one small packet.
fn fill(stream: &mut Stream, into: &mut [u8]) -> io::Result<usize> {
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

impl Wire {
    pub(in crate::common::transport) fn stream(&self) -> &Stream {
        match self {
            Wire::Bytes(stream) => stream,
            Wire::WebSocket(socket) => socket.stream(),
        }
    }

    pub(super) fn receive(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Wire::Bytes(stream) => {
                into.resize(PIECE, 0);
                let read = fill(stream, into);
                into.truncate(*read.as_ref().unwrap_or(&0));
                read
            }
            Wire::WebSocket(socket) => socket.receive(into),
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
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
