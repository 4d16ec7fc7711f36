//! The lock file beside the queue (`FILE-lock`). The process that holds the lock drains the queue.
//!
//! The process also leaves a note in the file, by which a queue file that was restored from a copy
//! is detected (see `copy_detection`): a token and, after an orderly end, the next sequence number. Behind it stands
//! whether the process is connected, for `publisher queue status`.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use log::debug;

use super::files::beside;
use super::queue_faults::cannot_open;
use crate::common::fault::Fault;

/// Bytes of the token and of the number behind it.
const TOKEN: usize = 16;
const NUMBER: usize = 20;

const CONNECTED: u8 = b'C';
const NOT_CONNECTED: u8 = b'N';

pub(super) struct DrainLock(File);

impl DrainLock {
    pub(super) fn open_file(queue: &Path) -> Result<Self, Fault> {
        let path = beside(queue, "-lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.mode(0o600).open(&path).map(Self).map_err(|e| {
            let path = path.display();
            let remedy = "the directory must exist and be writable";
            cannot_open(queue, &format!("its lock file {path}: {e}; {remedy}"))
        })
    }

    /// Whether a process drains the queue, and whether it is connected, if it is of a version that says so. Creates
    /// no file.
    pub(super) fn read_drainer(queue: &Path) -> (bool, Option<bool>) {
        let Ok(lock) = File::open(beside(queue, "-lock")).map(Self) else {
            return (false, None);
        };
        if !matches!(lock.try_take(), Ok(false)) {
            return (false, None);
        }
        let mut state = [0];
        let found = lock.0.read_exact_at(&mut state, (TOKEN + NUMBER) as u64);
        let connected = match state {
            _ if found.is_err() => None,
            [CONNECTED] => Some(true),
            [NOT_CONNECTED] => Some(false),
            _ => None,
        };
        (true, connected)
    }

    pub(super) fn write_connected(&self, is_connected: bool) {
        let state = if is_connected {
            CONNECTED
        } else {
            NOT_CONNECTED
        };
        self.write_at(&[state], (TOKEN + NUMBER) as u64);
    }

    pub(super) fn try_take(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    pub(super) fn release(&self) -> io::Result<()> {
        self.0.unlock()
    }

    /// The token, and the next sequence number in decimal digits.
    pub(super) fn read_copy_detection_note(&self) -> Option<String> {
        let mut note = [0; TOKEN + NUMBER];
        self.0.read_exact_at(&mut note, 0).ok()?;
        Some(String::from_utf8_lossy(&note).into_owned())
    }

    pub(super) fn write_copy_detection_note(&self, token: &str) {
        self.write_at(format!("{token}{:->NUMBER$}", "").as_bytes(), 0);
    }

    pub(super) fn write_next_seq(&self, next_seq: u64) {
        self.write_at(format!("{next_seq:0NUMBER$}").as_bytes(), TOKEN as u64);
    }

    /// May fail: the next run then takes the file for a copy and only begins a new stream, or the state is unknown.
    fn write_at(&self, bytes: &[u8], offset: u64) {
        if let Err(cause) = self.0.write_all_at(bytes, offset) {
            debug!("the lock beside the queue cannot be written: {cause}");
        }
    }
}
