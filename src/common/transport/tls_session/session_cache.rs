//! The latest TLS session: in memory for the next connection of the run, in the file of `--tls-session` for the next run.
//! One that does not lead to CONNACK is not used again. A server that ends handshakes because of a session is not offered
//! another one for the rest of the run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use log::{debug, log};
use parking_lot::Mutex;

use super::session_binding::SessionBinding;
use super::session_file::SessionFile;
use super::session_record::SessionRecord;
use crate::common::runtime::clock::instant_now;
use crate::common::runtime::logging::level_of;
use crate::common::runtime::repeat_filter::RepeatFilter;

/// A handshake may have ended for another reason once.
const MAX_REFUSALS: u32 = 2;

#[derive(Debug, Default)]
pub struct SessionCache {
    file: Option<SessionFile>,
    state: Mutex<CacheState>,
}

#[derive(Default)]
struct CacheState {
    latest: Option<(SessionBinding, SessionRecord)>,
    is_file_read: bool,
    /// The connection that was made last, or is being made, resumes a session, and no CONNACK has come.
    is_unconfirmed: bool,
    refusals: u32,
    failures: RepeatFilter,
}

impl std::fmt::Debug for CacheState {
    /// Shows no secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CacheState").finish_non_exhaustive()
    }
}

impl SessionCache {
    pub fn new(file: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self {
            file: file.map(SessionFile::new),
            state: Mutex::default(),
        })
    }

    /// The session for a connection with this binding.
    pub(crate) fn find(&self, binding: &SessionBinding, now: SystemTime) -> Option<SessionRecord> {
        let state = &mut *self.state.lock();
        if state.refusals >= MAX_REFUSALS {
            return None;
        }
        if let Some(file) = &self.file
            && !std::mem::replace(&mut state.is_file_read, true)
        {
            match file.read(binding) {
                Ok(Some(record)) => state.latest = Some((binding.clone(), record)),
                Ok(None) => debug!(
                    "{}: no TLS session for this connection",
                    file.path().display()
                ),
                Err(cause) => {
                    let path = file.path().display();
                    let what = format!("{path}: --tls-session is not used: {cause}");
                    state.warn(&what);
                }
            }
        }
        let (of, record) = state.latest.as_ref()?;
        (of == binding && record.is_current(now)).then(|| record.clone())
    }

    /// Keeps a session that the server has given. `writes` is whether to write it to the file as well.
    pub(crate) fn keep(&self, binding: &SessionBinding, record: SessionRecord, writes: bool) {
        let state = &mut *self.state.lock();
        if state.refusals >= MAX_REFUSALS {
            return;
        }
        // What another run has left there is older.
        state.is_file_read = true;
        if let Some(file) = self.file.as_ref().filter(|_| writes) {
            let path = file.path().display();
            match file.write(binding, &record) {
                Ok(true) => state.failures.handle_success(instant_now()),
                Ok(false) => state.warn(&format!(
                    "{path}: --tls-session is not written: the key of the certificate is not in memory, so it cannot encrypt the file"
                )),
                Err(cause) => state.warn(&format!("{path}: --tls-session cannot be written: {cause}")),
            }
        }
        state.latest = Some((binding.clone(), record));
    }

    /// The server has resumed the session that was offered.
    pub(crate) fn handle_resumed(&self) {
        self.state.lock().is_unconfirmed = true;
    }

    pub fn handle_connack(&self) {
        self.state.lock().is_unconfirmed = false;
    }

    /// The attempt has ended without a CONNACK that accepts it.
    pub fn handle_not_connected(&self) {
        let state = &mut *self.state.lock();
        if std::mem::take(&mut state.is_unconfirmed) {
            self.clear(state);
        }
    }

    /// The server has ended a handshake in which this session was offered.
    pub(crate) fn handle_refused(&self, record: &SessionRecord) {
        self.forget(record);
        self.state.lock().refusals += 1;
    }

    /// This session is not to be used again.
    pub(crate) fn forget(&self, record: &SessionRecord) {
        let state = &mut *self.state.lock();
        if state
            .latest
            .as_ref()
            .is_some_and(|(_, latest)| latest == record)
        {
            self.clear(state);
        }
    }

    fn clear(&self, state: &mut CacheState) {
        state.latest = None;
        if let Some(file) = &self.file {
            file.remove();
        }
    }
}

impl CacheState {
    fn warn(&mut self, what: &str) {
        let repetition = self.failures.filter(what, instant_now());
        log!(level_of(repetition), "{what}{repetition}");
    }
}
