//! The end of a run: the summary, and the exit code of a failed output.

use std::io::{self, Write as _};
use std::path::Path;
use std::time::Instant;

use log::{debug, error, warn};
use serde::Serialize;

use crate::common::fault::{Exit, Fault};
use crate::common::runtime::clock::instant_now;
use crate::common::runtime::stdio;
use crate::subscriber::config::{Config, OutputConfig};
use crate::subscriber::message_receiver::ReceiverCounts;
use crate::subscriber::output::completion::OutputError;

#[derive(Serialize)]
struct Summary {
    #[serde(flatten)]
    counts: ReceiverCounts,
    reconnects: u64,
    elapsed_s: f64,
}

pub(super) fn exit_for_counts(config: &Config, counts: ReceiverCounts) -> Exit {
    let failed = counts.failed.unwrap_or_default();
    if failed > 0 {
        let code = Exit::Data.code();
        warn!(code; "--exec: {failed} of {} commands failed", counts.received);
    }
    if failed > 0 || (config.gaps && counts.gaps > 0) {
        return Exit::Data;
    }
    Exit::Success
}

pub(super) fn print_summary(counts: ReceiverCounts, reconnects: u64, started: Instant) -> Exit {
    if counts.is_blocked {
        warn!("no summary: the output is blocked");
        return Exit::Success;
    }
    let elapsed = instant_now().saturating_duration_since(started);
    let summary = Summary {
        counts,
        reconnects,
        elapsed_s: (elapsed.as_secs_f64() * 1e3).round() / 1e3,
    };
    let line = serde_json::to_string(&summary).unwrap_or_default() + "\n";
    match stdio::stdout().write_all(line.as_bytes()) {
        Ok(()) => Exit::Success,
        Err(cause) => report_write_failure(None, &cause),
    }
}

/// Logs that an output file, or else standard output, cannot be written. A reader that closes the
/// pipe is a success: what could not be written has not been acknowledged.
pub(super) fn report_write_failure(path: Option<&Path>, cause: &io::Error) -> Exit {
    if path.is_none() && cause.kind() == io::ErrorKind::BrokenPipe {
        debug!("standard output was closed");
        return Exit::Success;
    }
    let what = path.map_or("standard output".into(), |path| path.display().to_string());
    let code = Exit::Io.code();
    error!(code; "{what} cannot be written: {cause}; what was not written was not acknowledged");
    Exit::Io
}

pub(super) fn report_output_error(config: &Config, error: &OutputError) -> Exit {
    let file = match &config.output {
        OutputConfig::File(file, _) => Some(file.path.as_path()),
        OutputConfig::Stdout(_) | OutputConfig::Display(..) | OutputConfig::Command { .. } => None,
    };
    match (error, file) {
        (OutputError::StateFile(cause), _) => report_write_failure(
            config.state.as_deref(),
            &io::Error::other(cause.to_string()),
        ),
        (OutputError::Reopen(cause), Some(file)) => {
            let fault = output_not_opened(file, cause);
            error!(code = fault.exit.code(); "{fault}");
            fault.exit
        }
        (OutputError::Write(cause) | OutputError::Reopen(cause), _) => {
            report_write_failure(file, cause)
        }
    }
}

pub(super) fn output_not_opened(path: &Path, cause: &io::Error) -> Fault {
    let path = path.display();
    let message = format!("--output {path}: cannot be opened or created: {cause}");
    Fault::permanent(Exit::CannotCreate, message)
}
