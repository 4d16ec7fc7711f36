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

    /// Keeps a session that the server has given, for this run.
    pub(crate) fn keep(&self, binding: &SessionBinding, record: SessionRecord) {
        let state = &mut *self.state.lock();
        if state.refusals < MAX_REFUSALS {
            state.latest = Some((binding.clone(), record));
        }
    }

    /// Writes the latest session to the file, unless one was written a short while before.
    pub(crate) fn write_file(&self) {
        let state = &mut *self.state.lock();
        let (Some(file), Some((binding, record))) = (&self.file, &state.latest) else {
            return;
        };
        let made_s = record.made_s();
        let is_early =
            |last| made_s.is_some_and(|made| (last..last + WRITE_INTERVAL_S).contains(&made));
        if state.written_s.is_some_and(is_early) {
            return;
        }
        match file.write(binding, record) {
            Ok(()) => {
                state.written_s = made_s;
                state.failures.handle_success(instant_now());
            }
            Err(cause) => {
                let path = file.path().display();
                state.warn(&format!("{path}: --tls-session cannot be written: {cause}"));
            }
        }
    }

    pub(crate) fn has_file(&self) -> bool {
        self.file.is_some()
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::session_record::examples::made_at;
    use super::*;

    const MADE: u32 = 1_000_000;

    fn at(s: u32) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(s.into())
    }

    fn binding() -> SessionBinding {
        SessionBinding::of(1, Some(2))
    }

    /// The file, and what a run that begins now finds in it.
    struct Site {
        dir: tempfile::TempDir,
    }

    impl Site {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self { dir }
        }

        fn path(&self) -> PathBuf {
            self.dir.path().join("session")
        }

        fn run(&self) -> Arc<SessionCache> {
            SessionCache::new(Some(self.path()))
        }

        fn next_run_finds(&self, now: u32) -> Option<SessionRecord> {
            self.run().find(&binding(), at(now))
        }
    }

    fn keep_and_write(cache: &SessionCache, made_s: u32) {
        cache.keep(&binding(), made_at(made_s));
        cache.write_file();
    }

    #[test]
    fn the_file_is_written_again_after_a_minute_and_when_the_clock_was_set_back() {
        let site = Site::new();
        let cache = site.run();
        for (made_s, in_file) in [
            (MADE, MADE),
            (MADE, MADE),
            (MADE + 59, MADE),
            (MADE + 60, MADE + 60),
            (MADE + 59, MADE + 59),
            (MADE + 60, MADE + 59),
        ] {
            keep_and_write(&cache, made_s);
            let found = site.next_run_finds(MADE + 70);
            assert!(found == Some(made_at(in_file)), "made at {made_s}");
            let found = cache.find(&binding(), at(MADE + 70));
            assert!(found == Some(made_at(made_s)), "the run has the latest one");
        }
    }

    #[test]
    fn nothing_is_written_before_it_is_asked_for_and_nothing_is_found_with_another_binding() {
        let site = Site::new();
        let cache = site.run();
        cache.keep(&binding(), made_at(MADE));
        assert!(!site.path().exists());
        cache.write_file();
        for other in [(3, Some(2)), (1, Some(3)), (1, None)] {
            let other = SessionBinding::of(other.0, other.1);
            assert!(cache.find(&other, at(MADE)).is_none());
            assert!(site.run().find(&other, at(MADE)).is_none());
        }
        assert!(site.next_run_finds(MADE).is_some());
    }

    #[test]
    fn after_two_refusals_in_a_row_nothing_is_offered_and_nothing_kept() {
        let site = Site::new();
        let cache = site.run();
        keep_and_write(&cache, MADE);
        let finds = || cache.find(&binding(), at(MADE)).is_some();
        cache.handle_refused();
        assert!(finds());
        cache.handle_resumed();
        cache.handle_refused();
        assert!(finds(), "a resumption lies between the two");
        cache.handle_refused();
        assert!(!finds());
        keep_and_write(&cache, MADE + 60);
        assert!(!finds());
        let found = site.next_run_finds(MADE + 60);
        assert!(found == Some(made_at(MADE)), "the file stays as it was");
    }

    #[test]
    fn what_is_forgotten_does_not_come_back_and_a_newer_one_stays() {
        let site = Site::new();
        let cache = site.run();
        keep_and_write(&cache, MADE);
        let before = fs::read(site.path()).unwrap();
        cache.forget(&made_at(MADE));
        assert!(!site.path().exists());
        // As if it could not have been removed.
        fs::write(site.path(), before).unwrap();
        fs::set_permissions(site.path(), fs::Permissions::from_mode(0o600)).unwrap();
        assert!(cache.find(&binding(), at(MADE)).is_none());
        // It is written at once, however early that is.
        keep_and_write(&cache, MADE + 1);
        cache.forget(&made_at(MADE));
        for found in [
            cache.find(&binding(), at(MADE + 1)),
            site.next_run_finds(MADE + 1),
        ] {
            assert!(found == Some(made_at(MADE + 1)));
        }
    }

    #[test]
    fn a_session_from_the_file_that_is_forgotten_is_removed_there() {
        let site = Site::new();
        keep_and_write(&site.run(), MADE);
        let cache = site.run();
        let found = cache.find(&binding(), at(MADE)).unwrap();
        cache.forget(&found);
        assert!(!site.path().exists());
        assert!(cache.find(&binding(), at(MADE)).is_none());
    }
}
