//! `--input json`: each line is a separate message, as `subscriber --json` writes it.

use std::io::Cursor;

use crate::harness::packet::Publish;
use crate::harness::peer::Witness;
use crate::harness::{Broker, Program, QueueFile, SOON, ScriptedBroker, free_port};

fn lines(text: &str) -> Cursor<String> {
    Cursor::new(text.to_owned())
}

#[test]
fn what_a_subscriber_writes_as_json_a_publisher_reads_whatever_the_bytes() {
    let (from, to) = (Broker::start(), Broker::start());
    let subscriber = Program::subscriber()
        .to(&from)
        .args(["-t", "#", "-J", "-q", "2", "-C", "4"])
        .start();
    assert!(from.log().wait(SOON, |line| line.ends_with(" #")).is_some());
    let publish = |args: &[&str], payload: &'static [u8]| {
        let program = Program::publisher().to(&from).args(args);
        let program = program.stdin(Cursor::new(payload));
        program.arg("-s").run(SOON).expect_code(0);
    };
    publish(&["-t", "plain"], b"21.5");
    publish(&["-t", "bytes", "-q", "2"], b"\xff\x00\n\"\\");
    publish(&["-t", "empty"], b"");
    publish(&["-t", "kept", "-r"], "\u{1f600} \u{1b}[2J".as_bytes());
    let json = subscriber.finish(SOON).expect_code(0).stdout.text();

    let witness = Witness::with_format(&to, "#", "%t %q %x");
    Program::publisher()
        .to(&to)
        .args(["-l", "--input", "json", "-q", "0"])
        .stdin(Cursor::new(json))
        .run(SOON)
        .expect_code(0);
    let mut seen = witness.texts(4);
    seen.sort();
    let smiley = "f09f9880201b5b324a";
    let kept = format!("kept 1 {smiley}");
    assert_eq!(
        seen,
        ["bytes 1 ff000a225c", "empty 1 ", &kept, "plain 1 32312e35"]
    );
    // The retain flag came along only if the subscriber saw it: it does not on a live message.
}

#[test]
fn a_line_that_is_no_message_is_rejected_and_the_others_go_on() {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "#", "%t %r %p");
    let outcome = Program::publisher()
        .to(&broker)
        .args(["-l", "--input", "json", "-t", "usual", "--receipts"])
        .stdin(lines(
            "{\"payload\":\"1\"}\nnonsense\n{\"topic\":\"a/+\",\"payload\":\"x\"}\n\
             {\"topic\":\"own\",\"payload\":{\"t\":2},\"retain\":true}\n{\"qos\":3}\n",
        ))
        .run(SOON)
        .expect_code(65)
        .expect_stderr("message 2 is rejected: not a JSON object")
        .expect_stderr("message 5 is rejected: \"qos\" must be 0, 1 or 2");
    let receipts = outcome.stdout.text();
    for part in [
        "rejected 2 ",
        "rejected 3 its topic",
        "rejected 5 ",
        "delivered 2",
    ] {
        assert!(receipts.contains(part), "{part}\n{outcome}");
    }
    let seen = witness.texts(2);
    assert_eq!(seen, ["usual 0 1", "own 0 {\"t\":2}"]);
    // Retained it was all the same: who comes later gets it so.
    let late = Witness::with_format(&broker, "own", "%r %p");
    assert_eq!(late.messages(1, SOON)[0].text, "1 {\"t\":2}");
}

#[test]
fn json_needs_lines_and_lines_need_a_topic() {
    let publisher = || Program::publisher().endpoint(1);
    publisher()
        .args(["-t", "t", "-m", "x", "--input", "json"])
        .run(SOON)
        .expect_fault(64, &["--stdin-line"]);
    publisher()
        .args(["-l", "--input", "lines"])
        .run(SOON)
        .expect_fault(64, &["--topic"]);
    publisher()
        .arg("-l")
        .run(SOON)
        .expect_fault(64, &["--topic"]);
}

/// Payloads that are JSON and no string, as they stand on a line.
const JSON: [&str; 12] = [
    "12345678901234567890123",
    r#"{"b":1,"a":2.10}"#,
    "2.50",
    "-0",
    "1E400",
    "{ \"a\" : [ 1 ,2.0,\t3e0 ] , \"a\":null }",
    r#"["\u00e9\/\ud800","\u001b"]"#,
    "true",
    "[]",
    "\"text \\u00e9\"",
    "[\"\u{e9}\u{1f600}\"]",
    r#"{"payload":{"payload":1.0}}"#,
];

/// The bytes that are published: of a string its text.
fn published() -> Vec<String> {
    JSON.iter()
        .map(|json| {
            json.trim_matches('"')
                .replace(r"text \u00e9", "text \u{e9}")
        })
        .collect()
}

fn json_lines() -> String {
    let line =
        |json: &&str| format!("{{\"topic\":\"t\", \"payload\": {json} ,\"more\":[{json}]}}\n");
    JSON.iter().map(line).collect()
}

#[test]
fn a_payload_that_is_no_string_is_published_byte_for_byte() {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "t", "%x");
    let hex = |text: &str| data_encoding::HEXLOWER.encode(text.as_bytes());
    let expected: Vec<_> = published().iter().map(|text| hex(text)).collect();
    let publisher = || {
        Program::publisher()
            .to(&broker)
            .args(["-l", "--input", "json"])
    };
    publisher()
        .stdin(lines(&json_lines()))
        .run(SOON)
        .expect_code(0);
    let seen = witness.messages(JSON.len(), SOON);
    let seen: Vec<_> = seen.into_iter().map(|line| line.text).collect();
    assert_eq!(seen, expected);

    let batch = ["--batch", "100", "--batch-wait", "1h"];
    publisher()
        .args(batch)
        .stdin(lines(&json_lines()))
        .run(SOON)
        .expect_code(0);
    let batch = witness.messages(JSON.len() + 1, SOON).pop().unwrap().text;
    assert_eq!(batch, hex(&(published().join("\n") + "\n")));
}

#[test]
fn json_comes_through_queue_export_and_subscriber_as_it_was() {
    let queue = QueueFile::new();
    let flags = ["-l", "--input", "json", "--flush-timeout", "0.1"];
    let publisher = queue.publisher().at_port(free_port()).args(flags);
    publisher
        .stdin(lines(&json_lines()))
        .run(SOON)
        .expect_code(75);
    let export = queue.command(&["export"]).expect_code(0).stdout.text();
    let (first, second) = (Broker::start(), Broker::start());
    let subscriber = Program::subscriber()
        .to(&first)
        .args(["-t", "#", "-J", "-d", "-C"]);
    let subscriber = subscriber.arg(JSON.len().to_string()).start();
    subscriber.wait_subscribed();
    let publish = |broker: &Broker, text: &str| {
        let publisher = Program::publisher()
            .to(broker)
            .args(["-l", "--input", "json"]);
        publisher.stdin(lines(text)).run(SOON).expect_code(0);
    };
    publish(&first, &export);
    let json = subscriber.finish(SOON).expect_code(0).stdout.text();
    let subscriber = Program::subscriber()
        .to(&second)
        .args(["-t", "#", "-d", "-C"]);
    let subscriber = subscriber.arg(JSON.len().to_string()).start();
    subscriber.wait_subscribed();
    publish(&second, &json);
    subscriber
        .finish(SOON)
        .expect_code(0)
        .expect_stdout(&(published().join("\n") + "\n"));
}

#[test]
fn odd_json_is_rejected_by_its_line_or_borne_and_never_ends_the_run() {
    let deep = "[".repeat(400_000) + &"]".repeat(400_000);
    let good = [
        format!("{{\"payload\":{deep}}}"),
        format!("{{\"payload\":\"x\",\"more\":{deep}}}"),
    ];
    let bad = [
        r#"{"payload":"\ud800"}"#,
        r#"{"payload":1,"payload":2}"#,
        r#"{"topic":"a","topic":"b","payload":1}"#,
        r#"{"payload":NaN}"#,
        r#"{"payload":01}"#,
        r#"{"payload":1"#,
        r#"{"qos":1e400,"payload":1}"#,
        r#"{"payload":[1,2}"#,
    ];
    let text = good
        .iter()
        .map(String::as_str)
        .chain(bad)
        .collect::<Vec<_>>()
        .join("\n");
    let broker = ScriptedBroker::script().plain();
    let publisher = Program::publisher().at_plain_port(broker.port());
    let publisher = publisher.args(["-l", "--input", "json", "-t", "t", "--receipts"]);
    let outcome = publisher.stdin(lines(&text)).run(SOON).expect_code(65);
    let receipts = outcome.stdout.texts();
    for line in 3..3 + bad.len() {
        let rejected = format!("rejected {line} ");
        assert!(
            receipts
                .iter()
                .any(|receipt| receipt.starts_with(&rejected)),
            "{line}: {outcome}"
        );
    }
    let payloads: Vec<_> = broker.publishes().iter().map(Publish::text).collect();
    assert!(payloads == [&*deep, "x"], "{} payloads", payloads.len());
}

#[test]
fn a_topic_with_a_control_character_is_rejected_and_costs_the_other_lines_nothing() {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "#", "%t %p");
    let bad = [
        "\u{1}",
        "a\tb",
        "a\nb",
        "\u{1b}[2J",
        "\u{7f}",
        "\u{80}",
        "\u{9f}",
        "a\0b",
    ];
    let mut text = String::new();
    for (number, topic) in bad.iter().enumerate() {
        for topic in [&format!("good/{number}"), *topic] {
            text += &serde_json::json!({"topic": topic, "payload": number}).to_string();
            text += "\n";
        }
    }
    let outcome = Program::publisher()
        .to(&broker)
        .args(["-l", "--input", "json", "--receipts", "--summary"])
        .stdin(lines(&text))
        .run(SOON)
        .expect_code(65);
    let receipts = outcome.stdout.text();
    for line in (2..=2 * bad.len()).step_by(2) {
        assert!(
            receipts.contains(&format!("rejected {line} its topic ")),
            "{line}: {outcome}"
        );
    }
    assert!(
        receipts.contains("rejected 8 its topic contains the control character U+001B"),
        "{outcome}"
    );
    let summary: serde_json::Value =
        serde_json::from_str(receipts.lines().last().unwrap()).unwrap();
    assert_eq!(
        (&summary["delivered"], &summary["reconnects"]),
        (&bad.len().into(), &0.into())
    );
    let seen = witness.messages(bad.len(), SOON);
    assert_eq!(
        seen[bad.len() - 1].text,
        format!("good/{0} {0}", bad.len() - 1)
    );
}
