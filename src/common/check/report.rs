//! The report of the check, as text (each step when it is done) or as one JSON object.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::common::escape::one_line;
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::escaping_writer::EscapingWriter;
use crate::common::runtime::stdio;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum StepStatus {
    Ok,
    Failed,
    /// Not tried, because an earlier step failed.
    Skipped,
}

#[derive(Debug, Serialize)]
struct StepResult {
    step: &'static str,
    status: StepStatus,
    /// What was found; for a failure the cause and the remedy.
    detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<Box<str>>,
    /// The exit code of a failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<u8>,
}

#[derive(Debug, Serialize)]
pub(super) struct CheckReport {
    ok: bool,
    exit: u8,
    endpoint: String,
    steps: Vec<StepResult>,
    #[serde(skip)]
    worst: Exit,
    #[serde(skip)]
    json: bool,
    #[serde(skip)]
    colour: bool,
    /// The first error of standard output.
    #[serde(skip)]
    write_error: Option<io::Error>,
}

impl CheckReport {
    pub(super) fn new(endpoint: String, json: bool) -> Self {
        Self {
            ok: true,
            exit: 0,
            endpoint,
            steps: Vec::new(),
            worst: Exit::Success,
            json,
            colour: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            write_error: None,
        }
    }

    pub(super) fn add(&mut self, step: &'static str, result: Result<String, Fault>) {
        match result {
            Ok(detail) => self.ok(step, detail),
            Err(fault) => self.failed(step, &fault),
        }
    }

    pub(super) fn ok(&mut self, step: &'static str, detail: impl Into<String>) {
        self.push(step, StepStatus::Ok, detail.into(), None);
    }

    pub(super) fn failed(&mut self, step: &'static str, fault: &Fault) {
        self.worst = self.worst.or_worse(fault.exit);
        self.ok = false;
        self.exit = self.worst.code();
        self.push(step, StepStatus::Failed, fault.to_string(), Some(fault));
    }

    pub(super) fn skipped(&mut self, step: &'static str, why: &str) {
        self.push(step, StepStatus::Skipped, why.to_owned(), None);
    }

    fn push(
        &mut self,
        step: &'static str,
        status: StepStatus,
        detail: String,
        fault: Option<&Fault>,
    ) {
        let (word, style) = match status {
            StepStatus::Ok => ("ok", "32"),
            StepStatus::Failed => ("FAILED", "1;31"),
            StepStatus::Skipped => ("skipped", "33"),
        };
        if !self.json {
            let detail = one_line(&detail);
            let line = if self.colour {
                format!("\x1b[{style}m{word:<8}\x1b[0m{step}: {detail}")
            } else {
                format!("{word:<8}{step}: {detail}")
            };
            self.print(&line);
        }
        self.steps.push(StepResult {
            step,
            status,
            detail,
            remedy: fault.and_then(|fault| fault.remedy.clone()),
            exit: fault.map(|fault| fault.exit.code()),
        });
    }

    /// Prints the summary. Returns the exit code, or an error if standard output could not be
    /// written; the exit code of a failed step takes precedence over that of the error.
    pub(super) fn finish(mut self) -> Result<Exit, Fault> {
        if self.json {
            let line = serde_json::to_string(&self).unwrap_or_default() + "\n";
            let result = EscapingWriter::stdout(stdio::stdout()).write_all(line.as_bytes());
            self.note_error(result);
        } else {
            let count = |status| self.steps.iter().filter(|s| s.status == status).count();
            let all = self.steps.len();
            let line = match (count(StepStatus::Failed), count(StepStatus::Skipped)) {
                (0, 0) => format!("all {all} steps passed"),
                (0, skipped) => format!("{} steps passed, {skipped} skipped", all - skipped),
                (failed, _) => format!("{failed} of {all} steps failed"),
            };
            self.print(&line);
        }
        let Some(cause) = self.write_error else {
            return Ok(self.worst);
        };
        let exit = if self.ok { Exit::Io } else { self.worst };
        let message = format!("standard output cannot be written: {cause}");
        Err(Fault::permanent(exit, message)
            .with_remedy("redirect it to where there is space, or to /dev/null"))
    }

    fn print(&mut self, line: &str) {
        let result = stdio::stdout().write_all(format!("{line}\n").as_bytes());
        self.note_error(result);
    }

    /// A reader that has closed the pipe is no error.
    fn note_error(&mut self, result: io::Result<()>) {
        if let Err(cause) = result
            && cause.kind() != io::ErrorKind::BrokenPipe
        {
            self.write_error.get_or_insert(cause);
        }
    }
}
