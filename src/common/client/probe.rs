//! Finds out why a connection failed, by making one of its own.
//!
//! Paho says −1 for a name that does not resolve, a closed port, a foreign CA, a wrong host
//! name and a refused certificate alike. The probe takes the same steps with the standard
//! library and the `openssl` crate, which say what they met. It sends no CONNECT.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use openssl::error::ErrorStack;
use openssl::ssl::{
    HandshakeError, Ssl, SslContext, SslMethod, SslStream, SslVerifyMode, SslVersion,
};
use openssl::x509::{X509, X509VerifyResult};

use super::tls::{Loaded, TlsFiles};
use crate::common::endpoint::Endpoint;
use crate::common::event_loop::clock;
use crate::common::fault::{Exit, Fault};

/// How long a server that has finished its handshake may take to say that it does not like
/// our certificate: under TLS 1.3 it does so afterwards, a round trip later. The handshake
/// itself took one or two.
fn afterthought(handshake: Duration) -> Duration {
    (2 * handshake).clamp(Duration::from_millis(100), Duration::from_secs(1))
}

/// The certificate that did not pass.
type Failed = Arc<Mutex<Option<X509>>>;

/// Whether the host name resolves. Blocks for as long as the resolver does.
pub(super) fn resolve(endpoint: &Endpoint) -> Result<Vec<SocketAddr>, Fault> {
    let addresses: Vec<_> = (endpoint.host.as_str(), endpoint.port)
        .to_socket_addrs()
        .map_err(|e| {
            Fault::passing(
                Exit::Unavailable,
                format!(
                    "{}: the host name does not resolve ({e}); check --endpoint and the name server",
                    endpoint.host
                ),
            )
        })?
        .collect();
    Ok(addresses)
}

/// Takes a connection's steps up to CONNECT; `Ok` if they all went well.
pub(super) fn probe(
    endpoint: &Endpoint,
    files: &TlsFiles,
    loaded: &Loaded,
    deadline: Instant,
) -> Result<(), Fault> {
    let stream = connect(endpoint, deadline)?;
    if !endpoint.tls {
        return Ok(());
    }
    let failed = Failed::default();
    let context =
        context(files, loaded, Arc::clone(&failed)).map_err(|e| setup_fault(endpoint, &e))?;
    let begun = clock();
    let mut tls = handshake(endpoint, files, &context, &failed, stream)?;
    let patience = afterthought(clock().saturating_duration_since(begun));
    // Whatever else the server says is not ours to judge.
    let _ = tls.get_ref().set_read_timeout(Some(patience));
    match tls.ssl_read(&mut [0u8; 1]) {
        Err(error) => match error.ssl_error() {
            Some(stack) => Err(alert(endpoint, files, &reasons(stack))),
            None => Ok(()),
        },
        Ok(_) => Ok(()),
    }
}

fn connect(endpoint: &Endpoint, deadline: Instant) -> Result<TcpStream, Fault> {
    let mut last = None;
    for address in resolve(endpoint)? {
        let left = deadline.saturating_duration_since(clock());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                let timeouts = stream
                    .set_read_timeout(Some(left))
                    .and_then(|()| stream.set_write_timeout(Some(left)));
                return timeouts
                    .map(|()| stream)
                    .map_err(|e| tcp_fault(endpoint, &e));
            }
            Err(error) => last = Some(error),
        }
    }
    let error = last.unwrap_or_else(|| io::ErrorKind::TimedOut.into());
    Err(tcp_fault(endpoint, &error))
}

fn tcp_fault(endpoint: &Endpoint, error: &io::Error) -> Fault {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "the port is closed (connection refused); is the broker running, and --port right?"
                .into()
        }
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
            "no answer; is the network up, does a firewall block the port?".into()
        }
        _ => format!("cannot connect: {error}"),
    };
    Fault::passing(Exit::Unavailable, format!("{endpoint}: {why}"))
}

fn context(files: &TlsFiles, loaded: &Loaded, failed: Failed) -> Result<SslContext, ErrorStack> {
    let mut builder = SslContext::builder(SslMethod::tls_client())?;
    builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
    // A certificate that does not pass is gone after the handshake: keep the first one.
    builder.set_verify_callback(SslVerifyMode::PEER, move |passes, store| {
        if !passes {
            let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
            if failed.is_none() {
                *failed = store.current_cert().map(ToOwned::to_owned);
            }
        }
        passes
    });
    match &files.cafile {
        Some(cafile) => builder.set_ca_file(cafile)?,
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
    Ok(builder.build())
}

fn handshake(
    endpoint: &Endpoint,
    files: &TlsFiles,
    context: &SslContext,
    failed_certificate: &Failed,
    stream: TcpStream,
) -> Result<SslStream<TcpStream>, Fault> {
    let ssl = prepare(endpoint, context).map_err(|e| setup_fault(endpoint, &e))?;
    match ssl.connect(stream) {
        Ok(tls) => Ok(tls),
        Err(HandshakeError::SetupFailure(stack)) => Err(setup_fault(endpoint, &stack)),
        Err(HandshakeError::WouldBlock(_)) => Err(Fault::passing(
            Exit::Unavailable,
            format!(
                "{endpoint}: the server accepts connections but does not answer the TLS \
                 handshake; is this the broker's TLS port?"
            ),
        )),
        Err(HandshakeError::Failure(failed)) => {
            let verified = failed.ssl().verify_result();
            if verified != X509VerifyResult::OK {
                let certificate = failed_certificate
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                return Err(untrusted(endpoint, certificate.as_ref(), verified));
            }
            let stack = failed.error().ssl_error();
            Err(match stack.map(reasons) {
                Some(why) if why.contains("unexpected eof") => closed(endpoint),
                Some(why) => alert(endpoint, files, &why),
                None => closed(endpoint),
            })
        }
    }
}

fn prepare(endpoint: &Endpoint, context: &SslContext) -> Result<Ssl, ErrorStack> {
    let mut ssl = Ssl::new(context)?;
    if let Ok(ip) = endpoint.host.parse::<IpAddr>() {
        ssl.param_mut().set_ip(ip)?;
    } else {
        ssl.set_hostname(&endpoint.host)?;
        ssl.param_mut().set_host(&endpoint.host)?;
    }
    Ok(ssl)
}

/// TLS could not even begin. What the system refused (no more descriptors) may pass.
fn setup_fault(endpoint: &Endpoint, stack: &ErrorStack) -> Fault {
    let why = reasons(stack);
    let message = format!("{endpoint}: TLS cannot be set up: {why}");
    if why.contains("system lib") {
        Fault::passing(Exit::Io, message)
    } else {
        Fault::permanent(Exit::Config, message)
    }
}

/// The peer hung up in the handshake.
pub(super) fn closed(endpoint: &Endpoint) -> Fault {
    Fault::passing(
        Exit::Unavailable,
        format!(
            "{endpoint}: the server closed the connection during the TLS handshake; is this the \
             broker's TLS port?"
        ),
    )
}

/// The server's certificate does not pass.
fn untrusted(endpoint: &Endpoint, certificate: Option<&X509>, result: X509VerifyResult) -> Fault {
    let code = result.as_raw();
    let why = match code {
        // X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
        62 | 64 => format!(
            "the server's certificate is for {}, not for {}; use that name as --endpoint, or the \
             server needs another certificate",
            names(certificate),
            endpoint.host
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
        _ => format!(
            "the server's certificate is not trusted: {}; --cafile must hold the CA that signed it",
            result.error_string()
        ),
    };
    Fault::permanent(Exit::Config, format!("{endpoint}: {why}"))
}

/// What the server, or our own TLS, said in the handshake.
fn alert(endpoint: &Endpoint, files: &TlsFiles, why: &str) -> Fault {
    let (exit, what) = if why.contains("wrong version number")
        || why.contains("http request")
        || why.contains("packet length too long")
    {
        (
            Exit::Protocol,
            "the server does not speak TLS on this port; use its TLS port, or mqtt:// for no TLS",
        )
    } else if why.contains("unsupported protocol") || why.contains("protocol version") {
        (
            Exit::Config,
            "the server offers no TLS 1.2 or 1.3; it must be brought up to date",
        )
    } else if why.contains("certificate required")
        || (why.contains("handshake failure") && files.identity.is_none())
    {
        (
            Exit::Refused,
            "the server wants a client certificate; give --cert and --key",
        )
    } else if why.contains("unknown ca") {
        (
            Exit::Refused,
            "the server does not know the CA of --cert; register the certificate with the broker",
        )
    } else if why.contains("certificate") || why.contains("access denied") {
        (
            Exit::Refused,
            "the server refuses the certificate of --cert; is it active, in date and registered?",
        )
    } else {
        return Fault::passing(
            Exit::Unavailable,
            format!("{endpoint}: the TLS handshake failed: {why}"),
        );
    };
    Fault::permanent(exit, format!("{endpoint}: {what} (TLS: {why})"))
}

/// The names a certificate is for, as far as a reader needs them.
fn names(certificate: Option<&X509>) -> String {
    let Some(certificate) = certificate else {
        return "another name".into();
    };
    let mut names: Vec<String> = Vec::new();
    for name in certificate.subject_alt_names().into_iter().flatten() {
        if let Some(dns) = name.dnsname() {
            names.push(dns.to_owned());
        } else if let Some(ip) = name.ipaddress() {
            names.extend(match ip.len() {
                4 => <[u8; 4]>::try_from(ip)
                    .ok()
                    .map(|b| IpAddr::from(b).to_string()),
                16 => <[u8; 16]>::try_from(ip)
                    .ok()
                    .map(|b| IpAddr::from(b).to_string()),
                _ => None,
            });
        }
    }
    names.truncate(4);
    if names.is_empty() {
        "another name".into()
    } else {
        names.join(", ")
    }
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
