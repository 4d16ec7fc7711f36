//! Keeps a reserve of disk space free, so that a queue on a full disk can drain: deleting rows takes space before it
//! frees any, because SQLite writes to its log first, and what is in the log has to fit into the file.

use std::path::Path;

use rustix::fs::statvfs;

/// The reserve is a twentieth of the disk within these bounds, in bytes.
const MIN_RESERVE: u64 = 256 << 10;
const MAX_RESERVE: u64 = 16 << 20;

/// The most bytes that a message of this size takes in the file: a row has some 100 bytes beside
/// topic and payload, and rows fill a database page by half at least.
pub(super) fn stored_size(message: u64) -> u64 {
    message.saturating_add(128).saturating_mul(2)
}

#[derive(Clone, Copy, Debug)]
pub(super) struct DiskSpace {
    available: u64,
    reserve: u64,
}

impl DiskSpace {
    /// None if the system does not say: then writing is tried.
    pub(super) fn of(queue: &Path) -> Option<Self> {
        let disk = statvfs(queue).ok()?;
        let size = disk.f_blocks.saturating_mul(disk.f_frsize);
        Some(Self {
            available: disk.f_bavail.saturating_mul(disk.f_frsize),
            reserve: (size / 20).clamp(MIN_RESERVE, MAX_RESERVE),
        })
    }

    /// Why messages that take `bytes` in the file cannot be written. They are written twice, to the log and to the
    /// file. If the file has enough free bytes in itself it does not grow, and half the reserve is sufficient.
    pub(super) fn shortage_reason(self, bytes: u64, free: u64) -> Option<String> {
        let growth = bytes.saturating_sub(free);
        let reserve = self.reserve / if growth == 0 { 2 } else { 1 };
        let needed = bytes.saturating_add(growth).saturating_add(reserve);
        (self.available < needed).then(|| {
            let (available, reserve) = (self.available >> 10, self.reserve >> 10);
            format!(
                "the disk has {available} KiB left, and {reserve} KiB are kept free so that the queue can drain"
            )
        })
    }

    /// In bytes: surely fits into the file.
    pub(super) fn max_log(self) -> u64 {
        self.reserve / 2
    }
}
