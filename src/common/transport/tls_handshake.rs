//! The TLS handshake.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use openssl::error::ErrorStack;
use openssl::ssl::{
    HandshakeError, Ssl, SslCipherRef, SslContext, SslRef, SslStream, SslVerifyMode,
};
use openssl::x509::X509VerifyResult;
use openssl::x509::verify::X509CheckFlags;
use parking_lot::Mutex;

use super::credentials::certificates::{common_name, describe_host_names};
use super::credentials::{ContextError, TlsCredentials};
use super::plain_or_tls::CountedSocket;
use super::socket::Socket;
use super::tls_error;
use super::tls_limits::TlsLimits;
use super::tls_session::{SessionBinding, SessionCache, SessionResumption};
use super::verify_error::VerifyError;
use crate::common::broker::endpoint::Endpoint;
use crate::common::fault::Fault;

type SharedVerifyError = Arc<Mutex<Option<VerifyError>>>;

#[derive(Clone, Debug)]
pub struct TlsInfo {
    pub version: String,
    /// The standard name of the cipher suite.
    pub cipher: String,
    pub alpn: Option<String>,
    pub names: String,
    /// The common names from the server's certificate to the trusted CA.
    pub chain: Vec<String>,
    pub ends: String,
}

pub(super) struct Handshake {
    pub(super) stream: SslStream<CountedSocket>,
    pub(super) info: TlsInfo,
    pub(super) resumption: Option<SessionResumption>,
}

#[derive(Debug)]
pub(super) struct FailedHandshake {
    pub(super) fault: Fault,
    /// The server has ended the handshake, and a session was offered. Without one it may succeed.
    pub(super) is_session_refused: bool,
}

impl From<Fault> for FailedHandshake {
    fn from(fault: Fault) -> Self {
        Self {
            fault,
            is_session_refused: false,
        }
    }
}

/// Without `sessions` none is resumed, and none kept.
pub(super) fn handshake(
    endpoint: &Endpoint,
    credentials: &TlsCredentials,
    limits: &TlsLimits,
    sessions: Option<&Arc<SessionCache>>,
    socket: Socket,
) -> Result<Handshake, FailedHandshake> {
    let rejected = SharedVerifyError::default();
    let prepared = credentials.tls_context().and_then(|context| {
        let mut ssl = prepare(endpoint, &context, limits, Arc::clone(&rejected))?;
        let Some(sessions) = sessions else {
            return Ok((ssl, None));
        };
        let binding = SessionBinding::new(endpoint, credentials, limits, sessions.has_file());
        let resumption = SessionResumption::begin(sessions, binding, &context, &mut ssl)?;
        Ok((ssl, Some(resumption)))
    });
    let (ssl, resumption) = prepared.map_err(|error| match error {
        ContextError::Unusable(fault) => fault,
        ContextError::OpenSsl(stack) => tls_error::setup_fault(endpoint, &stack),
    })?;
    let is_session_offered = resumption
        .as_ref()
        .is_some_and(SessionResumption::has_offered);
    let connected = ssl.connect(CountedSocket::new(socket));
    if let Some(resumption) = resumption.as_ref().filter(|_| connected.is_err()) {
        resumption.handle_end();
    }
    let failed = match connected {
        Ok(stream) => {
            if let Some(resumption) = &resumption {
                resumption.handle_handshake(stream.ssl());
            }
            let info = info(stream.ssl());
            return Ok(Handshake {
                stream,
                info,
                resumption,
            });
        }
        Err(HandshakeError::SetupFailure(stack)) => {
            return Err(tls_error::setup_fault(endpoint, &stack).into());
        }
        Err(HandshakeError::WouldBlock(_)) => {
            return Err(tls_error::timeout_fault(endpoint).into());
        }
        Err(HandshakeError::Failure(failed)) => failed,
    };
    let verified = failed.ssl().verify_result();
    if verified != X509VerifyResult::OK {
        let rejected = rejected.lock().take();
        let error = rejected.unwrap_or_else(|| VerifyError {
            result: verified,
            depth: 0,
            certificate: None,
        });
        return Err(error.fault(endpoint, credentials).into());
    }
    let error = failed.error();
    let fault = match error.ssl_error() {
        Some(stack) => tls_error::handshake_fault(endpoint, credentials, limits, stack),
        None => match error.io_error().map(io::Error::kind) {
            Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Err(tls_error::timeout_fault(endpoint).into());
            }
            _ => tls_error::closed_fault(endpoint),
        },
    };
    Err(FailedHandshake {
        fault,
        is_session_refused: is_session_offered,
    })
}

fn prepare(
    endpoint: &Endpoint,
    context: &SslContext,
    limits: &TlsLimits,
    rejected: SharedVerifyError,
) -> Result<Ssl, ErrorStack> {
    let mut ssl = Ssl::new(context)?;
    limits.apply(&mut ssl)?;
    // After the handshake a rejected certificate is no longer available: the first one is kept.
    ssl.set_verify_callback(SslVerifyMode::PEER, move |passes, store| {
        if !passes {
            rejected.lock().get_or_insert_with(|| VerifyError {
                result: store.error(),
                depth: store.error_depth(),
                certificate: store.current_cert().map(ToOwned::to_owned),
            });
        }
        passes
    });
    if let Ok(ip) = endpoint.host.parse::<IpAddr>() {
        ssl.param_mut().set_ip(ip)?;
    } else {
        // Names in certificates have no final dot.
        let host = endpoint.host.strip_suffix('.').unwrap_or(&endpoint.host);
        ssl.set_hostname(host)?;
        ssl.param_mut()
            .set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
        ssl.param_mut().set_host(host)?;
    }
    // With HTTP's name a server with several protocols recognises a WebSocket.
    let protocol = endpoint
        .alpn
        .or(endpoint.websocket.as_ref().map(|_| "http/1.1"));
    if let Some(protocol) = protocol
        && let Ok(length) = u8::try_from(protocol.len())
    {
        let mut list = vec![length];
        list.extend(protocol.as_bytes());
        ssl.set_alpn_protos(&list)?;
    }
    Ok(ssl)
}

fn info(ssl: &SslRef) -> TlsInfo {
    let certificate = ssl.peer_certificate();
    let cipher = ssl.current_cipher().and_then(SslCipherRef::standard_name);
    let alpn = ssl.selected_alpn_protocol();
    let chain = ssl.verified_chain().into_iter().flatten();
    TlsInfo {
        version: ssl.version_str().to_owned(),
        cipher: cipher.unwrap_or("unknown cipher").to_owned(),
        alpn: alpn.map(|name| String::from_utf8_lossy(name).into_owned()),
        names: certificate
            .as_ref()
            .map_or_else(|| "another name".into(), |c| describe_host_names(c)),
        chain: chain.map(|c| common_name(c.subject_name())).collect(),
        ends: certificate.map_or_else(String::new, |c| c.not_after().to_string()),
    }
}
