//! `--expiry`, and a wall clock that is set: between runs and in the middle of one. The machine does
//! not restart, so age has nothing to do with it.

use std::{io::Cursor, thread, time::Duration};

use crate::harness::clock::Clock;
use crate::harness::peer::Witness;
use crate::harness::{Broker, QueueFile, SOON, free_port, times, wait_until};

/// What the clock says first, and then.
const SETTINGS: [(&str, &str); 5] = [
    ("+0", "+3h"),
    ("+0", "-1d"),
    ("-3h", "+0"),
    ("@1970-01-01 00:01:00", "+0"),
    ("+0", "@1970-01-01 00:01:00"),
];

fn lines(name: &str, count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("{name}-{n:05}")).collect()
}

/// All of these have arrived, with nearly an hour left, and nothing else.
fn expect_arrived(witness: &Witness, lines: &[String], setting: (&str, &str)) {
    let mut seen: Vec<_> = witness.messages(lines.len(), SOON * 3);
    seen.sort_by(|one, other| one.text.cmp(&other.text));
    let words = seen.iter().map(|line| line.text.split_once(' ').unwrap());
    for (line, (payload, left)) in lines.iter().zip(words) {
        assert_eq!(payload, line, "{setting:?}");
        let left: u64 = left.parse().expect("a message expiry interval");
        assert!(
            (3_000..=3_600).contains(&left),
            "{setting:?}: {left} s left"
        );
    }
    assert_eq!(seen.len(), lines.len(), "{setting:?}");
}

#[test]
fn a_clock_that_is_set_between_runs_makes_nothing_older_or_younger() {
    let fresh = lines("fresh", times("IOT_TEST_CLOCK_READINGS", 800));
    for setting in SETTINGS {
        let queue = QueueFile::new();
        let clock = Clock::at(setting.0);
        let offline = |lines: &[String], expiry: &str| {
            let publisher = queue.publisher().at_plain_port(free_port());
            let publisher = publisher.args(["-l", "--flush-timeout", "0.1", "--expiry", expiry]);
            let publisher = publisher.stdin(Cursor::new(lines.join("\n")));
            clock.seen_by(publisher).run(SOON * 3).expect_code(75);
        };
        offline(&lines("stale", 3), "0.3");
        offline(&fresh, "1h");
        thread::park_timeout(Duration::from_millis(300));
        clock.set(setting.1);
        let status = clock.seen_by(crate::harness::Program::publisher());
        let status = status.args(["queue", "status", "--json", "--queue"]);
        let status = status
            .arg(queue.path())
            .run(SOON)
            .expect_code(0)
            .stdout
            .text();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let age = status["oldest_age_s"].as_u64().unwrap();
        assert!(age < 600, "{setting:?}: {status}");

        let broker = Broker::builder().plain().start();
        let witness = Witness::with_format(&broker, "t", "%p %E");
        let publisher = queue.publisher().to(&broker).args(["-l", "--summary"]);
        let outcome = clock.seen_by(publisher).run(SOON * 3).expect_code(65);
        let summary = outcome.stdout.texts().pop().unwrap();
        assert!(summary.contains("\"expired\":3,"), "{setting:?}\n{outcome}");
        expect_arrived(&witness, &fresh, setting);
    }
}

#[test]
fn a_clock_that_is_set_in_mid_run_makes_nothing_older_or_younger() {
    let fresh = lines("fresh", times("IOT_TEST_CLOCK_READINGS", 800));
    for setting in SETTINGS {
        for durable in [true, false] {
            let clock = Clock::at(setting.0);
            let port = free_port();
            let start = |lines: &[String], expiry: &str| {
                let queue = QueueFile::new();
                let publisher = if durable {
                    queue.publisher()
                } else {
                    let publisher = crate::harness::Program::publisher();
                    publisher.args(["-t", "t", "--receipts", "--queue-size", "-1"])
                };
                let publisher = publisher
                    .at_plain_port(port)
                    .args(["-l", "--expiry", expiry]);
                let publisher = publisher.args(["--base-backoff", "0.2", "--max-backoff", "0.2"]);
                let mut running = clock.seen_by(publisher).stdin_pipe().start();
                running.send(lines.join("\n") + "\n");
                running.stdout.wait_count(lines.len(), SOON * 3);
                (queue, running)
            };
            let (_kept, mut publisher) = start(&fresh, "1h");
            let (_old, mut stale) = start(&lines("stale", 3), "0.3");
            clock.set(setting.1);
            thread::park_timeout(Duration::from_millis(300));
            let broker = Broker::builder().plain().port(port).start();
            let witness = Witness::with_format(&broker, "t", "%p %E");
            stale.close_stdin();
            let outcome = stale.finish(SOON).expect_code(65);
            let expired = |line: &&String| line.starts_with("expired ");
            let count = outcome.stdout.texts().iter().filter(expired).count();
            assert_eq!(count, 3, "{setting:?}\n{outcome}");
            let delivered = |line: &str| line.starts_with("delivered ");
            let texts = || publisher.stdout.texts();
            let all = || texts().iter().filter(|line| delivered(line)).count() == fresh.len();
            assert!(wait_until(SOON * 3, all), "{setting:?}\n{publisher}");
            publisher.close_stdin();
            publisher.finish(SOON).expect_code(0);
            // What was sent before the witness was there is none of its business.
            let seen = witness.lines.texts();
            assert!(
                seen.iter().all(|line| line.starts_with("fresh")),
                "{seen:?}"
            );
        }
    }
}

#[test]
fn waits_end_though_the_clocks_of_the_c_library_are_replaced() {
    for by in ["-3h", "+3h"] {
        let queue = QueueFile::new();
        let publisher = queue.publisher().at_plain_port(free_port());
        let publisher = publisher.args(["-m", "one", "--expiry", "1h", "--flush-timeout", "0.2"]);
        Clock::all_shifted(publisher, by).run(SOON).expect_code(75);
        let broker = Broker::start();
        let publisher = queue.publisher().to(&broker);
        let publisher = publisher.args(["-m", "two", "--expiry", "1h"]);
        let outcome = publisher.run(SOON).expect_code(0);
        let delivered = outcome.stdout.texts();
        let delivered = delivered.iter().filter(|l| l.starts_with("delivered"));
        assert_eq!(delivered.count(), 2, "{by}: {outcome}");
    }
}
