//! Reads certificate, key, CA and password for every attempt, and warns before a certificate expires.

use std::sync::Weak;
use std::time::{Instant, SystemTime};

use log::{Level, log_enabled, warn};
use parking_lot::Mutex;

use super::certificate_end::CertificateEnd;
use super::{ClientConfig, CredentialChange};
use crate::common::fault::Fault;
use crate::common::runtime::clock::{instant_now, wall_clock};
use crate::common::runtime::daily_stamp::{DAY, DailyStamp};
use crate::common::runtime::logging::NOT_QUIET;
use crate::common::runtime::secret_source::SecretSource;
use crate::common::transport::credentials::{CredentialContents, TlsCredentials, TlsFiles};

pub(super) struct CredentialLoader {
    files: TlsFiles,
    password: Option<SecretSource>,
    preloaded: Weak<Mutex<Option<TlsCredentials>>>,
    certificate_end: CertificateEnd,
    were_valid: bool,
    warned_at: Option<Instant>,
    /// What the last connection used.
    used: Option<(CredentialContents, Option<String>)>,
}

impl CredentialLoader {
    pub(super) fn new(config: &ClientConfig) -> Self {
        Self {
            files: config.files.clone(),
            password: config.password.clone(),
            preloaded: Weak::clone(&config.loaded),
            certificate_end: config.certificate_end.clone(),
            were_valid: false,
            warned_at: None,
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
        self.certificate_end.set(loaded.end_unix_s());
        let now = wall_clock();
        loaded.check_dates(now)?;
        self.warn_of_expiry(loaded, now);
        Ok(())
    }

    /// Once per day; with `--quiet` once per day for all runs together, because cron sends a mail for each.
    fn warn_of_expiry(&mut self, loaded: &TlsCredentials, now: SystemTime) {
        let Some((certificate, warning)) = loaded.expiry_warning(now) else {
            return;
        };
        let at = instant_now();
        let is_due = |last: Instant| at.saturating_duration_since(last) >= DAY;
        if !self.warned_at.is_none_or(is_due) {
            return;
        }
        self.warned_at = Some(at);
        let is_quiet = !log_enabled!(Level::Warn);
        // Without a stamp each run logs it.
        let stamp = is_quiet.then(|| DailyStamp::of(certificate).ok()).flatten();
        if stamp.as_ref().is_some_and(|stamp| stamp.is_recent(now)) {
            return;
        }
        warn!(target: NOT_QUIET, "{warning}");
        if let Some(stamp) = stamp {
            stamp.set(now);
        }
    }

    fn read(&mut self) -> Result<(TlsCredentials, Option<String>), Fault> {
        let preloaded = std::mem::take(&mut self.preloaded).upgrade();
        let preloaded = preloaded.and_then(|loaded| loaded.lock().take());
        let loaded = preloaded.map_or_else(|| self.files.load(), Ok)?;
        let password = self.password.as_ref().map(SecretSource::read).transpose()?;
        Ok((loaded, password))
    }
}
