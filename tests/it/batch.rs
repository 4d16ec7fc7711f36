//! `--batch`: several readings in one message, and what becomes of them on every way.

use std::{
    fs,
    io::Cursor,
    time::{Duration, Instant},
};

use data_encoding::HEXLOWER;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::peer::Witness;
use crate::harness::{Broker, Program, QueueFile, SOON, ScriptedBroker, free_port, temp_dir};

const TYPE: &str = "application/x-ndjson";

/// Longer than any test: only what closes a batch earlier does.
const PATIENT: [&str; 4] = ["--batch", "100", "--batch-wait", "1h"];

/// Lines of standard input to the topic `t`.
fn lines_to(broker: &Broker) -> Program {
    Program::publisher().to(broker).args(["-t", "t", "-l"])
}

/// Topic, content type and payload of every message.
fn watch(broker: &Broker) -> Witness {
    Witness::with_format(broker, "#", "%t|%C|%x")
}

/// The first messages as `topic|content type|payload`, the type as `*` if it is a batch's.
fn seen(witness: &Witness, count: usize) -> Vec<String> {
    let readable = |text: &str| {
        let parts: Vec<_> = text.split('|').collect();
        let payload = HEXLOWER.decode(parts[2].as_bytes()).unwrap();
        let (topic, sort) = (parts[0], parts[1].replace(TYPE, "*"));
        format!("{topic}|{sort}|{}", payload.escape_ascii())
    };
    let messages = witness.messages(count, SOON);
    messages.iter().map(|line| readable(&line.text)).collect()
}

fn numbers(count: usize) -> String {
    let lines: Vec<_> = (1..=count).map(|n| format!("line {n}\n")).collect();
    lines.concat()
}

/// The last line of standard output, the summary.
fn summary(stdout: &str) -> Value {
    serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
}

#[test]
fn a_thousand_lines_are_ten_messages_and_every_byte_of_them_arrives() {
    let broker = Broker::start();
    let witness = watch(&broker);
    let lines = numbers(1_000);
    let outcome = lines_to(&broker)
        .args(PATIENT)
        .args(["--summary", "--receipts"])
        .stdin(Cursor::new(lines.clone()))
        .run(SOON)
        .expect_code(0);
    let messages = witness.messages(10, SOON);
    let mut all = Vec::new();
    for message in &messages {
        let payload = message.text.strip_prefix(&format!("t|{TYPE}|")).unwrap();
        let payload = HEXLOWER.decode(payload.as_bytes()).unwrap();
        assert_eq!(payload.split_inclusive(|b| *b == b'\n').count(), 100);
        all.extend(payload);
    }
    assert_eq!(all, lines.as_bytes());
    assert_eq!(witness.lines.count(), 10);
    let text = outcome.stdout.text();
    for n in 1..=10 {
        for receipt in [format!("accepted {n} 100"), format!("delivered {n}")] {
            assert!(
                text.lines().any(|line| line == receipt),
                "{receipt}\n{text}"
            );
        }
    }
    let summary = summary(&text);
    let counts = ["accepted", "delivered", "readings"].map(|name| summary[name].as_u64());
    assert_eq!(counts, [Some(10), Some(10), Some(1_000)]);
}

#[test]
fn any_bytes_go_in_and_one_reading_alone_is_a_plain_message() {
    let broker = Broker::start();
    let witness = watch(&broker);
    let publish = |flags: &[&str], lines: &'static [u8]| {
        let publisher = lines_to(&broker).args(flags).arg("-v");
        let publisher = publisher.stdin(Cursor::new(lines));
        publisher.run(SOON).expect_code(0).stdout.bytes()
    };
    let printed = publish(&PATIENT, b"a\0b\n\n\xff\xfe\r\n\nlast");
    assert_eq!(printed, b"t a\0b\nt \nt \xff\xfe\r\nt \nt last\n");
    assert_eq!(publish(&PATIENT, b"alone\n"), b"t alone\n");
    publish(&PATIENT, b"\n");
    publish(&[], b"x\ny\n");
    assert_eq!(
        seen(&witness, 5),
        [
            r"t|*|a\x00b\n\n\xff\xfe\r\n\nlast\n",
            "t||alone",
            "t||",
            "t||x",
            "t||y"
        ]
    );
}

#[test]
fn only_what_belongs_together_goes_together() {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "#", "%t|%C|%x|%q");
    let lines = [
        r#"{"topic":"a","payload":"1"}"#,
        r#"{"topic":"a","payload":{"t":2}}"#,
        r#"{"topic":"b","payload":"3"}"#,
        r#"{"topic":"a","payload":"4\n5"}"#,
        r#"{"topic":"a","payload_base64":"/w=="}"#,
        "no JSON",
        r#"{"topic":"a","payload":"7"}"#,
        r#"{"topic":"a","payload":"8","qos":0}"#,
    ];
    let outcome = Program::publisher()
        .to(&broker)
        .args(["-l", "--input", "json", "--receipts", "--summary"])
        .args(PATIENT)
        .stdin(Cursor::new(lines.join("\n")))
        .run(SOON)
        .expect_code(65);
    let mut seen: Vec<_> = witness.messages(5, SOON);
    // QoS 0 takes no round trip.
    seen.sort_by_key(|line| line.text.ends_with("|0"));
    let seen: Vec<_> = seen.into_iter().map(|line| line.text).collect();
    let hex = |bytes: &[u8]| HEXLOWER.encode(bytes);
    assert_eq!(
        seen,
        [
            format!("a|{TYPE}|{}|1", hex(b"1\n{\"t\":2}\n")),
            format!("b||{}|1", hex(b"3")),
            format!("a||{}|1", hex(b"4\n5")),
            format!("a|{TYPE}|{}|1", hex(b"\xff\n7\n")),
            format!("a||{}|0", hex(b"8")),
        ]
    );
    let printed = outcome.stdout.text();
    for receipt in [
        "accepted 1 2",
        "accepted 2 1",
        "accepted 4 2",
        "accepted 5 1",
    ] {
        assert!(
            printed.lines().any(|line| line == receipt),
            "{receipt}\n{printed}"
        );
    }
    assert!(
        printed.contains("rejected 6 not a JSON object"),
        "{printed}"
    );
    let summary = summary(&printed);
    let counts = ["accepted", "rejected", "readings"].map(|name| summary[name].as_u64());
    assert_eq!(counts, [Some(5), Some(1), Some(7)]);
}

#[test]
fn what_trickles_waits_as_long_as_it_may_and_no_longer() {
    let broker = Broker::start();
    let witness = watch(&broker);
    let wait = Duration::from_millis(900);
    let mut running = lines_to(&broker)
        .args(["--batch", "100", "--batch-wait", "900ms", "--receipts"])
        .stdin_pipe()
        .start();
    let begun = Instant::now();
    running.send("1\n");
    for line in ["2\n", "3\n"] {
        let early = witness.lines.wait(Duration::from_millis(150), |_| true);
        assert!(early.is_none(), "{early:?}\n{running}");
        running.send(line);
    }
    assert_eq!(seen(&witness, 1), [r"t|*|1\n2\n3\n"]);
    let took = witness.messages(1, SOON)[0].at - begun;
    assert!(took >= wait && took < wait * 3, "{took:?}");
    // As many as make a message do not wait.
    let begun = Instant::now();
    running.send(numbers(100));
    running.stdout_line(SOON, |line| line == "delivered 2");
    assert!(begun.elapsed() < wait, "{:?}\n{running}", begun.elapsed());
    // The rest does not wait for the end of its time, but for the end of the input.
    running.send("last\n");
    running.close_stdin();
    let outcome = running.finish(SOON).expect_code(0);
    assert_eq!(seen(&witness, 3)[2], "t||last", "{outcome}");
}

#[test]
fn a_signal_sends_what_was_gathered() {
    let broker = Broker::start();
    let witness = watch(&broker);
    let dir = temp_dir();
    let runs = dir.path().join("runs");
    let running = Program::publisher()
        .to(&broker)
        .args(["-t", "t", "--interval", "50ms", "--receipts"])
        .args(PATIENT)
        .args(["--exec", "sh", "-c", "echo x >>\"$0\"; echo reading"])
        .arg(&runs)
        .start();
    let count = || fs::read(&runs).map_or(0, |runs| runs.len() / 2);
    // A run begins only once the reading of the one before it has come.
    assert!(crate::harness::wait_until(SOON, || count() >= 5));
    assert_eq!(running.stdout.text(), "");
    let outcome = running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let seen = seen(&witness, 1);
    let readings = seen[0].matches(r"reading\n").count();
    assert!(
        readings >= 4 && seen[0].starts_with("t|*|reading"),
        "{seen:?}\n{outcome}"
    );
    assert_eq!(
        outcome.stdout.text(),
        format!("accepted 1 {readings}\ndelivered 1\n")
    );
}

#[test]
fn the_count_is_of_readings_and_closes_the_last_batch() {
    let broker = Broker::start();
    let witness = watch(&broker);
    let outcome = Program::publisher()
        .to(&broker)
        .args(["-t", "t", "--interval", "10ms", "-C", "25", "--receipts"])
        .args(["--batch", "10", "--batch-wait", "1h"])
        .run(SOON)
        .expect_code(0);
    let accepted: Vec<_> = outcome.stdout.texts();
    let accepted: Vec<_> = accepted
        .iter()
        .filter(|line| line.starts_with('a'))
        .collect();
    assert_eq!(accepted, ["accepted 1 10", "accepted 2 10", "accepted 3 5"]);
    let seen = seen(&witness, 3);
    for (message, readings) in seen.iter().zip([10, 10, 5]) {
        assert_eq!(message.matches(r"}\n").count(), readings, "{message}");
    }
    // Of lines, too: what is left over is not even read.
    let outcome = lines_to(&broker)
        .args([
            "-C",
            "15",
            "--batch",
            "10",
            "--batch-wait",
            "1h",
            "--summary",
        ])
        .stdin(Cursor::new(numbers(40)))
        .run(SOON)
        .expect_code(0);
    assert_eq!(summary(&outcome.stdout.text())["readings"], 15);
}

#[test]
fn a_batch_keeps_within_128_kib_and_a_larger_reading_goes_alone() {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "t", "%l %C");
    let lines = [
        60_000, 60_000, 60_000, 200_000, 131_072, 65_535, 65_535, 0, 5,
    ]
    .map(|length| {
        let mut line = vec![b'x'; length];
        line.push(b'\n');
        line
    });
    lines_to(&broker)
        .args(PATIENT)
        .stdin(Cursor::new(lines.concat()))
        .run(SOON)
        .expect_code(0);
    let seen: Vec<_> = witness.messages(6, SOON);
    let seen: Vec<_> = seen.iter().map(|line| line.text.trim_end()).collect();
    let batch = |bytes: usize| format!("{bytes} {TYPE}");
    assert_eq!(
        seen,
        [
            &batch(120_002),
            "60000",
            "200000",
            "131072",
            &batch(131_072),
            &batch(7)
        ]
    );
}

#[test]
fn what_is_at_hand_never_waits_for_more() {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "t", "%l");
    lines_to(&broker)
        .args(["--batch", "100000", "--batch-wait", "1h"])
        .stdin(Cursor::new("y\n".repeat(200_000)))
        .run(SOON)
        .expect_code(0);
    let lengths: Vec<_> = witness.messages(4, SOON);
    let lengths: Vec<_> = lengths.iter().map(|line| &*line.text).collect();
    assert_eq!(lengths, ["131072", "131072", "131072", "6784"]);
}

#[test]
fn no_batch_is_larger_than_the_packets_that_the_broker_takes() {
    let broker = Broker::builder().max_packet_size(1_000).start();
    let witness = Witness::with_format(&broker, "t", "%l");
    let outcome = lines_to(&broker)
        .args(["--batch", "1000", "--batch-wait", "1h", "--summary"])
        .stdin(Cursor::new(numbers(1_000)))
        .run(SOON)
        .expect_code(0);
    let summary = summary(&outcome.stdout.text());
    let accepted = usize::try_from(summary["accepted"].as_u64().unwrap()).unwrap();
    assert_eq!(summary["readings"], 1_000);
    let lengths: Vec<usize> = witness
        .messages(accepted, SOON)
        .iter()
        .map(|line| line.text.parse().unwrap())
        .collect();
    assert_eq!(lengths.iter().sum::<usize>(), numbers(1_000).len());
    let most = lengths.iter().max().unwrap();
    assert!((800..1_000).contains(most), "{lengths:?}");
}

#[test]
fn batches_that_were_queued_outlive_a_kill_and_stay_batches() {
    let queue = QueueFile::new();
    let mut running = queue
        .publisher()
        .at_port(free_port())
        .args(["-l", "--batch", "10"])
        .stdin_pipe()
        .start();
    running.send(numbers(20));
    running.stdout_line(SOON, |line| line == "accepted 2 10");
    running.send("\u{1f600}\n\n");
    running.stdout_line(SOON, |line| line.starts_with("accepted 3 "));
    running.finish_by(Signal::SIGKILL, SOON);

    let list = queue.command(&["list"]).expect_code(0).stdout.texts();
    assert!(list[0].ends_with(" t 71 (10 readings)"), "{list:?}");
    let list = queue.command(&["list", "--json"]).stdout.texts();
    let readings = |line: &String| serde_json::from_str::<Value>(line).unwrap()["readings"].clone();
    assert_eq!(
        list.iter().take(2).map(readings).collect::<Vec<_>>(),
        [10, 10]
    );
    let export = queue.command(&["export"]).expect_code(0).stdout.text();
    assert_eq!(export.lines().count(), 22, "{export}");

    let broker = Broker::start();
    let witness = watch(&broker);
    queue.drain(&broker);
    let arrived = seen(&witness, 3);
    let tens = |from: usize| (from..from + 10).map(|n| format!(r"line {n}\n"));
    let batch = |from| format!("t|*|{}", tens(from).collect::<String>());
    assert_eq!(arrived[..2], [batch(1), batch(11)]);
    assert!(
        arrived[2].starts_with(r"t|*|\xf0\x9f\x98\x80\n"),
        "{arrived:?}"
    );

    // What was exported is one message per reading, or as many as are wanted.
    let again = watch(&broker);
    Program::publisher()
        .to(&broker)
        .args(["-l", "--input", "json"])
        .args(PATIENT)
        .stdin(Cursor::new(export))
        .run(SOON)
        .expect_code(0);
    let all = format!(
        "t|*|{}{}{}",
        tens(1).collect::<String>(),
        tens(11).collect::<String>(),
        r"\xf0\x9f\x98\x80\n\n"
    );
    assert_eq!(seen(&again, 1), [all]);
}

#[test]
fn a_dead_batch_stays_one_and_is_retried_as_one() {
    let queue = QueueFile::new();
    let strict = Broker::builder().acl("topic read #\n").start();
    queue
        .publisher()
        .to(&strict)
        .args(["-l"])
        .args(PATIENT)
        .stdin(Cursor::new("1\n2\n"))
        .run(SOON)
        .expect_code(77);
    let dead = queue.command(&["export", "--dead"]).expect_code(0);
    assert_eq!(dead.stdout.texts().len(), 2, "{dead}");
    queue
        .command(&["retry"])
        .expect_code(0)
        .expect_stdout("1 back in the queue\n");
    let broker = Broker::start();
    let witness = watch(&broker);
    queue.drain(&broker);
    assert_eq!(seen(&witness, 1), [r"t|*|1\n2\n"]);
}

#[test]
fn a_full_queue_counts_messages_and_a_disabled_one_refuses_each_line() {
    let offline = || {
        Program::publisher()
            .at_port(free_port())
            .args(["-t", "t", "-l", "--receipts", "--flush-timeout", "0.1"])
            .args(["--batch", "10", "--batch-wait", "1h"])
            .args(["--drop-behavior", "oldest"])
            .stdin(Cursor::new(numbers(35)))
    };
    let outcome = offline()
        .args(["--queue-size", "3"])
        .run(SOON)
        .expect_code(69);
    assert_eq!(
        outcome.stdout.texts(),
        [
            "accepted 1 10",
            "accepted 2 10",
            "accepted 3 10",
            "dropped 1 oldest in a full queue",
            "accepted 4 5"
        ],
        "{outcome}"
    );
    let outcome = offline()
        .args(["--queue-size", "0"])
        .run(SOON)
        .expect_code(65);
    let printed = outcome.stdout.texts();
    assert_eq!(printed.len(), 35, "{outcome}");
    assert!(
        printed[34].starts_with("rejected 35 cannot be sent now"),
        "{outcome}"
    );
}

#[test]
fn a_broker_of_old_gets_batches_and_the_user_a_warning() {
    let broker = ScriptedBroker::script()
        .refuse_version_5(&[0x20, 2, 0, 1])
        .plain();
    let outcome = Program::publisher()
        .at_plain_port(broker.port())
        .args(["-t", "t", "-l", "--batch", "2"])
        .stdin(Cursor::new("1\n2\n3\n4\n"))
        .run(SOON)
        .expect_code(0);
    let publishes = broker.wait_publishes(2, SOON);
    assert_eq!(publishes[0].text(), "1\n2\n");
    let warnings = outcome.stderr.texts();
    let warnings = warnings
        .iter()
        .filter(|line| line.contains("cannot tell batches"));
    assert_eq!(warnings.count(), 1, "{outcome}");
}

#[test]
fn what_cannot_be_batched_is_a_usage_error() {
    let publisher = |flags: &[&str]| {
        Program::publisher()
            .endpoint(1)
            .args(["-t", "t"])
            .args(flags)
    };
    for (flags, part) in [
        (&["-l", "--batch", "0"][..], "--batch"),
        (&["-l", "--batch", "100001"], "--batch"),
        (&["-m", "x", "--batch", "2"], "one message"),
        (&["-n", "--batch", "2"], "one message"),
        (&["-f", "/dev/null", "--batch", "2"], "one message"),
        (&["-s", "--batch", "2"], "one message"),
        (&["-l", "--batch", "2", "--mqtt-version", "3.1.1"], "MQTT 5"),
    ] {
        publisher(flags).run(SOON).expect_fault(64, &[part]);
    }
}
