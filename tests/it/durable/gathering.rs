//! `--commit-interval`: what is taken offline is written together, and counts as accepted then.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::accepted;
use crate::harness::{
    Broker, Program, QueueFile, SOON, Server, free_port, server::hang_up, strace::Strace,
};

/// Far longer than any of these tests takes.
const LONG: &str = "1h";

fn offline(queue: &QueueFile) -> Program {
    queue.publisher().at_port(free_port())
}

/// How many syncs ten readings cost that come one after the other.
fn syncs_of_ten_readings(flags: &[&str]) -> usize {
    let queue = QueueFile::with("made\n");
    let (mut strace, words) = Strace::watch("fsync,fdatasync");
    let outcome = offline(&queue)
        .args(["--interval", "0.1", "--count", "10", "--flush-timeout", "1"])
        .args(flags)
        .under(words)
        .run(SOON)
        .expect_code(75);
    assert_eq!(accepted(&outcome.stdout.texts()), 10, "{outcome}");
    assert_eq!(queue.status()["waiting"], 11);
    strace.calls().len()
}

#[test]
fn readings_that_are_gathered_share_a_sync() {
    let alone = syncs_of_ten_readings(&[]);
    let gathered = syncs_of_ten_readings(&["--commit-interval", LONG]);
    assert!(gathered + 5 < alone, "{gathered} instead of {alone}");
}

#[test]
fn a_reading_is_accepted_with_all_others_when_the_interval_ends() {
    let queue = QueueFile::new();
    let began = Instant::now();
    let running = offline(&queue)
        .args(["--interval", "0.1", "--commit-interval", "2"])
        .start();
    running.stdout_line(SOON, |line| line == "accepted 1");
    assert!(began.elapsed() >= Duration::from_secs(2), "{running}");
    let waiting = queue.status()["waiting"].as_u64().unwrap();
    assert!(waiting >= 5, "{waiting}\n{running}");
    running.finish_by(Signal::SIGKILL, SOON);
}

#[test]
fn what_is_gathered_is_written_when_a_signal_ends_the_run() {
    let queue = QueueFile::new();
    let server = Server::plain(hang_up);
    let running = queue
        .publisher()
        .at_plain_port(server.port())
        .args(["--interval", "0.1", "--commit-interval", LONG])
        .args(["--base-backoff", "0.5", "--jitter", "0"])
        .start();
    // The second attempt comes when readings were taken.
    server.wait_accepted(2, SOON);
    let outcome = running.finish_by(Signal::SIGTERM, SOON).expect_code(75);
    let kept = accepted(&outcome.stdout.texts());
    assert!(kept > 0, "{outcome}");
    assert_eq!(queue.status()["waiting"], kept);
}

#[test]
fn what_is_gathered_is_written_when_the_input_ends() {
    let queue = QueueFile::new();
    let mut running = offline(&queue)
        .args(["-l", "--commit-interval", LONG])
        .stdin_pipe()
        .start();
    running.send("1\n2\n");
    running.close_stdin();
    running.stdout_line(SOON, |line| line == "accepted 2");
    running.finish_by(Signal::SIGKILL, SOON);
    assert_eq!(queue.status()["waiting"], 2);
}

#[test]
fn many_readings_are_not_gathered_for_long() {
    let queue = QueueFile::new();
    let mut running = offline(&queue)
        .args(["-l", "--commit-interval", LONG])
        .stdin_pipe()
        .start();
    running.send("1\n".repeat(10_000));
    running.stdout_line(SOON, |line| line == "accepted 6000");
    running.finish_by(Signal::SIGKILL, SOON);
}

#[test]
fn a_large_reading_is_not_gathered() {
    let queue = QueueFile::new();
    let mut running = offline(&queue)
        .args(["-l", "--commit-interval", LONG])
        .stdin_pipe()
        .start();
    running.send("1\n");
    running.send("x".repeat(3 << 20) + "\n");
    running.stdout_line(SOON, |line| line == "accepted 2");
    running.finish_by(Signal::SIGKILL, SOON);
}

#[test]
fn what_another_publisher_is_to_send_is_not_gathered() {
    let broker = Broker::start();
    let queue = QueueFile::new();
    let mut draining = queue.publisher().to(&broker).arg("-l").stdin_pipe().start();
    draining.send("1\n");
    draining.stdout_line(SOON, |line| line == "delivered 1");
    let mut adding = queue
        .publisher()
        .to(&broker)
        .args(["-l", "--commit-interval", LONG])
        .stdin_pipe()
        .start();
    adding.send("2\n");
    adding.stdout_line(SOON, |line| line == "delivered 2");
}

#[test]
fn what_is_gathered_is_delivered_without_a_write_when_the_broker_is_back() {
    let mut broker = Broker::start();
    let queue = QueueFile::new();
    let mut running = queue
        .publisher()
        .to(&broker)
        .args(["-l", "--commit-interval", LONG])
        .args(["--base-backoff", "0.2", "--max-backoff", "0.2"])
        .stdin_pipe()
        .start();
    running.send("1\n");
    running.stdout_line(SOON, |line| line == "delivered 1");
    broker.stop();
    running.stderr_line(SOON, |line| line.contains("trying again"));
    running.send("2\n3\n");
    broker.start_again();
    running.stdout_line(SOON, |line| line == "delivered 3");
    running.close_stdin();
    running.finish(SOON).expect_code(0);
    assert_eq!(queue.totals()["accepted"], 0);
}

#[test]
fn only_a_queue_file_has_commits() {
    Program::one_message()
        .at_port(free_port())
        .args(["--commit-interval", "60"])
        .run(SOON)
        .expect_fault(64, &["--commit-interval", "--queue"]);
}
