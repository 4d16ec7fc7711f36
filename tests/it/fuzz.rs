//! `examples/fuzz` in its short form: mutated conversations from a fixed seed, and the saved conversations.
//! `scripts/fuzz` runs it for any time, and with a sanitizer.

use std::{path::Path, process::Command};

use crate::harness::temp_dir;

/// Runs the fuzzer, which must find no failure.
fn expect_no_failure(fuzz: &mut Command) {
    let output = fuzz.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
}

fn fuzz() -> Command {
    let programs = Path::new(env!("CARGO_BIN_EXE_publisher"));
    Command::new(programs.with_file_name("examples").join("fuzz"))
}

#[test]
fn mutated_conversations_cause_no_failure() {
    let dir = temp_dir();
    expect_no_failure(fuzz().args(["30", "1", "--save"]).arg(dir.path()));
}

#[test]
fn saved_conversations_cause_no_failure() {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/conversations");
    expect_no_failure(fuzz().arg("--replay").arg(all));
}
