//! A queue file, and the programs that fill it, drain it and look at it.

use std::{
    io::Cursor,
    path::{Path, PathBuf},
};

use serde_json::Value;
use tempfile::TempDir;

use super::{Broker, Program, SOON, free_port, running::Outcome, temp_dir};

/// A queue file in its own directory; there is none until a publisher makes it.
pub(crate) struct QueueFile {
    dir: TempDir,
}

impl QueueFile {
    pub(crate) fn new() -> Self {
        Self { dir: temp_dir() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("queue.db")
    }

    /// `FILE` with something at the end of its name.
    pub(crate) fn beside(&self, suffix: &str) -> PathBuf {
        self.dir.path().join(format!("queue.db{suffix}"))
    }

    /// A queue with these lines in it, to the topic `t`, which nobody has taken yet.
    pub(crate) fn with(lines: &str) -> Self {
        let queue = Self::new();
        queue.add(lines);
        queue
    }

    /// Publishes lines to it while nobody listens.
    pub(crate) fn add(&self, lines: &str) {
        self.publisher()
            .at_port(free_port())
            .args(["-l", "--flush-timeout", "0.1"])
            .stdin(Cursor::new(lines.to_owned()))
            .run(SOON * 3)
            .expect_code(75);
    }

    /// A publisher on it to the topic `t`, with receipts; where to and what is still to be
    /// said.
    pub(crate) fn publisher(&self) -> Program {
        publisher_on(&self.path())
    }

    /// Sends everything in it to this broker.
    pub(crate) fn drain(&self, broker: &Broker) -> Outcome {
        self.publisher()
            .to(broker)
            .args(["-l", "--flush-timeout", "300"])
            .run(SOON * 30)
            .expect_code(0)
    }

    /// `publisher queue ARGS --queue FILE`
    pub(crate) fn command(&self, args: &[&str]) -> Outcome {
        let program = Program::publisher().arg("queue").args(args);
        program.arg("--queue").arg(self.path()).run(SOON)
    }

    pub(crate) fn status(&self) -> Value {
        let status = self.command(&["status", "--json"]).expect_code(0);
        serde_json::from_str(&status.stdout.text()).unwrap()
    }

    /// The totals; fails if a message that was ever written to it is not accounted for.
    pub(crate) fn totals(&self) -> Value {
        checked_totals(&self.status())
    }
}

/// Those of the object that `status --json` prints.
pub(crate) fn checked_totals(status: &Value) -> Value {
    let totals = &status["totals"];
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{status}"));
    let ended = ["delivered", "dropped", "expired", "purged"];
    let ended: u64 = ended.iter().map(|name| number(&totals[*name])).sum();
    let left = number(&status["waiting"]) + number(&status["dead"]);
    assert_eq!(number(&totals["accepted"]), ended + left, "{status}");
    totals.clone()
}

/// A publisher on this queue file to the topic `t`, with receipts.
pub(crate) fn publisher_on(file: &Path) -> Program {
    Program::publisher()
        .args(["-t", "t", "--receipts", "--queue"])
        .arg(file)
}
