//! Certificates of every kind that goes wrong, signed on the spot.

use std::{
    fs,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use openssl::{
    asn1::{Asn1Integer, Asn1Time},
    bn::{BigNum, MsbOption},
    hash::MessageDigest,
    nid::Nid,
    pkey::{PKey, Private, Public},
    x509::{
        X509, X509Extension,
        extension::{
            AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, SubjectAlternativeName,
            SubjectKeyIdentifier,
        },
    },
};

use super::certs::{Pair, common_name, new_key, write_key};

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Issued {
    pub(crate) cert: X509,
    pub(crate) key: PKey<Private>,
}

/// What a certificate is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Ca,
    Server,
    Client,
    /// Neither is named.
    Any,
}

/// A certificate to be made.
pub(crate) struct Recipe<'a> {
    pub(crate) name: &'a str,
    pub(crate) key: PKey<Private>,
    pub(crate) purpose: Purpose,
    /// In seconds from now.
    pub(crate) valid: (i64, i64),
    pub(crate) digest: MessageDigest,
    pub(crate) dns: Vec<&'a str>,
    /// OpenSSL's own words for an extension.
    pub(crate) extension: Option<(Nid, &'a str)>,
}

const DAY: i64 = 86_400;

impl<'a> Recipe<'a> {
    pub(crate) fn new(name: &'a str, purpose: Purpose) -> Self {
        Self {
            name,
            key: new_key(),
            purpose,
            valid: (-DAY, 60 * DAY),
            digest: MessageDigest::sha256(),
            dns: if purpose == Purpose::Server {
                vec!["localhost"]
            } else {
                Vec::new()
            },
            extension: None,
        }
    }

    pub(crate) fn valid(mut self, from: i64, until: i64) -> Self {
        self.valid = (from, until);
        self
    }

    pub(crate) fn expired(self) -> Self {
        self.valid(-30 * DAY, -DAY)
    }

    pub(crate) fn not_yet(self) -> Self {
        self.valid(DAY, 30 * DAY)
    }

    pub(crate) fn key(mut self, key: PKey<Private>) -> Self {
        self.key = key;
        self
    }

    pub(crate) fn digest(mut self, digest: MessageDigest) -> Self {
        self.digest = digest;
        self
    }

    pub(crate) fn dns(mut self, names: &[&'a str]) -> Self {
        self.dns = names.to_vec();
        self
    }

    pub(crate) fn extension(mut self, nid: Nid, text: &'a str) -> Self {
        self.extension = Some((nid, text));
        self
    }

    /// Self-signed.
    pub(crate) fn root(self) -> Issued {
        self.sign(None)
    }

    pub(crate) fn by(self, issuer: &Issued) -> Issued {
        self.sign(Some(issuer))
    }

    /// The certificate, as PEM, for a key of which only the public half is here.
    pub(crate) fn certify(self, key: &PKey<Public>, issuer: &Issued) -> String {
        let (cert, _) = self.sign_for(Some(key), Some(issuer));
        String::from_utf8(cert.to_pem().unwrap()).unwrap()
    }

    fn sign(self, issuer: Option<&Issued>) -> Issued {
        let (cert, key) = self.sign_for(None, issuer);
        Issued { cert, key }
    }

    fn sign_for(
        self,
        key: Option<&PKey<Public>>,
        issuer: Option<&Issued>,
    ) -> (X509, PKey<Private>) {
        let now = UNIX_EPOCH.elapsed().expect("a clock after 1970").as_secs();
        let at = |seconds: i64| Asn1Time::from_unix(i64::try_from(now).unwrap() + seconds).unwrap();
        let mut serial = BigNum::new().unwrap();
        serial.rand(127, MsbOption::MAYBE_ZERO, false).unwrap();
        let mut cert = X509::builder().unwrap();
        cert.set_version(2).unwrap();
        cert.set_serial_number(&Asn1Integer::from_bn(&serial).unwrap())
            .unwrap();
        let subject = common_name(self.name);
        cert.set_subject_name(&subject).unwrap();
        let signer = issuer.map_or(&*subject, |issuer| issuer.cert.subject_name());
        cert.set_issuer_name(signer).unwrap();
        cert.set_not_before(&at(self.valid.0)).unwrap();
        cert.set_not_after(&at(self.valid.1)).unwrap();
        match key {
            Some(key) => cert.set_pubkey(key).unwrap(),
            None => cert.set_pubkey(&self.key).unwrap(),
        }
        let context =
            |cert: &openssl::x509::X509Builder,
             extension: &dyn Fn(&openssl::x509::X509v3Context<'_>) -> X509Extension| {
                extension(&cert.x509v3_context(issuer.map(|issuer| &*issuer.cert), None))
            };
        let id = context(&cert, &|c| SubjectKeyIdentifier::new().build(c).unwrap());
        cert.append_extension(id).unwrap();
        if issuer.is_some_and(|issuer| issuer.cert.subject_key_id().is_some()) {
            let id = context(&cert, &|c| {
                AuthorityKeyIdentifier::new().keyid(true).build(c).unwrap()
            });
            cert.append_extension(id).unwrap();
        }
        if self.purpose == Purpose::Ca {
            let ca = BasicConstraints::new().critical().ca().build().unwrap();
            cert.append_extension(ca).unwrap();
        }
        let usage = match self.purpose {
            Purpose::Server => Some(ExtendedKeyUsage::new().server_auth().build().unwrap()),
            Purpose::Client => Some(ExtendedKeyUsage::new().client_auth().build().unwrap()),
            Purpose::Ca | Purpose::Any => None,
        };
        if let Some(usage) = usage {
            cert.append_extension(usage).unwrap();
        }
        if !self.dns.is_empty() {
            let names = context(&cert, &|c| {
                let mut names = SubjectAlternativeName::new();
                for name in &self.dns {
                    names.dns(name);
                }
                names.build(c).unwrap()
            });
            cert.append_extension(names).unwrap();
        }
        if let Some((nid, text)) = self.extension {
            #[allow(deprecated, reason = "the crate has no other way to this extension")]
            let extension = X509Extension::new_nid(None, None, nid, text).unwrap();
            cert.append_extension(extension).unwrap();
        }
        cert.sign(issuer.map_or(&self.key, |issuer| &issuer.key), self.digest)
            .unwrap();
        (cert.build(), self.key)
    }
}

impl Issued {
    pub(crate) fn pem(&self) -> String {
        String::from_utf8(self.cert.to_pem().unwrap()).unwrap()
    }

    pub(crate) fn key_pem(&self) -> String {
        String::from_utf8(self.key.private_key_to_pem_pkcs8().unwrap()).unwrap()
    }

    /// Its certificate and those above it in one file, its key in another.
    pub(crate) fn write(&self, dir: &Path, chain: &[&Issued]) -> Pair {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let pair = Pair {
            cert: dir.join(format!("odd{number}.pem.crt")),
            key: dir.join(format!("odd{number}.pem.key")),
        };
        let above: String = chain.iter().map(|issued| issued.pem()).collect();
        fs::write(&pair.cert, self.pem() + &above).unwrap();
        write_key(&pair.key, self.key_pem().as_bytes(), 0o600);
        pair
    }
}

/// A file with this content, for its owner only.
pub(crate) fn file(dir: &Path, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    write_key(&path, content.as_ref(), 0o600);
    path
}
