//! Why the server's certificate was not accepted, and what its operator or the user has to change.

use std::net::IpAddr;

use openssl::nid::Nid;
use openssl::x509::{X509, X509Ref, X509VerifyResult};

use super::credentials::certificates::{
    describe_host_names, dns_names, is_ca, is_same_name, is_self_issued, issuer,
    signature_algorithm, subject,
};
use super::credentials::{TlsCredentials, not_yet_valid_fault};
use crate::common::broker::aws_host;
use crate::common::broker::endpoint::Endpoint;
use crate::common::fault::{Exit, Fault};

#[derive(Clone, Debug)]
pub(super) struct VerifyError {
    pub(super) result: X509VerifyResult,
    /// The distance from the server's own certificate, which has 0.
    pub(super) depth: u32,
    pub(super) certificate: Option<X509>,
}

// OpenSSL's results (`openssl/x509_vfy.h`).
const UNABLE_TO_GET_ISSUER: i32 = 2;
const BAD_SIGNATURE: i32 = 7;
const NOT_YET_VALID: i32 = 9;
const EXPIRED: i32 = 10;
const SELF_SIGNED: i32 = 18;
const SELF_SIGNED_ROOT: i32 = 19;
const UNABLE_TO_GET_ISSUER_LOCALLY: i32 = 20;
const UNABLE_TO_VERIFY_LEAF: i32 = 21;
const PATH_TOO_LONG: i32 = 25;
const INVALID_PURPOSE: i32 = 26;
const KEY_USAGE_NO_CERT_SIGN: i32 = 32;
const NOT_PERMITTED: i32 = 47;
const EXCLUDED: i32 = 48;
const OTHER_HOST: i32 = 62;
const OTHER_ADDRESS: i32 = 64;
const KEY_TOO_SMALL: i32 = 66;
const CA_KEY_TOO_SMALL: i32 = 67;
const DIGEST_TOO_WEAK: i32 = 68;
const INVALID_CA: i32 = 79;

impl VerifyError {
    pub(super) fn fault(&self, endpoint: &Endpoint, credentials: &TlsCredentials) -> Fault {
        const CURRENT_CA: &str = "get the CA file that the broker's operator uses now";
        let result = self.result.error_string();
        let fault = |cause: String, remedy: &str| {
            Fault::permanent(Exit::Config, format!("{endpoint}: {cause}")).with_remedy(remedy)
        };
        let Some(certificate) = &self.certificate else {
            let cause = format!("the server's certificate is not trusted: {result}");
            return fault(cause, "--cafile must hold the CA that signed it");
        };
        let position = ChainPosition::of(certificate, self.depth, credentials);
        let file = position.authority_text(credentials);
        let weak = "too weak for the security level of this OpenSSL";
        let defect = match self.result.as_raw() {
            OTHER_HOST | OTHER_ADDRESS => return other_host(endpoint, certificate),
            SELF_SIGNED_ROOT
            | UNABLE_TO_GET_ISSUER
            | UNABLE_TO_GET_ISSUER_LOCALLY
            | UNABLE_TO_VERIFY_LEAF => {
                return unknown_issuer(endpoint, credentials, certificate, &position);
            }
            SELF_SIGNED => {
                let issuer = issuer(certificate);
                let cause = format!(
                    "the server's certificate is not trusted: it is self-signed (by {issuer})"
                );
                let remedy = "if it is the right one, give this certificate as --cafile";
                return fault(cause, remedy);
            }
            NOT_YET_VALID => {
                let from = certificate.not_before();
                return not_yet_valid_fault(format!(
                    "{endpoint}: {position} is not valid yet (from {from}){file}; is this machine's clock right?"
                ));
            }
            EXPIRED => {
                let remedy = match position {
                    ChainPosition::Trusted(..) => CURRENT_CA,
                    _ => "its operator must renew it (or set this clock)",
                };
                let end = certificate.not_after();
                return fault(format!("{position} expired on {end}{file}"), remedy);
            }
            BAD_SIGNATURE => {
                let issuer = issuer(certificate);
                let cause = format!(
                    "{position} was not signed by the key of {issuer} in --cafile: it is damaged, or \
                     the CA is another of the same name"
                );
                return fault(cause, CURRENT_CA);
            }
            INVALID_PURPOSE => {
                "is not made for servers (its extended key usage lacks serverAuth); the CA is right"
                    .into()
            }
            INVALID_CA | KEY_USAGE_NO_CERT_SIGN if is_ca(certificate) => {
                "has signed a certificate and may not (its key usage lacks keyCertSign)".into()
            }
            INVALID_CA | KEY_USAGE_NO_CERT_SIGN => {
                "has signed a certificate and is not that of a CA (CA:TRUE is missing)".into()
            }
            PATH_TOO_LONG => "allows fewer CAs below it than there are (path length)".into(),
            NOT_PERMITTED | EXCLUDED => {
                "has a name that a CA above it does not allow (name constraints)".into()
            }
            KEY_TOO_SMALL | CA_KEY_TOO_SMALL => {
                let bits = certificate.public_key().map_or(0, |key| key.bits());
                format!("has a key of {bits} bits, {weak}")
            }
            DIGEST_TOO_WEAK => {
                let algorithm = signature_algorithm(certificate);
                format!("is signed with {algorithm}, {weak}")
            }
            _ => format!("is not trusted: {result}"),
        };
        let cause = format!("{position} {defect}");
        fault(cause, "its operator must replace it")
    }
}

enum ChainPosition {
    Server,
    /// One above it that the server has sent, with its name.
    Chain(String),
    /// One that we trust: its name, and its number in the file.
    Trusted(String, Option<usize>),
}

impl ChainPosition {
    fn of(certificate: &X509Ref, depth: u32, credentials: &TlsCredentials) -> Self {
        if depth == 0 {
            return ChainPosition::Server;
        }
        let name = subject(certificate);
        let der = certificate.to_der().ok();
        let is_it = |ca: &X509| der.is_some() && ca.to_der().ok() == der;
        let at = match &credentials.authorities {
            Some(all) => all
                .certificates
                .iter()
                .position(is_it)
                .map(|at| Some(at + 1)),
            // Only the roots of the system's store are used.
            None => is_self_issued(certificate).then_some(None),
        };
        match at {
            Some(number) => ChainPosition::Trusted(name, number),
            None => ChainPosition::Chain(name),
        }
    }

    fn authority_text(&self, credentials: &TlsCredentials) -> String {
        match (self, &credentials.authorities) {
            (ChainPosition::Trusted(_, Some(number)), Some(authorities)) => {
                format!(" ({}, certificate {number})", authorities.path.display())
            }
            _ => String::new(),
        }
    }
}

impl std::fmt::Display for ChainPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ChainPosition::Server => f.write_str("the server's certificate"),
            ChainPosition::Chain(name) => {
                write!(f, "the certificate of {name} in the server's chain")
            }
            ChainPosition::Trusted(name, Some(_)) => write!(f, "the CA {name:?} in --cafile"),
            ChainPosition::Trusted(name, None) => {
                write!(f, "the CA {name:?} in the system's store")
            }
        }
    }
}

fn unknown_issuer(
    endpoint: &Endpoint,
    credentials: &TlsCredentials,
    last: &X509,
    position: &ChainPosition,
) -> Fault {
    const SHOWN: usize = 3;
    let chain = match position {
        ChainPosition::Server => "it was".to_owned(),
        ChainPosition::Chain(name) | ChainPosition::Trusted(name, _) if is_self_issued(last) => {
            format!("its chain ends with the root {name},")
        }
        ChainPosition::Chain(name) | ChainPosition::Trusted(name, _) => {
            format!("its chain ends with {name}, which was")
        }
    };
    let trusted = match &credentials.authorities {
        None => "which the system's store does not have".to_owned(),
        Some(authorities) => {
            let all = &authorities.certificates;
            let file = authorities.path.display();
            let has_name = |ca: &X509| is_same_name(ca.subject_name(), last.issuer_name());
            if all.iter().any(has_name) {
                format!("and the CA of that name in --cafile ({file}) is another, with another key")
            } else {
                let mut names: Vec<String> = all.iter().take(SHOWN).map(|ca| subject(ca)).collect();
                if all.len() > SHOWN {
                    names.push(format!("{} more", all.len() - SHOWN));
                }
                let names = names.join(", ");
                format!("which is not in --cafile ({file} has: {names})")
            }
        }
    };
    let cause = format!("{chain} signed by {}, {trusted}", issuer(last));
    let mut remedy = "--cafile must hold the CA that signed it, or the server must send the \
                      certificates between"
        .to_owned();
    if aws_host::is_aws(&endpoint.host) {
        remedy.push_str("; for AWS IoT Core the CA is that of AmazonRootCA1.pem");
    }
    if let Some(hint) = aws_host::hint(&endpoint.host) {
        remedy = format!("{remedy}; {hint}");
    }
    let message = format!("{endpoint}: the server's certificate is not trusted: {cause}");
    Fault::permanent(Exit::Config, message).with_remedy(remedy)
}

fn other_host(endpoint: &Endpoint, certificate: &X509) -> Fault {
    let host = endpoint.host.as_str();
    let fault = |cause: String, remedy: &str| {
        let message = format!("{endpoint}: the server's certificate is {cause}");
        Fault::permanent(Exit::Config, message).with_remedy(remedy)
    };
    let dns = dns_names(certificate);
    let common = certificate.subject_name().entries_by_nid(Nid::COMMONNAME);
    let common: Vec<String> = common
        .filter_map(|entry| entry.data().to_string().ok())
        .map(|name| String::from(&*name))
        .collect();
    if let Ok(address) = host.parse::<IpAddr>() {
        let is_it = |name: &String| name.parse() == Ok(address);
        let has_as_dns = dns.iter().any(is_it);
        if has_as_dns || common.iter().any(is_it) {
            let entry = if has_as_dns {
                "a DNS name"
            } else {
                "its common name only"
            };
            let remedy =
                format!("it has the address as {entry}; it must be an IP entry (subjectAltName)");
            return fault(format!("not for the address {host}"), &remedy);
        }
    }
    let is_wildcard_above = |name: &String| {
        name.strip_prefix('*')
            .is_some_and(|domain| host.ends_with(domain))
    };
    // The common name does not count beside DNS entries.
    let bare = host.strip_suffix('.').unwrap_or(host);
    let remedy = if dns.iter().any(is_wildcard_above) {
        "a wildcard stands for one level of the name; the server needs another certificate"
    } else if common.iter().any(|name| name.eq_ignore_ascii_case(bare)) {
        "it has the name as its common name only; it must be a DNS entry (subjectAltName)"
    } else {
        "use that name as --endpoint, or the server needs another certificate"
    };
    let names = describe_host_names(certificate);
    fault(format!("for {names}, not for {host}"), remedy)
}
