//! CA, certificate and key: found, readable, PEM, belonging together, private, in date.
//!
//! Everything that can be known without a network is checked here, before a connection is
//! made: a server says of a wrong certificate that it is wrong, and no more. The files are
//! read anew for every connection, so a certificate replaced on disk is used at the next one.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use openssl::asn1::{Asn1Time, Asn1TimeRef};
use openssl::pkey::{PKey, Private};
use openssl::ssl::SslContext;
use openssl::x509::{X509, X509ExtendedKeyUsage, X509KeyUsage, X509Ref};

use super::certificates::{self, is_ca, is_self_signed, issuer, subject};
use super::{discover, key};
use crate::common::fault::{Exit, Fault, Kind};
use crate::common::runtime::secret_file::SecretFile;
use crate::common::runtime::small_file::wrong;
use crate::common::transport::tls::{self, Unfit};

/// From so many days before its end a certificate is worth a warning.
const SOON: i32 = 30;

/// The files that TLS needs, as the user named them.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// A directory that has what is not named one by one.
    pub certs: Option<PathBuf>,
    /// Trusted CAs; none for the system's store.
    pub cafile: Option<PathBuf>,
    /// The client's certificate and key.
    pub pair: Option<Pair>,
    /// What opens the key, if it is encrypted.
    pub passphrase: Option<SecretFile>,
    /// Whether others may read the key.
    pub allow_readable_key: bool,
}

/// A client certificate with its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate, and its chain if there is one.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// What there is to say of one file, or of several together.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// What it is, or what is wrong with it.
    pub result: Result<String, Fault>,
}

/// The files as read and checked.
#[derive(Clone, Default)]
pub struct Loaded {
    /// Trusted CAs; none for the system's store.
    pub(crate) authorities: Option<Vec<X509>>,
    /// Where they were read from.
    pub(crate) cafile: PathBuf,
    /// Where certificate and key were read from.
    pub(crate) pair: Option<Pair>,
    pub(crate) certificate: Option<(Vec<X509>, PKey<Private>)>,
    /// What TLS makes of them, once it has been asked.
    pub(crate) context: OnceLock<SslContext>,
}

impl fmt::Debug for Loaded {
    /// Shows no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").finish_non_exhaustive()
    }
}

impl TlsFiles {
    /// Reads the files and checks everything but the dates, which depend on the clock: a
    /// device that boots with a wrong one must not give up for that.
    ///
    /// # Errors
    ///
    /// A permanent fault that names the file, the cause and the remedy.
    pub fn load(&self) -> Result<Loaded, Fault> {
        let (cafile, pair) = self.named()?;
        let mut loaded = Loaded::default();
        if let Some(cafile) = cafile {
            loaded.authorities = Some(authorities(&cafile)?);
            loaded.cafile = cafile;
        }
        if let Some(pair) = pair {
            let certs = certificates::read("--cert", &pair.cert)?;
            let key = self.private_key(&pair.key)?;
            loaded.join(self, pair, certs, key)?;
        }
        Ok(loaded)
    }

    /// The files, those of the directory included.
    fn named(&self) -> Result<(Option<PathBuf>, Option<Pair>), Fault> {
        let (cafile, pair) = (self.cafile.clone(), self.pair.clone());
        let Some(dir) = &self.certs else {
            return Ok((cafile, pair));
        };
        let found = discover::find(dir, cafile.is_none(), pair.is_none())?;
        Ok((cafile.or(found.cafile), pair.or(found.pair)))
    }

    /// Looks at everything, whatever it finds on the way: what there is to say of each file,
    /// and the files if they are good. `now` is for the dates.
    pub fn examine(&self, now: SystemTime) -> (Vec<Finding>, Option<Loaded>) {
        let mut findings = Vec::new();
        let mut find = |what, result| findings.push(Finding { what, result });
        let (cafile, pair) = match self.named() {
            Ok(named) => named,
            Err(fault) => {
                find("directory", Err(fault));
                return (findings, None);
            }
        };
        let mut loaded = Loaded::default();
        let trusted = match cafile {
            Some(path) => authorities(&path).map(|certs| {
                let what = match certs.len() {
                    1 => said(&path, "1 CA"),
                    n => said(&path, &format!("{n} CAs")),
                };
                loaded.authorities = Some(certs);
                loaded.cafile = path;
                what
            }),
            None => Ok("the system's store".into()),
        };
        let ca_is_good = trusted.is_ok();
        find("CA file", trusted);
        let Some(pair) = pair else {
            // Of a certificate there are no dates to tell.
            if let Err(fault) = loaded.check_dates(now) {
                find("dates", Err(fault));
            }
            return (findings, ca_is_good.then_some(loaded));
        };
        let certs = certificates::read("--cert", &pair.cert);
        let key = self.private_key(&pair.key);
        let named = certs.as_ref().map(|certs| {
            let name = certs.first().map_or_else(String::new, |c| subject(c));
            said(&pair.cert, &format!("certificate of {name}"))
        });
        find("certificate file", named.map_err(Clone::clone));
        let mode = key.as_ref().map(|_| {
            let mode = fs::metadata(&pair.key).map_or(0, |m| m.permissions().mode() & 0o7777);
            said(&pair.key, &format!("mode {mode:04o}"))
        });
        find("key file", mode.map_err(Clone::clone));
        let (Ok(certs), Ok(key)) = (certs, key) else {
            return (findings, None);
        };
        let joined = loaded.join(self, pair, certs, key);
        let belongs = joined.is_ok();
        let told = joined.map(|()| match loaded.doubt(now) {
            Some(doubt) => format!("belong together, but {doubt}: the broker may refuse it"),
            None => "belong together".into(),
        });
        find("key and certificate", told);
        let dates = loaded.check_dates(now).map(|()| loaded.dates(now));
        find("dates", dates);
        (findings, (ca_is_good && belongs).then_some(loaded))
    }

    fn private_key(&self, path: &Path) -> Result<PKey<Private>, Fault> {
        key::read(path, self.passphrase.as_ref(), self.allow_readable_key)
    }
}

/// The trusted CAs of a file. One at least must be a root: without one nothing is trusted.
fn authorities(path: &Path) -> Result<Vec<X509>, Fault> {
    const FLAG: &str = "--cafile";
    let certs = certificates::read(FLAG, path)?;
    if certs.iter().any(|cert| is_self_signed(cert)) {
        return Ok(certs);
    }
    let Some(first) = certs.first() else {
        return Ok(certs);
    };
    let (name, signer) = (subject(first), issuer(first));
    let (cause, remedy) = if is_ca(first) {
        (
            format!("holds no root CA: {name} was signed by {signer}, which is not in it"),
            format!("add the certificate of {signer}"),
        )
    } else {
        (
            format!("holds no CA: the certificate of {name} is one of a server or a device"),
            format!("give the file of {signer}, which has signed it"),
        )
    };
    Err(wrong(FLAG, path, &cause).with_remedy(remedy))
}

impl Loaded {
    /// Whether there is a client certificate.
    pub fn has_certificate(&self) -> bool {
        self.certificate.is_some()
    }

    /// Takes certificate and key, which have to belong together and be fit for TLS.
    fn join(
        &mut self,
        files: &TlsFiles,
        pair: Pair,
        certs: Vec<X509>,
        key: PKey<Private>,
    ) -> Result<(), Fault> {
        let belongs = |cert: &X509| cert.public_key().is_ok_and(|public| public.public_eq(&key));
        if !certs.first().is_some_and(belongs) {
            let passphrase = files.passphrase.as_ref();
            let number = |cert: &X509| key::number_of(&pair.key, passphrase, cert);
            if let Some(number) = certs.first().and_then(number) {
                let file = pair.cert.display();
                let cause = format!("begins with a key that is not that of the certificate {file}");
                return Err(wrong("--key", &pair.key, &cause)
                    .with_remedy(format!("its key {number} is the one; it must come first")));
            }
            if let Some(at) = certs.iter().position(belongs) {
                let cause = format!(
                    "has the certificate of the key only as its certificate {}",
                    at + 1
                );
                return Err(wrong("--cert", &pair.cert, &cause)
                    .with_remedy("the device's own certificate must come first"));
            }
            let whose = match certs.first() {
                Some(first) if is_ca(first) => {
                    format!(", which is that of the CA {}", subject(first))
                }
                _ => String::new(),
            };
            let cause = format!(
                "is not the key of the certificate {}{whose}",
                pair.cert.display()
            );
            return Err(wrong("--key", &pair.key, &cause)
                .with_remedy("take the pair that was created together"));
        }
        self.pair = Some(pair);
        self.certificate = Some((certs, key));
        match tls::context(self) {
            Err(Unfit::Own(fault)) => Err(fault),
            // What TLS lacks otherwise is met again, and told, when a connection is made.
            Ok(_) | Err(Unfit::Tls(_)) => Ok(()),
        }
    }

    /// Checks that the client certificate is in date, and one of the trusted CAs.
    ///
    /// # Errors
    ///
    /// A fault that names the file, the cause and the remedy: a passing one for a date that is still to come, because
    /// a device may start with a clock that is behind.
    pub fn check_dates(&self, now: SystemTime) -> Result<(), Fault> {
        let earlier = now.checked_sub(OTHER_CLOCKS);
        let (Some(now), Some(earlier)) = (asn1_time(now), earlier.and_then(asn1_time)) else {
            return Ok(());
        };
        if let Some(authorities) = &self.authorities
            && let Some(first) = authorities.first()
            && !authorities.iter().any(|ca| is_current(ca, &now))
        {
            let name = subject(first);
            let cause = |what: String| {
                let cause = format!("the CA {name:?} in --cafile {what}");
                format!("{}: {cause}", self.cafile.display())
            };
            let (from, to) = (first.not_before(), first.not_after());
            return Err(if *to < now {
                Fault::permanent(Exit::Config, cause(format!("expired on {to}")))
                    .with_remedy("get the CA file that the broker's operator uses now")
            } else {
                not_yet(cause(format!("is not valid before {from}")))
            });
        }
        let (Some(leaf), Some(pair)) = (self.leaf(), &self.pair) else {
            return Ok(());
        };
        let (from, to) = (leaf.not_before(), leaf.not_after());
        if *to < now {
            return Err(wrong("--cert", &pair.cert, &format!("expired on {to}"))
                .with_remedy("get a new certificate, or set the clock if it is wrong"));
        }
        if *from > earlier {
            let path = pair.cert.display();
            return Err(not_yet(format!(
                "{path}: --cert is not valid before {from}"
            )));
        }
        Ok(())
    }

    /// What a broker may have against the client certificate.
    pub(crate) fn doubt(&self, now: SystemTime) -> Option<String> {
        let (certs, key) = self.certificate.as_ref()?;
        let leaf = certs.first()?;
        let authorities = self.authorities.iter().flatten();
        let issuers: Vec<&X509> = certs.iter().skip(1).chain(authorities).collect();
        let is_damaged = |cert: &X509| {
            let bad = |issuer: &&X509| certificates::has_bad_signature(cert, issuer);
            issuers.iter().any(bad)
        };
        if certs.iter().any(is_damaged) {
            return Some("it is damaged: its signature does not fit; copy the file again".into());
        }
        let has = |usage: X509ExtendedKeyUsage| {
            leaf.extended_key_usage()
                .is_none_or(|all| all.intersects(usage))
        };
        if !has(X509ExtendedKeyUsage::SSL_CLIENT | X509ExtendedKeyUsage::ANYEKU) {
            return Some(
                "it is not made for clients (its extended key usage lacks clientAuth); get one that is".into(),
            );
        }
        // As OpenSSL judges a client: the old handshakes agreed on keys.
        let signs = X509KeyUsage::DIGITAL_SIGNATURE | X509KeyUsage::KEY_AGREEMENT;
        if leaf.key_usage().is_some_and(|all| !all.intersects(signs)) {
            return Some("its key usage does not allow signatures; get one that does".into());
        }
        if let Some(why) = key::unfit_for_tls_1_3(key) {
            return Some(format!(
                "{why}, which TLS 1.3 does not have; take an RSA key or one on P-256"
            ));
        }
        let now = asn1_time(now)?;
        let (at, late) = certs
            .iter()
            .enumerate()
            .skip(1)
            .find(|(_, cert)| *cert.not_after() < now)?;
        Some(format!(
            "certificate {} of its file, of {}, expired on {}; get the chain anew",
            at + 1,
            subject(late),
            late.not_after()
        ))
    }

    /// What to say of a client certificate that ends soon.
    pub fn ends_soon(&self, now: SystemTime) -> Option<String> {
        let days = self.days_left(now)?;
        let left = match days {
            0 => "less than a day".into(),
            1 => "a day".into(),
            days => format!("{days} days"),
        };
        (days < SOON).then(|| {
            format!(
                "{}: --cert expires in {left}; get a new certificate in time",
                self.pair
                    .as_ref()
                    .map_or_else(String::new, |pair| pair.cert.display().to_string())
            )
        })
    }

    fn leaf(&self) -> Option<&X509> {
        self.certificate
            .as_ref()
            .and_then(|(certs, _)| certs.first())
    }

    /// Whole days until the client certificate ends.
    fn days_left(&self, now: SystemTime) -> Option<i32> {
        let ends = self.leaf()?.not_after();
        asn1_time(now)?.diff(ends).ok().map(|left| left.days)
    }

    fn dates(&self, now: SystemTime) -> String {
        let until = self
            .leaf()
            .map_or_else(String::new, |c| c.not_after().to_string());
        match self.days_left(now) {
            Some(days) => format!("valid until {until}, {days} days from now"),
            None => format!("valid until {until}"),
        }
    }
}

fn said(path: &Path, what: &str) -> String {
    format!("{}: {what}", path.display())
}

/// How long a certificate is not used after its first moment: the broker's clock may be a little behind this one.
const OTHER_CLOCKS: Duration = Duration::from_secs(1);

/// A certificate that is not valid yet: the clock of a device without a battery is behind until it is set.
pub(crate) fn not_yet(message: String) -> Fault {
    Fault::passing(Exit::Config, message)
        .of_kind(Kind::NotYetValid)
        .with_remedy("set the clock, if it is behind; until then it is tried again")
}

fn is_current(certificate: &X509Ref, now: &Asn1TimeRef) -> bool {
    *certificate.not_before() <= *now && *certificate.not_after() >= *now
}

/// None for a time that no certificate knows.
fn asn1_time(time: SystemTime) -> Option<Asn1Time> {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let seconds = i64::try_from(seconds).ok()?;
    Asn1Time::from_unix(seconds).ok()
}
