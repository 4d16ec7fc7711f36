//! A connection below WebSocket and MQTT, with or without TLS, whose bytes on TCP are counted.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use openssl::ssl::SslStream;

#[derive(Debug)]
pub(super) struct CountedTcp {
    pub(super) tcp: TcpStream,
    pub(super) read_bytes: u64,
    /// Accepted by the operating system. They need not have arrived.
    pub(super) written_bytes: u64,
}

impl CountedTcp {
    pub(super) fn new(tcp: TcpStream) -> Self {
        Self {
            tcp,
            read_bytes: 0,
            written_bytes: 0,
        }
    }
}

impl Read for CountedTcp {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.tcp.read(buffer)?;
        self.read_bytes += count as u64;
        Ok(count)
    }
}

impl Write for CountedTcp {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.tcp.write(bytes)?;
        self.written_bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}

#[derive(Debug)]
pub(super) enum TcpOrTls {
    Plain(CountedTcp),
    Tls(Box<SslStream<CountedTcp>>),
}

impl TcpOrTls {
    pub(super) fn counted_tcp(&self) -> &CountedTcp {
        match self {
            TcpOrTls::Plain(stream) => stream,
            TcpOrTls::Tls(stream) => stream.get_ref(),
        }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.counted_tcp().tcp
    }

    /// Sends `close_notify` if the socket takes it now, and closes the connection for writing.
    pub(super) fn close(&mut self) {
        if let TcpOrTls::Tls(stream) = self {
            // The peer may be gone, and need not answer.
            let _ = stream.shutdown();
        }
        let _ = self.tcp().shutdown(Shutdown::Write);
    }
}

impl AsFd for TcpOrTls {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.tcp().as_fd()
    }
}

impl Read for TcpOrTls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            TcpOrTls::Plain(stream) => stream.read(buffer),
            TcpOrTls::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for TcpOrTls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            TcpOrTls::Plain(stream) => stream.write(bytes),
            TcpOrTls::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
