//! A connection below WebSocket and MQTT, with or without TLS, whose bytes on the socket are counted.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};

use openssl::ssl::SslStream;

use super::socket::Socket;

#[derive(Debug)]
pub(super) struct CountedSocket {
    pub(super) socket: Socket,
    pub(super) read_bytes: u64,
    /// Accepted by the operating system. They need not have arrived.
    pub(super) written_bytes: u64,
}

impl CountedSocket {
    pub(super) fn new(socket: Socket) -> Self {
        Self {
            socket,
            read_bytes: 0,
            written_bytes: 0,
        }
    }
}

impl Read for CountedSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.socket.read(buffer)?;
        self.read_bytes += count as u64;
        Ok(count)
    }
}

impl Write for CountedSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.socket.write(bytes)?;
        self.written_bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

#[derive(Debug)]
pub(super) enum PlainOrTls {
    Plain(CountedSocket),
    Tls(Box<SslStream<CountedSocket>>),
}

impl PlainOrTls {
    pub(super) fn counted_socket(&self) -> &CountedSocket {
        match self {
            PlainOrTls::Plain(stream) => stream,
            PlainOrTls::Tls(stream) => stream.get_ref(),
        }
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.counted_socket().socket
    }

    /// Sends `close_notify` if the socket takes it now, and closes the connection for writing.
    pub(super) fn close(&mut self) {
        if let PlainOrTls::Tls(stream) = self {
            // The peer may be gone, and need not answer.
            let _ = stream.shutdown();
        }
        let _ = self.socket().shutdown(Shutdown::Write);
    }
}

impl AsFd for PlainOrTls {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }
}

impl Read for PlainOrTls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            PlainOrTls::Plain(stream) => stream.read(buffer),
            PlainOrTls::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for PlainOrTls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            PlainOrTls::Plain(stream) => stream.write(bytes),
            PlainOrTls::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
