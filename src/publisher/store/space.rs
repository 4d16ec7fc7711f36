//! Space on the disk that is left alone.
//!
//! Deleting takes space before it gives some back: SQLite writes into its log first, and what
//! is in the log has to fit into the file. A queue that filled the disk to its last byte could
//! never drain. So messages are taken only while a reserve is free.

use std::path::Path;

use nix::sys::statvfs::statvfs;

/// The reserve is a twentieth of the disk within these bounds, in bytes.
const LEAST: u64 = 256 << 10;
const MOST: u64 = 16 << 20;

/// What a message takes in the file, in bytes, at most: a row has some 100 bytes beside topic and
/// payload, and rows fill a page by half at least.
pub(super) fn on_disk(message: u64) -> u64 {
    message.saturating_add(128).saturating_mul(2)
}

/// The disk of a queue, as it is now; in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Space {
    available: u64,
    reserve: u64,
}

impl Space {
    /// None if the system does not say: then it is tried.
    pub(super) fn of(queue: &Path) -> Option<Self> {
        let disk = statvfs(queue).ok()?;
        let size = disk.blocks().saturating_mul(disk.fragment_size());
        Some(Self {
            available: disk.blocks_available().saturating_mul(disk.fragment_size()),
            reserve: (size / 20).clamp(LEAST, MOST),
        })
    }

    /// Why there is none for messages that take so many bytes; none if there is. They are written
    /// twice, into the log and into the file, which has so many bytes `free` in itself. If that
    /// is enough, it does not grow, and half the reserve will do.
    pub(super) fn too_little_for(self, bytes: u64, free: u64) -> Option<String> {
        let growth = bytes.saturating_sub(free);
        let reserve = if growth == 0 {
            self.reserve / 2
        } else {
            self.reserve
        };
        let needed = bytes.saturating_add(growth).saturating_add(reserve);
        (self.available < needed).then(|| {
            format!(
                "the disk has {} KiB left, and {} KiB are kept free so that the queue can drain",
                self.available >> 10,
                self.reserve >> 10
            )
        })
    }

    /// How long the log may become, in bytes: what is in it has to fit into the file.
    pub(super) fn log_size(self) -> u64 {
        self.reserve / 2
    }
}
