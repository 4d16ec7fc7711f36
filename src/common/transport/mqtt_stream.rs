//! The connection to the broker, with or without a WebSocket.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::plain_or_tls::PlainOrTls;
use super::socket::Socket;
use super::websocket::WebSocket;
use crate::common::runtime::clock::instant_now;

/// Appends at most `most` received bytes. It reads several times: in TLS one read gives one record,
/// which may be one small packet.
fn read_available(stream: &mut PlainOrTls, into: &mut Vec<u8>, most: usize) -> io::Result<usize> {
    let before = into.len();
    into.try_reserve_exact(most)
        .map_err(|_| io::ErrorKind::OutOfMemory)?;
    into.resize(before + most, 0);
    let mut count = 0;
    let result = loop {
        match into.get_mut(before + count..) {
            Some(rest) if !rest.is_empty() => match stream.read(rest) {
                Ok(read) if read > 0 => count += read,
                // An error will be there again.
                _ if count > 0 => break Ok(count),
                end => break end,
            },
            _ => break Ok(count),
        }
    };
    into.truncate(before + count);
    result
}

/// After our side is closed, reads until the broker has closed too, or the limit is over. If
/// something unread is left, the system resets the connection, and a broker need not read what came
/// before a reset: Mosquitto does not, and the last acknowledgements are lost.
pub(super) fn linger(mut socket: &Socket, limit: Duration) {
    let until = instant_now() + limit;
    let mut unread = [0; 4096];
    while let left = until.saturating_duration_since(instant_now())
        && !left.is_zero()
        && socket.set_nonblocking(false).is_ok()
        && socket.set_read_timeout(Some(left)).is_ok()
        && socket.read(&mut unread).is_ok_and(|count| count > 0)
    {}
}

#[derive(Debug)]
pub(super) enum MqttStream {
    Bytes(PlainOrTls),
    WebSocket(Box<WebSocket>),
}

impl MqttStream {
    pub(super) fn stream(&self) -> &PlainOrTls {
        match self {
            MqttStream::Bytes(stream) => stream,
            MqttStream::WebSocket(socket) => socket.stream(),
        }
    }

    /// Appends what was received; 0 at the end. A message of a WebSocket is appended whole, whatever `most` is.
    pub(super) fn receive(&mut self, into: &mut Vec<u8>, most: usize) -> io::Result<usize> {
        match self {
            MqttStream::Bytes(stream) => read_available(stream, into, most),
            MqttStream::WebSocket(socket) => socket.receive(into),
        }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            MqttStream::Bytes(_) if bytes.is_empty() => Ok(0),
            MqttStream::Bytes(stream) => stream.write(bytes),
            MqttStream::WebSocket(socket) if bytes.is_empty() => socket.flush().map(|()| 0),
            MqttStream::WebSocket(socket) => socket.send(bytes),
        }
    }

    pub(super) fn is_unflushed(&self) -> bool {
        match self {
            MqttStream::Bytes(_) => false,
            MqttStream::WebSocket(socket) => socket.is_unflushed(),
        }
    }

    pub(super) fn close(&mut self) {
        match self {
            MqttStream::Bytes(stream) => stream.close(),
            MqttStream::WebSocket(socket) => socket.close(),
        }
    }
}

impl AsFd for MqttStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream().as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::transport::plain_or_tls::CountedSocket;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    const LIMIT: Duration = Duration::from_millis(500);

    fn connected_with_unread_bytes() -> (Socket, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut theirs, _) = listener.accept().unwrap();
        theirs.write_all(&[0; 10_000]).unwrap();
        ours.peek(&mut [0]).unwrap();
        (Socket::Tcp(ours), theirs)
    }

    #[test]
    fn unread_bytes_do_not_reset_the_connection() {
        let (mut ours, mut theirs) = connected_with_unread_bytes();
        let thread = std::thread::spawn(move || {
            ours.write_all(b"last").unwrap();
            PlainOrTls::Plain(CountedSocket::new(ours.try_clone().unwrap())).close();
            linger(&ours, LIMIT);
        });
        let mut received = Vec::new();
        theirs.read_to_end(&mut received).unwrap();
        assert_eq!(received, b"last");
        // A reset would come at once.
        std::thread::park_timeout(LIMIT / 5);
        assert_eq!(theirs.take_error().unwrap().map(|e| e.kind()), None);
        drop(theirs);
        thread.join().unwrap();
    }

    #[test]
    fn a_broker_that_does_not_close_is_waited_for_no_longer_than_the_limit() {
        let (ours, _theirs) = connected_with_unread_bytes();
        let since = instant_now();
        PlainOrTls::Plain(CountedSocket::new(ours.try_clone().unwrap())).close();
        linger(&ours, LIMIT);
        let took = instant_now().saturating_duration_since(since);
        assert!((LIMIT..LIMIT * 4).contains(&took), "{took:?}");
    }
}
