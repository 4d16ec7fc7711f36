//! The TLS handshake, and which servers are trusted.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use openssl::error::ErrorStack;
use openssl::ssl::{
    HandshakeError, Ssl, SslCipherRef, SslContext, SslMethod, SslMode, SslStream, SslVerifyMode,
    SslVersion,
};
use openssl::x509::verify::X509CheckFlags;
use openssl::x509::{X509, X509VerifyResult};

use super::alert;
use super::counted::Counted;
use super::credentials::certificates::{self, common_name, reason};
use super::credentials::files::{Loaded, Pair};
use super::credentials::presented::Presented;
use super::credentials::trust::{Rejection, names, untrusted};
use crate::common::broker::endpoint::Endpoint;
use crate::common::fault::Fault;
use crate::common::runtime::small_file::wrong;

/// Why the server's certificate did not pass.
type Rejected = Arc<Mutex<Option<Rejection>>>;

/// Why TLS cannot begin.
#[derive(Clone, Debug)]
pub(super) enum Unfit {
    /// Certificate or key are not fit for it.
    Own(Fault),
    /// The library refuses.
    Tls(ErrorStack),
}

impl From<ErrorStack> for Unfit {
    fn from(stack: ErrorStack) -> Self {
        Unfit::Tls(stack)
    }
}

/// What a handshake has agreed on.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The version, as OpenSSL writes it.
    pub version: String,
    /// The cipher suite, by its standard name.
    pub cipher: String,
    /// The application protocol that the server has chosen.
    pub alpn: Option<String>,
    /// The names that the server's certificate is for.
    pub names: String,
    /// The chain from the server's certificate to the trusted CA, by common names.
    pub chain: Vec<String>,
    /// When the server's certificate ends.
    pub ends: String,
}

/// Shakes hands over a connected socket, whose timeouts are the deadline.
pub(super) fn handshake(
    way: &Endpoint,
    loaded: &Loaded,
    stream: TcpStream,
) -> Result<(SslStream<Counted>, Facts), Fault> {
    let rejected = Rejected::default();
    let presented = Presented::of(loaded);
    let ssl = context(loaded)
        .and_then(|context| Ok(prepare(way, &context, Arc::clone(&rejected))?))
        .map_err(|unfit| match unfit {
            Unfit::Own(fault) => fault,
            Unfit::Tls(stack) => alert::setup_fault(way, &stack),
        })?;
    match ssl.connect(Counted::from(stream)) {
        Ok(tls) => {
            let facts = facts(&tls);
            Ok((tls, facts))
        }
        Err(HandshakeError::SetupFailure(stack)) => Err(alert::setup_fault(way, &stack)),
        Err(HandshakeError::WouldBlock(_)) => Err(alert::silent(way)),
        Err(HandshakeError::Failure(failed)) => {
            let verified = failed.ssl().verify_result();
            if verified != X509VerifyResult::OK {
                let rejection = rejected
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                let rejection = rejection.unwrap_or(Rejection {
                    result: verified,
                    depth: 0,
                    certificate: None,
                });
                return Err(untrusted(way, loaded, &rejection));
            }
            let error = failed.error();
            Err(match error.ssl_error() {
                Some(stack) => alert::failed(way, &presented, stack),
                None => match error.io_error().map(io::Error::kind) {
                    Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => alert::silent(way),
                    _ => alert::closed(way),
                },
            })
        }
    }
}

/// What is the same for every connection with these files. To make it takes as long as the handshake,
/// and longer while other threads run.
pub(super) fn context(loaded: &Loaded) -> Result<SslContext, Unfit> {
    if let Some(context) = loaded.context.get() {
        return Ok(context.clone());
    }
    let mut builder = SslContext::builder(SslMethod::tls_client())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    // One read from the socket for many small records.
    builder.set_read_ahead(true);
    builder.set_mode(
        SslMode::ENABLE_PARTIAL_WRITE | SslMode::ACCEPT_MOVING_WRITE_BUFFER | SslMode::AUTO_RETRY,
    );
    builder.set_verify(SslVerifyMode::PEER);
    match &loaded.authorities {
        // As they were decoded when they were checked: once more takes half a millisecond.
        Some(authorities) => {
            for authority in authorities {
                builder.cert_store_mut().add_cert(authority.clone())?;
            }
        }
        None => builder.set_default_verify_paths()?,
    }
    if let (Some((certs, key)), Some(pair)) = (&loaded.certificate, &loaded.pair) {
        let (leaf, chain) = certs.split_first().ok_or_else(ErrorStack::get)?;
        builder
            .set_certificate(leaf)
            .map_err(|stack| unfit(pair, leaf, &stack))?;
        for cert in chain {
            builder
                .add_extra_chain_cert(cert.clone())
                .map_err(|stack| unfit(pair, cert, &stack))?;
        }
        builder.set_private_key(key).map_err(|stack| {
            let cause = format!("cannot be used for TLS ({})", reason(&stack));
            Unfit::Own(
                wrong("--key", &pair.key, &cause).with_remedy("make an RSA key or one on P-256"),
            )
        })?;
    }
    let context = builder.build();
    Ok(loaded.context.get_or_init(|| context).clone())
}

/// OpenSSL's reasons for refusing a certificate (`openssl/sslerr.h`).
const KEY_TOO_SMALL: [i32; 2] = [399, 397];
const DIGEST_TOO_WEAK: i32 = 398;

/// A certificate of ours that TLS does not take.
fn unfit(pair: &Pair, certificate: &X509, stack: &ErrorStack) -> Unfit {
    let is = |codes: &[i32]| {
        stack
            .errors()
            .iter()
            .any(|e| codes.contains(&e.reason_code()))
    };
    let whose = certificates::subject(certificate);
    let (cause, remedy) = if is(&KEY_TOO_SMALL) {
        let strength = certificate.public_key().map_or(0, |key| key.bits());
        (
            format!(
                "({whose}) has a key of {strength} bits, too weak for the security level of this OpenSSL"
            ),
            "make an RSA key of 2048 bits or one on P-256",
        )
    } else if is(&[DIGEST_TOO_WEAK]) {
        (
            format!(
                "({whose}) is signed with {}, too weak for the security level of this OpenSSL",
                certificates::signature(certificate)
            ),
            "get a certificate that is signed with SHA-256",
        )
    } else {
        (
            format!("({whose}) cannot be used for TLS ({})", reason(stack)),
            "get a certificate for an RSA key or one on P-256",
        )
    };
    Unfit::Own(wrong("--cert", &pair.cert, &cause).with_remedy(remedy))
}

fn prepare(way: &Endpoint, context: &SslContext, rejected: Rejected) -> Result<Ssl, ErrorStack> {
    let mut ssl = Ssl::new(context)?;
    // A certificate that does not pass is gone after the handshake: keep the first one.
    ssl.set_verify_callback(SslVerifyMode::PEER, move |passes, store| {
        if !passes {
            let mut rejected = rejected.lock().unwrap_or_else(PoisonError::into_inner);
            if rejected.is_none() {
                *rejected = Some(Rejection {
                    result: store.error(),
                    depth: store.error_depth(),
                    certificate: store.current_cert().map(ToOwned::to_owned),
                });
            }
        }
        passes
    });
    if let Ok(ip) = way.host.parse::<IpAddr>() {
        ssl.param_mut().set_ip(ip)?;
    } else {
        // A certificate has no dot behind the name.
        let host = way.host.strip_suffix('.').unwrap_or(&way.host);
        ssl.set_hostname(host)?;
        ssl.param_mut()
            .set_hostflags(X509CheckFlags::NO_PARTIAL_WILDCARDS);
        ssl.param_mut().set_host(host)?;
    }
    // HTTP's own name, so that a server with several protocols takes a WebSocket for what it is.
    let protocol = way.alpn.or(way.websocket.as_ref().map(|_| "http/1.1"));
    if let Some(protocol) = protocol
        && let Ok(length) = u8::try_from(protocol.len())
    {
        let mut list = vec![length];
        list.extend(protocol.as_bytes());
        ssl.set_alpn_protos(&list)?;
    }
    Ok(ssl)
}

fn facts(tls: &SslStream<Counted>) -> Facts {
    let ssl = tls.ssl();
    let certificate = ssl.peer_certificate();
    let cipher = ssl.current_cipher();
    Facts {
        version: ssl.version_str().to_owned(),
        cipher: cipher
            .and_then(SslCipherRef::standard_name)
            .unwrap_or("unknown cipher")
            .to_owned(),
        alpn: ssl
            .selected_alpn_protocol()
            .map(|name| String::from_utf8_lossy(name).into_owned()),
        names: names(certificate.as_deref()),
        chain: ssl.verified_chain().map_or_else(Vec::new, |chain| {
            chain
                .iter()
                .map(|c| common_name(c.subject_name()))
                .collect()
        }),
        ends: certificate.map_or_else(String::new, |c| c.not_after().to_string()),
    }
}
