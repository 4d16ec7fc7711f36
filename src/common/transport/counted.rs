//! A TCP connection that counts the bytes in either direction.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// A TCP connection with its counts.
#[derive(Debug)]
pub(crate) struct Counted {
    tcp: TcpStream,
    read: u64,
    written: u64,
}

impl Counted {
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Bytes read so far.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.read
    }

    /// Bytes written so far: the operating system has taken them, the other end need not have.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.written
    }
}

impl From<TcpStream> for Counted {
    fn from(tcp: TcpStream) -> Self {
        Self {
            tcp,
            read: 0,
            written: 0,
        }
    }
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.tcp.read(buffer)?;
        self.read += count as u64;
        Ok(count)
    }
}

impl Write for Counted {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.tcp.write(bytes)?;
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.tcp.flush()
    }
}
