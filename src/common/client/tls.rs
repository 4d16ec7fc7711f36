//! CA, certificate and key: found, readable, PEM, belonging together, private, in date.
//!
//! Everything that can be known without a network is checked here, before a connection is
//! made, because Paho reports each of these faults as −1 and prompts on the terminal for
//! the passphrase of an encrypted key. The files are read anew for every connection, so a
//! certificate replaced on disk is used at the next one.

use std::fmt;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use openssl::asn1::Asn1Time;
use openssl::pkey::{PKey, Private};
use openssl::x509::X509;

use crate::common::fault::{Exit, Fault};

/// No certificate store is larger; a device file given by mistake is endless.
const MAX_FILE: u64 = 16 << 20;

/// The files that TLS needs, as the user named them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Trusted CAs; none for the system's store.
    pub cafile: Option<PathBuf>,
    /// The client's certificate and key.
    pub identity: Option<Identity>,
}

/// A client certificate with its private key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The certificate, and its chain if there is one.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// What opens the key, if it is encrypted.
    pub passphrase_file: Option<PathBuf>,
    /// Whether others may read the key.
    pub allow_readable_key: bool,
}

/// The files as read and checked.
#[derive(Clone)]
pub struct Loaded {
    pub(super) passphrase: Option<String>,
    pub(super) certificate: Option<(Vec<X509>, PKey<Private>)>,
}

impl fmt::Debug for Loaded {
    /// Shows no secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded").finish_non_exhaustive()
    }
}

impl TlsFiles {
    /// The files that go to Paho by their paths.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let identity = self.identity.iter().flat_map(|i| [&i.cert, &i.key]);
        self.cafile.iter().chain(identity).map(PathBuf::as_path)
    }

    /// Reads the files and checks everything but the dates, which depend on the clock: a
    /// device that boots with a wrong one must not give up for that.
    ///
    /// # Errors
    ///
    /// A permanent fault that names the file, the cause and the remedy.
    pub fn load(&self) -> Result<Loaded, Fault> {
        if let Some(cafile) = &self.cafile {
            certificates(cafile, "--cafile")?;
        }
        let Some(identity) = &self.identity else {
            return Ok(Loaded {
                passphrase: None,
                certificate: None,
            });
        };
        let certs = certificates(&identity.cert, "--cert")?;
        let passphrase = match &identity.passphrase_file {
            Some(file) => Some(read_secret(file, "--key-passphrase-file")?),
            None => None,
        };
        let key = private_key(identity, passphrase.as_deref())?;
        let matches = certs[0]
            .public_key()
            .is_ok_and(|public| public.public_eq(&key));
        if !matches {
            return Err(config(
                "--key",
                &identity.key,
                format_args!(
                    "is not the key of the certificate {}; take the pair that was created together",
                    identity.cert.display()
                ),
            ));
        }
        Ok(Loaded {
            passphrase,
            certificate: Some((certs, key)),
        })
    }

    /// Checks that the client certificate is in date.
    pub(super) fn check_dates(&self, loaded: &Loaded, now: SystemTime) -> Result<(), Fault> {
        let (Some(identity), Some((certs, _))) = (&self.identity, &loaded.certificate) else {
            return Ok(());
        };
        let seconds = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let now = i64::try_from(seconds)
            .ok()
            .and_then(|seconds| Asn1Time::from_unix(seconds).ok());
        let Some(now) = now else { return Ok(()) };
        let (from, to) = (certs[0].not_before(), certs[0].not_after());
        if *to < now {
            return Err(config(
                "--cert",
                &identity.cert,
                format_args!(
                    "expired on {to}; get a new certificate, or set the clock if it is wrong"
                ),
            ));
        }
        if *from > now {
            return Err(config(
                "--cert",
                &identity.cert,
                format_args!("is not valid before {from}; set the clock, which is behind"),
            ));
        }
        Ok(())
    }
}

/// Reads a file that holds one secret; the line end that editors add is not part of it.
///
/// # Errors
///
/// A fault that names the flag and the file.
pub fn read_secret(path: &Path, flag: &str) -> Result<String, Fault> {
    let bytes = read(path, flag)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| config(flag, path, format_args!("is not UTF-8 text")))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() || text.contains('\0') {
        return Err(config(
            flag,
            path,
            format_args!("must hold one line of text"),
        ));
    }
    Ok(text.to_owned())
}

fn certificates(path: &Path, flag: &str) -> Result<Vec<X509>, Fault> {
    let pem = read(path, flag)?;
    let certs = X509::stack_from_pem(&pem).unwrap_or_default();
    if certs.is_empty() {
        let why = if contains(&pem, "PRIVATE KEY-----") {
            "is a private key, not a certificate; are --cert and --key swapped?"
        } else {
            "holds no certificate in PEM form (-----BEGIN CERTIFICATE-----)"
        };
        return Err(config(flag, path, format_args!("{why}")));
    }
    Ok(certs)
}

fn private_key(identity: &Identity, passphrase: Option<&str>) -> Result<PKey<Private>, Fault> {
    let path = &identity.key;
    let fault = |why: &str| config("--key", path, format_args!("{why}"));
    let pem = read(path, "--key")?;
    let mode = fs::metadata(path)
        .map_err(|e| unreadable(path, "--key", &e))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 && !identity.allow_readable_key {
        return Err(fault(&format!(
            "can be read by others (mode {:04o}); chmod 600 it, or give --allow-readable-key",
            mode & 0o7777
        )));
    }
    if !contains(&pem, "PRIVATE KEY-----") {
        return Err(fault(if contains(&pem, "BEGIN CERTIFICATE-----") {
            "is a certificate, not a private key; are --cert and --key swapped?"
        } else {
            "holds no private key in PEM form (-----BEGIN PRIVATE KEY-----)"
        }));
    }
    let encrypted = contains(&pem, "ENCRYPTED");
    match passphrase {
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

fn read(path: &Path, flag: &str) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(|e| unreadable(path, flag, &e))?;
    Ok(bytes)
}

fn unreadable(path: &Path, flag: &str, error: &std::io::Error) -> Fault {
    Fault::permanent(
        Exit::NoInput,
        format!(
            "{}: {flag} cannot be read: {error}; check the path and its permissions",
            path.display()
        ),
    )
}

fn config(flag: &str, path: &Path, why: std::fmt::Arguments<'_>) -> Fault {
    Fault::permanent(Exit::Config, format!("{}: {flag} {why}", path.display()))
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}
