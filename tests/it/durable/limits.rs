//! How much may wait in the file and for how long, and what cannot be delivered.

use std::{io::Cursor, time::Duration};

use nix::sys::signal::Signal;

use super::{Listener, accepted, receipts};
use crate::harness::packet::Publish;
use crate::harness::{Broker, Program, Proxy, QueueFile, Reply, SOON, ScriptedBroker, free_port};

/// Lines `first` to `last`, each of four bytes.
fn lines(first: usize, last: usize) -> Vec<String> {
    (first..=last).map(|n| format!("{n:04}")).collect()
}

/// Publishes these offline, with more flags.
fn offline(queue: &QueueFile, lines: &[String], more: &[&str], code: i32) -> Vec<String> {
    offline_for("0.1", queue, lines, more, code)
}

/// The same with a flush timeout in seconds.
fn offline_for(
    flush: &str,
    queue: &QueueFile,
    lines: &[String],
    more: &[&str],
    code: i32,
) -> Vec<String> {
    let publisher = queue.publisher().at_port(free_port());
    let publisher = publisher.args(["-l", "--flush-timeout", flush]).args(more);
    let publisher = publisher.stdin(Cursor::new(lines.join("\n")));
    publisher.run(SOON).expect_code(code).stdout.texts()
}

/// What waits.
fn waiting(queue: &QueueFile) -> Vec<String> {
    let export = queue.command(&["export"]).expect_code(0).stdout.text();
    let payload = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        line["payload"].as_str().unwrap().to_owned()
    };
    export.lines().map(payload).collect()
}

#[test]
fn a_limit_in_messages_holds_over_the_runs() {
    let queue = QueueFile::new();
    offline(&queue, &lines(1, 4), &["--queue-size", "6"], 75);
    let newest = ["--queue-size", "6", "--drop-behavior", "newest"];
    let out = offline(&queue, &lines(5, 8), &newest, 75);
    assert_eq!(receipts(&out, "dropped "), [7, 8], "{out:?}");
    assert_eq!(waiting(&queue), lines(1, 6));
    let oldest = ["--queue-size", "6", "--drop-behavior", "oldest"];
    let out = offline(&queue, &lines(9, 11), &oldest, 75);
    assert_eq!(receipts(&out, "dropped ").len(), 3, "{out:?}");
    assert_eq!(waiting(&queue), [lines(4, 6), lines(9, 11)].concat());
    assert_eq!(queue.status()["dropped_ever"], 5);
    // Two were dropped before they were written.
    let totals = queue.totals();
    let counts = (&totals["accepted"], &totals["dropped"]);
    assert_eq!(counts, (&9.into(), &3.into()), "{totals}");
}

#[test]
fn a_limit_in_bytes_counts_topics_payloads_and_dead_letters() {
    let queue = QueueFile::new();
    // Topic and payload: 5 bytes per message.
    let newest = ["--queue-bytes", "52", "--drop-behavior", "newest"];
    let out = offline(&queue, &lines(1, 12), &newest, 75);
    assert_eq!(accepted(&out), 10, "{out:?}");
    assert_eq!(queue.status()["bytes"], 50);
    // Of three that take turns with a broker that wants none of them, two die.
    let queue = QueueFile::new();
    let broker = ScriptedBroker::script()
        .on_publish(|_| Reply::Refuse(0x80))
        .plain();
    queue
        .publisher()
        .at_plain_port(broker.port())
        .arg("-l")
        .stdin(Cursor::new(lines(1, 2).join("\n")))
        .run(SOON)
        .expect_code(65);
    assert_eq!(queue.status()["dead_bytes"], 10);
    let out = offline(
        &queue,
        &lines(3, 6),
        &["--queue-bytes", "22", "--drop-behavior", "newest"],
        75,
    );
    assert_eq!(accepted(&out), 2, "{out:?}");
    // Dead letters are never thrown out for what is new, nor is all that waits in vain.
    let oldest = ["--queue-bytes", "22", "--drop-behavior", "oldest"];
    offline(&queue, &lines(7, 8), &oldest, 75);
    assert_eq!(waiting(&queue), lines(7, 8));
    assert_eq!(queue.status()["dead"], 2);
    let oldest = ["--queue-bytes", "11", "--drop-behavior", "oldest"];
    offline(&queue, &lines(9, 9), &oldest, 75);
    assert_eq!(
        waiting(&queue),
        lines(7, 8),
        "there is no place that they could make"
    );
}

#[test]
fn the_oldest_of_a_long_queue_make_room_and_none_is_forgotten() {
    // More wait than are in memory at a time.
    let queue = QueueFile::new();
    offline(&queue, &lines(1, 3_000), &[], 75);
    let oldest = ["--queue-size", "20", "--drop-behavior", "oldest"];
    // To drop that many takes many transactions.
    let out = offline_for("3", &queue, &lines(3_001, 3_010), &oldest, 75);
    assert_eq!(accepted(&out), 10, "{out:?}");
    assert_eq!(waiting(&queue), lines(2_991, 3_010));
    assert_eq!(receipts(&out, "dropped ").len(), 2_990);
    assert_eq!(queue.totals()["dropped"], 2_990);
    let broker = Broker::start();
    let listener = Listener::start(&broker);
    queue.drain(&broker);
    assert_eq!(
        listener.wait_for(&lines(2_991, 3_010)).first,
        lines(2_991, 3_010)
    );
}

#[test]
fn one_that_adds_to_a_full_queue_drops_the_oldest_whosever_they_are_and_says_so() {
    let queue = QueueFile::new();
    let port = free_port();
    let mut drainer = queue
        .publisher()
        .at_port(port)
        .arg("-l")
        .stdin_pipe()
        .start();
    drainer.send(lines(1, 5).join("\n") + "\n");
    drainer.stdout_line(SOON, |line| line == "accepted 5");
    let oldest = ["--queue-size", "6", "--drop-behavior", "oldest"];
    // Its own two oldest have to go as well.
    let out = offline(&queue, &lines(6, 13), &oldest, 65 + 10);
    assert_eq!(receipts(&out, "dropped ").len(), 7, "{out:?}");
    drop(drainer);
    assert_eq!(waiting(&queue), lines(8, 13));
    assert_eq!(queue.status()["dropped_ever"], 7);
    assert_eq!(queue.totals()["dropped"], 7);
}

#[test]
fn what_is_too_old_is_not_sent_by_a_later_run_either() {
    let queue = QueueFile::new();
    offline(&queue, &lines(1, 2), &["--expiry", "0.3"], 75);
    offline(&queue, &lines(3, 3), &["--expiry", "1h"], 75);
    std::thread::park_timeout(Duration::from_millis(400));
    let broker = ScriptedBroker::script().plain();
    let outcome = queue
        .publisher()
        .at_plain_port(broker.port())
        .args(["-m", "0004", "--summary"])
        .run(SOON)
        .expect_code(65)
        .expect_stderr("2 messages expired");
    let out = outcome.stdout.texts();
    assert_eq!(receipts(&out, "expired "), [1, 2], "{outcome}");
    assert_eq!(receipts(&out, "delivered "), [3, 4], "{outcome}");
    assert!(out.last().unwrap().contains("\"expired\":2"), "{outcome}");
    let sent: Vec<_> = broker.publishes().iter().map(Publish::text).collect();
    assert_eq!(sent, lines(3, 4));
    let status = queue.status();
    assert_eq!(
        (&status["expired_ever"], &status["waiting"]),
        (&2.into(), &0.into())
    );
    assert_eq!(queue.totals()["expired"], 2);
}

/// Hangs up on every `bad` message.
fn touchy() -> ScriptedBroker {
    let reply = |publish: &Publish| {
        if publish.text() == "bad" {
            Reply::HangUp
        } else {
            Reply::Ack
        }
    };
    ScriptedBroker::script().on_publish(reply).plain()
}

fn slow_to_time_out(publisher: Program) -> Program {
    publisher.args([
        "--base-backoff",
        "0.05",
        "--max-backoff",
        "0.05",
        "--stable-time",
        "9",
    ])
}

#[test]
fn a_message_that_ends_every_connection_dies_and_the_rest_goes_on() {
    let broker = touchy();
    let queue = QueueFile::new();
    let outcome = slow_to_time_out(queue.publisher().at_plain_port(broker.port()))
        .args(["-l", "--max-attempts", "3"])
        .stdin(Cursor::new("one\ntwo\nbad\nthree\nfour\n"))
        .run(SOON)
        .expect_code(65)
        .expect_stderr("3 connections were lost with it at the head");
    let out = outcome.stdout.texts();
    assert_eq!(receipts(&out, "dead "), [3], "{outcome}");
    assert_eq!(receipts(&out, "delivered "), [1, 2, 4, 5], "{outcome}");
    let list = queue.command(&["list", "--dead"]).stdout.text();
    assert!(list.contains(" t 3 3 connections were lost"), "{list}");
    assert_eq!(queue.status()["waiting"], 0);
}

#[test]
fn lost_connections_are_counted_over_the_runs() {
    let broker = touchy();
    let queue = QueueFile::with("bad\n");
    let run = |timeout: &str, more: &str| {
        let publisher = slow_to_time_out(queue.publisher().at_plain_port(broker.port()));
        let publisher = publisher.args(["-m", more, "--max-attempts", "6"]);
        publisher.args(["--flush-timeout", timeout]).start()
    };
    // Two connections, and then it is killed.
    let running = run("30", "one");
    let seen = |count| {
        let bad = |p: &Publish| p.text() == "bad";
        crate::harness::wait_until(SOON, || {
            broker.publishes().iter().filter(|p| bad(p)).count() >= count
        })
    };
    assert!(seen(3), "{running}");
    running.finish_by(Signal::SIGKILL, SOON);
    run("30", "two").finish(SOON).expect_code(65);
    let tried = broker
        .publishes()
        .iter()
        .filter(|p| p.text() == "bad")
        .count();
    // The last one or two of the first run may not have been written down.
    assert!((6..=8).contains(&tried), "{tried} times");
    assert_eq!(queue.status()["dead"], 1);
}

#[test]
fn quota_exceeded_is_no_death() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let full = AtomicBool::new(true);
    let reply = move |_: &Publish| {
        if full.swap(false, Ordering::SeqCst) {
            Reply::Refuse(0x97)
        } else {
            Reply::Ack
        }
    };
    let broker = ScriptedBroker::script().on_publish(reply).plain();
    let queue = QueueFile::new();
    queue
        .publisher()
        .at_plain_port(broker.port())
        .args(["-m", "x"])
        .run(SOON)
        .expect_code(0);
    assert_eq!(broker.publishes().len(), 2);
    assert_eq!(queue.status()["dead"], 0);
}

#[test]
fn a_dead_letter_is_told_only_once_it_is_on_disk() {
    let broker = ScriptedBroker::script()
        .on_publish(|_| Reply::Refuse(0x80))
        .plain();
    for _ in 0..10 {
        let queue = QueueFile::new();
        let publisher = queue.publisher().at_plain_port(broker.port());
        let mut running = publisher.arg("-l").stdin_pipe().start();
        running.send("x\n");
        running.stdout_line(SOON, |line| line.starts_with("dead 1 "));
        running.finish_by(Signal::SIGKILL, SOON);
        assert_eq!(queue.status()["dead"], 1);
    }
}

#[test]
fn what_was_read_and_waits_for_the_window_is_kept_at_the_end() {
    let broker = ScriptedBroker::script()
        .on_publish(|_| Reply::Silence)
        .plain();
    let queue = QueueFile::new();
    let outcome = queue
        .publisher()
        .at_plain_port(broker.port())
        .args(["-l", "--flush-timeout", "0", "--max-inflight", "10"])
        .stdin(Cursor::new(lines(1, 300).join("\n")))
        .run(SOON)
        .expect_code(75);
    assert_eq!(accepted(&outcome.stdout.texts()), 300, "{outcome}");
    assert_eq!(waiting(&queue), lines(1, 300));
}

#[test]
fn a_broker_with_a_small_window_holds_nothing_up() {
    // Mosquitto's own default is a Receive Maximum of 20.
    let broker = Broker::builder().line("max_inflight_messages 20").start();
    let queue = QueueFile::with(&lines(1, 5_000).join("\n"));
    let proxy = Proxy::start(broker.port(), Duration::ZERO);
    let outcome = queue
        .publisher()
        .at_port(proxy.port())
        .arg("-l")
        .run(SOON)
        .expect_code(0);
    assert_eq!(receipts(&outcome.stdout.texts(), "delivered ").len(), 5_000);
}
