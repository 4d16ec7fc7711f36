//! A socket whose reads and writes end at a deadline together, however few bytes each of them moves.

use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use super::socket::Socket;
use crate::common::runtime::clock::instant_now;

pub(super) struct DeadlineStream<'a> {
    pub(super) socket: &'a mut Socket,
    pub(super) deadline: Instant,
}

impl DeadlineStream<'_> {
    fn time_left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(instant_now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        // The system counts in microseconds, and 0 would mean no timeout.
        Ok(Some(left.max(Duration::from_millis(1))))
    }
}

impl Read for DeadlineStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.time_left()?;
        self.socket.set_read_timeout(left)?;
        self.socket.read(buffer)
    }
}

impl Write for DeadlineStream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let left = self.time_left()?;
        self.socket.set_write_timeout(left)?;
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
