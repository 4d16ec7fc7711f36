//! `examples/fuzz`, in short: conversations that go wrong, drawn from one seed, and all that ever
//! failed. `scripts/fuzz` goes on for as long as one likes, with a sanitizer.

use std::{path::Path, process::Command};

use crate::harness::temp_dir;

/// Runs it; it has to find nothing.
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
fn conversations_that_go_wrong_do_no_harm() {
    let dir = temp_dir();
    expect_no_failure(fuzz().args(["30", "1", "--save"]).arg(dir.path()));
}

#[test]
fn no_conversation_fails_that_ever_did() {
    let all = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/conversations");
    expect_no_failure(fuzz().arg("--replay").arg(all));
}
