//! How long the log is, which the store's thread has to know after each commit.

use std::ffi::c_int;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::Connection;
use rusqlite::hooks::Wal;

use super::sqlite::{has_to_be_copied, log_pages, page_size, to_u64_or_zero};

/// The length of the log when it was last known: SQLite reports it with each commit of the connection. To ask for it takes
/// a statement that has to be compiled each time.
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

    /// The log was copied into the file, as far as its readers allow. The next commit begins it again, or reports its
    /// length.
    pub(super) fn forget(&self) {
        self.pages.store(0, Ordering::Relaxed);
    }

    /// Asks for what others have committed, or for a log that has begun again.
    pub(super) fn measure(&self, connection: &Connection) -> rusqlite::Result<()> {
        self.pages.store(log_pages(connection)?, Ordering::Relaxed);
        Ok(())
    }

    /// As [`is_log_long`](super::sqlite::is_log_long), of the length that was last known.
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
        log.measure(&ours).unwrap();
        assert!(log.is_long(LITTLE));
        log.forget();
        assert!(!log.is_long(1));
        ours.execute_batch(add).unwrap();
        assert!(log.is_long(LITTLE));
    }
}
