//! How fast what queued up while offline drains, and when that has to be faster.

use std::io::Cursor;
use std::time::Duration;

use crate::harness::packet::Publish;
use crate::harness::screen::screen;
use crate::harness::{Program, Proxy, SOON, ScriptedBroker, free_port, temp_dir, wait_until};

#[test]
fn a_broker_that_is_there_gets_every_reading_however_fast_they_come() {
    let broker = ScriptedBroker::script().plain();
    let outcome = Program::publisher()
        .at_plain_port(broker.port())
        .args([
            "--topic",
            "t",
            "--interval",
            "0.05",
            "-C",
            "100",
            "--receipts",
        ])
        .run(Duration::from_secs(20))
        .expect_code(0);
    assert_eq!(broker.publishes().len(), 100, "{outcome}");
}

/// The readings of ten a second that a queue draining at two a second sends in eight
/// seconds, after some time offline; and what is said on stderr.
fn drained_against_the_stream(args: &[&str]) -> (Vec<Publish>, String) {
    let broker = ScriptedBroker::script().plain();
    let port = free_port();
    let running = Program::publisher()
        .at_plain_port(port)
        .args(["--topic", "t", "--interval", "0.1", "--queue-size", "-1"])
        .args([
            "--base-backoff",
            "0.2",
            "--max-backoff",
            "0.2",
            "--receipts",
        ])
        .args(args)
        .start();
    running.stdout_line(SOON, |line| line == "accepted 5");
    let _link = Proxy::listen(port, broker.port(), Duration::ZERO).unwrap();
    let begin = broker.wait_publishes(1, SOON)[0].at;
    let later = Duration::from_secs(8);
    assert!(wait_until(SOON, || begin.elapsed() > later));
    let mut publishes = broker.publishes();
    publishes.retain(|publish| publish.at - begin < later);
    (publishes, running.stderr.text())
}

#[test]
fn a_backlog_that_grows_while_it_drains_raises_the_rate_and_a_warning() {
    let (publishes, stderr) = drained_against_the_stream(&[]);
    // 5 s at the configured rate, then more than ten a second.
    assert!(publishes.len() >= 11 + 25, "{}: {stderr}", publishes.len());
    assert!(stderr.contains("WARN"), "{stderr}");
    assert!(stderr.contains("grows while it drains"), "{stderr}");
    let numbers: Vec<_> = publishes.iter().map(|p| p.seq().unwrap().1).collect();
    assert!(
        numbers.into_iter().eq(1..=publishes.len() as u64),
        "in order"
    );
}

#[test]
fn a_rate_set_by_hand_is_kept_whatever_arrives() {
    let (publishes, stderr) = drained_against_the_stream(&["--drain-rate", "2"]);
    let rate = 15..=17;
    assert!(
        rate.contains(&publishes.len()),
        "{}: {stderr}",
        publishes.len()
    );
}

#[test]
fn what_is_left_when_the_input_ends_drains_within_the_flush_timeout() {
    let broker = ScriptedBroker::script().plain();
    let port = free_port();
    let running = Program::publisher()
        .at_plain_port(port)
        .args(["--topic", "t", "--interval", "0.05", "-C", "20"])
        .args(["--base-backoff", "0.2", "--max-backoff", "0.2"])
        .args(["--flush-timeout", "5", "--receipts"])
        .start();
    // At two a second this would take ten seconds.
    running.stdout_line(SOON, |line| line == "accepted 20");
    let _link = Proxy::listen(port, broker.port(), Duration::ZERO).unwrap();
    running.finish(SOON).expect_code(0);
    assert_eq!(broker.publishes().len(), 20);
}

#[test]
fn a_terminal_shows_how_far_a_backlog_has_drained_below_the_log_until_it_is_sent() {
    let dir = temp_dir();
    let queue = dir.path().join("queue.db");
    let publisher = |port| {
        let program = Program::publisher().at_plain_port(port);
        program.args(["--topic", "t", "--queue"]).arg(&queue)
    };
    publisher(free_port())
        .args(["--stdin-line", "--flush-timeout", "0.1"])
        .stdin(Cursor::new("x\n".repeat(400)))
        .run(SOON)
        .expect_code(75);
    let broker = ScriptedBroker::script().plain();
    let running = publisher(broker.port())
        .args(["--message", "last", "--drain-rate", "200"])
        .env("RUST_LOG", "debug")
        .start_on_terminal();
    running.expect_shown(&["█░", " sent, ", " left, ", " per second, "]);
    let outcome = running.finish(SOON).expect_code(0);
    assert_eq!(broker.publishes().len(), 401, "{outcome}");
    let shown = screen(&outcome.stdout).screen().contents();
    assert!(!shown.contains(['█', '░']), "{shown}");
    assert!(shown.contains("DEBUG"), "{shown}");
}
