//! Which file a path leads to, and whether that file has changed.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

impl Identity {
    pub(super) fn of(file: &Metadata) -> Self {
        Self(file.dev(), file.ino())
    }
}

/// Length in bytes, and time of the last change (seconds, nanoseconds).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(u64, i64, i64);

impl Stamp {
    pub(super) fn of(file: &Metadata) -> Self {
        Self(file.len(), file.mtime(), file.mtime_nsec())
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// None if there is no file.
pub(super) fn identify(path: &Path) -> Option<(Identity, Stamp)> {
    let file = std::fs::metadata(path).ok()?;
    Some((Identity::of(&file), Stamp::of(&file)))
}
