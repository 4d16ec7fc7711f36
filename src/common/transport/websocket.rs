//! MQTT through a WebSocket: its packets are the payload of binary messages, however they are
//! cut (MQTT 5.0 section 6, RFC 6455).

use std::io;

use tungstenite::client::{IntoClientRequest as _, client_with_config};
use tungstenite::error::{CapacityError, Error, ProtocolError};
use tungstenite::handshake::HandshakeError;
use tungstenite::http::HeaderValue;
use tungstenite::http::header::SEC_WEBSOCKET_PROTOCOL;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket as Socket};

use super::credentials::presented::Presented;
use super::{Stream, alert};
use crate::common::broker::endpoint::Endpoint;
use crate::common::broker::profile::Profile;
use crate::common::fault::{Exit, Fault};

/// Bytes by which a message may be larger than the largest packet: it may hold several packets.
const ALLOWANCE: usize = 64 << 10;

/// Pings, pongs and empty messages that are read one after the other.
const MAX_EMPTY: usize = 64;

/// An open WebSocket.
#[derive(Debug)]
pub(crate) struct WebSocket {
    socket: Socket<Stream>,
    /// Something is still to be written.
    unflushed: bool,
}

impl WebSocket {
    /// Asks the web server for a WebSocket that carries MQTT.
    pub(super) fn open(
        way: &Endpoint,
        presented: &Presented,
        path: &str,
        max_packet: u32,
        stream: Stream,
    ) -> Result<Self, Fault> {
        let scheme = if way.tls { "wss" } else { "ws" };
        let url = format!("{scheme}://{}{path}", way.authority());
        let mut request = url.into_client_request().map_err(|e| {
            Fault::usage(format!("--endpoint {scheme}://{way}{path}: is no URL: {e}"))
        })?;
        let mqtt = HeaderValue::from_static("mqtt");
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, mqtt);
        let max_message = usize::try_from(max_packet)
            .unwrap_or(usize::MAX)
            .saturating_add(ALLOWANCE);
        // The library asks for the memory of a frame in a way that cannot fail.
        if Vec::<u8>::new().try_reserve_exact(max_message).is_err() {
            let message =
                format!("{way}: no memory for a WebSocket message of {max_message} bytes");
            return Err(Fault::passing(Exit::Io, message)
                .with_remedy("raise the memory limit, or lower --max-packet"));
        }
        let config = WebSocketConfig::default()
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        match client_with_config(request, stream, Some(config)) {
            Ok((socket, _)) => Ok(Self {
                socket,
                unflushed: false,
            }),
            Err(HandshakeError::Interrupted(_)) => Err(Fault::passing(
                Exit::Unavailable,
                format!("{way}: the server has not answered the WebSocket handshake in time"),
            )),
            Err(HandshakeError::Failure(error)) => Err(refused(way, presented, path, &error)),
        }
    }

    pub(super) fn stream(&self) -> &Stream {
        self.socket.get_ref()
    }

    /// Whether what was handed over is still to go out.
    pub(super) fn is_unflushed(&self) -> bool {
        self.unflushed
    }

    /// Appends what has come; 0 at the end. `Interrupted` after a number of frames that carry nothing: there may
    /// be an endless number of them, and there is other work.
    pub(super) fn receive(&mut self, into: &mut Vec<u8>) -> io::Result<usize> {
        for _ in 0..MAX_EMPTY {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) if !bytes.is_empty() => {
                    into.try_reserve_exact(bytes.len())
                        .map_err(|_| io::ErrorKind::OutOfMemory)?;
                    into.extend_from_slice(&bytes);
                    return Ok(bytes.len());
                }
                Ok(Message::Ping(_)) => self.unflushed = true,
                Ok(Message::Text(_)) => {
                    let why = "a text message, where MQTT has binary ones";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, why));
                }
                Ok(Message::Close(_))
                | Err(
                    Error::ConnectionClosed
                    | Error::AlreadyClosed
                    | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
                ) => return Ok(0),
                Ok(_) => {}
                Err(error) => return Err(into_io(error)),
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    /// Hands bytes over; all of them, or none yet.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        self.socket
            .write(Message::binary(bytes.to_vec()))
            .map_err(into_io)?;
        self.unflushed = true;
        match self.flush() {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
            _ => Ok(bytes.len()),
        }
    }

    /// Writes what was handed over.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.unflushed {
            self.socket.flush().map_err(into_io)?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Says goodbye, as far as that is possible at once.
    pub(super) fn close(&mut self) {
        // The peer may be gone, and need not answer.
        let _ = self.socket.close(None);
        let _ = self.socket.flush();
        self.socket.get_mut().close();
    }
}

fn into_io(error: Error) -> io::Error {
    match error {
        Error::Io(error) => error,
        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            io::Error::new(io::ErrorKind::InvalidData, "a message that is too long")
        }
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    }
}

/// Why there is no WebSocket.
fn refused(way: &Endpoint, presented: &Presented, path: &str, error: &Error) -> Fault {
    // What follows may be a signature.
    let path = path.split('?').next().unwrap_or(path);
    let permanent = |exit, why: String| Fault::permanent(exit, format!("{way}: {why}"));
    match error {
        Error::Http(response) => {
            let status = response.status();
            match status.as_u16() {
                401 | 403 => permanent(
                    Exit::Refused,
                    format!("the server refuses the WebSocket ({status})"),
                )
                .with_remedy(match way.profile {
                    Profile::Aws => {
                        "check path and credentials (AWS IoT Core takes none with a client certificate: use mqtts://)"
                    }
                    Profile::Generic => "check path and credentials",
                }),
                500..=599 => Fault::passing(
                    Exit::Unavailable,
                    format!("{way}: the server has no WebSocket now ({status})"),
                )
                .with_remedy("it may later"),
                _ => permanent(
                    Exit::Protocol,
                    format!("the server has no WebSocket at {path} ({status})"),
                )
                .with_remedy("check the path"),
            }
        }
        Error::Io(error) => {
            if let Some(fault) = alert::last_words(way, presented, error) {
                return fault;
            }
            let unavailable =
                |why: String| Fault::passing(Exit::Unavailable, format!("{way}: the server {why}"));
            match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    unavailable("has not answered the WebSocket handshake in time".into())
                }
                _ => unavailable(format!(
                    "closed the connection during the WebSocket handshake ({error})"
                ))
                .with_remedy(
                    "is this a WebSocket port, and does it want TLS (wss://) or none (ws://)?",
                ),
            }
        }
        other => permanent(
            Exit::Protocol,
            format!("the server does not speak WebSocket: {other}"),
        )
        .with_remedy("check port and path, or is this an MQTT port (mqtts://)?"),
    }
}
