//! How a run ends: the summary, and what is said when no more can be dealt with.

use std::io::{self, Write as _};
use std::path::Path;
use std::time::Instant;

use log::{debug, error, warn};
use serde::Serialize;

use super::start::unopened;
use crate::common::fault::Exit;
use crate::common::runtime::clock::clock;
use crate::common::runtime::stdio;
use crate::subscriber::config::{Config, Outlet as Wish};
use crate::subscriber::inbox::sink::{Broken, Counts};

/// What `--summary` prints.
#[derive(Serialize)]
struct Summary {
    received: u64,
    duplicates: u64,
    gaps: u64,
    skipped: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<u64>,
    reconnects: u64,
    elapsed_s: f64,
}

/// What the messages themselves say about the run.
pub(super) fn exit_of(config: &Config, counts: Counts) -> Exit {
    let failed = counts.failed.unwrap_or_default();
    if failed > 0 {
        warn!("--exec: {failed} of {} commands failed", counts.received);
    }
    if failed > 0 || (config.gaps && counts.gaps > 0) {
        return Exit::Data;
    }
    Exit::Success
}

/// Prints the summary.
pub(super) fn summarise(counts: Counts, reconnects: u64, started: Instant) -> Exit {
    if counts.stuck {
        warn!("no summary: the output is blocked");
        return Exit::Success;
    }
    let elapsed = clock().saturating_duration_since(started);
    let summary = Summary {
        received: counts.received,
        duplicates: counts.duplicates,
        gaps: counts.gaps,
        skipped: counts.skipped,
        failed: counts.failed,
        reconnects,
        elapsed_s: (elapsed.as_secs_f64() * 1e3).round() / 1e3,
    };
    let line = serde_json::to_string(&summary).unwrap_or_default() + "\n";
    match stdio::stdout().write_all(line.as_bytes()) {
        Ok(()) => Exit::Success,
        Err(cause) => broken(None, &cause),
    }
}

/// What it means that no more can be written. A reader that has seen enough and left is a clean
/// end: what could not be written has not been acknowledged.
pub(super) fn broken(path: Option<&Path>, cause: &io::Error) -> Exit {
    if path.is_none() && cause.kind() == io::ErrorKind::BrokenPipe {
        debug!("standard output was closed");
        return Exit::Success;
    }
    let what = path.map_or("standard output".into(), |path| path.display().to_string());
    error!("{what} cannot be written: {cause}; what was not written was not acknowledged");
    Exit::Io
}

/// Says what went wrong, and what it comes to.
pub(super) fn told(config: &Config, what: &Broken) -> Exit {
    let file = match &config.outlet {
        Wish::File(file, _) => Some(file.path.as_path()),
        Wish::Stdout(_) | Wish::Chart(_) | Wish::Command { .. } => None,
    };
    match (what, file) {
        (Broken::State(cause), _) => broken(config.state.as_deref(), cause),
        (Broken::Opening(cause), Some(file)) => {
            let fault = unopened(file, cause);
            error!("{fault}");
            fault.exit
        }
        (Broken::Output(cause) | Broken::Opening(cause), _) => broken(file, cause),
    }
}
