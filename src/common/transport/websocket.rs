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

use super::credentials::TlsCredentials;
use super::tcp_or_tls::TcpOrTls;
use super::tls_error;
use crate::common::broker::endpoint::Endpoint;
use crate::common::broker::profile::Profile;
use crate::common::fault::{Exit, Fault};

/// By this number of bytes a message may be larger than the largest packet: it may hold several packets.
const ALLOWANCE: usize = 64 << 10;

/// Messages without data that are read one after the other.
const MAX_EMPTY: usize = 64;

#[derive(Debug)]
pub(super) struct WebSocket {
    socket: Socket<TcpOrTls>,
    unflushed: bool,
}

impl WebSocket {
    pub(super) fn open(
        endpoint: &Endpoint,
        credentials: &TlsCredentials,
        path: &str,
        max_packet: u32,
        stream: TcpOrTls,
    ) -> Result<Self, Fault> {
        let scheme = if endpoint.tls { "wss" } else { "ws" };
        let url = format!("{scheme}://{}{path}", endpoint.authority());
        let mut request = url.into_client_request().map_err(|e| {
            Fault::usage(format!(
                "--endpoint {scheme}://{endpoint}{path}: is no URL: {e}"
            ))
        })?;
        let mqtt = HeaderValue::from_static("mqtt");
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, mqtt);
        let max_message = usize::try_from(max_packet).unwrap_or(usize::MAX);
        let max_message = max_message.saturating_add(ALLOWANCE);
        // The library aborts the process if it gets no memory for a frame.
        if Vec::<u8>::new().try_reserve_exact(max_message).is_err() {
            let message =
                format!("{endpoint}: no memory for a WebSocket message of {max_message} bytes");
            return Err(Fault::passing(Exit::Io, message)
                .with_remedy("raise the memory limit, or lower --max-packet"));
        }
        let config = WebSocketConfig::default()
            .max_message_size(Some(max_message))
            .max_frame_size(Some(max_message));
        let error = match client_with_config(request, stream, Some(config)) {
            Ok((socket, _)) => {
                return Ok(Self {
                    socket,
                    unflushed: false,
                });
            }
            Err(HandshakeError::Interrupted(_)) => Error::Io(io::ErrorKind::TimedOut.into()),
            Err(HandshakeError::Failure(error)) => error,
        };
        Err(handshake_fault(endpoint, credentials, path, &error))
    }

    pub(super) fn stream(&self) -> &TcpOrTls {
        self.socket.get_ref()
    }

    pub(super) fn is_unflushed(&self) -> bool {
        self.unflushed
    }

    /// Appends the bytes of the next message; 0 if the peer has closed. `Interrupted` after a
    /// number of frames without data: there may be an endless number of them, and other work waits.
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

    /// Accepts all bytes, or `WouldBlock`.
    pub(super) fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let message = Message::binary(bytes.to_vec());
        self.socket.write(message).map_err(into_io)?;
        self.unflushed = true;
        match self.flush() {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Err(e),
            _ => Ok(bytes.len()),
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        if self.unflushed {
            self.socket.flush().map_err(into_io)?;
            self.unflushed = false;
        }
        Ok(())
    }

    /// Sends a close frame if the socket takes it now, and closes the connection for writing.
    pub(super) fn close(&mut self) {
        // The peer may be gone, and need not answer.
        let _ = self.socket.close(None);
        let _ = self.socket.flush();
        self.socket.get_mut().close();
    }
}

fn into_io(error: Error) -> io::Error {
    let text = match error {
        Error::Io(error) => return error,
        Error::Capacity(CapacityError::MessageTooLong { .. }) => {
            "a message that is too long".into()
        }
        other => other.to_string(),
    };
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn handshake_fault(
    endpoint: &Endpoint,
    credentials: &TlsCredentials,
    path: &str,
    error: &Error,
) -> Fault {
    // The query may hold a signature.
    let path = path.split('?').next().unwrap_or(path);
    let permanent = |exit, cause: String, remedy: &str| {
        Fault::permanent(exit, format!("{endpoint}: the server {cause}")).with_remedy(remedy)
    };
    let passing = |cause: String| {
        Fault::passing(Exit::Unavailable, format!("{endpoint}: the server {cause}"))
    };
    let status = match error {
        Error::Http(response) => response.status(),
        Error::Io(error) => {
            let in_tls = tls_error::closing_fault(endpoint, credentials, error);
            return in_tls.unwrap_or_else(|| match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                    passing("has not answered the WebSocket handshake in time".into())
                }
                _ => {
                    let cause = "closed the connection during the WebSocket handshake";
                    let remedy =
                        "is this a WebSocket port, and does it want TLS (wss://) or none (ws://)?";
                    passing(format!("{cause} ({error})")).with_remedy(remedy)
                }
            });
        }
        other => {
            let cause = format!("does not speak WebSocket: {other}");
            let remedy = "check port and path, or is this an MQTT port (mqtts://)?";
            return permanent(Exit::Protocol, cause, remedy);
        }
    };
    match status.as_u16() {
        401 | 403 => {
            let remedy = match endpoint.profile {
                Profile::Aws => {
                    "check path and credentials (AWS IoT Core takes none with a client \
                     certificate: use mqtts://)"
                }
                Profile::Generic => "check path and credentials",
            };
            let cause = format!("refuses the WebSocket ({status})");
            permanent(Exit::Refused, cause, remedy)
        }
        500..=599 => {
            passing(format!("has no WebSocket now ({status})")).with_remedy("it may later")
        }
        _ => {
            let cause = format!("has no WebSocket at {path} ({status})");
            permanent(Exit::Protocol, cause, "check the path")
        }
    }
}
