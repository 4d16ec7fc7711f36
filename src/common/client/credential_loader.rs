//! Reads certificate, key, CA and password for every attempt, and warns before a certificate expires.

use std::sync::Weak;

use log::warn;
use parking_lot::Mutex;

use super::{ClientConfig, CredentialChange};
use crate::common::fault::Fault;
use crate::common::runtime::clock::wall_clock;
use crate::common::runtime::secret_source::SecretSource;
use crate::common::transport::credentials::{CredentialContents, TlsCredentials, TlsFiles};

pub(super) struct CredentialLoader {
    files: TlsFiles,
    password: Option<SecretSource>,
    preloaded: Weak<Mutex<Option<TlsCredentials>>>,
    were_valid: bool,
    logged_warning: Option<String>,
    /// What the last connection used.
    used: Option<(CredentialContents, Option<String>)>,
}

impl CredentialLoader {
    pub(super) fn new(config: &ClientConfig) -> Self {
        Self {
            files: config.files.clone(),
            password: config.password.clone(),
            preloaded: Weak::clone(&config.loaded),
            were_valid: false,
            logged_warning: None,
            used: None,
        }
    }

    pub(super) fn load(&mut self) -> Result<(TlsCredentials, Option<String>), Fault> {
        let (loaded, password) = self.read().map_err(|fault| Fault {
            // Files that were valid may be in the middle of being replaced.
            permanent: fault.permanent && !self.were_valid,
            ..fault
        })?;
        self.were_valid = true;
        self.check_dates(&loaded)?;
        self.used = Some((CredentialContents::of(&loaded), password.clone()));
        Ok((loaded, password))
    }

    /// Compares the files with what the last connection used. Without one nothing has changed.
    pub(super) fn reload(&mut self) -> Result<CredentialChange, Fault> {
        let (loaded, password) = self.read()?;
        self.check_dates(&loaded)?;
        let contents = CredentialContents::of(&loaded);
        Ok(match &self.used {
            Some((used, used_password)) => {
                if used.chain != contents.chain || *used_password != password {
                    CredentialChange::Identity
                } else if used.authorities != contents.authorities {
                    CredentialChange::Authorities
                } else {
                    CredentialChange::Nothing
                }
            }
            None => CredentialChange::Nothing,
        })
    }

    fn check_dates(&mut self, loaded: &TlsCredentials) -> Result<(), Fault> {
        let now = wall_clock();
        loaded.check_dates(now)?;
        let warning = loaded.expiry_warning(now);
        if let Some(warning) = warning.as_ref().filter(|_| warning != self.logged_warning) {
            warn!("{warning}");
        }
        self.logged_warning = warning;
        Ok(())
    }

    fn read(&mut self) -> Result<(TlsCredentials, Option<String>), Fault> {
        let preloaded = std::mem::take(&mut self.preloaded).upgrade();
        let preloaded = preloaded.and_then(|loaded| loaded.lock().take());
        let loaded = preloaded.map_or_else(|| self.files.load(), Ok)?;
        let password = self.password.as_ref().map(SecretSource::read).transpose()?;
        Ok((loaded, password))
    }
}
