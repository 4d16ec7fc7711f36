//! The log: what is said of an outage, that failures which repeat are not, and its forms.

use std::{fs, io::Cursor, os::unix::fs::MetadataExt as _, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::certs::{Validity, certs};
use crate::harness::running::Outcome;
use crate::harness::{Broker, Program, QUICKLY, SOON, free_port, temp_dir, wait_until};

/// Ten readings per second, and a queue for five of them.
fn with_small_queue() -> Program {
    Program::publisher()
        .args(["-t", "t", "--interval", "0.1", "--receipts"])
        .args(["--queue-size", "5", "--drop-behavior", "oldest"])
        .args(QUICKLY)
}

/// The whole numbers in a text.
fn numbers(text: &str) -> Vec<u64> {
    let parts = text.split(|c: char| !c.is_ascii_digit());
    parts.filter_map(|part| part.parse().ok()).collect()
}

fn warnings(outcome: &Outcome) -> Vec<String> {
    let mut lines = outcome.stderr.texts();
    lines.retain(|line| line.contains(" WARN "));
    lines
}

#[test]
fn the_end_of_an_outage_has_its_length_and_its_losses() {
    let mut broker = Broker::builder().plain().start();
    let publisher = with_small_queue().to(&broker).start();
    publisher.stdout_line(SOON, |line| line.starts_with("delivered "));
    broker.stop();
    let dropped = |line: &str| line.starts_with("dropped ");
    let is_full = || publisher.stdout.count_of(dropped) >= 10;
    assert!(wait_until(SOON, is_full), "{publisher}");
    broker.start_again();
    let back = format!("WARN connected to localhost:{} again after ", broker.port());
    let line = publisher
        .stderr_line(SOON, |line| line.contains(&back))
        .text;
    let (_, rest) = line.split_once(&back).unwrap();
    let (length, losses) = rest.split_once("; ").expect(&line);
    let (seconds, attempts) = length.split_once(" s (").expect(&line);
    let seconds: f64 = seconds.parse().expect(&line);
    assert!((1.0..10.0).contains(&seconds), "{line}");
    assert!(
        numbers(attempts)[0] >= 4 && attempts.ends_with(" attempts)"),
        "{line}"
    );
    assert!(losses.contains(" messages dropped, "), "{line}");
    assert!(losses.ends_with(" wait"), "{line}");
    let [count, waiting] = numbers(losses)[..] else {
        panic!("{line}");
    };
    // The one that was in flight is not in the queue.
    assert!((5..=6).contains(&waiting), "{line}");
    let outcome = publisher.finish_by(Signal::SIGTERM, SOON).expect_code(65);
    assert_eq!(count, outcome.stdout.count_of(dropped) as u64, "{outcome}");
    // A start that works is no outage; the cause of this one was said once for each kind, however many attempts.
    let said = warnings(&outcome);
    assert!(said.len() <= 5, "{outcome}");
    assert_eq!(
        said.iter()
            .filter(|line| line.contains("; trying again in "))
            .count(),
        2,
        "{outcome}"
    );
}

#[test]
fn a_subscriber_says_that_it_is_connected_again() {
    let mut broker = Broker::builder().plain().start();
    let subscriber = Program::subscriber()
        .args(["-t", "t", "-d"])
        .args(QUICKLY)
        .to(&broker)
        .start();
    subscriber.wait_subscribed();
    broker.stop();
    let refused = |line: &str| line.contains("DEBUG") && line.contains("connection refused");
    subscriber.stderr_line(SOON, refused);
    broker.start_again();
    let back = format!("WARN connected to localhost:{} again after ", broker.port());
    let line = subscriber
        .stderr_line(SOON, |line| line.contains(&back))
        .text;
    assert!(line.ends_with(" attempts)"), "{line}");
    subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn a_run_that_begins_without_a_broker_says_when_it_is_connected() {
    let port = free_port();
    let publisher = Program::one_message()
        .at_plain_port(port)
        .args(QUICKLY)
        .start();
    publisher.stderr_line(SOON, |line| line.contains("trying again"));
    let _broker = Broker::builder().plain().port(port).start();
    let outcome = publisher.finish(SOON).expect_code(0);
    let line = warnings(&outcome).pop().unwrap();
    assert!(
        line.contains(&format!("connected to localhost:{port} after ")),
        "{outcome}"
    );
    assert!(line.ends_with("; 1 message waits"), "{outcome}");
}

#[test]
fn a_command_that_fails_for_each_message_is_logged_once_and_counted() {
    let broker = Broker::builder().plain().start();
    let subscriber = Program::subscriber()
        .args(["-t", "t", "-C", "40", "-q", "1"])
        .to(&broker)
        .args(["--exec", "sh", "-c", "exit 3"])
        .start();
    broker.log().wait(SOON, |line| line.ends_with(" 1 t"));
    let lines = "x\n".repeat(40);
    let publisher = Program::publisher().to(&broker).args(["-t", "t", "-l"]);
    publisher.stdin(Cursor::new(lines)).run(SOON).expect_code(0);
    let outcome = subscriber.finish(SOON).expect_code(65);
    let said = warnings(&outcome);
    assert_eq!(said.len(), 2, "{outcome}");
    assert!(said[0].contains("failed: exit status: 3"), "{outcome}");
    assert!(said[1].contains("40 of 40 commands failed"), "{outcome}");
}

#[test]
fn rejected_lines_are_logged_once_per_reason() {
    let lines = "{\n[]\n".repeat(40);
    let outcome = Program::publisher()
        .at_plain_port(free_port())
        .args(["-t", "t", "-l", "--input", "json", "--flush-timeout", "0"])
        .stdin(Cursor::new(lines))
        .run(SOON)
        .expect_code(65);
    let rejected = outcome
        .stderr
        .count_of(|line| line.contains(" is rejected: "));
    assert_eq!(rejected, 2, "{outcome}");
    outcome.expect_stderr("80 messages rejected");
}

#[test]
fn a_line_for_the_journal_has_a_priority_and_no_time() {
    let dir = temp_dir();
    let path = dir.path().join("journal");
    let file = fs::File::create(&path).unwrap();
    let stat = file.metadata().unwrap();
    let read = || fs::read_to_string(&path).unwrap();
    let mut broker = Broker::builder().plain().start();
    let publisher = with_small_queue()
        .to(&broker)
        .env("JOURNAL_STREAM", &format!("{}:{}", stat.dev(), stat.ino()))
        .env("RUST_LOG", "debug")
        .stderr(file)
        .start();
    publisher.stdout_line(SOON, |line| line.starts_with("delivered "));
    broker.stop();
    publisher.stdout_line(SOON, |line| line.starts_with("dropped "));
    broker.start_again();
    let back = format!("<4>connected to localhost:{} again after ", broker.port());
    assert!(wait_until(SOON, || read().contains(&back)), "{}", read());
    publisher.finish_by(Signal::SIGTERM, SOON).expect_code(65);
    let text = read();
    for line in text.lines() {
        let rest = ["<3>", "<4>", "<6>", "<7>"]
            .iter()
            .find_map(|priority| line.strip_prefix(priority));
        assert!(
            rest.is_some_and(|rest| !rest.starts_with("20")),
            "{line}\n{text}"
        );
    }
    assert!(text.contains("\n<6>connected to "), "{text}");
    assert!(text.contains("\n<7>sent CONNECT"), "{text}");
    assert!(text.contains("\n<4>readings are being dropped"), "{text}");
    let is_end = |line: &str| line.starts_with("<3>") && line.contains("dropped from a full queue");
    assert!(text.lines().any(is_end), "{text}");
    // An error of the command line, and standard error that is not the journal.
    for (stream, begins) in [("1:2", "publisher: "), ("", "publisher: ")] {
        let outcome = Program::publisher()
            .arg("--no-such-flag")
            .env("JOURNAL_STREAM", stream)
            .run(SOON);
        assert!(outcome.stderr.text().starts_with(begins), "{outcome}");
    }
    let file = fs::File::create(&path).unwrap();
    let program = Program::publisher().arg("--no-such-flag").stderr(file);
    program
        .env("JOURNAL_STREAM", &format!("{}:{}", stat.dev(), stat.ino()))
        .run(SOON)
        .expect_code(64);
    assert!(read().starts_with("<3>"), "{}", read());
}

fn objects(outcome: &Outcome) -> Vec<Value> {
    let lines = outcome.stderr.texts();
    let object = |line: &String| {
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}\n{outcome}"))
    };
    lines.iter().map(object).collect()
}

#[test]
fn each_line_of_the_json_log_is_an_object() {
    let outcome = Program::one_message()
        .at_plain_port(free_port())
        .args(QUICKLY)
        .args([
            "--log-format",
            "json",
            "-d",
            "-i",
            "pump-7",
            "--flush-timeout",
            "0.5",
        ])
        // JSON has no priority.
        .env("JOURNAL_STREAM", "1:2")
        .run(SOON)
        .expect_code(69);
    let lines = objects(&outcome);
    for line in &lines {
        line["ts"]
            .as_str()
            .unwrap()
            .parse::<jiff::Timestamp>()
            .unwrap();
        assert!(
            ["error", "warn", "info", "debug"].contains(&line["level"].as_str().unwrap()),
            "{line}"
        );
        assert_eq!(line["program"], "publisher");
        assert!(line["msg"].is_string(), "{line}");
    }
    let last = lines.last().unwrap();
    assert_eq!(last["level"], "error", "{outcome}");
    assert_eq!(last["client_id"], "pump-7", "{outcome}");
    assert_eq!(last["code"], 69, "{outcome}");
    let failed = lines
        .iter()
        .find(|line| line["msg"].as_str().unwrap().contains("trying again"));
    let failed = failed.unwrap();
    assert_eq!(
        (&failed["level"], &failed["code"]),
        (&"warn".into(), &69.into()),
        "{outcome}"
    );
}

#[test]
fn errors_of_the_command_line_are_json_too_however_the_format_is_set() {
    let wrong = || Program::publisher().args(["-t", "t", "-m", "x", "--qos", "7"]);
    for program in [
        wrong().args(["--log-format", "json"]),
        wrong().env("IOT_LOG_FORMAT", "json"),
        Program::publisher()
            .args(["-t", "t", "-m", "x"])
            .config("log-format = \"json\"\nqos = 7\n"),
        wrong()
            .env("IOT_LOG_FORMAT", "text")
            .arg("--log-format=json"),
    ] {
        let outcome = program.run(SOON).expect_code(64);
        let [line] = &objects(&outcome)[..] else {
            panic!("{outcome}");
        };
        assert_eq!(line["code"], 64, "{outcome}");
        assert_eq!(line["level"], "error", "{outcome}");
        assert!(line["msg"].as_str().unwrap().contains("--qos"), "{outcome}");
    }
    // Found after the command line has been read.
    let missing = Program::one_message().args([
        "--endpoint",
        "x",
        "--log-format",
        "json",
        "--config",
        "/nowhere",
    ]);
    let outcome = missing.run(SOON).expect_code(66);
    assert_eq!(objects(&outcome)[0]["code"], 66, "{outcome}");
    let text = Program::one_message()
        .args(["--log-format", "xml"])
        .run(SOON);
    text.expect_code(64).expect_stderr("--log-format 'xml'");
}

#[test]
fn a_quiet_run_that_leaves_its_messages_in_the_queue_prints_nothing() {
    let dir = temp_dir();
    let queue = dir.path().join("queue.db");
    let run = |quiet: &[&str]| {
        let program = Program::one_message()
            .at_plain_port(free_port())
            .args(quiet);
        let program = program
            .args(["--flush-timeout", "0.3", "--queue"])
            .arg(&queue);
        program.run(SOON).expect_code(75)
    };
    let outcome = run(&["--quiet"]);
    assert_eq!(outcome.stderr.text(), "", "{outcome}");
    assert_eq!(outcome.stdout.text(), "", "{outcome}");
    run(&[])
        .expect_stderr(" WARN ")
        .expect_stderr("2 messages wait in ");
}

#[test]
fn a_quiet_run_warns_once_a_day_of_a_certificate_that_ends_soon() {
    let dir = temp_dir();
    let pair = certs()
        .authority
        .client(dir.path(), "soon", Validity::EndsSoon);
    let broker = Broker::start();
    let run = |flags: &[&str], runtime_dir: &str| {
        let program = Program::one_message()
            .endpoint(broker.port())
            .ca(&certs().ca);
        let program = program
            .identity(&pair)
            .args(flags)
            .env("XDG_RUNTIME_DIR", runtime_dir);
        let outcome = program.run(SOON).expect_code(0);
        outcome
            .stderr
            .count_of(|line| line.contains(" WARN ") && line.contains("--cert expires in "))
    };
    let runtime_dir = dir.path().join("run");
    fs::create_dir(&runtime_dir).unwrap();
    let runtime = runtime_dir.to_str().unwrap();
    assert_eq!(run(&["--quiet"], runtime), 1);
    assert_eq!(run(&["--quiet"], runtime), 0);
    assert_eq!(run(&[], runtime), 1);
    // Yesterday's stamp.
    let stamp = fs::read_dir(&runtime_dir)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let stamp = fs::read_dir(stamp).unwrap().next().unwrap().unwrap().path();
    let seconds: u64 = fs::read_to_string(&stamp).unwrap().parse().unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    fs::write(&stamp, (seconds - day.as_secs()).to_string()).unwrap();
    assert_eq!(run(&["--quiet"], runtime), 1);
    assert_eq!(run(&["--quiet"], runtime), 0);
    // No stamp can be kept.
    let nowhere = dir.path().join("none");
    for _ in 0..2 {
        assert_eq!(run(&["--quiet"], nowhere.to_str().unwrap()), 1);
    }
}
