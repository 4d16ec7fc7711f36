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
use std::time::SystemTime;

use openssl::asn1::Asn1Time;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::ssl::SslContext;
use openssl::x509::X509;

use super::found;
use super::pem::{certificates, config, contains, is_credential, read, read_secret, unreadable};
use crate::common::fault::Fault;

/// From so many days before its end a certificate is worth a warning.
const SOON: i32 = 30;

/// The files that TLS needs, as the user named them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// A directory that has what is not named one by one.
    pub certs: Option<PathBuf>,
    /// Trusted CAs; none for the system's store.
    pub cafile: Option<PathBuf>,
    /// The client's certificate and key.
    pub pair: Option<Pair>,
    /// What opens the key, if it is encrypted.
    pub passphrase_file: Option<PathBuf>,
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
    pub(super) authorities: Option<Vec<X509>>,
    /// Where the certificate was read from.
    cert: PathBuf,
    pub(super) certificate: Option<(Vec<X509>, PKey<Private>)>,
    /// What TLS makes of them, once it has been asked.
    pub(super) context: OnceLock<SslContext>,
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
        let authorities = match &cafile {
            Some(cafile) => Some(certificates(cafile, "--cafile")?),
            None => None,
        };
        let Some(pair) = pair else {
            return Ok(Loaded {
                authorities,
                ..Loaded::default()
            });
        };
        let certs = certificates(&pair.cert, "--cert")?;
        let key = self.private_key(&pair.key)?;
        pair.check_match(&certs, &key)?;
        Ok(Loaded {
            authorities,
            cert: pair.cert,
            certificate: Some((certs, key)),
            context: OnceLock::new(),
        })
    }

    /// The files, those of the directory included.
    fn named(&self) -> Result<(Option<PathBuf>, Option<Pair>), Fault> {
        let (cafile, pair) = (self.cafile.clone(), self.pair.clone());
        let Some(dir) = &self.certs else {
            return Ok((cafile, pair));
        };
        let found = found::find(dir, cafile.is_none(), pair.is_none())?;
        Ok((cafile.or(found.cafile), pair.or(found.pair)))
    }

    /// Looks at everything, whatever it finds on the way: what there is to say of each file,
    /// and the files if they are good. `now` is for the dates.
    #[must_use]
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
        let trusted = match &cafile {
            Some(path) => certificates(path, "--cafile").map(|certs| {
                let count = certs.len();
                loaded.authorities = Some(certs);
                match count {
                    1 => said(path, "1 CA"),
                    n => said(path, &format!("{n} CAs")),
                }
            }),
            None => Ok("the system's store".into()),
        };
        let ca_is_good = trusted.is_ok();
        find("CA file", trusted);
        let Some(pair) = pair else {
            return (findings, ca_is_good.then_some(loaded));
        };
        let certs = certificates(&pair.cert, "--cert");
        let key = self.private_key(&pair.key);
        let subject = certs.as_ref().map(|certs| {
            let name = certs.first().map_or_else(String::new, common_name);
            said(&pair.cert, &name)
        });
        find("certificate file", subject.map_err(Clone::clone));
        let mode = key.as_ref().map(|_| {
            let mode = fs::metadata(&pair.key).map_or(0, |m| m.permissions().mode() & 0o7777);
            said(&pair.key, &format!("mode {mode:04o}"))
        });
        find("key file", mode.map_err(Clone::clone));
        let (Ok(certs), Ok(key)) = (certs, key) else {
            return (findings, None);
        };
        let matches = pair.check_match(&certs, &key);
        let belongs = matches.is_ok();
        find(
            "key and certificate",
            matches.map(|()| "belong together".into()),
        );
        loaded.cert = pair.cert;
        loaded.certificate = Some((certs, key));
        let dates = loaded.check_dates(now).map(|()| loaded.dates(now));
        find("dates", dates);
        (findings, (ca_is_good && belongs).then_some(loaded))
    }

    fn private_key(&self, path: &Path) -> Result<PKey<Private>, Fault> {
        let passphrase = match &self.passphrase_file {
            Some(file) => Some(read_secret(file, "--key-passphrase-file")?),
            None => None,
        };
        let fault = |why: &str| config("--key", path, format_args!("{why}"));
        let pem = read(path, "--key")?;
        if !contains(&pem, "PRIVATE KEY-----") {
            return Err(fault(if contains(&pem, "BEGIN CERTIFICATE-----") {
                "is a certificate, not a private key; are --cert and --key swapped?"
            } else {
                "holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)"
            }));
        }
        let mode = fs::metadata(path)
            .map_err(|e| unreadable(path, "--key", &e))?
            .permissions()
            .mode();
        let others = if is_credential(path) { 0o007 } else { 0o077 };
        if mode & others != 0 && !self.allow_readable_key {
            return Err(fault(&format!(
                "can be read by others (mode {:04o}); chmod 600 it, or give --allow-readable-key",
                mode & 0o7777
            )));
        }
        let encrypted = contains(&pem, "ENCRYPTED");
        match passphrase.as_deref() {
            None if encrypted => Err(fault(
                "is encrypted; give --key-passphrase-file, or decrypt it with openssl pkey",
            )),
            Some(passphrase) if encrypted => {
                PKey::private_key_from_pem_passphrase(&pem, passphrase.as_bytes())
                    .map_err(|_| fault("does not open with what --key-passphrase-file holds"))
            }
            _ => PKey::private_key_from_pem_callback(&pem, |_| Ok(0))
                .map_err(|_| fault("is damaged: its PEM block cannot be decoded")),
        }
    }
}

impl Pair {
    fn check_match(&self, certs: &[X509], key: &PKey<Private>) -> Result<(), Fault> {
        let matches = certs
            .first()
            .and_then(|leaf| leaf.public_key().ok())
            .is_some_and(|public| public.public_eq(key));
        if matches {
            return Ok(());
        }
        Err(config(
            "--key",
            &self.key,
            format_args!(
                "is not the key of the certificate {}; take the pair that was created together",
                self.cert.display()
            ),
        ))
    }
}

impl Loaded {
    /// Whether there is a client certificate.
    #[must_use]
    pub fn has_certificate(&self) -> bool {
        self.certificate.is_some()
    }

    /// Checks that the client certificate is in date.
    ///
    /// # Errors
    ///
    /// A permanent fault that names the file, the cause and the remedy.
    pub fn check_dates(&self, now: SystemTime) -> Result<(), Fault> {
        let (Some(leaf), Some(now)) = (self.leaf(), asn1_time(now)) else {
            return Ok(());
        };
        let (from, to) = (leaf.not_before(), leaf.not_after());
        if *to < now {
            return Err(config(
                "--cert",
                &self.cert,
                format_args!(
                    "expired on {to}; get a new certificate, or set the clock if it is wrong"
                ),
            ));
        }
        if *from > now {
            return Err(config(
                "--cert",
                &self.cert,
                format_args!("is not valid before {from}; set the clock, which is behind"),
            ));
        }
        Ok(())
    }

    /// What to say of a client certificate that ends soon.
    #[must_use]
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
                self.cert.display()
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

fn common_name(certificate: &X509) -> String {
    let names = certificate.subject_name();
    let entry = names
        .entries_by_nid(Nid::COMMONNAME)
        .find_map(|entry| entry.data().to_string().ok());
    entry.map_or_else(
        || "a certificate".into(),
        |name| format!("certificate of {name}"),
    )
}

/// None for a time that no certificate knows.
fn asn1_time(time: SystemTime) -> Option<Asn1Time> {
    let seconds = time
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let seconds = i64::try_from(seconds).ok()?;
    Asn1Time::from_unix(seconds).ok()
}
