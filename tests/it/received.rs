//! What a subscriber makes of a message: text or JSON, written before it is acknowledged,
//! harmless on a terminal.

use std::{
    fs::File,
    io::{PipeReader, Read, pipe},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, fcntl},
    sys::signal::Signal,
};

use crate::harness::{
    Broker, Program, SOON, ScriptedBroker, peer,
    running::{Outcome, Running},
    scripted::Event,
    seen::acknowledged,
};

/// Longer than a pipe of one memory page takes.
static LARGE: [u8; 5_000] = [b'x'; 5_000];

fn wait_subscribed(subscriber: &Running) {
    subscriber.stderr_line(SOON, |line| line.contains(": subscribed with QoS"));
}

/// What these flags print of one retained-free message of these bytes to the topic `a/b`.
fn printed(flags: &[&str], payload: &str) -> Outcome {
    let broker = Broker::start();
    let program = Program::subscriber().to(&broker).args(["-t", "a/b", "-d"]);
    let subscriber = program.args(["-C", "1"]).args(flags).start();
    wait_subscribed(&subscriber);
    assert!(peer::publish(&broker, "a/b", payload).status.success());
    subscriber.finish(SOON).expect_code(0)
}

/// A pipe that takes one memory page, and so not all of [`LARGE`].
fn narrow_pipe() -> (PipeReader, std::io::PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    (reader, writer)
}

/// A broker that sends a small and two large messages to `t`.
fn sending() -> ScriptedBroker {
    ScriptedBroker::script()
        .after_subscribe("t", "t", b"small")
        .after_subscribe("t", "t", &LARGE)
        .after_subscribe("t", "t", &LARGE)
        .tls()
}

#[test]
fn text_is_the_payload_with_topic_and_newline_as_wanted() {
    printed(&[], "21 °C").expect_stdout("21 °C\n");
    printed(&["-N"], "21 °C").expect_stdout("21 °C");
    printed(&["-v"], "21 °C").expect_stdout("a/b 21 °C\n");
    printed(&["-v", "-N"], "").expect_stdout("a/b ");
}

#[test]
fn control_characters_are_exact_in_a_pipe() {
    let payload = "\u{1b}[2J\r\u{7}\u{9b}1m\n";
    let expected = format!("{payload}\n");
    printed(&[], payload).expect_stdout(&expected);
}

#[test]
fn control_characters_never_reach_a_terminal() {
    let payload = "bell\u{7} \u{1b}[2J \u{9b}1m \u{7f} \u{8}end".as_bytes();
    let raw = [&b"\xff\x1b]0;title\x07 "[..], payload].concat();
    for flags in [&[][..], &["-v"], &["-J"], &["-N"]] {
        let broker = ScriptedBroker::script()
            .after_subscribe("#", "a/\u{1b}[31m", payload)
            .after_subscribe("#", "b", &raw)
            .tls();
        let program = Program::subscriber().at_port(broker.port()).args(flags);
        let program = program.args(["-t", "#", "-C", "2"]);
        let outcome = program.start_on_terminal().finish(SOON).expect_code(0);
        let shown = outcome.stdout.text();
        let harmless = |c: char| !c.is_control() || matches!(c, '\r' | '\n');
        assert!(shown.chars().all(harmless), "{shown:?}");
        let has_both = shown.contains("end") && !flags.contains(&"-J");
        assert!(has_both || shown.contains("payload_base64"), "{shown:?}");
    }
}

#[test]
fn json_carries_what_the_publisher_said() {
    let broker = Broker::start();
    let program = Program::subscriber().to(&broker).args(["-t", "t", "-d"]);
    let subscriber = program.args(["-J", "-C", "2"]).start();
    wait_subscribed(&subscriber);
    Program::one_message().to(&broker).run(SOON).expect_code(0);
    let mut other = peer::client("mosquitto_pub", &broker);
    other.args(["-q", "1", "-t", "t", "-s"]);
    other.stdin(File::open("/bin/true").unwrap());
    assert!(other.status().unwrap().success());
    let outcome = subscriber.finish(SOON).expect_code(0);
    let objects: Vec<serde_json::Value> = outcome
        .stdout
        .all()
        .iter()
        .map(|line| serde_json::from_str(&line.text).expect("one object per line"))
        .collect();
    let ours = &objects[0];
    assert_eq!(ours["topic"], "t", "{outcome}");
    assert_eq!((&ours["qos"], &ours["retain"]), (&1.into(), &0.into()));
    assert_eq!(ours["payload"], "hello");
    assert_eq!((&ours["payloadlen"], &ours["seq"]), (&5.into(), &1.into()));
    assert!(!ours["stream"].as_str().unwrap().is_empty());
    let latency = ours["latency_ms"].as_i64().unwrap();
    assert!((0..5_000).contains(&latency), "{latency}");
    for time in ["tst", "taken"] {
        let time = ours[time].as_str().unwrap();
        assert!(time.contains('T') && time.ends_with('Z'), "{time}");
    }
    // Bytes that are no text, and no `seq` property.
    let theirs = &objects[1];
    assert!(theirs["payload_base64"].is_string(), "{outcome}");
    let length = File::open("/bin/true").unwrap().metadata().unwrap().len();
    assert_eq!(theirs["payloadlen"], length);
    for absent in ["payload", "stream", "seq", "taken", "latency_ms"] {
        assert!(theirs.get(absent).is_none(), "{absent}");
    }
}

#[test]
fn a_message_is_acknowledged_only_after_it_was_written() {
    let broker = sending();
    let (mut reader, writer) = narrow_pipe();
    let program = Program::subscriber().at_port(broker.port()).stdout(writer);
    let _subscriber = program.args(["-t", "t"]).start();
    let mut small = [0; 6];
    reader.read_exact(&mut small).unwrap();
    assert_eq!(&small, b"small\n");
    // The beginning of the second message has been written, the rest waits.
    reader.read_exact(&mut [0]).unwrap();
    let early = crate::harness::wait_until(Duration::from_millis(500), || {
        acknowledged(&broker.events()).contains(&2)
    });
    assert!(!early, "{:?}", acknowledged(&broker.events()));
    // Its end, and the third.
    reader.read_exact(&mut [0; 2 * LARGE.len() + 1]).unwrap();
    broker.wait(SOON, |events| acknowledged(events) == [1, 2, 3]);
}

#[test]
fn a_reader_that_left_ends_the_run_in_silence_at_the_next_message() {
    let broker = Broker::start();
    let (mut reader, writer) = pipe().unwrap();
    let program = Program::subscriber().to(&broker).stdout(writer);
    let subscriber = program.args(["-t", "t", "-q", "2"]).start();
    let ready = |line: &str| line.ends_with(" 2 t");
    broker.log().wait(SOON, ready).expect("a subscription");
    assert!(peer::publish(&broker, "t", "one").status.success());
    reader.read_exact(&mut [0; 4]).unwrap();
    drop(reader);
    assert!(peer::publish(&broker, "t", "two").status.success());
    let printed = Instant::now();
    let outcome = subscriber.finish(SOON).expect_code(0);
    assert!(printed.elapsed() < Duration::from_secs(1), "{outcome}");
    assert_eq!(outcome.stderr.text(), "", "{outcome}");
}

#[test]
fn a_full_disk_is_an_io_error_and_nothing_is_acknowledged() {
    let broker = sending();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let program = Program::subscriber().at_port(broker.port()).stdout(full);
    let outcome = program.args(["-t", "t"]).run(SOON).expect_code(74);
    assert_eq!(outcome.stderr.count(), 1, "{outcome}");
    outcome.expect_stderr("standard output cannot be written");
    broker.wait(SOON, |events| matches!(events.last(), Some(Event::End)));
    assert!(acknowledged(&broker.events()).is_empty());
}

#[test]
fn a_signal_ends_a_run_whose_reader_is_stuck() {
    let broker = sending();
    let (mut reader, writer) = narrow_pipe();
    let program = Program::subscriber().at_port(broker.port()).stdout(writer);
    let subscriber = program.args(["-t", "t"]).start();
    reader.read_exact(&mut [0; 7]).unwrap();
    let stopped = Instant::now();
    let outcome = subscriber.finish_by(Signal::SIGTERM, SOON);
    assert!(stopped.elapsed() < Duration::from_secs(5), "{outcome}");
    outcome.expect_code(0);
    assert!(!acknowledged(&broker.events()).contains(&2));
}

#[test]
fn the_summary_follows_the_last_message_every_time() {
    let broker = ScriptedBroker::script()
        .after_subscribe("t", "t", b"last")
        .tls();
    for _ in 0..10 {
        let program = Program::subscriber().at_port(broker.port());
        let program = program.args(["-t", "t", "-C", "1", "--summary"]);
        let outcome = program.run(SOON).expect_code(0);
        let text = outcome.stdout.text();
        assert!(text.starts_with("last\n{\"received\":1,"), "{outcome}");
    }
}

#[test]
fn the_summary_counts_repeats_and_gaps() {
    let broker = Broker::start();
    let program = Program::subscriber().to(&broker).args(["-t", "t", "-d"]);
    let subscriber = program.args(["--summary", "-C", "9"]).start();
    wait_subscribed(&subscriber);
    // Of `one`, 3 and 5 to 6 are missing and 2 and 7 come twice; `two` is complete.
    for (stream, seq) in [
        ("one", Some(1)),
        ("one", Some(2)),
        ("two", Some(5)),
        ("one", Some(2)),
        ("one", Some(4)),
        ("one", Some(7)),
        ("one", Some(7)),
        ("two", Some(6)),
        ("none", None),
    ] {
        let mut client = peer::client("mosquitto_pub", &broker);
        client.args(["-V", "mqttv5", "-q", "1", "-t", "t", "-m", "x"]);
        if let Some(seq) = seq {
            let seq = format!("{stream}/{seq}/1769846400000");
            client.args(["-D", "publish", "user-property", "seq", &seq]);
        }
        assert!(client.status().unwrap().success());
    }
    let outcome = subscriber.finish(SOON).expect_code(0);
    let last = outcome.stdout.all().pop().unwrap().text;
    let summary = serde_json::from_str::<serde_json::Value>(&last);
    let summary = summary.unwrap_or_else(|_| panic!("no summary\n{outcome}"));
    let keys: Vec<_> = summary.as_object().unwrap().keys().cloned().collect();
    let mut expected = [
        "received",
        "duplicates",
        "gaps",
        "skipped",
        "reconnects",
        "elapsed_s",
    ];
    expected.sort_unstable();
    assert_eq!(keys, expected, "{outcome}");
    for (key, value) in [("received", 9), ("duplicates", 2), ("gaps", 3)] {
        assert_eq!(summary[key], value, "{key}\n{outcome}");
    }
    assert_eq!(summary["reconnects"], 0);
}
