//! `--exec`, of the subscriber unless it is said otherwise: what a command is given, when its message is acknowledged, and
//! what becomes of commands that fail, hang, do not exist, or run when the end comes.

mod ending;
mod given;

use std::{
    fs,
    io::Cursor,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::harness::{
    Broker, Program, SOON, ScriptedBroker,
    namespace::skipped,
    packet::Publish,
    peer,
    running::{Outcome, Running},
    scripted::Event,
    seen::acknowledged,
    temp_dir, wait_until,
};

const SECOND: Duration = Duration::from_secs(1);

/// A subscriber to everything with a command to run; its `--exec` comes last.
fn subscriber(flags: &[&str]) -> Program {
    Program::subscriber().args(["-t", "#", "-d"]).args(flags)
}

/// With a script for the shell; `$0` is `path`.
fn script(program: Program, script: &str, path: &Path) -> Program {
    program.args(["--exec", "sh", "-c", script]).arg(path)
}

fn start(program: Program, broker: &Broker) -> Running {
    let running = program.start();
    broker.log().wait(SOON, |line| line.ends_with(" 1 #"));
    running.wait_subscribed();
    running
}

/// The flags that connect to a broker come before the command.
fn subscriber_to(broker: &Broker, flags: &[&str]) -> Program {
    subscriber(flags).to(broker)
}

/// Publishes these lines to `t`, a message each.
fn publish(broker: &Broker, lines: &str) {
    Program::publisher()
        .to(broker)
        .args(["-t", "t", "-l"])
        .stdin(Cursor::new(lines.to_owned()))
        .run(SOON)
        .expect_code(0);
}

/// Publishes these bytes to `t`, whatever they are.
fn publish_bytes(broker: &Broker, payload: &[u8], dir: &Path) {
    let file = dir.join("payload");
    fs::write(&file, payload).unwrap();
    let mut client = peer::client("mosquitto_pub", broker);
    client.args(["-q", "1", "-t", "t"]);
    if payload.is_empty() {
        client.arg("-n");
    } else {
        client.arg("-f").arg(&file);
    }
    assert!(client.stdout(Stdio::null()).status().unwrap().success());
}

fn summary(outcome: &Outcome) -> Value {
    let last = outcome.stdout.texts().pop().unwrap_or_default();
    serde_json::from_str(&last).unwrap_or_else(|_| panic!("no summary\n{outcome}"))
}

/// What is on stderr beside what `-d` says.
fn complaints(outcome: &Outcome) -> Vec<String> {
    let mut lines = outcome.stderr.texts();
    lines.retain(|line| !line.contains(" DEBUG ") && !line.contains(" INFO "));
    lines
}

/// Whether this process, whose number is in the file, has ended.
fn has_ended(file: &Path) -> bool {
    let number = fs::read_to_string(file).unwrap();
    let stat = format!("/proc/{}/stat", number.trim());
    // One that nobody has waited for has ended too.
    fs::read_to_string(stat).map_or(true, |stat| stat.contains(") Z "))
}

/// A process that is killed closes its files, and so lets go of ours, a moment before it has ended.
fn ends(file: &Path) -> bool {
    wait_until(SOON, || has_ended(file))
}

fn wait_file(running: &Running, file: &Path) {
    let written = || fs::read_to_string(file).is_ok_and(|text| text.ends_with('\n'));
    assert!(
        wait_until(SOON, written),
        "the command never ran\n{running}"
    );
}

/// Makes a script of this name, in one step.
fn make(command: &Path, script: &str) {
    let draft = command.with_extension("draft");
    fs::write(&draft, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(draft, command).unwrap();
}
