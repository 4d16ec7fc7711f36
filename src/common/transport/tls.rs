//! The TLS handshake, and what its failures mean.

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

use super::certificates::{self, common_name, reason};
use super::files::{Loaded, Pair};
use super::presented::Presented;
use super::trust::{Rejection, names, untrusted};
use crate::common::endpoint::Endpoint;
use crate::common::fault::{Exit, Fault};
use crate::common::small_file::wrong;

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
) -> Result<(SslStream<TcpStream>, Facts), Fault> {
    let rejected = Rejected::default();
    let presented = Presented::of(loaded);
    let ssl = context(loaded)
        .and_then(|context| Ok(prepare(way, &context, Arc::clone(&rejected))?))
        .map_err(|unfit| match unfit {
            Unfit::Own(fault) => fault,
            Unfit::Tls(stack) => setup_fault(way, &stack),
        })?;
    match ssl.connect(stream) {
        Ok(tls) => {
            let facts = facts(&tls);
            Ok((tls, facts))
        }
        Err(HandshakeError::SetupFailure(stack)) => Err(setup_fault(way, &stack)),
        Err(HandshakeError::WouldBlock(_)) => Err(silent(way)),
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
            Err(match error.ssl_error().map(reasons) {
                Some(why) if why.contains("unexpected eof") => closed(way),
                Some(why) => {
                    let fault = alert(way, loaded.has_certificate(), &why);
                    presented.explain(way, fault, error.ssl_error())
                }
                None => match error.io_error().map(io::Error::kind) {
                    Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => silent(way),
                    _ => closed(way),
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

fn facts(tls: &SslStream<TcpStream>) -> Facts {
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

/// TLS could not even begin. What the system refused (no more descriptors) may pass.
fn setup_fault(way: &Endpoint, stack: &ErrorStack) -> Fault {
    let why = reasons(stack);
    let message = format!("{way}: TLS cannot be set up: {why}");
    if why.contains("system lib") {
        Fault::passing(Exit::Io, message)
    } else {
        Fault::permanent(Exit::Config, message)
    }
}

fn silent(way: &Endpoint) -> Fault {
    Fault::passing(
        Exit::Unavailable,
        format!(
            "{way}: the server accepts connections but does not answer the TLS handshake; is this \
             the broker's TLS port?"
        ),
    )
}

/// The peer hung up in the handshake.
fn closed(way: &Endpoint) -> Fault {
    Fault::passing(
        Exit::Unavailable,
        format!(
            "{way}: the server closed the connection during the TLS handshake; is this the \
             broker's TLS port?"
        ),
    )
}

/// What the server, or our own TLS, said in the handshake or right after it. `certified` is
/// whether we had a certificate to show.
fn alert(way: &Endpoint, certified: bool, why: &str) -> Fault {
    let has = |word: &str| why.contains(word);
    let (exit, what) = if has("wrong version number")
        || has("http request")
        || has("packet length too long")
    {
        (
            Exit::Protocol,
            "the server does not speak TLS on this port; use its TLS port, or mqtt:// (ws:// for a WebSocket) for no TLS",
        )
    } else if has("unsupported protocol") || has("protocol version") {
        (
            Exit::Config,
            "the server offers no TLS 1.2 or 1.3; it must be brought up to date",
        )
    } else if has("no application protocol") {
        (
            Exit::Protocol,
            "the server does not know the protocol that it was asked for by name (ALPN); is this \
             an AWS IoT endpoint?",
        )
    } else if has("unrecognized name") {
        (
            Exit::Config,
            "the server knows no host of this name; check --endpoint",
        )
    } else if has("certificate required") || (has("handshake failure") && !certified) {
        (
            Exit::Refused,
            "the server wants a client certificate; give --cert and --key",
        )
    } else if has("unknown ca") {
        (
            Exit::Refused,
            "the server does not know the CA of --cert; register the certificate with the broker",
        )
    } else if has("certificate expired") {
        (
            Exit::Refused,
            "the server takes the certificate of --cert for expired; get a new one, or is its \
             clock wrong?",
        )
    } else if has("certificate revoked") {
        (
            Exit::Refused,
            "the server takes the certificate of --cert for revoked; get a new one",
        )
    } else if has("certificate") || has("access denied") {
        (
            Exit::Refused,
            "the server refuses the certificate of --cert; is it active, in date and registered?",
        )
    } else {
        return Fault::passing(
            Exit::Unavailable,
            format!("{way}: TLS failed: {why}; see the broker's log"),
        );
    };
    Fault::permanent(exit, format!("{way}: {what} (TLS: {why})"))
}

/// What the server said in TLS about the end of a connection, if that is what this error is.
pub(super) fn last_words(
    way: &Endpoint,
    presented: &Presented,
    error: &io::Error,
) -> Option<Fault> {
    let error = error.get_ref()?.downcast_ref::<openssl::ssl::Error>()?;
    let stack = error.ssl_error()?;
    let why = reasons(stack);
    let told = || {
        let fault = alert(way, presented.is_some(), &why);
        presented.explain(way, fault, Some(stack))
    };
    (!why.contains("unexpected eof")).then(told)
}

fn reasons(stack: &ErrorStack) -> String {
    let reasons: Vec<_> = stack
        .errors()
        .iter()
        .filter_map(openssl::error::Error::reason)
        .collect();
    if reasons.is_empty() {
        "no reason given".into()
    } else {
        reasons.join(", ")
    }
}
