//! Sessions that outlive the subscriber, which is killed: nothing is missed, little comes twice.

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::Cursor,
    path::Path,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::harness::running::Running;
use crate::harness::{Broker, Program, SOON, temp_dir, wait_until};

/// Time limit for thousands of messages and many starts.
const LONG: Duration = Duration::from_secs(300);

/// A broker with a small window, which tells of each packet. Mosquitto 2.0.11 does not keep to its
/// window after a reconnect: how much is unacknowledged is for its log to say.
fn broker() -> Broker {
    let broker = Broker::builder().line("max_queued_messages 0");
    let broker = broker.line("max_inflight_messages 20");
    broker.line("log_type debug").start()
}

/// The messages that the broker had sent to this client and not seen acknowledged whenever a
/// connection of it ended, in all: this many messages may come twice.
fn unacknowledged(broker: &Broker, client: &str) -> usize {
    let number = |line: &str, after: &str| -> Option<u16> {
        let (_, rest) = line.split_once(after)?;
        rest.split(|c: char| !c.is_ascii_digit())
            .next()?
            .parse()
            .ok()
    };
    let sending = format!("Sending PUBLISH to {client} (");
    let acknowledged = [
        format!("Received PUBACK from {client} (Mid: "),
        format!("Received PUBREC from {client} (Mid: "),
    ];
    let ended = format!("Client {client} ");
    let mut open = HashSet::new();
    let mut sum = 0;
    for line in broker.log().texts() {
        if line.contains(&sending) {
            open.insert(number(&line, ", m").expect("an identifier"));
        } else if let Some(id) = acknowledged.iter().find_map(|said| number(&line, said)) {
            open.remove(&id);
        } else if line.contains(&ended) {
            sum += open.len();
        }
    }
    sum
}

fn subscriber(broker: &Broker, flags: &[&str]) -> Program {
    let program = Program::subscriber().to(broker).args(["-t", "t", "-d"]);
    let program = program.args(["--persistent", "--client-id", "stays"]);
    program.args(flags)
}

fn publish(broker: &Broker, numbers: std::ops::Range<u32>, qos: &str) {
    let lines: Vec<String> = numbers.map(|n| n.to_string()).collect();
    let program = Program::publisher().to(broker);
    let program = program.args(["-t", "t", "-l", "-q", qos]);
    let program = program.stdin(Cursor::new(lines.join("\n")));
    program.run(SOON).expect_code(0);
}

fn received(file: &Path) -> Vec<u32> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().map(|line| line.parse().unwrap()).collect()
}

/// Numbers as runs of ascending ones: `0-19 3-40`.
fn runs(numbers: &[u32]) -> String {
    let ends = numbers.chunk_by(|a, b| a + 1 == *b);
    let runs = ends.map(|run| format!("{}-{}", run[0], run[run.len() - 1]));
    runs.collect::<Vec<_>>().join(" ")
}

#[test]
fn what_was_published_while_it_was_away_comes_when_it_is_back() {
    let broker = broker();
    for (version, qos) in [("5", "1"), ("5", "2"), ("3.1.1", "1"), ("3.1.1", "2")] {
        let dir = temp_dir();
        let file = dir.path().join("out");
        let name = format!("{version}-{qos}");
        let output = file.to_str().unwrap();
        let start = || {
            let flags = ["-q", qos, "--mqtt-version", version, "--output", output];
            let program = Program::subscriber().to(&broker).args(["-t", "t", "-d"]);
            let program = program.args(["--persistent", "--client-id", &name]);
            program.args(flags).start()
        };
        for (round, signal) in [Signal::SIGTERM, Signal::SIGKILL].into_iter().enumerate() {
            let running = start();
            running.wait_subscribed();
            running.finish_by(signal, SOON);
            let first = u32::try_from(round).unwrap() * 100;
            publish(&broker, first..first + 100, qos);
        }
        let running = start();
        let all = wait_until(SOON, || received(&file).contains(&199));
        assert!(all, "{name}: {}", received(&file).len());
        running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
        // Killed it had not acknowledged all that it had written.
        let mut seen = HashSet::new();
        let mut first = received(&file);
        let allowed = unacknowledged(&broker, &name);
        assert!(first.len() <= 200 + allowed, "{name}: {}", first.len());
        first.retain(|number| seen.insert(*number));
        assert_eq!(first, (0..200).collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn a_session_that_the_broker_has_lost_is_missed_aloud() {
    let mut broker = broker();
    let running = subscriber(&broker, &["--base-backoff", "0.1"]).start();
    running.wait_subscribed();
    broker.restart();
    running.stderr_line(SOON, |line| line.contains("has lost the session"));
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    // Between two runs only --state tells.
    let dir = temp_dir();
    let state = dir.path().join("state");
    let flags = ["--state", state.to_str().unwrap()];
    let first = subscriber(&broker, &flags).start();
    first.wait_subscribed();
    let outcome = first.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    assert!(!outcome.stderr.text().contains("has lost"), "{outcome}");
    broker.restart();
    let second = subscriber(&broker, &flags).start();
    second.stderr_line(SOON, |line| line.contains("has lost the session"));
    second.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn a_session_is_kept_no_longer_than_it_was_asked_for() {
    let broker = broker();
    let flags = ["--session-expiry", "1"];
    let first = subscriber(&broker, &flags).start();
    first.wait_subscribed();
    first.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let expired = broker
        .log()
        .wait(SOON, |line| line.contains("Expiring client stays"));
    assert!(expired.is_some(), "{:#?}", broker.log().texts());
    publish(&broker, 0..10, "1");
    let second = subscriber(&broker, &["-W", "1"]).start();
    let outcome = second.finish(SOON).expect_code(27);
    assert_eq!(outcome.stdout.text(), "");
}

#[test]
fn with_state_a_filter_that_is_not_wanted_any_more_is_left() {
    let broker = broker();
    let dir = temp_dir();
    let state = dir.path().join("state");
    let flags = ["--state", state.to_str().unwrap()];
    let first = subscriber(&broker, &flags).args(["-t", "old"]).start();
    first.stderr_line(SOON, |line| line.contains("old: subscribed"));
    first.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let second = subscriber(&broker, &flags).start();
    second.stderr_line(SOON, |line| line.contains("no longer subscribed: old"));
    let gone = broker.log().wait(SOON, |line| line.contains("stays old"));
    assert!(gone.is_some(), "{:#?}", broker.log().texts());
    second.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn killed_at_random_it_misses_nothing() {
    kill_at_random("5");
}

#[test]
fn killed_at_random_it_misses_nothing_with_mqtt_3_1_1() {
    kill_at_random("3.1.1");
}

/// Kills a subscriber at random moments while messages flow. `scripts/crash-test subscriber` makes
/// more of it.
fn kill_at_random(version: &str) {
    let number = |name: &str, default: u32| {
        let given = std::env::var(name).ok();
        given.map_or(default, |text| text.parse().unwrap())
    };
    let kills = number("IOT_TEST_SUBSCRIBER_KILLS", 8);
    let messages = number("IOT_TEST_SUBSCRIBER_MESSAGES", 2_000);
    let broker = broker();
    let dir = temp_dir();
    let file = dir.path().join("out");
    let flags = ["--mqtt-version", version, "--output"];
    let start = || -> Running { subscriber(&broker, &flags).arg(&file).start() };
    let first = start();
    first.wait_subscribed();
    let mut running = Some(first);
    let publisher = Program::publisher().to(&broker).args(["-t", "t", "-l"]);
    let mut publisher = publisher.stdin_pipe().start();
    let mut random = fastrand::Rng::with_seed(7);
    let started = Instant::now();
    let mut sent = 0;
    for kill in 1..=kills {
        // They flow while it is killed, and while it is away.
        let until = messages / kills * kill;
        let middle = random.u32(sent..until);
        for number in sent..until {
            publisher.send(format!("{number}\n"));
            if number == middle {
                let pause = Duration::from_micros(random.u64(0..30_000));
                std::thread::park_timeout(pause);
                if let Some(running) = running.take() {
                    running.finish_by(Signal::SIGKILL, SOON);
                }
                running = Some(start());
            }
        }
        sent = until;
        if let Some(running) = &running {
            running.wait_subscribed();
        }
    }
    for number in sent..messages {
        publisher.send(format!("{number}\n"));
    }
    publisher.close_stdin();
    publisher.finish(LONG).expect_code(0);
    let distinct = || {
        let mut counts = HashMap::new();
        for number in received(&file) {
            *counts.entry(number).or_insert(0_usize) += 1;
        }
        counts
    };
    let all = wait_until(SOON, || distinct().len() == messages as usize);
    let counts = distinct();
    assert!(all, "{} of {messages}", counts.len());
    if let Some(running) = running {
        running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    }
    let repeats: usize = counts.values().map(|count| count - 1).sum();
    let allowed = unacknowledged(&broker, "stays");
    assert!(
        repeats <= allowed,
        "{repeats} repeats, {allowed} unacknowledged: {}",
        runs(&received(&file))
    );
    println!(
        "MQTT {version}: {kills} kills, {messages} messages, none lost, {repeats} repeats of {allowed} unacknowledged, {:.0} s",
        started.elapsed().as_secs_f64()
    );
}
