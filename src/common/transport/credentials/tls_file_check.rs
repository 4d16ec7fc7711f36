//! Reads the files that TLS needs, and checks that they can be read, are PEM, private, and belong together.
//!
//! Everything that can be known without a network is checked here, before a connection is made: a server reports that a
//! certificate is wrong, but not what is wrong with it. The files are read for every connection, so a certificate that
//! is replaced on disk is used by the next one.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::SystemTime;

use openssl::x509::X509;

use super::certificates::{self, is_ca, is_self_issued, issuer, subject};
use super::key_device::KeyDevice;
use super::tls_credentials::{
    Authorities, CertKeyPaths, ClientCertificate, ContextError, TlsCredentials,
};
use super::{discover, key};
use crate::common::fault::Fault;
use crate::common::runtime::secret_source::SecretSource;
use crate::common::runtime::small_file::invalid_file;

#[derive(Clone, Debug, Default)]
pub struct TlsFiles {
    /// A directory with those that are not given below.
    pub certs: Option<PathBuf>,
    /// None for the system's store.
    pub cafile: Option<PathBuf>,
    pub pair: Option<CertKeyPaths>,
    pub passphrase: Option<SecretSource>,
    pub allow_readable_key: bool,
}

#[derive(Clone, Debug)]
pub struct FileCheckResult {
    pub what: &'static str,
    pub result: Result<String, Fault>,
}

impl TlsFiles {
    /// Reads the files and checks everything but the dates, which depend on the clock: a device
    /// that starts with a wrong one must not give up because of that. The fault is permanent.
    pub fn load(&self) -> Result<TlsCredentials, Fault> {
        let (findings, credentials) = self.read();
        let mut results = findings.into_iter().map(|finding| finding.result);
        match results.find_map(Result::err) {
            Some(fault) => Err(fault),
            None => Ok(credentials.unwrap_or_default()),
        }
    }

    /// The findings for each file, dates included, and the credentials if they can be used.
    pub fn examine(&self, now: SystemTime) -> (Vec<FileCheckResult>, Option<TlsCredentials>) {
        let (mut findings, credentials) = self.read();
        let Some(credentials) = credentials else {
            return (findings, None);
        };
        let is_good = findings.iter().all(|finding| finding.result.is_ok());
        if let Some(problem) = credentials.certificate_problem(now)
            && let Some(Ok(text)) = findings.last_mut().map(|last| last.result.as_mut())
        {
            *text = format!("{text}, but {problem}: the broker may refuse it");
        }
        let dates = match credentials.check_dates(now) {
            Ok(()) => credentials.describe_validity(now).map(Ok),
            Err(fault) => Some(Err(fault)),
        };
        let what = "dates";
        findings.extend(dates.map(|result| FileCheckResult { what, result }));
        (findings, is_good.then_some(credentials))
    }

    /// Goes on after an error, as far as possible. No credentials without certificate or key.
    fn read(&self) -> (Vec<FileCheckResult>, Option<TlsCredentials>) {
        let mut findings = Vec::new();
        let mut find = |what, result| findings.push(FileCheckResult { what, result });
        let (mut cafile, mut paths) = (self.cafile.clone(), self.pair.clone());
        if let Some(dir) = &self.certs {
            match discover::find(dir, cafile.is_none(), paths.is_none()) {
                Ok((found_cafile, found_paths)) => {
                    cafile = cafile.or(found_cafile);
                    paths = paths.or(found_paths);
                }
                Err(fault) => {
                    find("directory", Err(fault));
                    return (findings, None);
                }
            }
        }
        let mut credentials = TlsCredentials::default();
        let authorities = cafile.map(read_authorities).transpose();
        let described = authorities.map(|authorities| {
            credentials.authorities = authorities;
            match &credentials.authorities {
                None => "the system's store".into(),
                Some(Authorities { path, certificates }) => match certificates.len() {
                    1 => format!("{}: 1 CA", path.display()),
                    n => format!("{}: {n} CAs", path.display()),
                },
            }
        });
        find("CA file", described);
        let Some(paths) = paths else {
            return (findings, Some(credentials));
        };
        let chain = certificates::read("--cert", &paths.cert);
        let described = chain.as_ref().map_err(Clone::clone).map(|chain| {
            let name = chain.first().map_or_else(String::new, |c| subject(c));
            format!("{}: certificate of {name}", paths.cert.display())
        });
        find("certificate file", described);
        let passphrase = self.passphrase.as_ref();
        let key = key::read(&paths.key, passphrase, self.allow_readable_key);
        let described = key.as_ref().map_err(Clone::clone).map(|key| {
            let mode = fs::metadata(&paths.key).map_or(0, |m| m.permissions().mode() & 0o7777);
            let device = key.device().map_or("", KeyDevice::holds_key);
            format!("{}: mode {mode:04o}{device}", paths.key.display())
        });
        find("key file", described);
        let (Ok(chain), Ok(key)) = (chain, key) else {
            return (findings, None);
        };
        let added =
            self.set_client_certificate(&mut credentials, ClientCertificate { paths, chain, key });
        let added = added.map(|()| "belong together".into());
        find("key and certificate", added);
        (findings, Some(credentials))
    }

    fn set_client_certificate(
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

    fn check_pair(&self, client: &ClientCertificate) -> Result<(), Fault> {
        let ClientCertificate { paths, chain, key } = client;
        let is_of_key = |cert: &X509| {
            cert.public_key()
                .is_ok_and(|public| public.public_eq(&key.key))
        };
        let Some(first) = chain.first().filter(|first| !is_of_key(first)) else {
            return Ok(());
        };
        let file = paths.cert.display();
        if let Some(number) =
            key::number_of_matching_key(&paths.key, self.passphrase.as_ref(), first)
        {
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
        let ca = is_ca(first).then(|| format!(", which is that of the CA {}", subject(first)));
        let whose = ca.unwrap_or_default();
        let cause = format!("is not the key of the certificate {file}{whose}");
        Err(invalid_file("--key", &paths.key, cause)
            .with_remedy("take the pair that was created together"))
    }
}

/// Reads the trusted CAs. At least one must be a root: without one nothing is trusted.
fn read_authorities(path: PathBuf) -> Result<Authorities, Fault> {
    const FLAG: &str = "--cafile";
    let certificates = certificates::read(FLAG, &path)?;
    let has_root = certificates.iter().any(|cert| is_self_issued(cert));
    let Some(first) = certificates.first().filter(|_| !has_root) else {
        return Ok(Authorities { path, certificates });
    };
    let (name, signer) = (subject(first), issuer(first));
    Err(if is_ca(first) {
        let cause = format!("holds no root CA: {name} was signed by {signer}, which is not in it");
        invalid_file(FLAG, &path, cause).with_remedy(format!("add the certificate of {signer}"))
    } else {
        let cause =
            format!("holds no CA: the certificate of {name} is one of a server or a device");
        invalid_file(FLAG, &path, cause)
            .with_remedy(format!("give the file of {signer}, which has signed it"))
    })
}
