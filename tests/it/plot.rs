//! `subscriber --plot`: what it goes together with, and what it needs.

use crate::harness::{Program, SOON};

fn plot(args: &[&str]) -> Program {
    Program::subscriber()
        .args(["--endpoint", "mqtt://127.0.0.1:1", "--topic", "t"])
        .args(args)
}

#[test]
fn a_chart_needs_a_terminal() {
    let run = plot(&["--plot"]).run(SOON).expect_code(64);
    let said = run.stderr.text();
    assert!(said.contains("--plot draws on a terminal"), "{run}");
    assert_eq!(said.lines().count(), 1, "{run}");
}

#[test]
fn a_chart_is_instead_of_text() {
    for text in ["-v", "-J", "-N"] {
        let run = plot(&["--plot", text]).run(SOON).expect_code(64);
        let said = run.stderr.text();
        assert!(said.contains("cannot be used with"), "{text}: {run}");
    }
}

#[test]
fn a_pointer_is_checked_and_is_for_a_chart() {
    for (pointer, why) in [("temperature", "starts with /"), ("/a~b", "~0")] {
        let args = ["--plot", "--value", pointer];
        let run = plot(&args).run(SOON).expect_code(64);
        assert!(run.stderr.text().contains(why), "{pointer}: {run}");
    }
    let run = plot(&["--value", "/a"]).run(SOON).expect_code(64);
    assert!(run.stderr.text().contains("--plot"), "{run}");
}
