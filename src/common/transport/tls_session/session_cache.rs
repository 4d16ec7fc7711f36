//! The latest TLS session: in memory for the next connection of the run, in the file of `--tls-session` for the next run.
//! After two handshakes in a row that the server has ended because of a session, none is offered in this run any more.
//!
//! Only the threads of connections call it: a disk that hangs holds up the connection whose session it is about, and
//! later ones.

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

/// A server may give a session as often as it likes. The file is written again after this many seconds.
const WRITE_INTERVAL_S: u64 = 60;

#[derive(Debug, Default)]
pub struct SessionCache {
    file: Option<SessionFile>,
    state: Mutex<CacheState>,
}

#[derive(Default)]
struct CacheState {
    latest: Option<(SessionBinding, SessionRecord)>,
    /// Not to be used again, if the file could not be removed.
    dropped: Option<SessionRecord>,
    /// Handshakes in a row that the server has ended when a session was offered.
    refusals: u32,
    /// When the session that this run has written last was made, in seconds of Unix time; none without a file.
    written_s: Option<u64>,
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
        let kept = match &state.latest {
            Some((of, record)) if of == binding => Some(record.clone()),
            _ => self.read_file(state, binding),
        };
        kept.filter(|record| record.is_current(now) && state.dropped.as_ref() != Some(record))
    }

    fn read_file(&self, state: &mut CacheState, binding: &SessionBinding) -> Option<SessionRecord> {
        let file = self.file.as_ref()?;
        let path = file.path().display();
        match file.read(binding) {
            Ok(Some(record)) => return Some(record),
            Ok(None) => debug!("{path}: no TLS session for this connection"),
            Err(cause) => state.warn(&format!("{path}: --tls-session is not used: {cause}")),
        }
        None
    }

    /// Keeps a session that the server has given.
    pub(crate) fn keep(&self, binding: &SessionBinding, record: SessionRecord) {
        let state = &mut *self.state.lock();
        if state.refusals >= MAX_REFUSALS {
            return;
        }
        if let Some(file) = &self.file {
            let made_s = record.made_s();
            let is_early =
                |last| made_s.is_some_and(|made| (last..last + WRITE_INTERVAL_S).contains(&made));
            if !state.written_s.is_some_and(is_early) {
                state.written_s = made_s;
                match file.write(binding, &record) {
                    Ok(()) => state.failures.handle_success(instant_now()),
                    Err(cause) => {
                        let path = file.path().display();
                        state.warn(&format!("{path}: --tls-session cannot be written: {cause}"));
                    }
                }
            }
        }
        state.latest = Some((binding.clone(), record));
    }

    /// The server has accepted a connection that resumed a session.
    pub(crate) fn handle_resumed(&self) {
        self.state.lock().refusals = 0;
    }

    /// The server has ended a handshake in which a session was offered.
    pub(crate) fn handle_refused(&self) {
        self.state.lock().refusals += 1;
    }

    /// This session is not to be used again.
    pub(crate) fn forget(&self, record: &SessionRecord) {
        let state = &mut *self.state.lock();
        state.dropped = Some(record.clone());
        // A newer one may have taken its place. One that is not in memory came from the file.
        if state
            .latest
            .as_ref()
            .is_none_or(|(_, latest)| latest == record)
        {
            state.latest = None;
            state.written_s = None;
            if let Some(file) = &self.file {
                file.remove();
            }
        }
    }
}

impl CacheState {
    fn warn(&mut self, what: &str) {
        let repetition = self.failures.filter(what, instant_now());
        log!(level_of(repetition), "{what}{repetition}");
    }
}
