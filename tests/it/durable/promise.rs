//! What `--queue` promises: a message is accepted once it is on disk or acknowledged, it is
//! delivered by this run or a later one, in order, and a good connection costs no writes.

use std::{fs, io::Cursor, os::unix::fs::MetadataExt, time::Duration};

use nix::sys::signal::Signal;

use super::{Listener, accepted, receipts};
use crate::harness::{
    Broker, Program, QueueFile, Reply, SOON, ScriptedBroker, free_port,
    strace::{CHANGES, Strace},
    wait_until,
};

/// Lines 1 to `count`.
fn numbered(count: usize) -> String {
    let lines: Vec<_> = (1..=count).map(|n| n.to_string()).collect();
    lines.join("\n")
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_reading_taken_offline_is_sent_by_the_next_run_before_its_own() {
    let queue = QueueFile::new();
    let offline = queue
        .publisher()
        .at_port(free_port())
        .args(["-m", "first", "--flush-timeout", "1", "--summary"])
        .run(SOON)
        .expect_code(75)
        .expect_stderr("1 message waits in")
        .expect_stderr("queue.db for a later run");
    assert!(offline.elapsed < SECOND * 5, "late\n{offline}");
    let lines = offline.stdout.texts();
    assert_eq!(lines[0], "accepted 1", "{offline}");
    assert!(lines[1].contains("\"queued\":1"), "{offline}");

    let broker = Broker::start();
    let listener = Listener::start(&broker);
    let online = queue
        .publisher()
        .to(&broker)
        .args(["-m", "second"])
        .run(SOON)
        .expect_code(0);
    let delivered = receipts(&online.stdout.texts(), "delivered ");
    assert_eq!(delivered, [1, 2], "{online}");
    let both = ["first", "second"].map(String::from);
    let arrived = listener.wait_for(&both);
    assert_eq!(arrived.first, both);
    // One stream that goes on.
    let [one, two] = both.map(|payload| arrived.numbers[&payload].clone());
    assert_eq!((one.0, one.1 + 1), two);
    assert_eq!(queue.status()["waiting"], 0);
}

#[test]
fn what_is_accepted_while_the_broker_is_away_survives_the_process() {
    let mut broker = Broker::builder().persistent().start();
    let listener = Listener::start(&broker);
    let queue = QueueFile::new();
    let mut running = queue
        .publisher()
        .to(&broker)
        .args(["-l", "--base-backoff", "0.2", "--max-backoff", "0.2"])
        .stdin_pipe()
        .start();
    running.send("1\n2\n");
    running.stdout_line(SOON, |line| line == "delivered 2");
    broker.stop();
    running.send("3\n4\n5\n");
    running.stdout_line(SOON, |line| line == "accepted 5");
    running.finish_by(Signal::SIGKILL, SOON);
    broker.start_again();
    queue.drain(&broker);
    let all: Vec<_> = (1..=5).map(|n: u32| n.to_string()).collect();
    assert_eq!(listener.wait_for(&all).first, all);
}

#[test]
fn after_a_crash_a_new_stream_begins_and_what_waits_keeps_its_numbers() {
    let queue = QueueFile::new();
    let mut running = queue
        .publisher()
        .at_port(free_port())
        .arg("-l")
        .stdin_pipe()
        .start();
    running.send("1\n2\n");
    running.stdout_line(SOON, |line| line == "accepted 2");
    running.finish_by(Signal::SIGKILL, SOON);
    let broker = Broker::start();
    let listener = Listener::start(&broker);
    queue
        .publisher()
        .to(&broker)
        .args(["-m", "3"])
        .run(SOON)
        .expect_code(0);
    let arrived = listener.wait_for(&["1", "2", "3"].map(String::from));
    let [one, two, three] = ["1", "2", "3"].map(|payload| arrived.numbers[payload].clone());
    assert_eq!((&one.0, one.1, two.1), (&two.0, 1, 2));
    assert_ne!(one.0, three.0, "a crash must not look like a gap");
    assert_eq!(three.1, 1);
}

#[test]
fn nothing_is_accepted_before_it_is_acknowledged_or_on_disk() {
    // No answer to a publish: what is accepted then must be in the file.
    let broker = ScriptedBroker::script()
        .on_publish(|_| Reply::Silence)
        .plain();
    let queue = QueueFile::new();
    let running = queue
        .publisher()
        .at_plain_port(broker.port())
        .args(["-m", "x", "--operation-timeout", "60"])
        .start();
    broker.wait_publishes(1, SOON);
    running.stdout_line(SOON, |line| line == "accepted 1");
    let listed = queue.command(&["list"]).expect_code(0).stdout.text();
    assert!(listed.contains(" t 1\n"), "{listed}\n{running}");
}

#[test]
fn the_files_are_for_their_owner_alone() {
    let queue = QueueFile::new();
    let mut running = queue
        .publisher()
        .at_port(free_port())
        .arg("-l")
        .stdin_pipe()
        .start();
    running.send("x\n");
    running.stdout_line(SOON, |line| line == "accepted 1");
    for suffix in ["", "-wal", "-shm", "-lock"] {
        let mode = fs::metadata(queue.beside(suffix)).expect(suffix).mode();
        assert_eq!(mode & 0o777, 0o600, "queue.db{suffix}");
    }
    // A stop in order leaves one file and the lock.
    running.finish_by(Signal::SIGTERM, SOON).expect_code(75);
    assert!(!queue.beside("-wal").exists());
    assert!(queue.path().exists() && queue.beside("-lock").exists());
}

#[test]
fn a_signal_keeps_what_waits_and_says_so() {
    let queue = QueueFile::new();
    let running = queue
        .publisher()
        .at_port(free_port())
        .args(["--interval", "0.1", "--stop-timeout", "2"])
        .start();
    running.stdout_line(SOON, |line| line == "accepted 3");
    let outcome = running.finish_by(Signal::SIGTERM, SECOND * 5);
    let outcome = outcome.expect_code(75).expect_stderr("for a later run");
    let kept = accepted(&outcome.stdout.texts());
    assert_eq!(queue.status()["waiting"], kept, "{outcome}");
}

#[test]
fn a_second_signal_keeps_what_was_accepted_too() {
    let queue = QueueFile::new();
    let running = queue
        .publisher()
        .at_port(free_port())
        .args(["--interval", "0.1", "--stop-timeout", "60"])
        .start();
    running.stdout_line(SOON, |line| line == "accepted 2");
    running.signal(Signal::SIGTERM);
    // Signals within half a second count as one.
    assert!(!running.stdout.wait_end(SECOND), "{running}");
    let outcome = running
        .finish_by(Signal::SIGINT, SECOND * 5)
        .expect_code(75);
    let said = outcome.stderr.text();
    assert!(!said.contains("lost"), "{outcome}");
    assert!(
        queue.status()["waiting"].as_u64().unwrap() >= 2,
        "{outcome}"
    );
}

#[test]
fn tls_files_that_are_wrong_cost_no_reading() {
    let queue = QueueFile::new();
    queue
        .publisher()
        .endpoint(free_port())
        .args(["--cafile", "/nonexistent/ca.pem", "-m", "kept"])
        .args(["--flush-timeout", "0.2"])
        .run(SOON)
        .expect_code(66)
        .expect_stderr("/nonexistent/ca.pem");
    assert_eq!(queue.status()["waiting"], 1);
}

#[test]
fn tls_files_that_are_wrong_cost_no_reading_that_comes_late_either() {
    let queue = QueueFile::with("before\n");
    let mut running = queue
        .publisher()
        .endpoint(free_port())
        .args(["--cafile", "/nonexistent/ca.pem", "-l"])
        .args(["--flush-timeout", "5"])
        .stdin_pipe()
        .start();
    let ended = running.stdout.wait_end(Duration::from_millis(300));
    assert!(!ended, "it waits for its input\n{running}");
    running.send("kept\n");
    running.close_stdin();
    let outcome = running.finish(SOON).expect_code(66);
    assert!(
        outcome.elapsed < SECOND * 5,
        "it does not wait once it has it\n{outcome}"
    );
    assert_eq!(queue.status()["waiting"], 2, "{outcome}");
}

/// The bytes of a call's write.
fn written(call: &str) -> u64 {
    let length = call.rsplit("= ").next().and_then(|n| n.parse().ok());
    if call.contains("pwrite64(") {
        length.unwrap_or(0)
    } else {
        0
    }
}

#[test]
fn a_healthy_link_and_a_message_at_a_time_cost_no_writes() {
    let broker = Broker::start();
    let queue = QueueFile::with("made\n");
    queue.drain(&broker);
    let (mut strace, words) = Strace::watch(&CHANGES.join(","));
    let mut running = queue
        .publisher()
        .to(&broker)
        .arg("-l")
        .under(words)
        .stdin_pipe()
        .start();
    let mut on_disk = || {
        let calls = strace.calls();
        let mut calls: Vec<_> = calls
            .into_iter()
            .filter(|c| c.contains("queue.db"))
            .collect();
        calls.retain(|call| call.contains("pwrite64(") || call.contains("sync("));
        calls
    };
    running.send("2\n");
    running.stdout_line(SOON, |line| line == "delivered 2");
    let before = on_disk();
    assert!(!before.is_empty(), "strace saw the file being opened");
    for n in 3..30 {
        running.send(format!("{n}\n"));
        running.stdout_line(SOON, |line| line == format!("delivered {n}"));
    }
    // One acknowledgement or another may be late on a busy machine.
    let more = on_disk().len() - before.len();
    assert!(
        more < 27,
        "{more} writes and syncs for 27 messages\n{running}"
    );
    running.close_stdin();
    running.finish(SOON).expect_code(0);
    // The whole run has noted its beginning and its end, and no more.
    let all: u64 = on_disk().iter().map(|call| written(call)).sum();
    assert!(all < 40_000, "{all} bytes: {:#?}", on_disk());
}

#[test]
fn lines_that_come_together_share_a_sync() {
    let queue = QueueFile::new();
    let (mut strace, words) = Strace::watch("fsync,fdatasync");
    let lines = numbered(2_000);
    let outcome = queue
        .publisher()
        .at_port(free_port())
        .args(["-l", "--flush-timeout", "0.1"])
        .under(words)
        .stdin(Cursor::new(lines))
        .run(SOON)
        .expect_code(75);
    assert_eq!(accepted(&outcome.stdout.texts()), 2_000, "{outcome}");
    let syncs = strace.calls().len();
    assert!(syncs < 100, "{syncs} syncs for 2,000 messages");
}

#[test]
fn the_numbers_go_on_without_a_hole_from_run_to_run() {
    let broker = Broker::start();
    let listener = Listener::start(&broker);
    let queue = QueueFile::new();
    let mut all = Vec::new();
    for round in 0..5 {
        let lines: Vec<_> = (0..7).map(|n| format!("{round}.{n}")).collect();
        if round % 2 == 0 {
            queue.add(&lines.join("\n"));
        } else {
            let publisher = queue.publisher().to(&broker).arg("-l");
            let publisher = publisher.stdin(Cursor::new(lines.join("\n")));
            publisher.run(SOON).expect_code(0);
        }
        all.extend(lines);
    }
    queue.drain(&broker);
    let arrived = listener.wait_for(&all);
    assert_eq!((arrived.first, arrived.repeats), (all.clone(), 0));
    let numbers: Vec<_> = all.iter().map(|p| arrived.numbers[p].clone()).collect();
    let stream = &numbers[0].0;
    let expected: Vec<_> = (1..=35).map(|n| (stream.clone(), n)).collect();
    assert_eq!(numbers, expected);
}

#[test]
fn a_backlog_shows_on_a_terminal_how_far_it_has_drained() {
    let lines = numbered(3_000);
    let queue = QueueFile::with(&lines);
    let broker = Broker::start();
    let running = Program::publisher()
        .to(&broker)
        .args(["-t", "t", "-n", "--drain-rate", "1500", "--queue"])
        .arg(queue.path())
        .start_on_terminal();
    let bar = |text: &str| text.contains(" sent, 2") && text.contains(" per second");
    let shown = wait_until(SOON, || bar(&running.stdout.text()));
    assert!(shown, "{running}");
    running.finish(SOON).expect_code(0);
}
