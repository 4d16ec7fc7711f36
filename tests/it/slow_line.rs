//! Lines that take long for one message: slow is not dead.

use std::{io::Cursor, time::Duration};

use nix::sys::signal::Signal;

use crate::harness::throttle::Throttle;
use crate::harness::{Broker, Program, SOON};

/// Longer than any of these messages takes.
const LONG: Duration = Duration::from_secs(40);

/// Both programs give up after two seconds without a sign of life.
fn impatient(program: Program, line: &Throttle) -> Program {
    program
        .at_port(line.port())
        .args(["--operation-timeout", "2"])
        .args(["--base-backoff", "0.1", "--max-backoff", "0.1"])
}

#[test]
fn a_message_that_takes_long_gets_through_on_one_connection() {
    let broker = Broker::start();
    let line = Throttle::start(broker.port(), 2_000);
    for (qos, version) in [("1", "5"), ("2", "3.1.1")] {
        let before = line.connections();
        // Six seconds; without a sign of life it would be given up after 3.5.
        let outcome = impatient(Program::publisher(), &line)
            .args(["-t", "t", "-s", "-q", qos, "--mqtt-version", version])
            .stdin(Cursor::new("x".repeat(12_000)))
            .run(LONG)
            .expect_code(0);
        assert_eq!(line.connections(), before + 1, "{outcome}");
    }
}

#[test]
fn the_end_of_a_run_lets_the_message_on_the_line_through() {
    let broker = Broker::start();
    let line = Throttle::start(broker.port(), 2_000);
    let publisher = impatient(Program::publisher(), &line).args(["-t", "t", "-l"]);
    let outcome = publisher
        .args(["--flush-timeout", "4", "--max-inflight", "1", "--summary"])
        .stdin(Cursor::new(format!("{}\nnext\n", "x".repeat(12_000))))
        .run(LONG)
        .expect_code(69);
    let summary = outcome.stdout.texts().pop().unwrap();
    assert!(
        summary.contains("\"delivered\":1,\"queued\":1"),
        "{outcome}"
    );
}

#[test]
fn a_line_that_falls_silent_is_found_dead() {
    let broker = Broker::start();
    let line = Throttle::start(broker.port(), 2_000);
    let publisher = impatient(Program::publisher(), &line).args(["-t", "t", "-s"]);
    let running = publisher.stdin(Cursor::new("x".repeat(12_000))).start();
    line.wait_passed(8_000, SOON);
    line.stall();
    running.stderr_line(SOON, |line| line.contains("--operation-timeout 2s"));
    running.finish_by(Signal::SIGTERM, SOON).expect_code(69);
}

#[test]
fn a_large_message_in_front_of_the_suback_holds_up_nothing() {
    let broker = Broker::start();
    let line = Throttle::start(broker.port(), 2_000);
    let session = |program: Program| {
        let program = program.args(["-t", "t", "-i", "slow", "--persistent"]);
        program.args(["--session-expiry", "1h", "-C", "1"])
    };
    let begun = session(Program::subscriber().to(&broker)).arg("-d").start();
    begun.wait_subscribed();
    begun.finish_by(Signal::SIGKILL, SOON);
    let large = "x".repeat(12_000);
    let sent = Program::publisher().to(&broker).args(["-t", "t", "-s"]);
    sent.stdin(Cursor::new(large.clone()))
        .run(SOON)
        .expect_code(0);
    let before = line.connections();
    let outcome = session(impatient(Program::subscriber(), &line)).run(LONG);
    let outcome = outcome.expect_code(0);
    assert_eq!(outcome.stdout.text().trim_end(), large, "{outcome}");
    assert_eq!(line.connections(), before + 1, "{outcome}");
}
