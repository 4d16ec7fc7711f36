//! The TLS handshake, and what its failures mean.

use std::io;
use std::net::{IpAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use openssl::error::ErrorStack;
use openssl::nid::Nid;
use openssl::ssl::{
    HandshakeError, Ssl, SslCipherRef, SslContext, SslMethod, SslMode, SslStream, SslVerifyMode,
    SslVersion,
};
use openssl::x509::verify::X509CheckFlags;
use openssl::x509::{X509, X509NameRef, X509Ref, X509VerifyResult};

use super::counted::Counted;
use super::files::Loaded;
use crate::common::aws_host;
use crate::common::endpoint::Endpoint;
use crate::common::fault::{Exit, Fault};

/// The certificate that did not pass.
type Rejected = Arc<Mutex<Option<X509>>>;

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
    let certified = loaded.has_certificate();
    let ssl = context(loaded)
        .and_then(|context| prepare(way, &context, Arc::clone(&rejected)))
        .map_err(|e| setup_fault(way, &e))?;
    match ssl.connect(Counted::from(stream)) {
        Ok(tls) => {
            let facts = facts(&tls);
            Ok((tls, facts))
        }
        Err(HandshakeError::SetupFailure(stack)) => Err(setup_fault(way, &stack)),
        Err(HandshakeError::WouldBlock(_)) => Err(silent(way)),
        Err(HandshakeError::Failure(failed)) => {
            let verified = failed.ssl().verify_result();
            if verified != X509VerifyResult::OK {
                let certificate = rejected.lock().unwrap_or_else(PoisonError::into_inner);
                return Err(untrusted(way, certificate.as_ref(), verified));
            }
            Err(match failed.error().ssl_error().map(reasons) {
                Some(why) if why.contains("unexpected eof") => closed(way),
                Some(why) => alert(way, certified, &why),
                None => match failed.error().io_error().map(io::Error::kind) {
                    Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => silent(way),
                    _ => closed(way),
                },
            })
        }
    }
}

/// What is the same for every connection with these files. To make it takes as long as the handshake,
/// and longer while other threads run.
pub(super) fn context(loaded: &Loaded) -> Result<SslContext, ErrorStack> {
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
    if let Some((certs, key)) = &loaded.certificate {
        let (leaf, chain) = certs.split_first().ok_or_else(ErrorStack::get)?;
        builder.set_certificate(leaf)?;
        for cert in chain {
            builder.add_extra_chain_cert(cert.clone())?;
        }
        builder.set_private_key(key)?;
    }
    let context = builder.build();
    Ok(loaded.context.get_or_init(|| context).clone())
}

fn prepare(way: &Endpoint, context: &SslContext, rejected: Rejected) -> Result<Ssl, ErrorStack> {
    let mut ssl = Ssl::new(context)?;
    // A certificate that does not pass is gone after the handshake: keep the first one.
    ssl.set_verify_callback(SslVerifyMode::PEER, move |passes, store| {
        if !passes {
            let mut rejected = rejected.lock().unwrap_or_else(PoisonError::into_inner);
            if rejected.is_none() {
                *rejected = store.current_cert().map(ToOwned::to_owned);
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

/// The server's certificate does not pass.
fn untrusted(way: &Endpoint, certificate: Option<&X509>, result: X509VerifyResult) -> Fault {
    let code = result.as_raw();
    let why = match code {
        // X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
        62 | 64 => format!(
            "the server's certificate is for {}, not for {}; use that name as --endpoint, or the \
             server needs another certificate",
            names(certificate.map(|c| &**c)),
            way.host
        ),
        // X509_V_ERR_CERT_HAS_EXPIRED
        10 => format!(
            "the server's certificate expired{}; its operator must renew it (or set this clock)",
            certificate.map_or_else(String::new, |c| format!(" on {}", c.not_after()))
        ),
        // X509_V_ERR_CERT_NOT_YET_VALID
        9 => format!(
            "the server's certificate is not valid yet{}; is this machine's clock right?",
            certificate.map_or_else(String::new, |c| format!(" (from {})", c.not_before()))
        ),
        _ => {
            let issuer = certificate.map_or_else(String::new, |c| {
                format!(" (it was signed by {})", common_name(c.issuer_name()))
            });
            let hint =
                aws_host::hint(&way.host).map_or_else(String::new, |hint| format!("; {hint}"));
            format!(
                "the server's certificate is not trusted: {}{issuer}; --cafile must hold the CA \
                 that signed it{hint}",
                result.error_string()
            )
        }
    };
    Fault::permanent(Exit::Config, format!("{way}: {why}"))
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

/// Whether the other end has closed the connection without TLS's `close_notify`. MQTT says itself where a packet ends,
/// so this is a close like any other.
pub(super) fn is_close(error: &io::Error) -> bool {
    /// `SSL_R_UNEXPECTED_EOF_WHILE_READING` of OpenSSL 3; older versions report no error.
    const UNEXPECTED_EOF: i32 = 294;
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    let stack = error.and_then(openssl::ssl::Error::ssl_error);
    stack.is_some_and(|stack| {
        stack
            .errors()
            .iter()
            .any(|e| e.reason_code() == UNEXPECTED_EOF)
    })
}

/// What the server said in TLS about the end of a connection, if that is what this error is.
pub(super) fn last_words(way: &Endpoint, certified: bool, error: &io::Error) -> Option<Fault> {
    let error = error.get_ref()?.downcast_ref::<openssl::ssl::Error>()?;
    let why = reasons(error.ssl_error()?);
    (!why.contains("unexpected eof")).then(|| alert(way, certified, &why))
}

/// The names a certificate is for, as far as a reader needs them.
fn names(certificate: Option<&X509Ref>) -> String {
    let Some(certificate) = certificate else {
        return "another name".into();
    };
    let mut names: Vec<String> = Vec::new();
    for name in certificate.subject_alt_names().into_iter().flatten() {
        if let Some(dns) = name.dnsname() {
            names.push(dns.to_owned());
        } else if let Some(ip) = name.ipaddress() {
            let four = <[u8; 4]>::try_from(ip).map(IpAddr::from);
            let address = four.or_else(|_| <[u8; 16]>::try_from(ip).map(IpAddr::from));
            names.extend(address.ok().map(|ip| ip.to_string()));
        }
    }
    names.truncate(4);
    if names.is_empty() {
        "another name".into()
    } else {
        names.join(", ")
    }
}

/// A certificate's common name, or whatever else it calls itself.
fn common_name(name: &X509NameRef) -> String {
    let entry = name
        .entries_by_nid(Nid::COMMONNAME)
        .chain(name.entries())
        .find_map(|entry| entry.data().to_string().ok());
    entry.map_or_else(|| "no name".into(), |text| String::from(&*text))
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
