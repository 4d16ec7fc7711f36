//! What comes twice, and what is missing: `--dedup`, `--gaps`, sessions that the broker keeps,
//! what `--state` remembers from run to run; and batches, taken apart.

mod batches;
mod numbers;
mod sessions;
mod state_file;

use std::{
    fs::{self, Permissions},
    io::Cursor,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    Broker, Program, Proxy, SOON, ScriptedBroker,
    namespace::{MountNamespace, skipped},
    peer::publish_numbered,
    running::{Outcome, Running},
    seen::acknowledged,
    temp_dir,
};

/// Prints the topic of what comes to `s/…`; each message has a topic that says its number.
fn subscriber(broker: &Broker, flags: &[&str]) -> Program {
    let program = Program::subscriber().to(broker).args(["-d", "-t", "s/#"]);
    let program = program.args(["--base-backoff", "0.1", "--max-backoff", "0.2"]);
    program.args(["-F", "%t"]).args(flags)
}

fn start(program: Program) -> Running {
    let running = program.start();
    running.wait_subscribed();
    running
}

/// Publishes this number of the stream `s` to `s/NUMBER`, and waits until it is printed, if
/// it is to be: the `shown`th line.
fn send(broker: &Broker, running: &Running, number: u64, shown: impl Into<Option<usize>>) {
    publish_numbered(broker, &format!("s/{number}"), &format!("s/{number}/0"));
    if let Some(count) = shown.into() {
        running.stdout_lines(count, SOON);
    }
}

/// Sends these, the last of which is printed, and ends the run.
fn run(broker: &Broker, flags: &[&str], numbers: &[u64]) -> Outcome {
    let running = start(subscriber(broker, flags));
    for number in numbers {
        send(broker, &running, *number, None);
    }
    let last = format!("s/{}", numbers.last().unwrap());
    running.stdout_line(SOON, |line| line == last);
    running.finish_by(Signal::SIGTERM, SOON)
}

fn summary(outcome: &Outcome) -> Value {
    let last = outcome.stdout.texts().pop().unwrap_or_default();
    serde_json::from_str(&last).unwrap_or_else(|_| panic!("no summary\n{outcome}"))
}

/// What is on stderr beside what `-d` says, without time and level.
fn complaints(outcome: &Outcome) -> Vec<String> {
    let lines = outcome.stderr.texts().into_iter();
    let lines = lines.filter(|line| !line.contains(" DEBUG ") && !line.contains(" INFO "));
    let said = |line: String| line.splitn(3, ' ').nth(2).unwrap_or_default().to_owned();
    lines.map(said).collect()
}

/// A state file in its own directory; there is none until a subscriber makes it.
struct StateFile(TempDir);

impl StateFile {
    fn new() -> Self {
        Self(temp_dir())
    }

    /// One that a subscriber has made, with some numbers in it.
    fn used(broker: &Broker) -> Self {
        let state = Self::new();
        run(broker, &["--state", state.text()], &[1, 2, 4]).expect_code(0);
        state
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("state.db")
    }

    fn text(&self) -> &str {
        let path: &'static str = self.path().display().to_string().leak();
        path
    }

    /// A subscriber refuses it, in one line with these parts, at once or after
    /// some waiting.
    fn expect_refused(&self, parts: &[&str]) {
        refused(&self.path(), parts);
    }
}

fn refused(file: &Path, parts: &[&str]) {
    let program = Program::subscriber()
        .endpoint(1)
        .args(["-t", "t", "--state"]);
    let outcome = program.arg(file).run(SOON).expect_code(73);
    let lines = outcome.stderr.texts();
    assert_eq!(lines.len(), 1, "{outcome}");
    let name = file.display().to_string();
    for part in parts.iter().chain([&"--state", &&*name]) {
        assert!(lines[0].contains(part), "no {part:?}\n{outcome}");
    }
    assert_eq!(lines[0].matches(&name).count(), 1, "named twice\n{outcome}");
}
