//! Reads certificate, key, CA and password for every attempt, and warns before a certificate expires.

use std::sync::Weak;

use log::warn;
use parking_lot::Mutex;

use super::ClientConfig;
use super::certificate_end::CertificateEnd;
use crate::common::fault::Fault;
use crate::common::runtime::clock::wall_clock;
use crate::common::runtime::secret_source::SecretSource;
use crate::common::transport::credentials::{TlsCredentials, TlsFiles};

pub(super) struct CredentialLoader {
    files: TlsFiles,
    password: Option<SecretSource>,
    preloaded: Weak<Mutex<Option<TlsCredentials>>>,
    certificate_end: CertificateEnd,
    were_valid: bool,
    logged_warning: Option<String>,
}

impl CredentialLoader {
    pub(super) fn new(config: &ClientConfig) -> Self {
        Self {
            files: config.files.clone(),
            password: config.password.clone(),
            preloaded: Weak::clone(&config.loaded),
            certificate_end: config.certificate_end.clone(),
            were_valid: false,
            logged_warning: None,
        }
    }

    pub(super) fn load(&mut self) -> Result<(TlsCredentials, Option<String>), Fault> {
        let (loaded, password) = self.read().map_err(|fault| Fault {
            // Files that were valid may be in the middle of being replaced.
            permanent: fault.permanent && !self.were_valid,
            ..fault
        })?;
        self.were_valid = true;
        self.certificate_end.set(loaded.end_unix_s());
        let now = wall_clock();
        loaded.check_dates(now)?;
        let warning = loaded.expiry_warning(now);
        if let Some(warning) = warning.as_ref().filter(|_| warning != self.logged_warning) {
            warn!("{warning}");
        }
        self.logged_warning = warning;
        Ok((loaded, password))
    }

    fn read(&mut self) -> Result<(TlsCredentials, Option<String>), Fault> {
        let preloaded = std::mem::take(&mut self.preloaded).upgrade();
        let preloaded = preloaded.and_then(|loaded| loaded.lock().take());
        let loaded = preloaded.map_or_else(|| self.files.load(), Ok)?;
        let password = self.password.as_ref().map(SecretSource::read).transpose()?;
        Ok((loaded, password))
    }
}
