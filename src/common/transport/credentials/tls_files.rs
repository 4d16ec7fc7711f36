//! Reads the files that TLS needs, and checks that they can be read, are PEM, private, and belong together.
//!
//! Everything that can be known without a network is checked here, before a connection is made: a server
//! reports that a certificate is wrong, but not what is wrong with it. The files are read for every
//! connection, so a certificate that is replaced on disk is used by the next one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use openssl::pkey::{PKey, Private};
use openssl::x509::X509;

use super::certificates::{self, is_ca, is_self_signed, issuer, subject};
use super::tls_credentials::{
    Authorities, CertKeyPaths, ClientCertificate, ContextError, TlsCredentials,
};
use super::{discover, key};
use crate::common::fault::Fault;
use crate::common::runtime::secret_file::SecretFile;
use crate::common::runtime::small_file::invalid_file;

/// The files as the user named them.
#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// A directory with those that are not given below.
    pub certs: Option<PathBuf>,
    /// Trusted CAs; none for the system's store.
    pub cafile: Option<PathBuf>,
    pub pair: Option<CertKeyPaths>,
    /// The passphrase of the key.
    pub passphrase: Option<SecretFile>,
    /// Whether others may be able to read the key.
    pub allow_readable_key: bool,
}

/// What [`TlsFiles::examine`] found out about one file, or about several together.
#[derive(Clone, Debug)]
pub struct Finding {
    pub what: &'static str,
    pub result: Result<String, Fault>,
}

impl TlsFiles {
    /// Reads the files and checks everything but the dates, which depend on the clock: a device that
    /// starts with a wrong one must not give up because of that. The fault is permanent.
    pub fn load(&self) -> Result<TlsCredentials, Fault> {
        let (cafile, paths) = self.paths()?;
        let mut credentials = TlsCredentials::default();
        if let Some(path) = cafile {
            credentials.authorities = Some(read_authorities(path)?);
        }
        if let Some(paths) = paths {
            let chain = certificates::read("--cert", &paths.cert)?;
            let key = self.read_key(&paths.key)?;
            self.add_client(&mut credentials, ClientCertificate { paths, chain, key })?;
        }
        Ok(credentials)
    }

    /// The files, those of the directory included.
    fn paths(&self) -> Result<(Option<PathBuf>, Option<CertKeyPaths>), Fault> {
        let (cafile, pair) = (self.cafile.clone(), self.pair.clone());
        let Some(dir) = &self.certs else {
            return Ok((cafile, pair));
        };
        let (found_cafile, found_pair) = discover::find(dir, cafile.is_none(), pair.is_none())?;
        Ok((cafile.or(found_cafile), pair.or(found_pair)))
    }

    /// As [`load`](Self::load), but goes on after an error: the findings for each file, dates included, and
    /// the credentials if they can be used.
    pub fn examine(&self, now: SystemTime) -> (Vec<Finding>, Option<TlsCredentials>) {
        let mut findings = Vec::new();
        let mut find = |what, result| findings.push(Finding { what, result });
        let (cafile, paths) = match self.paths() {
            Ok(paths) => paths,
            Err(fault) => {
                find("directory", Err(fault));
                return (findings, None);
            }
        };
        let mut credentials = TlsCredentials::default();
        let trusted = match cafile.map(read_authorities).transpose() {
            Ok(authorities) => {
                credentials.authorities = authorities;
                Ok(match &credentials.authorities {
                    None => "the system's store".into(),
                    Some(Authorities { path, certificates }) => match certificates.len() {
                        1 => format!("{}: 1 CA", path.display()),
                        n => format!("{}: {n} CAs", path.display()),
                    },
                })
            }
            Err(fault) => Err(fault),
        };
        let ca_is_good = trusted.is_ok();
        find("CA file", trusted);
        let Some(paths) = paths else {
            if let Err(fault) = credentials.check_dates(now) {
                find("dates", Err(fault));
            }
            return (findings, ca_is_good.then_some(credentials));
        };
        let chain = certificates::read("--cert", &paths.cert);
        let described = chain.as_ref().map_err(Clone::clone).map(|chain| {
            let name = chain.first().map_or_else(String::new, |c| subject(c));
            format!("{}: certificate of {name}", paths.cert.display())
        });
        find("certificate file", described);
        let key = self.read_key(&paths.key);
        let described = key.as_ref().map_err(Clone::clone).map(|_| {
            let mode = fs::metadata(&paths.key).map_or(0, |m| m.permissions().mode() & 0o7777);
            format!("{}: mode {mode:04o}", paths.key.display())
        });
        find("key file", described);
        let (Ok(chain), Ok(key)) = (chain, key) else {
            return (findings, None);
        };
        let added = self.add_client(&mut credentials, ClientCertificate { paths, chain, key });
        let is_good = ca_is_good && added.is_ok();
        let described = added.map(|()| match credentials.certificate_problem(now) {
            Some(problem) => format!("belong together, but {problem}: the broker may refuse it"),
            None => "belong together".into(),
        });
        find("key and certificate", described);
        if let Some(validity) = credentials.validity(now) {
            find("dates", credentials.check_dates(now).map(|()| validity));
        }
        (findings, is_good.then_some(credentials))
    }

    fn read_key(&self, path: &Path) -> Result<PKey<Private>, Fault> {
        key::read(path, self.passphrase.as_ref(), self.allow_readable_key)
    }

    /// Adds certificate and key, which have to belong together and be fit for TLS.
    fn add_client(
        &self,
        credentials: &mut TlsCredentials,
        client: ClientCertificate,
    ) -> Result<(), Fault> {
        self.check_pair(&client)?;
        credentials.client = Some(client);
        match credentials.tls_context() {
            Err(ContextError::Unusable(fault)) => Err(fault),
            // Any other error comes again when a connection is made.
            Ok(_) | Err(ContextError::OpenSsl(_)) => Ok(()),
        }
    }

    /// Checks that the first certificate is that of the key.
    fn check_pair(&self, client: &ClientCertificate) -> Result<(), Fault> {
        let ClientCertificate { paths, chain, key } = client;
        let is_of_key = |cert: &X509| cert.public_key().is_ok_and(|public| public.public_eq(key));
        let Some(first) = chain.first().filter(|first| !is_of_key(first)) else {
            return Ok(());
        };
        let file = paths.cert.display();
        if let Some(number) = key::number_of(&paths.key, self.passphrase.as_ref(), first) {
            let cause = format!("begins with a key that is not that of the certificate {file}");
            return Err(invalid_file("--key", &paths.key, cause)
                .with_remedy(format!("its key {number} is the one; it must come first")));
        }
        if let Some(at) = chain.iter().position(is_of_key) {
            let number = at + 1;
            let cause = format!("has the certificate of the key only as its certificate {number}");
            return Err(invalid_file("--cert", &paths.cert, cause)
                .with_remedy("the device's own certificate must come first"));
        }
        let whose = if is_ca(first) {
            format!(", which is that of the CA {}", subject(first))
        } else {
            String::new()
        };
        let cause = format!("is not the key of the certificate {file}{whose}");
        Err(invalid_file("--key", &paths.key, cause)
            .with_remedy("take the pair that was created together"))
    }
}

/// Reads the trusted CAs. At least one must be a root: without one nothing is trusted.
fn read_authorities(path: PathBuf) -> Result<Authorities, Fault> {
    const FLAG: &str = "--cafile";
    let certificates = certificates::read(FLAG, &path)?;
    let (Some(first), false) = (
        certificates.first(),
        certificates.iter().any(|cert| is_self_signed(cert)),
    ) else {
        return Ok(Authorities { path, certificates });
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
    Err(invalid_file(FLAG, &path, cause).with_remedy(remedy))
}
