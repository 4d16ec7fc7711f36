//! How long the log is, which the store's thread has to know after each commit.

use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use rusqlite::hooks::Wal;

use super::sqlite::{has_to_be_copied, page_size, to_u64_or_zero};

/// The length of the log after the last commit of a connection. SQLite reports it with each commit; to ask for it takes a
/// statement that has to be compiled each time.
#[derive(Debug)]
pub(super) struct LogLength {
    pages: Arc<AtomicU64>,
    page_size: u64,
}

impl LogLength {
    pub(super) fn of(connection: &mut Connection) -> rusqlite::Result<Self> {
        let pages = Arc::new(AtomicU64::new(0));
        let reported = Arc::clone(&pages);
        connection.wal_hook(Some(move |_: &mut Wal, pages: c_int| {
            reported.store(to_u64_or_zero(pages.into()), Ordering::Relaxed);
            Ok(())
        }))?;
        let page_size = page_size(connection)?;
        Ok(Self { pages, page_size })
    }

    /// As [`is_log_long`](super::sqlite::is_log_long), but without what others have committed, or copied into the
    /// file, after this connection's last commit.
    pub(super) fn is_long(&self, bytes: u64) -> bool {
        let pages = self.pages.load(Ordering::Relaxed);
        has_to_be_copied(pages.saturating_mul(self.page_size), bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::sqlite::is_log_long;
    use super::*;

    const LITTLE: u64 = 100_000;

    #[test]
    fn each_commit_reports_the_length_of_the_log_with_what_others_have_added() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Connection::open(directory.path().join("file.db")).unwrap();
        let mut ours = open();
        ours.pragma_update(None, "journal_mode", "wal").unwrap();
        ours.execute_batch("CREATE TABLE t (x)").unwrap();
        let log = LogLength::of(&mut ours).unwrap();
        assert!(!log.is_long(1));
        let add = "INSERT INTO t VALUES (zeroblob(100))";
        ours.execute_batch(add).unwrap();
        assert!(log.is_long(1));
        let theirs = open();
        while !is_log_long(&ours, LITTLE).unwrap() {
            assert!(!log.is_long(LITTLE));
            theirs.execute_batch(add).unwrap();
        }
        assert!(!log.is_long(LITTLE));
        ours.execute_batch(add).unwrap();
        assert!(log.is_long(LITTLE));
    }
}
