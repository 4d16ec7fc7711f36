//! Several publishers on one queue file.

use std::{
    io::Cursor,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use super::{Listener, accepted, receipts};
use crate::harness::queue_file::publisher_on;
use crate::harness::running::Running;
use crate::harness::{Broker, Proxy, QueueFile, SOON, free_port, wait_until};

/// A publisher on the queue that is fed by hand, and has begun.
fn fed(queue: &QueueFile, broker: &Broker) -> Running {
    let publisher = queue.publisher().to(broker).arg("-l");
    let publisher = publisher.args(["--base-backoff", "0.2", "--max-backoff", "0.2"]);
    publisher.stdin_pipe().start()
}

/// Which of them drains: only that one is connected to the broker.
fn is_drained_by(queue: &QueueFile) -> bool {
    queue.status()["draining"] == true
}

#[test]
fn of_five_publishers_at_once_one_is_killed_and_everything_accepted_arrives() {
    const EACH: usize = 400;
    let broker = Broker::start();
    let listener = Listener::start(&broker);
    let queue = QueueFile::new();
    // Fed line by line, so that all of them are at work at the same time.
    let mut publishers: Vec<_> = (0..5).map(|_| fed(&queue, &broker)).collect();
    let payload = |publisher: usize, n: usize| format!("{publisher}-{n}");
    for n in 0..EACH {
        for (index, running) in publishers.iter_mut().enumerate() {
            if n < EACH / 2 || index > 0 {
                running.send(payload(index, n) + "\n");
            }
        }
        if n == EACH / 2 {
            publishers[0].stdout_line(SOON, |line| line.starts_with("accepted "));
            publishers[0].signal(Signal::SIGKILL);
        }
    }
    let mut all = Vec::new();
    for (index, mut running) in publishers.into_iter().enumerate() {
        running.close_stdin();
        let outcome = running.finish(SOON * 3);
        let lines = outcome.stdout.texts();
        let count = accepted(&lines);
        if index > 0 {
            let outcome = outcome.expect_code(0);
            assert_eq!(count, EACH, "{outcome}");
            // The one that drains tells of the others' as well.
            let delivered = receipts(&lines, "delivered ").len();
            assert!(delivered >= EACH, "{outcome}");
        }
        all.extend((0..count).map(|n| payload(index, n)));
    }
    let arrived = listener.wait_for(&all);
    assert!(arrived.repeats <= 100, "{} repeats", arrived.repeats);
    // Each one's messages came in its order.
    for index in 0..5 {
        let of_this = |p: &&String| p.starts_with(&format!("{index}-"));
        let numbers = arrived.first.iter().filter(of_this);
        let numbers: Vec<usize> = numbers.map(|p| p[2..].parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "{index}: {numbers:?}");
    }
    assert_eq!(queue.status()["waiting"], 0);
}

#[test]
fn the_one_that_adds_hears_of_its_numbers_and_of_their_delivery() {
    let broker = Broker::start();
    let listener = Listener::start(&broker);
    let queue = QueueFile::new();
    let mut drainer = fed(&queue, &broker);
    drainer.send("a\n");
    drainer.stdout_line(SOON, |line| line == "delivered 1");
    let adder = queue.publisher().to(&broker).args(["-m", "b", "--summary"]);
    let adder = adder.run(SOON).expect_code(0);
    let lines = adder.stdout.texts();
    assert_eq!(lines[..2], ["accepted 2", "delivered 2"], "{adder}");
    assert!(lines[2].contains("\"delivered\":1,\"queued\":0"), "{adder}");
    drainer.send("c\n");
    drainer.stdout_line(SOON, |line| line == "delivered 3");
    let arrived = listener.wait_for(&["a", "b", "c"].map(String::from));
    assert_eq!(arrived.first, ["a", "b", "c"]);
    assert_eq!(arrived.numbers["b"].0, arrived.numbers["a"].0, "one stream");
}

#[test]
fn what_one_commits_the_other_notices_at_once() {
    let broker = Broker::start();
    let queue = QueueFile::new();
    let mut drainer = fed(&queue, &broker);
    drainer.send("a\n");
    drainer.stdout_line(SOON, |line| line == "delivered 1");
    let mut adder = fed(&queue, &broker);
    for running in [&drainer, &adder] {
        running.wait_watching();
    }
    for number in 2..5 {
        let sent = Instant::now();
        adder.send("b\n");
        // The drainer has to notice the row, and the adder its number and then its delivery.
        let delivered = adder.stdout_line(SOON, |line| line == format!("delivered {number}"));
        let took = delivered.at.saturating_duration_since(sent);
        assert!(took < Duration::from_secs(1), "{took:?}\n{adder}");
    }
    // The end of a process, too.
    let killed = Instant::now();
    drainer.finish_by(Signal::SIGKILL, SOON);
    assert!(wait_until(SOON, || is_drained_by(&queue)));
    assert!(killed.elapsed() < Duration::from_secs(2), "{adder}");
}

#[test]
fn the_one_that_adds_waits_as_long_as_its_flush_timeout() {
    let queue = QueueFile::new();
    let _drainer = queue
        .publisher()
        .at_port(free_port())
        .arg("-l")
        .stdin_pipe()
        .start();
    assert!(wait_until(SOON, || queue.path().exists() && is_drained_by(&queue)));
    let adder = queue
        .publisher()
        .at_port(free_port())
        .args(["-m", "x", "--flush-timeout", "0.5"]);
    let adder = adder.run(SOON).expect_code(75);
    assert!(adder.elapsed >= Duration::from_millis(500), "{adder}");
    assert!(adder.elapsed < Duration::from_secs(5), "{adder}");
    adder.expect_stderr("1 message waits in");
    assert_eq!(queue.status()["waiting"], 1);
}

#[test]
fn when_the_one_that_drains_is_killed_another_takes_over() {
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut broker = Broker::builder().persistent().start();
        let listener = Listener::start(&broker);
        let queue = QueueFile::new();
        let mut first = fed(&queue, &broker);
        first.send("1\n");
        first.stdout_line(SOON, |line| line == "delivered 1");
        broker.stop();
        first.send("2\n");
        first.stdout_line(SOON, |line| line == "accepted 2");
        let mut second = fed(&queue, &broker);
        second.send("3\n");
        second.stdout_line(SOON, |line| line == "accepted 3");
        let _ = first.finish_by(signal, SOON);
        broker.start_again();
        second.stdout_line(SOON, |line| line == "delivered 3");
        second.send("4\n");
        second.stdout_line(SOON, |line| line.starts_with("delivered "));
        second.close_stdin();
        let outcome = second.finish(SOON).expect_code(0);
        let lines = outcome.stdout.texts();
        // Its own two, each reported once; and the one that it sent for the first.
        assert_eq!(accepted(&lines), 2, "{outcome}");
        let all = ["1", "2", "3", "4"].map(String::from);
        assert_eq!(listener.wait_for(&all).first, all, "{outcome}");
        assert_eq!(queue.status()["waiting"], 0);
    }
}

#[test]
fn one_that_was_looking_away_hears_what_became_of_its_messages_when_it_takes_over() {
    let broker = Broker::start();
    let listener = Listener::start(&broker);
    let queue = QueueFile::new();
    let port = free_port();
    let with_long_timeouts = |port: u16| {
        let publisher = queue.publisher().at_port(port).arg("-l");
        let publisher = publisher.args(["--base-backoff", "0.2", "--max-backoff", "0.2"]);
        publisher.stdin_pipe().start()
    };
    let mut drainer = with_long_timeouts(port);
    drainer.send("1\n");
    drainer.stdout_line(SOON, |line| line == "accepted 1");
    let mut adder = with_long_timeouts(port);
    adder.send("2\n");
    adder.stdout_line(SOON, |line| line == "accepted 2");
    // The second one's next message is written, and has no number yet.
    drainer.signal(Signal::SIGSTOP);
    adder.send("3\n");
    assert!(wait_until(SOON, || queue.status()["waiting"] == 3));
    adder.signal(Signal::SIGSTOP);
    drainer.signal(Signal::SIGCONT);
    let _way = Proxy::listen(port, broker.port(), Duration::ZERO).unwrap();
    drainer.stdout_line(SOON, |line| line == "delivered 3");
    drainer.close_stdin();
    drainer.finish(SOON).expect_code(0);
    adder.signal(Signal::SIGCONT);
    adder.close_stdin();
    let outcome = adder.finish(SOON).expect_code(0);
    let lines = outcome.stdout.texts();
    assert_eq!(receipts(&lines, "accepted "), [2, 3], "{outcome}");
    assert_eq!(receipts(&lines, "delivered "), [2, 3], "{outcome}");
    let all = ["1", "2", "3"].map(String::from);
    assert_eq!(listener.wait_for(&all).first, all);
}

#[test]
fn by_whatever_name_there_is_one_that_drains() {
    let broker = Broker::start();
    let listener = Listener::start(&broker);
    let queue = QueueFile::with("1\n2\n3\n");
    let symlink = queue.beside(".symlink");
    std::os::unix::fs::symlink(queue.path(), &symlink).unwrap();
    let mut drainer = fed(&queue, &broker);
    drainer.stdout_line(SOON, |line| line == "delivered 3");
    let mut adder = publisher_on(&symlink)
        .to(&broker)
        .arg("-l")
        .stdin_pipe()
        .start();
    adder.send("4\n");
    adder.stdout_line(SOON, |line| line == "delivered 4");
    drainer.stdout_line(SOON, |line| line == "delivered 4");
    adder.close_stdin();
    adder.finish(SOON).expect_code(0);
    drainer.close_stdin();
    drainer.finish(SOON).expect_code(0);
    let all: Vec<_> = (1..=4).map(|n: u32| n.to_string()).collect();
    let arrived = listener.wait_for(&all);
    assert_eq!((arrived.first, arrived.repeats), (all, 0));
    let dangling = queue.beside(".dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    publisher_on(&dangling)
        .at_port(free_port())
        .args(["-m", "x"])
        .run(SOON)
        .expect_fault(73, &["dangling", "a link to a file that does not exist"]);
}

#[test]
fn overlapping_runs_from_cron_deliver_all_and_end_well() {
    let broker = Broker::start();
    let listener = Listener::start(&broker);
    let queue = QueueFile::new();
    let all: Vec<_> = (0..30).map(|n| format!("reading-{n}")).collect();
    let running: Vec<_> = all
        .iter()
        .map(|reading| {
            let publisher = queue.publisher().to(&broker).arg("-s");
            publisher.stdin(Cursor::new(reading.clone())).start()
        })
        .collect();
    for running in running {
        running.finish(SOON * 2).expect_code(0);
    }
    let arrived = listener.wait_for(&all);
    assert_eq!(arrived.repeats, 0);
    let numbers: std::collections::BTreeSet<_> = arrived.numbers.into_values().collect();
    let last = numbers.iter().map(|(_, seq)| *seq).max();
    assert_eq!((numbers.len(), last), (30, Some(30)), "one stream, no hole");
}
