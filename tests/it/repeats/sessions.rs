//! Sessions that the broker keeps while the subscriber is away.

use super::*;

#[test]
fn what_is_published_while_away_waits_in_the_session() {
    let mut broker = Broker::builder().persistent().start();
    let state = StateFile::new();
    let flags = ["--persistent", "--client-id", "keeper", "--dedup", "--gaps"];
    let flags = [&flags[..], &["--state", state.text()]].concat();
    let numbers = |range: std::ops::RangeInclusive<u64>| {
        for number in range {
            publish_numbered(&broker, &format!("s/{number}"), &format!("s/{number}/0"));
        }
    };
    run(&broker, &flags, &[1, 2]).expect_code(0);
    numbers(3..=5);
    let outcome = run(&broker, &flags, &[2, 6]).expect_code(0);
    outcome.expect_stdout("s/3\ns/4\ns/5\ns/6\n");
    // A broker that has forgotten it is a reason to complain.
    broker.stop();
    let broker = Broker::builder().port(broker.port()).start();
    let outcome = run(&broker, &flags, &[9]).expect_code(65);
    let lines = complaints(&outcome);
    assert!(lines[0].contains("lost the session"), "{outcome}");
    assert_eq!(lines[1], "gap: 7 to 8 of stream s are missing (s/9)");
}

#[test]
fn a_filter_that_is_no_longer_wanted_leaves_the_session() {
    let broker = Broker::start();
    let state = StateFile::new();
    let flags = [
        "--persistent",
        "--client-id",
        "keeper",
        "--state",
        state.text(),
    ];
    let running = start(subscriber(&broker, &flags).args(["-t", "old/#"]));
    let both = |line: &str| line.contains("old/#: subscribed");
    running.stderr_line(SOON, both);
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let running = start(subscriber(&broker, &flags));
    running.stderr_line(SOON, |line| line.contains("no longer subscribed: old/#"));
    let gone = |line: &str| line.ends_with("keeper old/#");
    let gone = broker.log().wait(SOON, gone);
    assert!(gone.is_some(), "{running}");
    publish_numbered(&broker, "old/1", "s/1/0");
    send(&broker, &running, 2, 1);
    let outcome = running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    outcome.expect_stdout("s/2\n");
}

/// More than may wait comes before the answer to SUBSCRIBE, and is dealt with more slowly than
/// an answer may take.
#[test]
fn a_long_backlog_is_no_dead_connection() {
    let broker = Broker::start();
    let flags = ["-C", "20", "--persistent", "--client-id", "keeper"];
    let program = Program::subscriber().to(&broker).args(["-t", "t", "-d"]);
    let program = program
        .args(flags)
        .args(["--summary", "--operation-timeout", "0.1"]);
    let program = program.args(["--base-backoff", "0.1", "--max-backoff", "0.1"]);
    start(
        Program::subscriber()
            .to(&broker)
            .args(["-t", "t", "-d"])
            .args(flags),
    )
    .finish_by(Signal::SIGTERM, SOON)
    .expect_code(0);
    let line = "x".repeat(200_000) + "\n";
    Program::publisher()
        .to(&broker)
        .args(["-t", "t", "-l"])
        .stdin(Cursor::new(line.repeat(20)))
        .run(SOON)
        .expect_code(0);
    let program = program.args(["--exec", "sh", "-c", "sleep 0.1; echo ran"]);
    let outcome = program.run(SOON).expect_code(0);
    assert_eq!(outcome.stdout.count(), 21, "{outcome}");
    assert_eq!(summary(&outcome)["reconnects"], 0, "{outcome}");
    assert!(complaints(&outcome).is_empty(), "{outcome}");
}
