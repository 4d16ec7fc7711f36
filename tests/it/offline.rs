//! The broker away and back: what is kept, what is dropped, in which order and how fast it
//! drains, and that nothing taken online is lost.

use std::{
    collections::BTreeSet,
    io::{self, Cursor, Read},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::harness::lines::Line;
use crate::harness::peer::Witness;
use crate::harness::{Broker, Program, Proxy, SOON, ScriptedBroker, free_port, wait_until};

/// Lines 1 to `count`.
fn numbers(count: usize) -> Cursor<String> {
    Cursor::new((1..=count).map(|n| n.to_string() + "\n").collect())
}

/// The numbers of the receipts that begin with `what`.
fn receipts(lines: &[String], what: &str) -> Vec<u64> {
    let found = lines.iter().filter_map(|line| line.strip_prefix(what));
    let number = |rest: &str| rest.split_whitespace().next()?.parse().ok();
    found.map(|rest| number(rest).expect(rest)).collect()
}

/// The number of a simulated reading.
fn sequence(line: &Line) -> u64 {
    let reading: serde_json::Value = serde_json::from_str(&line.text).expect(&line.text);
    reading["sequence"].as_u64().unwrap()
}

/// A broker goes away for ten seconds, in which seven readings are taken for a queue of
/// five. Which of the seven arrive, counted from 1?
fn arriving_of_seven(behavior: &[&str]) -> Vec<u64> {
    let mut broker = Broker::builder().persistent().start();
    let witness = Witness::start(&broker, "temperature");
    let running = Program::publisher()
        .to(&broker)
        .args(["--topic", "temperature", "--queue-size", "5", "--receipts"])
        // The connection is lost just after a reading; seven readings later it is tried again.
        .args([
            "--interval",
            "1.4",
            "--base-backoff",
            "10.4",
            "--jitter",
            "0",
        ])
        .args(behavior)
        .start();
    running.stdout_line(SOON, |line| line == "delivered 3");
    broker.stop();
    let (online, last) = (3, 3 + 7);
    running.stdout_line(SOON, |line| line == format!("accepted {}", online + 1));
    running
        .stdout
        .wait_from(running.stdout.count() + 4, SOON * 2, |_| true);
    broker.start_again();
    let new = 3;
    let reaches = format!("delivered {}", last + new);
    running.stdout_line(SOON * 2, |line| line == reaches);
    let outcome = running.finish_by(Signal::SIGTERM, SOON).expect_code(65);

    // The broker may repeat to the witness what it had not saved as acknowledged.
    let arrived = || {
        let mut seen = BTreeSet::new();
        let mut lines = witness.lines.all();
        lines.retain(|line| seen.insert(sequence(line)));
        lines
    };
    assert!(
        wait_until(SOON, || arrived().len() >= 3 + 5 + 3),
        "{outcome}"
    );
    let arrived = arrived();
    let all: Vec<_> = arrived.iter().map(sequence).collect();
    assert_eq!(all[..3], [1, 2, 3], "taken online: {all:?}\n{outcome}");
    let (offline, newer) = all[3..].split_at(5);
    assert_eq!(newer, [11, 12, 13], "then new ones: {all:?}\n{outcome}");
    // Two a second, from the first one of the queue on.
    for pair in arrived[3..8].windows(2) {
        let apart = pair[1].at - pair[0].at;
        let rate = Duration::from_millis(350)..Duration::from_millis(750);
        assert!(rate.contains(&apart), "{apart:?}\n{outcome}");
    }
    // What did not arrive is what was said to be dropped.
    let dropped = receipts(&outcome.stdout.texts(), "dropped ");
    let expected: Vec<_> = (4..=10).filter(|n| !offline.contains(n)).collect();
    assert_eq!(dropped, expected, "{outcome}");
    offline.iter().map(|sequence| sequence - online).collect()
}

#[test]
fn of_seven_readings_a_queue_of_five_keeps_the_oldest_if_it_drops_the_newest() {
    // The default for timed readings.
    assert_eq!(arriving_of_seven(&[]), [1, 2, 3, 4, 5]);
}

#[test]
fn of_seven_readings_a_queue_of_five_keeps_the_newest_if_it_drops_the_oldest() {
    let oldest = ["--drop-behavior", "oldest"];
    assert_eq!(arriving_of_seven(&oldest), [3, 4, 5, 6, 7]);
}

#[test]
fn every_line_arrives_though_the_broker_restarts_twice_in_the_middle() {
    const COUNT: usize = 100_000;
    let mut broker = Broker::builder().persistent().start();
    let witness = Witness::start(&broker, "lines");
    // A network in between keeps the window full, so that each restart catches it so.
    let proxy = Proxy::start(broker.port(), Duration::from_millis(2));
    let running = Program::publisher()
        .at_port(proxy.port())
        .args(["--topic", "lines", "-l", "--summary"])
        .args(["--base-backoff", "0.2", "--jitter", "0"])
        .stdin(numbers(COUNT))
        .start();
    for share in [COUNT / 4, COUNT / 2] {
        assert!(witness.lines.wait_count(share, SOON), "{running}");
        assert!(
            witness.lines.count() < COUNT,
            "too fast to be in the middle"
        );
        broker.restart();
    }
    let outcome = running.finish(Duration::from_secs(30)).expect_code(0);
    let summary = outcome.stdout.text();
    assert!(summary.contains("\"reconnects\":2"), "{outcome}");

    let arrived = || -> Vec<usize> {
        let texts = witness.lines.texts();
        texts.iter().map(|line| line.parse().unwrap()).collect()
    };
    let complete = || arrived().into_iter().collect::<BTreeSet<_>>().len() == COUNT;
    assert!(wait_until(SOON, complete), "{outcome}");
    let arrived = arrived();
    let repeats = arrived.len() - COUNT;
    assert!(repeats <= 200, "{repeats} repeats in two windows of 100");
    let mut seen = BTreeSet::new();
    let first_time: Vec<_> = arrived.into_iter().filter(|n| seen.insert(*n)).collect();
    assert!(first_time.is_sorted(), "in order, repeats apart");
}

/// Counts what is read of it.
struct Counted<R>(R, Arc<AtomicUsize>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.0.read(buffer)?;
        self.1.fetch_add(length, Ordering::SeqCst);
        Ok(length)
    }
}

#[test]
fn stdin_is_read_only_as_far_as_the_queue_has_room_before_the_first_connection_too() {
    const COUNT: usize = 100_000;
    let read = Arc::new(AtomicUsize::new(0));
    let port = free_port();
    let running = Program::publisher()
        .at_port(port)
        .args(["--topic", "lines", "-l", "--queue-size", "5", "--receipts"])
        .args(["--base-backoff", "0.3", "--max-backoff", "0.3"])
        .stdin(Counted(numbers(COUNT), Arc::clone(&read)))
        .start();
    running.stdout_line(SOON, |line| line == "accepted 5");
    let more = wait_until(Duration::from_secs(2), || running.stdout.count() > 5);
    assert!(!more, "{running}");
    // The pipe, one buffer of ours and one of the writer's.
    let read = read.load(Ordering::SeqCst);
    assert!(read <= (64 + 64 + 16) << 10, "{read} bytes were taken");

    let broker = Broker::builder().port(port).start();
    let delivered = format!("delivered {COUNT}");
    running.stdout_line(SOON * 2, |line| line == delivered);
    let outcome = running.finish(SOON).expect_code(0);
    let accepted = receipts(&outcome.stdout.texts(), "accepted ");
    assert!(accepted.into_iter().eq(1..=COUNT as u64));
    drop(broker);
}

#[test]
fn stdin_is_read_only_as_far_as_the_queue_has_room_in_bytes() {
    let lines = format!("{}\n", "x".repeat(500_000)).repeat(40);
    let read = Arc::new(AtomicUsize::new(0));
    let running = Program::publisher()
        .at_port(free_port())
        .args(["--topic", "lines", "-l", "--receipts"])
        .args(["--queue-size", "-1", "--queue-bytes", "1MiB"])
        .stdin(Counted(Cursor::new(lines), Arc::clone(&read)))
        .start();
    running.stdout_line(SOON, |line| line == "accepted 2");
    let more = wait_until(Duration::from_secs(1), || running.stdout.count() > 2);
    assert!(!more, "{running}");
    // Beyond what is accepted: the rest of one line, and the buffers on the way.
    let read = read.load(Ordering::SeqCst);
    assert!(read <= 2_000_000, "{read} bytes were taken");
}

#[test]
fn lines_that_may_be_dropped_are_dropped_while_offline_and_said_so() {
    let cases: [(&str, Vec<u64>); 2] = [
        ("newest", (1..=5).collect()),
        ("oldest", (16..=20).collect()),
    ];
    for (behavior, kept) in cases {
        let broker = ScriptedBroker::script().plain();
        let port = free_port();
        let running = Program::publisher()
            .at_plain_port(port)
            .args(["--topic", "t", "-l", "--queue-size", "5", "--receipts"])
            .args(["--drop-behavior", behavior])
            .args(["--base-backoff", "0.2", "--max-backoff", "0.2"])
            .stdin(numbers(20))
            .start();
        assert!(running.stdout.wait_count(20, SOON), "{running}");
        let _link = Proxy::listen(port, broker.port(), Duration::ZERO).unwrap();
        let outcome = running.finish(SOON).expect_code(65);
        let lines = outcome.stdout.texts();
        let dropped: Vec<_> = (1..=20).filter(|n| !kept.contains(n)).collect();
        assert_eq!(receipts(&lines, "dropped "), dropped, "{outcome}");
        assert_eq!(receipts(&lines, "delivered "), kept, "{outcome}");
        // Each has a reason.
        let reasons = lines.iter().filter(|line| line.starts_with("dropped "));
        assert!(reasons.into_iter().all(|line| line.split(' ').count() > 2));
        let seqs = broker
            .publishes()
            .iter()
            .map(|p| p.seq().unwrap().1)
            .collect::<Vec<_>>();
        assert_eq!(seqs, kept, "a gap shows what is missing");
    }
}

#[test]
fn without_a_queue_a_timed_reading_is_refused_while_offline() {
    let outcome = Program::publisher()
        .at_plain_port(free_port())
        .args([
            "--topic",
            "t",
            "--queue-size",
            "0",
            "-C",
            "3",
            "--interval",
            "0.1",
        ])
        .args(["--receipts", "--summary"])
        .run(SOON)
        .expect_code(65);
    let lines = outcome.stdout.texts();
    assert_eq!(receipts(&lines, "rejected "), [1, 2, 3], "{outcome}");
    assert_eq!(lines.len(), 4, "{outcome}");
    assert!(lines[3].contains("\"rejected\":3"), "{outcome}");
}

#[test]
fn without_a_queue_lines_wait_in_the_pipe_and_arrive() {
    let broker = ScriptedBroker::script().plain();
    let port = free_port();
    let running = Program::publisher()
        .at_plain_port(port)
        .args(["--topic", "t", "-l", "--queue-size", "0", "--receipts"])
        .args(["--base-backoff", "0.2", "--max-backoff", "0.2"])
        .stdin(numbers(300))
        .start();
    let accepted = wait_until(Duration::from_secs(1), || running.stdout.count() > 0);
    assert!(!accepted, "{running}");
    let _link = Proxy::listen(port, broker.port(), Duration::ZERO).unwrap();
    running.finish(SOON).expect_code(0);
    assert_eq!(broker.publishes().len(), 300);
}
