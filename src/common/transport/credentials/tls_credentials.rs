//! The certificates and the key of a connection, as read from their files: the TLS context that
//! they make, and what is wrong with their dates and uses.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use jiff::tz::Offset;
use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::error::{Error, ErrorStack};
use openssl::ssl::{
    SslContext, SslMethod, SslMode, SslSessionCacheMode, SslVerifyMode, SslVersion,
};
use openssl::x509::{X509, X509ExtendedKeyUsage, X509KeyUsage, X509PurposeId, X509Ref};

use super::certificates::{self, openssl_reason, subject};
use super::key::{self, LoadedKey};
use crate::common::fault::{Exit, Fault, FaultCause};
use crate::common::runtime::small_file::invalid_file;
use crate::common::transport::new_session_handler;

/// A certificate that expires within this number of days causes a warning.
const EXPIRY_WARNING: i32 = 30;

/// A certificate is not used this long after it becomes valid: the broker's clock may be a little behind.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(1);

/// OpenSSL's reasons for refusing a certificate (`openssl/sslerr.h`).
const KEY_TOO_SMALL: [i32; 2] = [399, 397];
const DIGEST_TOO_WEAK: [i32; 1] = [398];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertKeyPaths {
    /// May hold the chain, too.
    pub cert: PathBuf,
    pub key: PathBuf,
}

#[derive(Clone, Default)]
pub struct TlsCredentials {
    /// None for the system's store.
    pub(crate) authorities: Option<Authorities>,
    /// Freed before the key that it refers to.
    context: OnceLock<SslContext>,
    pub(super) client: Option<ClientCertificate>,
}

#[derive(Clone)]
pub(crate) struct Authorities {
    pub(crate) path: PathBuf,
    pub(crate) certificates: Vec<X509>,
}

#[derive(Clone)]
pub(super) struct ClientCertificate {
    pub(super) paths: CertKeyPaths,
    pub(super) chain: Vec<X509>,
    pub(super) key: LoadedKey,
}

#[derive(Clone, Debug)]
pub(crate) enum ContextError {
    Unusable(Fault),
    OpenSsl(ErrorStack),
}

impl From<ErrorStack> for ContextError {
    fn from(stack: ErrorStack) -> Self {
        ContextError::OpenSsl(stack)
    }
}

impl fmt::Debug for TlsCredentials {
    /// Shows no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsCredentials").finish_non_exhaustive()
    }
}

impl TlsCredentials {
    pub fn has_certificate(&self) -> bool {
        self.client.is_some()
    }

    pub(crate) fn certificate_path(&self) -> Option<&PathBuf> {
        self.client.as_ref().map(|client| &client.paths.cert)
    }

    /// A secret that only who has the private key can compute. None without a certificate, or if a TPM or a token has
    /// the key.
    pub(crate) fn private_key_digest(&self) -> Option<[u8; 32]> {
        self.client.as_ref()?.key.digest()
    }

    pub fn has_private_key_in_memory(&self) -> bool {
        self.client
            .as_ref()
            .is_some_and(|client| client.key.device().is_none())
    }

    fn leaf(&self) -> Option<&X509> {
        self.client.as_ref()?.chain.first()
    }

    /// What is the same for every connection with these credentials. To make it takes as long as a
    /// handshake, and longer while other threads run.
    pub(crate) fn tls_context(&self) -> Result<SslContext, ContextError> {
        if let Some(context) = self.context.get() {
            return Ok(context.clone());
        }
        let mut builder = SslContext::builder(SslMethod::tls_client())?;
        builder.set_min_proto_version(Some(SslVersion::TLS1_2))?;
        // One read from the socket for many small records.
        builder.set_read_ahead(true);
        let partial = SslMode::ENABLE_PARTIAL_WRITE | SslMode::ACCEPT_MOVING_WRITE_BUFFER;
        builder.set_mode(partial | SslMode::AUTO_RETRY);
        builder.set_verify(SslVerifyMode::PEER);
        let keep = SslSessionCacheMode::CLIENT | SslSessionCacheMode::NO_INTERNAL;
        builder.set_session_cache_mode(keep);
        builder.set_new_session_callback(|ssl, session| new_session_handler::call(ssl, &session));
        match &self.authorities {
            // Already decoded: to read the file again takes half a millisecond.
            Some(authorities) => {
                for authority in &authorities.certificates {
                    builder.cert_store_mut().add_cert(authority.clone())?;
                }
            }
            None => builder.set_default_verify_paths()?,
        }
        // A handshake does so anyway; a session that is resumed is verified with this store alone.
        builder
            .cert_store_mut()
            .set_purpose(X509PurposeId::SSL_SERVER)?;
        if let Some(client) = &self.client {
            let (leaf, chain) = client.chain.split_first().ok_or_else(ErrorStack::get)?;
            builder
                .set_certificate(leaf)
                .map_err(|stack| client.openssl_rejection(leaf, &stack))?;
            for cert in chain {
                let added = builder.add_extra_chain_cert(cert.clone());
                added.map_err(|stack| client.openssl_rejection(cert, &stack))?;
            }
            builder.set_private_key(&client.key.key).map_err(|stack| {
                let cause = format!("cannot be used for TLS ({})", openssl_reason(&stack));
                let fault = invalid_file("--key", &client.paths.key, cause)
                    .with_remedy("make an RSA key or one on P-256");
                ContextError::Unusable(fault)
            })?;
        }
        Ok(self.context.get_or_init(|| builder.build()).clone())
    }

    /// Checks that the client certificate is in date, and one of the trusted CAs. The fault of a
    /// date in the future is passing.
    pub fn check_dates(&self, now: SystemTime) -> Result<(), Fault> {
        let earlier = now.checked_sub(CLOCK_DIFFERENCE);
        let (Some(now), Some(earlier)) = (to_asn1_time(now), earlier.and_then(to_asn1_time)) else {
            return Ok(());
        };
        if let Some(Authorities { path, certificates }) = &self.authorities
            && let Some(first) = certificates.first()
            && !certificates.iter().any(|ca| is_in_date(ca, &now))
        {
            let (from, to) = (first.not_before(), first.not_after());
            let (path, name) = (path.display(), subject(first));
            let ca = format!("{path}: the CA {name:?} in --cafile");
            return Err(if *to < now {
                Fault::permanent(Exit::Config, format!("{ca} expired on {to}"))
                    .with_remedy("get the CA file that the broker's operator uses now")
            } else {
                not_yet_valid_fault(format!("{ca} is not valid before {from}"))
            });
        }
        let Some((leaf, path)) = self.leaf().zip(self.certificate_path()) else {
            return Ok(());
        };
        let (from, to) = (leaf.not_before(), leaf.not_after());
        if *to < now {
            return Err(invalid_file("--cert", path, format!("expired on {to}"))
                .with_remedy("get a new certificate, or set the clock if it is wrong"));
        }
        if *from > earlier {
            let path = path.display();
            return Err(not_yet_valid_fault(format!(
                "{path}: --cert is not valid before {from}"
            )));
        }
        Ok(())
    }

    pub(crate) fn certificate_problem(&self, now: SystemTime) -> Option<String> {
        let client = self.client.as_ref()?;
        let (leaf, chain) = client.chain.split_first()?;
        let authorities = self.authorities.iter().flat_map(|all| &all.certificates);
        let issuers: Vec<&X509> = chain.iter().chain(authorities).collect();
        let is_damaged = |cert: &X509| {
            let has_bad = |issuer: &&X509| certificates::has_bad_signature(cert, issuer);
            issuers.iter().any(has_bad)
        };
        if client.chain.iter().any(is_damaged) {
            return Some("it is damaged: its signature does not fit; copy the file again".into());
        }
        let for_clients = X509ExtendedKeyUsage::SSL_CLIENT | X509ExtendedKeyUsage::ANYEKU;
        if leaf
            .extended_key_usage()
            .is_some_and(|all| !all.intersects(for_clients))
        {
            let lacks = "its extended key usage lacks clientAuth";
            let problem = format!("it is not made for clients ({lacks}); get one that is");
            return Some(problem);
        }
        // OpenSSL accepts both for a client: older handshakes agreed on keys.
        let signs = X509KeyUsage::DIGITAL_SIGNATURE | X509KeyUsage::KEY_AGREEMENT;
        if leaf.key_usage().is_some_and(|all| !all.intersects(signs)) {
            return Some("its key usage does not allow signatures; get one that does".into());
        }
        if let Some(why) = key::unfit_for_tls_1_3(&client.key.key) {
            let remedy = "take an RSA key or one on P-256";
            return Some(format!("{why}, which TLS 1.3 does not have; {remedy}"));
        }
        let now = to_asn1_time(now)?;
        let mut above = (2..).zip(chain);
        let (at, expired) = above.find(|(_, cert)| *cert.not_after() < now)?;
        let (name, end) = (subject(expired), expired.not_after());
        Some(format!(
            "certificate {at} of its file, of {name}, expired on {end}; get the current chain"
        ))
    }

    /// The path of the certificate, and the warning.
    pub fn expiry_warning(&self, now: SystemTime) -> Option<(&Path, String)> {
        let left = match self.days_left(now)? {
            EXPIRY_WARNING.. => return None,
            0 => "less than a day".into(),
            1 => "a day".into(),
            days => format!("{days} days"),
        };
        let path = self.certificate_path()?;
        let warning = format!(
            "{}: --cert expires in {left}; get a new certificate in time",
            path.display()
        );
        Some((path, warning))
    }

    /// When the client's certificate ends, in seconds of Unix time.
    pub fn end_unix_s(&self) -> Option<i64> {
        let end = self.leaf()?.not_after();
        let since = to_asn1_time(SystemTime::UNIX_EPOCH)?.diff(end).ok()?;
        Some(i64::from(since.days) * 86_400 + i64::from(since.secs))
    }

    pub fn days_left(&self, now: SystemTime) -> Option<i32> {
        let end = self.leaf()?.not_after();
        to_asn1_time(now)?.diff(end).ok().map(|left| left.days)
    }

    pub(super) fn describe_validity(&self, now: SystemTime) -> Option<String> {
        let end = self.leaf()?.not_after();
        Some(match self.days_left(now) {
            Some(days) => format!("valid until {end}, {days} days from now"),
            None => format!("valid until {end}"),
        })
    }
}

impl ClientCertificate {
    fn openssl_rejection(&self, certificate: &X509, stack: &ErrorStack) -> ContextError {
        let codes = stack.errors().iter().map(Error::reason_code);
        let has = |wanted: &[i32]| codes.clone().any(|code| wanted.contains(&code));
        let weak = "too weak for the security level of this OpenSSL";
        let (what, remedy) = if has(&KEY_TOO_SMALL) {
            let bits = certificate.public_key().map_or(0, |key| key.bits());
            let remedy = "make an RSA key of 2048 bits or one on P-256";
            (format!("has a key of {bits} bits, {weak}"), remedy)
        } else if has(&DIGEST_TOO_WEAK) {
            let algorithm = certificates::signature_algorithm(certificate);
            let remedy = "get a certificate that is signed with SHA-256";
            (format!("is signed with {algorithm}, {weak}"), remedy)
        } else {
            let reason = openssl_reason(stack);
            let remedy = "get a certificate for an RSA key or one on P-256";
            (format!("cannot be used for TLS ({reason})"), remedy)
        };
        let cause = format!("({}) {what}", subject(certificate));
        let fault = invalid_file("--cert", &self.paths.cert, cause).with_remedy(remedy);
        ContextError::Unusable(fault)
    }
}

/// The clock of a device without a battery is behind until it is set, so the fault is passing.
pub(crate) fn not_yet_valid_fault(message: String) -> Fault {
    Fault::passing(Exit::Config, message)
        .with_kind(FaultCause::NotYetValid)
        .with_remedy("set the clock, if it is behind; until then it is tried again")
}

fn is_in_date(certificate: &X509Ref, now: &Asn1TimeRef) -> bool {
    *certificate.not_before() <= *now && *certificate.not_after() >= *now
}

/// None for a time that ASN.1 cannot express. As text, because OpenSSL's `time_t` may have 64 bits where Rust's has 32:
/// in Debian 13 on armhf.
fn to_asn1_time(time: SystemTime) -> Option<Asn1Time> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    let timestamp = Timestamp::from_second(i64::try_from(seconds).ok()?).ok()?;
    let at = Offset::UTC.to_datetime(timestamp);
    let date = format!("{:04}{:02}{:02}", at.year(), at.month(), at.day());
    // Not with `strftime`, which every start would have to bring into memory for this.
    let time = format!("{:02}{:02}{:02}", at.hour(), at.minute(), at.second());
    Asn1Time::from_str(&format!("{date}{time}Z")).ok()
}

#[cfg(test)]
mod tests {
    use openssl::ec::{EcGroup, EcKey};
    use openssl::hash::MessageDigest;
    use openssl::nid::Nid;
    use openssl::pkey::{PKey, Private};
    use openssl::stack::Stack;
    use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage};
    use openssl::x509::{X509Name, X509StoreContext, X509StoreContextRef};

    use super::*;

    #[test]
    fn a_time_after_2038_is_compared_with_dates_of_certificates_too() {
        for (seconds, expected) in [
            (1_700_000_000, "Nov 14 22:13:20 2023 GMT"),
            (4_294_967_296, "Feb  7 06:28:16 2106 GMT"),
        ] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(
                to_asn1_time(time).expect("a time of ASN.1").to_string(),
                expected
            );
        }
    }

    #[test]
    fn a_time_before_1970_is_taken_for_1970() {
        let time = to_asn1_time(SystemTime::UNIX_EPOCH - Duration::from_secs(1));
        assert_eq!(
            time.expect("a time of ASN.1").to_string(),
            "Jan  1 00:00:00 1970 GMT"
        );
    }

    /// A certificate for a key, with these extended key usages if it is not a CA's.
    fn certificate(key: &PKey<Private>, issuer: Option<&X509>, usage: &ExtendedKeyUsage) -> X509 {
        let mut name = X509Name::builder().unwrap();
        let text = issuer.map_or("CA", |_| "other");
        name.append_entry_by_text("CN", text).unwrap();
        let name = name.build();
        let mut builder = X509::builder().unwrap();
        builder.set_version(2).unwrap();
        builder.set_subject_name(&name).unwrap();
        let issued_by = issuer.map_or(&*name, |ca| ca.subject_name());
        builder.set_issuer_name(issued_by).unwrap();
        let (from, to) = (Asn1Time::from_unix(0), Asn1Time::days_from_now(1));
        builder.set_not_before(&from.unwrap()).unwrap();
        builder.set_not_after(&to.unwrap()).unwrap();
        builder.set_pubkey(key).unwrap();
        let extension = match issuer {
            Some(_) => usage.build(),
            None => BasicConstraints::new().critical().ca().build(),
        };
        builder.append_extension(extension.unwrap()).unwrap();
        builder.sign(key, MessageDigest::sha256()).unwrap();
        builder.build()
    }

    #[test]
    fn without_a_handshake_too_only_certificates_of_servers_are_trusted() {
        let key = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(EcKey::generate(&key).unwrap()).unwrap();
        let ca = certificate(&key, None, &ExtendedKeyUsage::new());
        let credentials = TlsCredentials {
            authorities: Some(Authorities {
                path: PathBuf::new(),
                certificates: vec![ca.clone()],
            }),
            ..TlsCredentials::default()
        };
        let context = credentials.tls_context().unwrap();
        let is_trusted = |usage: &ExtendedKeyUsage| {
            let certificate = certificate(&key, Some(&ca), usage);
            let (store, none) = (context.cert_store(), Stack::new().unwrap());
            let verify = X509StoreContextRef::verify_cert;
            X509StoreContext::new()
                .unwrap()
                .init(store, &certificate, &none, verify)
                .unwrap()
        };
        assert!(is_trusted(ExtendedKeyUsage::new().server_auth()));
        assert!(!is_trusted(ExtendedKeyUsage::new().client_auth()));
    }
}
