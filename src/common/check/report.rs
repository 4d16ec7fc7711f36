//! What the check has found, for people and for machines.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::common::escape::one_line;
use crate::common::fault::{Exit, Fault};
use crate::common::runtime::stdio;
use crate::common::runtime::terminal::Harmless;

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// As it should be.
    Ok,
    /// Not as it should be.
    Failed,
    /// Not tried, because of an earlier step.
    Skipped,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
struct Line {
    step: &'static str,
    status: Status,
    /// What was found; of a failure the cause and what to do.
    detail: String,
    /// What to do about a failure, again by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    /// The exit code that a failure stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    exit: Option<u8>,
}

#[derive(Debug, Serialize)]
pub(super) struct Report {
    ok: bool,
    exit: u8,
    endpoint: String,
    steps: Vec<Line>,
    #[serde(skip)]
    worst: Exit,
    #[serde(skip)]
    json: bool,
    #[serde(skip)]
    colour: bool,
    /// The first error of standard output.
    #[serde(skip)]
    broken: Option<io::Error>,
}

impl Report {
    /// Nothing looked at yet. For people each step is printed when it is done.
    pub(super) fn new(endpoint: String, json: bool) -> Self {
        Self {
            ok: true,
            exit: 0,
            endpoint,
            steps: Vec::new(),
            worst: Exit::Success,
            json,
            colour: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
            broken: None,
        }
    }

    pub(super) fn ok(&mut self, step: &'static str, detail: impl Into<String>) {
        self.add(step, Status::Ok, detail.into());
    }

    pub(super) fn failed(&mut self, step: &'static str, fault: &Fault) {
        self.worst = self.worst.or_worse(fault.exit);
        self.ok = false;
        self.exit = self.worst.code();
        self.add(step, Status::Failed, fault.to_string());
        if let Some(line) = self.steps.last_mut() {
            line.exit = Some(fault.exit.code());
            line.remedy = fault.remedy.as_deref().map(str::to_owned);
        }
    }

    pub(super) fn skipped(&mut self, step: &'static str, why: &str) {
        self.add(step, Status::Skipped, why.to_owned());
    }

    fn add(&mut self, step: &'static str, status: Status, detail: String) {
        let (word, style) = match status {
            Status::Ok => ("ok", "32"),
            Status::Failed => ("FAILED", "1;31"),
            Status::Skipped => ("skipped", "33"),
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
        self.steps.push(Line {
            step,
            status,
            detail,
            remedy: None,
            exit: None,
        });
    }

    /// The last line, and the exit code.
    ///
    /// # Errors
    ///
    /// A standard output that could not be written; the exit code of a step that failed wins over its own.
    pub(super) fn finish(mut self) -> Result<Exit, Fault> {
        if self.json {
            let line = serde_json::to_string(&self).unwrap_or_default();
            let written =
                Harmless::stdout(stdio::stdout()).write_all(format!("{line}\n").as_bytes());
            self.written(written);
        } else {
            let failed = self.steps.iter().filter(|s| s.status == Status::Failed);
            let line = match (failed.count(), self.steps.len()) {
                (0, all) => match self
                    .steps
                    .iter()
                    .filter(|s| s.status == Status::Skipped)
                    .count()
                {
                    0 => format!("all {all} steps passed"),
                    skipped => format!("{} steps passed, {skipped} skipped", all - skipped),
                },
                (failed, all) => format!("{failed} of {all} steps failed"),
            };
            self.print(&line);
        }
        let Some(cause) = self.broken else {
            return Ok(self.worst);
        };
        let exit = if self.ok { Exit::Io } else { self.worst };
        let message = format!("standard output cannot be written: {cause}");
        Err(Fault::permanent(exit, message)
            .with_remedy("redirect it to where there is space, or to /dev/null"))
    }

    fn print(&mut self, line: &str) {
        let written = stdio::stdout().write_all(format!("{line}\n").as_bytes());
        self.written(written);
    }

    fn written(&mut self, written: io::Result<()>) {
        if let Err(cause) = written
            && cause.kind() != io::ErrorKind::BrokenPipe
        {
            self.broken.get_or_insert(cause);
        }
    }
}
