//! Why the server's certificate does not pass, in terms of what its operator, or ours, has to change.

use std::net::IpAddr;

use openssl::nid::Nid;
use openssl::x509::{X509, X509Ref, X509VerifyResult};

use super::certificates::{is_ca, is_same, is_self_signed, issuer, signature, subject};
use super::files::{Loaded, not_yet};
use crate::common::broker::aws_host;
use crate::common::broker::endpoint::Endpoint;
use crate::common::fault::{Exit, Fault};

/// What did not pass.
#[derive(Clone, Debug)]
pub(crate) struct Rejection {
    /// Why.
    pub(crate) result: X509VerifyResult,
    /// How far from the server's own certificate, which has 0.
    pub(crate) depth: u32,
    /// The certificate that is at fault.
    pub(crate) certificate: Option<X509>,
}

/// OpenSSL's results (`openssl/x509_vfy.h`).
mod code {
    pub(crate) const UNABLE_TO_GET_ISSUER: i32 = 2;
    pub(crate) const BAD_SIGNATURE: i32 = 7;
    pub(crate) const NOT_YET_VALID: i32 = 9;
    pub(crate) const EXPIRED: i32 = 10;
    pub(crate) const SELF_SIGNED: i32 = 18;
    pub(crate) const SELF_SIGNED_ROOT: i32 = 19;
    pub(crate) const UNABLE_TO_GET_ISSUER_LOCALLY: i32 = 20;
    pub(crate) const UNABLE_TO_VERIFY_LEAF: i32 = 21;
    pub(crate) const PATH_TOO_LONG: i32 = 25;
    pub(crate) const INVALID_PURPOSE: i32 = 26;
    pub(crate) const KEY_USAGE_NO_CERT_SIGN: i32 = 32;
    pub(crate) const NOT_PERMITTED: i32 = 47;
    pub(crate) const EXCLUDED: i32 = 48;
    pub(crate) const OTHER_HOST: i32 = 62;
    pub(crate) const OTHER_ADDRESS: i32 = 64;
    pub(crate) const KEY_TOO_SMALL: i32 = 66;
    pub(crate) const CA_KEY_TOO_SMALL: i32 = 67;
    pub(crate) const DIGEST_TOO_WEAK: i32 = 68;
    pub(crate) const INVALID_CA: i32 = 79;
}

/// The fault of a server whose certificate did not pass.
pub(crate) fn untrusted(way: &Endpoint, loaded: &Loaded, rejection: &Rejection) -> Fault {
    let (result, depth) = (rejection.result.as_raw(), rejection.depth);
    let fault = |cause: String, remedy: &str| {
        Fault::permanent(Exit::Config, format!("{way}: {cause}")).with_remedy(remedy)
    };
    let Some(certificate) = &rejection.certificate else {
        let what = rejection.result.error_string();
        let cause = format!("the server's certificate is not trusted: {what}");
        return fault(cause, "--cafile must hold the CA that signed it");
    };
    let place = Place::of(certificate, depth, loaded);
    let whose = place.name();
    let operator = "its operator must replace it";
    match result {
        code::OTHER_HOST | code::OTHER_ADDRESS => other_name(way, certificate),
        code::EXPIRED => fault(
            format!(
                "{whose} expired on {}{}",
                certificate.not_after(),
                place.file(loaded)
            ),
            match place {
                Place::Authority(_) => "get the CA file that the broker's operator uses now",
                _ => "its operator must renew it (or set this clock)",
            },
        ),
        code::NOT_YET_VALID => not_yet(format!(
            "{way}: {whose} is not valid yet (from {}){}; is this machine's clock right?",
            certificate.not_before(),
            place.file(loaded)
        )),
        code::SELF_SIGNED => fault(
            format!(
                "the server's certificate is not trusted: it is self-signed (by {})",
                issuer(certificate)
            ),
            "if it is the right one, give this certificate as --cafile",
        ),
        code::SELF_SIGNED_ROOT
        | code::UNABLE_TO_GET_ISSUER
        | code::UNABLE_TO_GET_ISSUER_LOCALLY
        | code::UNABLE_TO_VERIFY_LEAF => unknown_issuer(way, loaded, certificate, &place),
        code::INVALID_PURPOSE => fault(
            format!(
                "{whose} is not made for servers (its extended key usage lacks serverAuth); the CA is right"
            ),
            operator,
        ),
        code::INVALID_CA | code::KEY_USAGE_NO_CERT_SIGN => {
            let why = if is_ca(certificate) {
                "may not (its key usage lacks keyCertSign)"
            } else {
                "is not that of a CA (CA:TRUE is missing)"
            };
            fault(
                format!("{whose} has signed a certificate and {why}"),
                operator,
            )
        }
        code::PATH_TOO_LONG => fault(
            format!("{whose} allows fewer CAs below it than there are (path length)"),
            operator,
        ),
        code::NOT_PERMITTED | code::EXCLUDED => fault(
            format!("{whose} has a name that a CA above it does not allow (name constraints)"),
            operator,
        ),
        code::KEY_TOO_SMALL | code::CA_KEY_TOO_SMALL => fault(
            format!(
                "{whose} has a key of {} bits, too weak for the security level of this OpenSSL",
                certificate.public_key().map_or(0, |key| key.bits())
            ),
            operator,
        ),
        code::DIGEST_TOO_WEAK => fault(
            format!(
                "{whose} is signed with {}, too weak for the security level of this OpenSSL",
                signature(certificate)
            ),
            operator,
        ),
        code::BAD_SIGNATURE => fault(
            format!(
                "{whose} was not signed by the key of {} in --cafile: it is damaged, or the CA is another of the same name",
                issuer(certificate)
            ),
            "get the CA file that the broker's operator uses now",
        ),
        _ => fault(
            format!(
                "{whose} is not trusted: {}",
                rejection.result.error_string()
            ),
            operator,
        ),
    }
}

/// Which certificate of the chain it is.
enum Place {
    /// The server's own.
    Server,
    /// One above it that the server has sent.
    Chain(String),
    /// One that we trust: its name, and its number in the file.
    Authority((String, Option<usize>)),
}

impl Place {
    fn of(certificate: &X509Ref, depth: u32, loaded: &Loaded) -> Self {
        if depth == 0 {
            return Place::Server;
        }
        let name = subject(certificate);
        let is_it = |ca: &X509| {
            ca.to_der()
                .ok()
                .zip(certificate.to_der().ok())
                .is_some_and(|(a, b)| a == b)
        };
        match &loaded.authorities {
            Some(authorities) => match authorities.iter().position(is_it) {
                Some(at) => Place::Authority((name, Some(at + 1))),
                None => Place::Chain(name),
            },
            // Of the system's store only the roots are used.
            None if is_self_signed(certificate) => Place::Authority((name, None)),
            None => Place::Chain(name),
        }
    }

    fn name(&self) -> String {
        match self {
            Place::Server => "the server's certificate".into(),
            Place::Chain(name) => format!("the certificate of {name} in the server's chain"),
            Place::Authority((name, Some(_))) => format!("the CA {name:?} in --cafile"),
            Place::Authority((name, None)) => format!("the CA {name:?} in the system's store"),
        }
    }

    /// Where in our files it is.
    fn file(&self, loaded: &Loaded) -> String {
        match self {
            Place::Authority((_, Some(number))) => {
                format!(" ({}, certificate {number})", loaded.cafile.display())
            }
            _ => String::new(),
        }
    }
}

/// The chain ends with something that is not trusted.
fn unknown_issuer(way: &Endpoint, loaded: &Loaded, last: &X509, place: &Place) -> Fault {
    let signer = issuer(last);
    let whose = match place {
        Place::Server => "it was".to_owned(),
        Place::Chain(name) | Place::Authority((name, _)) if is_self_signed(last) => {
            format!("its chain ends with the root {name},")
        }
        Place::Chain(name) | Place::Authority((name, _)) => {
            format!("its chain ends with {name}, which was")
        }
    };
    let has = match &loaded.authorities {
        None => ", which the system's store does not have".to_owned(),
        Some(all)
            if all
                .iter()
                .any(|ca| is_same(ca.subject_name(), last.issuer_name())) =>
        {
            let file = loaded.cafile.display();
            format!(", and the CA of that name in --cafile ({file}) is another, with another key")
        }
        Some(all) => {
            const SHOWN: usize = 3;
            let mut names: Vec<String> = all.iter().take(SHOWN).map(|ca| subject(ca)).collect();
            if all.len() > SHOWN {
                names.push(format!("{} more", all.len() - SHOWN));
            }
            let file = loaded.cafile.display();
            format!(
                ", which is not in --cafile ({file} has: {})",
                names.join(", ")
            )
        }
    };
    let by = format!(" signed by {signer}");
    let cause = format!("the server's certificate is not trusted: {whose}{by}{has}");
    let mut remedy = "--cafile must hold the CA that signed it, or the server must send the certificates between".to_owned();
    if aws_host::is_aws(&way.host) {
        remedy.push_str("; for AWS IoT Core the CA is that of AmazonRootCA1.pem");
    }
    if let Some(hint) = aws_host::hint(&way.host) {
        remedy = format!("{remedy}; {hint}");
    }
    Fault::permanent(Exit::Config, format!("{way}: {cause}")).with_remedy(remedy)
}

/// The certificate is good, and for another host.
fn other_name(way: &Endpoint, certificate: &X509) -> Fault {
    let host = way.host.as_str();
    let names = names(Some(&**certificate));
    let cause = format!("{way}: the server's certificate is for {names}, not for {host}");
    let fault = |remedy: &str| Fault::permanent(Exit::Config, cause.clone()).with_remedy(remedy);
    let all = dns_names(certificate);
    let common = certificate.subject_name().entries_by_nid(Nid::COMMONNAME);
    let common: Vec<String> = common
        .filter_map(|entry| entry.data().to_string().ok())
        .map(|name| String::from(&*name))
        .collect();
    if let Ok(address) = host.parse::<IpAddr>() {
        let is_it = |name: &String| name.parse() == Ok(address);
        let place = if all.iter().any(is_it) {
            Some("a DNS name")
        } else if common.iter().any(is_it) {
            Some("its common name only")
        } else {
            None
        };
        if let Some(place) = place {
            let cause = format!("{way}: the server's certificate is not for the address {host}");
            return Fault::permanent(Exit::Config, cause).with_remedy(format!(
                "it has the address as {place}; it must be an IP entry (subjectAltName)"
            ));
        }
    }
    let below = |name: &String| {
        name.strip_prefix('*')
            .is_some_and(|domain| host.ends_with(domain))
    };
    if all.iter().any(below) {
        return fault(
            "a wildcard stands for one level of the name; the server needs another certificate",
        );
    }
    // The common name does not count beside DNS entries.
    let bare = host.strip_suffix('.').unwrap_or(host);
    if common.iter().any(|name| name.eq_ignore_ascii_case(bare)) {
        return fault(
            "it has the name as its common name only; it must be a DNS entry (subjectAltName)",
        );
    }
    fault("use that name as --endpoint, or the server needs another certificate")
}

fn dns_names(certificate: &X509Ref) -> Vec<String> {
    let names = certificate.subject_alt_names();
    let names = names.iter().flatten();
    names
        .filter_map(|name| name.dnsname().map(str::to_owned))
        .collect()
}

/// The names a certificate is for, as far as a reader needs them. Without any, the common name counts.
pub(crate) fn names(certificate: Option<&X509Ref>) -> String {
    let Some(certificate) = certificate else {
        return "another name".into();
    };
    let mut names = dns_names(certificate);
    for name in certificate.subject_alt_names().into_iter().flatten() {
        if let Some(ip) = name.ipaddress() {
            let four = <[u8; 4]>::try_from(ip).map(IpAddr::from);
            let address = four.or_else(|_| <[u8; 16]>::try_from(ip).map(IpAddr::from));
            names.extend(address.ok().map(|ip| ip.to_string()));
        }
    }
    names.truncate(4);
    if names.is_empty() {
        subject(certificate)
    } else {
        names.join(", ")
    }
}
