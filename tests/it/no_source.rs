//! A publisher without a source flag: the kind of standard input decides whether it simulates.

use std::{
    fs::{self, File},
    io::{Cursor, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use crate::harness::running::Outcome;
use crate::harness::{Program, SOON, ScriptedBroker, temp_dir};

/// One reading, of whatever source.
fn publisher(broker: &ScriptedBroker) -> Program {
    let publisher = Program::publisher().at_plain_port(broker.port());
    publisher.args(["-t", "temperature", "-C", "1"])
}

fn expect_refusal(outcome: Outcome) {
    let parts = [
        "standard input",
        "--stdin-line or --stdin-file",
        "/dev/null",
    ];
    let outcome = outcome.expect_fault(64, &parts);
    assert_eq!(outcome.stderr.count(), 1, "{outcome}");
}

fn expect_simulation(broker: &ScriptedBroker) {
    let publishes = broker.publishes();
    assert_eq!(publishes.len(), 1, "{publishes:?}");
    assert!(
        publishes[0].text().starts_with("{\"sequence\":1,"),
        "{publishes:?}"
    );
}

#[test]
fn what_is_piped_in_is_not_ignored_in_favour_of_invented_data() {
    let broker = ScriptedBroker::script().plain();
    expect_refusal(publisher(&broker).stdin(&b"42\n"[..]).run(SOON));
    // Nor is an empty input, or one that never ends.
    expect_refusal(publisher(&broker).stdin(Cursor::new("")).run(SOON));
    expect_refusal(publisher(&broker).stdin_pipe().run(SOON));
    let dir = temp_dir();
    let path = dir.path().join("readings");
    fs::write(&path, "42\n").unwrap();
    expect_refusal(
        publisher(&broker)
            .stdin_given(File::open(&path).unwrap())
            .run(SOON),
    );
    let (ours, theirs) = UnixStream::pair().unwrap();
    (&ours).write_all(b"42\n").unwrap();
    let refused = publisher(&broker).stdin_given(OwnedFd::from(theirs));
    expect_refusal(refused.run(SOON));
    let refused = publisher(&broker).args(["--batch", "2", "--interval", "9"]);
    expect_refusal(refused.stdin(&b"42\n"[..]).run(SOON));
    assert!(broker.events().is_empty(), "{:?}", broker.events());
}

#[test]
fn without_any_input_it_simulates_and_says_so_in_one_line() {
    let broker = ScriptedBroker::script().plain();
    let outcome = publisher(&broker)
        .run(SOON)
        .expect_code(0)
        .expect_stdout("");
    assert_eq!(outcome.stderr.count(), 1, "{outcome}");
    outcome.expect_stderr("no source is given: publishing a simulated temperature every 1s");
    expect_simulation(&broker);

    let broker = ScriptedBroker::script().plain();
    let closed = publisher(&broker).under(["sh", "-c", "exec \"$@\" <&-", "sh"]);
    let outcome = closed.run(SOON).expect_code(0);
    outcome.expect_stderr("simulated temperature");
    expect_simulation(&broker);

    let broker = ScriptedBroker::script().plain();
    let outcome = publisher(&broker)
        .start_on_terminal()
        .finish(SOON)
        .expect_code(0);
    assert!(
        outcome.stdout.text().contains("simulated temperature"),
        "{outcome}"
    );
    expect_simulation(&broker);

    let broker = ScriptedBroker::script().plain();
    let quiet = publisher(&broker).arg("--quiet").run(SOON).expect_code(0);
    assert_eq!(quiet.stderr.text(), "", "{quiet}");
}

#[test]
fn a_source_of_its_own_leaves_standard_input_alone() {
    let broker = ScriptedBroker::script().plain();
    for source in [&["-m", "x"][..], &["--exec", "echo", "x"]] {
        let publisher = publisher(&broker).stdin_pipe();
        let outcome = publisher.args(source).run(SOON).expect_code(0);
        assert_eq!(outcome.stderr.text(), "", "{outcome}");
    }
    let publishes = broker.publishes();
    assert!(
        publishes.iter().all(|publish| publish.text() == "x"),
        "{publishes:?}"
    );
}
