//! The route to the broker: name look-up, TCP, proxy, TLS and WebSocket, one after the other. The only module that
//! names `openssl` and `tungstenite`.
//!
//! The result is a stream of bytes to something that should speak MQTT. The client library, which interprets them, gets
//! the other end of a local socket ([`bridge`]). Because the steps are ours, each failure has its cause, and one
//! deadline covers them all.
//!
//! * `dial` takes the steps: `tcp` (with `local_binding`) or `unix_socket`, `proxy`, `tls_handshake` (with `tls_limits`)
//!   and `websocket`;
//! * `tls_session` keeps what a server needs to recognise a client, `new_session_handler` gets it from OpenSSL;
//! * `tls_error` turns what OpenSSL reports into faults, `verify_error` why a server's certificate is not accepted;
//! * `credentials` finds, reads and checks CA, certificate and key;
//! * `plain_or_tls` is a connection with or without TLS over a `socket`, `unacknowledged_bytes` how much of it has not arrived;
//! * `bridge` carries bytes between the broker and the client library.

pub mod bridge;
mod connection_handle;
pub mod credentials;
mod deadline_stream;
mod dial;
mod local_binding;
mod mqtt_stream;
mod network_interface;
mod new_session_handler;
mod plain_or_tls;
pub mod proxy;
mod socket;
mod tcp;
mod tls_error;
mod tls_handshake;
mod tls_limits;
mod tls_session;
mod unacknowledged_bytes;
mod unix_socket;
mod verify_error;
mod websocket;

pub use connection_handle::ConnectionHandle;
use credentials::TlsCredentials;
pub use dial::{DialError, DialEvent, DialStep, DialedConnection, Route, dial};
pub use local_binding::LocalBinding;
pub use tls_handshake::TlsInfo;
pub use tls_limits::{CipherLists, TlsLimits};
pub(crate) use tls_session::SessionResumption;
pub use tls_session::{SessionCache, is_foreign as is_no_session_file};

/// Initialises OpenSSL without a clean-up at exit, which would race against other threads. Call it
/// once, before anything else uses OpenSSL.
pub fn init() {
    openssl::init();
}

/// Makes the TLS context while there is only one thread. An error comes again when a connection is made.
pub fn prepare_tls(credentials: &TlsCredentials) {
    drop(credentials.tls_context());
}

/// Call it last: a TPM holds few keys, and keeps one that was not freed.
pub fn free_device_keys() {
    credentials::wait_until_device_keys_are_freed();
}

pub fn library_version() -> &'static str {
    openssl::version::version()
}
