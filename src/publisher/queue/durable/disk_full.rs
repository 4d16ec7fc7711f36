//! Whether the disk is full, and when to try again. PURE.

use std::time::{Duration, Instant};

pub(super) const DISK_RETRY: Duration = Duration::from_secs(1);

/// The oldest messages are dropped at most this many times in a row while there still is no space.
const MAX_EVICTIONS: u32 = 4;

#[derive(Debug, Default)]
pub(super) struct DiskFullState {
    full_until: Option<Instant>,
    full_since: Option<Instant>,
    is_reported: bool,
    pub(super) cannot_delete: bool,
    evictions: u32,
}

impl DiskFullState {
    pub(super) fn is_full(&self) -> bool {
        self.is_reported
    }

    pub(super) fn full_until(&self, now: Instant) -> Option<Instant> {
        self.full_until.filter(|at| *at > now)
    }

    pub(super) fn handle_full(&mut self, cannot_delete: bool, now: Instant) {
        self.cannot_delete = cannot_delete;
        self.full_since = Some(now);
        self.full_until = Some(now + DISK_RETRY);
    }

    /// A transaction succeeded. Returns whether that ends a full disk which was reported. A disk
    /// that is nearly full is not reported over and over.
    pub(super) fn handle_committed(&mut self, inserted: bool, deleted: bool, now: Instant) -> bool {
        self.cannot_delete = false;
        if inserted || deleted {
            self.full_until = None;
        }
        if !inserted {
            return false;
        }
        self.evictions = 0;
        let is_recent = self
            .full_since
            .is_some_and(|since| now < since + DISK_RETRY);
        !is_recent && std::mem::take(&mut self.is_reported)
    }

    pub(super) fn mark_reported(&mut self) {
        self.is_reported = true;
    }

    pub(super) fn request_eviction(&mut self) -> bool {
        let helps = self.evictions < MAX_EVICTIONS && !self.cannot_delete;
        self.evictions += u32::from(helps);
        helps
    }
}
