//! `--stamp`, a reading with its time, and `--repeat`, a message several times.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use crate::harness::peer::Witness;
use crate::harness::{Broker, Program, QueueFile, SOON, free_port, temp_dir, wait_until};

fn publisher(broker: &Broker, flags: &[&str]) -> Program {
    Program::publisher()
        .to(broker)
        .args(["-t", "t"])
        .args(flags)
}

/// The objects that arrived; each must have a time between `since` and now.
fn values(witness: &Witness, count: usize, since: SystemTime) -> Vec<String> {
    let lines = witness.messages(count, SOON);
    let until = SystemTime::now();
    let value = |text: &str| {
        let object: serde_json::Value = serde_json::from_str(text).unwrap();
        let time = object["time"].as_str().unwrap();
        assert!(time.ends_with('Z') && time.len() == 24, "{text}");
        let time = humantime::parse_rfc3339(time).unwrap();
        let earliest = since - Duration::from_millis(1);
        assert!((earliest..=until).contains(&time), "{text}");
        object["value"].to_string()
    };
    lines.iter().map(|line| value(&line.text)).collect()
}

#[test]
fn each_reading_carries_its_time_and_json_stays_as_it_is() {
    let broker = Broker::start();
    let witness = Witness::start(&broker, "t");
    let since = SystemTime::now();
    let lines = publisher(&broker, &["--stamp", "--stdin-line", "--summary"]);
    let outcome = lines.stdin(&b"21.5\non\n\xff\n{\"a\":1}\n"[..]).run(SOON);
    outcome
        .expect_code(65)
        .expect_stderr("message 3 is rejected: is not UTF-8 text, which --stamp needs");
    assert_eq!(values(&witness, 3, since), ["21.5", "\"on\"", "{\"a\":1}"]);
}

#[test]
fn messages_and_json_lines_are_stamped_too() {
    let broker = Broker::start();
    let witness = Witness::start(&broker, "t");
    let since = SystemTime::now();
    publisher(&broker, &["--stamp", "-m", "7"])
        .run(SOON)
        .expect_code(0);
    let json = publisher(&broker, &["--stamp", "--stdin-line", "--input", "json"]);
    json.stdin(&b"{\"payload\":8}\n{\"payload\":\"nine\"}\n"[..])
        .run(SOON)
        .expect_code(0);
    assert_eq!(values(&witness, 3, since), ["7", "8", "\"nine\""]);
}

#[test]
fn every_reading_of_a_batch_has_its_own_time() {
    let broker = Broker::start();
    let dir = temp_dir();
    let out = dir.path().join("out");
    let subscriber = Program::subscriber()
        .to(&broker)
        .args(["-t", "t", "-C", "50", "-d", "--output"]);
    let subscriber = subscriber.arg(&out).start();
    subscriber.wait_subscribed();
    let numbers: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    let input = numbers.join("\n");
    let program = publisher(&broker, &["--stamp", "--stdin-line", "--batch", "50"]);
    program
        .stdin(std::io::Cursor::new(input))
        .run(SOON)
        .expect_code(0);
    subscriber.finish(SOON).expect_code(0);
    let text = std::fs::read_to_string(&out).unwrap();
    for (number, line) in text.lines().enumerate() {
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert!(
            object["time"].is_string() && object["value"] == number,
            "{line}"
        );
    }
    assert_eq!(text.lines().count(), 50);
}

#[test]
fn a_reading_that_waited_keeps_the_time_at_which_it_was_read() {
    let mut nobody = Broker::start();
    let port = nobody.port();
    nobody.kill();
    let mut publisher = Program::publisher()
        .at_port(port)
        .args([
            "-t",
            "t",
            "--stamp",
            "--stdin-line",
            "--receipts",
            "--flush-timeout",
            "20",
        ])
        .args(["--base-backoff", "0.1", "--max-backoff", "0.2", "-d"])
        .stdin_pipe()
        .start();
    publisher.send("1\n2\n3\n");
    publisher.stdout_line(SOON, |line| line == "accepted 3");
    let read_by = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    nobody.start_again();
    let witness = Witness::start(&nobody, "t");
    publisher.close_stdin();
    publisher.finish(SOON).expect_code(0);
    for line in witness.lines.all() {
        let object: serde_json::Value = serde_json::from_str(&line.text).unwrap();
        let time = humantime::parse_rfc3339(object["time"].as_str().unwrap()).unwrap();
        assert!(
            time.duration_since(UNIX_EPOCH).unwrap() <= read_by,
            "{}",
            line.text
        );
    }
}

#[test]
fn a_message_is_repeated_every_interval() {
    let broker = Broker::start();
    let witness = Witness::start(&broker, "t");
    let dir = temp_dir();
    let file = dir.path().join("payload");
    std::fs::write(&file, "x").unwrap();
    let file = file.to_str().unwrap();
    let flags = ["--repeat", "3", "--interval", "100ms"];
    for source in [&["-m", "x"][..], &["-f", file], &["-s"]] {
        let outcome = publisher(&broker, source)
            .args(flags)
            .stdin(&b"x"[..])
            .run(SOON);
        let outcome = outcome.expect_code(0);
        assert!(outcome.elapsed >= Duration::from_millis(200), "{outcome}");
    }
    publisher(&broker, &["-n", "--repeat", "2", "--interval", "10ms"])
        .run(SOON)
        .expect_code(0);
    let texts = witness.texts(11);
    assert_eq!(texts, [&["x"; 9][..], &["", ""]].concat());
}

#[test]
fn the_file_and_the_environment_stamp_and_repeat_too() {
    let broker = Broker::start();
    let witness = Witness::start(&broker, "t");
    let since = SystemTime::now();
    let text = "stamp = true\nrepeat = 2\ninterval = \"10ms\"\nmessage = \"1\"\n";
    let by_file = publisher(&broker, &[]).config(text);
    by_file.run(SOON).expect_code(0);
    let by_variables = publisher(&broker, &["-m", "2"]).env("IOT_STAMP", "yes");
    let by_variables = by_variables
        .env("IOT_REPEAT", "2")
        .env("IOT_INTERVAL", "10ms");
    by_variables.run(SOON).expect_code(0);
    assert_eq!(values(&witness, 4, since), ["1", "1", "2", "2"]);
}

#[test]
fn only_one_message_can_be_repeated() {
    for source in [&["--stdin-line"][..], &["--exec", "date"]] {
        let program = Program::publisher().args(["-e", "localhost", "-t", "t", "--repeat", "2"]);
        program
            .args(source)
            .run(SOON)
            .expect_fault(64, &["--repeat", "--count"]);
    }
}

#[test]
fn a_repetition_that_waits_for_a_full_queue_takes_no_processor_time() {
    let queue = QueueFile::new();
    let program = queue.publisher().at_port(free_port());
    let program = program.args(["-m", "x", "--repeat", "1000", "--interval", "1ms"]);
    let program = program.args(["--queue-size", "2", "--drop-behavior", "block"]);
    let publisher = program
        .args(["--base-backoff", "15", "--max-backoff", "15"])
        .start();
    publisher.stdout_line(SOON, |line| line == "accepted 2");
    // Until the first connection attempt has failed.
    publisher.stderr_line(SOON, |line| line.contains("trying again"));
    let before = publisher.processor_time();
    assert!(
        !wait_until(Duration::from_secs(1), || publisher.stdout.count() > 2),
        "{publisher}"
    );
    let used = publisher.processor_time().saturating_sub(before);
    assert!(used < Duration::from_millis(200), "{used:?}\n{publisher}");
    let outcome = publisher.finish_by(Signal::SIGTERM, SOON);
    outcome
        .expect_code(75)
        .expect_stdout("accepted 1\naccepted 2\n");
}
