//! The TLS handshake, and which servers are trusted.

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

use super::alert;
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
) -> Result<(SslStream<TcpStream>, Facts), Fault> {
    let rejected = Rejected::default();
    let certified = loaded.has_certificate();
    let ssl = context(loaded)
        .and_then(|context| prepare(way, &context, Arc::clone(&rejected)))
        .map_err(|e| alert::setup_fault(way, &e))?;
    match ssl.connect(stream) {
        Ok(tls) => {
            let facts = facts(&tls);
            Ok((tls, facts))
        }
        Err(HandshakeError::SetupFailure(stack)) => Err(alert::setup_fault(way, &stack)),
        Err(HandshakeError::WouldBlock(_)) => Err(alert::silent(way)),
        Err(HandshakeError::Failure(failed)) => {
            let verified = failed.ssl().verify_result();
            if verified != X509VerifyResult::OK {
                let certificate = rejected.lock().unwrap_or_else(PoisonError::into_inner);
                return Err(untrusted(way, certificate.as_ref(), verified));
            }
            Err(match failed.error().ssl_error() {
                Some(stack) => alert::failed(way, certified, stack),
                None => match failed.error().io_error().map(io::Error::kind) {
                    Some(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => alert::silent(way),
                    _ => alert::closed(way),
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
