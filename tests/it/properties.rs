//! MQTT 5 properties that users set: by flags, in lines of JSON, through the queue file, and as other clients read them.

use std::io::Cursor;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::harness::packet::Publish;
use crate::harness::peer::Witness;
use crate::harness::process::{Process, command};
use crate::harness::{
    Broker, Program, QueueFile, SOON, ScriptedBroker, free_port, lines::Lines, peer,
    scripted::Event,
};

/// Each property by a flag.
pub(crate) const FLAGS: [&str; 14] = [
    "--user-property",
    "site=7",
    "--user-property",
    "unit=°C=x",
    "--user-property",
    "site=8",
    "--content-type",
    "text/plain; charset=utf-8",
    "--response-topic",
    "answers/7",
    "--correlation-data",
    "-r 1",
    "--payload-format",
    "text",
];

/// What `mosquitto_sub` prints of them; the user property `seq` is left out by `--no-sequence`.
const FORMAT: &str = "%t|%F|%C|%R|%D|%P|%E|%p";
const READ: &str = "t|1|text/plain; charset=utf-8|answers/7|-r 1|site:7 unit:°C=x site:8||21.5";

fn lines(text: &str) -> Cursor<String> {
    Cursor::new(text.to_owned())
}

fn json_publisher(broker: &Broker) -> Program {
    let publisher = Program::publisher().to(broker);
    publisher.args(["-l", "--input", "json", "-t", "t", "--no-sequence"])
}

fn objects(text: &str) -> Vec<Value> {
    let lines = text.lines().map(serde_json::from_str);
    lines.map(Result::unwrap).collect()
}

/// Sends the one message of the file, with the properties of `FLAGS`.
fn expect_delivered(queue: &QueueFile) {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "t", FORMAT);
    let publisher = Program::publisher()
        .to(&broker)
        .args(["-l", "-t", "t", "--no-sequence"]);
    let publisher = publisher.arg("--queue").arg(queue.path());
    publisher.run(SOON).expect_code(0);
    assert_eq!(witness.texts(1), [READ]);
}

#[test]
fn mosquitto_sub_reads_every_property_as_the_flags_set_it() {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "t", FORMAT);
    for source in [&["-m", "21.5"][..], &["-l"]] {
        let publisher = Program::publisher().to(&broker).args(FLAGS).args(source);
        let publisher = publisher.args(["-t", "t", "--no-sequence"]);
        publisher.stdin(lines("21.5\n")).run(SOON).expect_code(0);
    }
    assert_eq!(witness.texts(2), [READ, READ]);
}

#[test]
fn the_number_comes_first_and_the_others_in_the_order_of_the_flags() {
    let broker = ScriptedBroker::script().plain();
    let publisher = Program::publisher().at_plain_port(broker.port());
    let publisher = publisher.args(FLAGS).args(["-t", "t", "-m", "x"]);
    publisher.run(SOON).expect_code(0);
    let user = broker.publishes().remove(0).user_properties;
    let pairs: Vec<_> = user.iter().map(|(n, v)| (&**n, &**v)).collect();
    assert_eq!(pairs[0].0, "seq");
    let given = [("site", "7"), ("unit", "°C=x"), ("site", "8")];
    assert_eq!(pairs[1..], given);
}

#[test]
fn paho_for_python_reads_every_property_as_it_was_set() {
    let asked = command(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/setup-python"))
        .args(["--path", "peers"])
        .output()
        .unwrap();
    assert!(
        asked.status.success(),
        "run scripts/setup-python peers: {asked:?}"
    );
    let bin = String::from_utf8(asked.stdout).unwrap().trim().to_owned();
    let broker = Broker::builder().plain().start();
    let mut python = command(format!("{bin}/python"));
    python.arg(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/it/paho_subscriber.py"
    ));
    python.arg(broker.port().to_string());
    python.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut process = Process::spawn(python);
    let received = Lines::default();
    received.collect(process.child().stdout.take().unwrap());
    assert!(received.wait(SOON, |line| line == "subscribed").is_some());
    let publisher = Program::publisher().to(&broker).args(FLAGS);
    let publisher = publisher.args(["-t", "t", "-m", "21.5", "--no-sequence", "--expiry", "1m"]);
    publisher.run(SOON).expect_code(0);
    let line = received.wait(SOON, |line| line.starts_with('{')).unwrap();
    assert_eq!(
        serde_json::from_str::<Value>(&line.text).unwrap(),
        json!({
            "PayloadFormatIndicator": 1,
            "MessageExpiryInterval": 60,
            "ContentType": "text/plain; charset=utf-8",
            "ResponseTopic": "answers/7",
            "CorrelationData": "2d722031",
            "UserProperty": [["site", "7"], ["unit", "°C=x"], ["site", "8"]],
        })
    );
}

#[test]
fn a_line_of_json_adds_to_the_properties_of_the_flags_or_replaces_them() {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "t", FORMAT);
    let input = [
        json!({"payload": "21.5"}),
        json!({"payload": "21.5", "properties": {}}),
        json!({"payload": "21.5", "properties": {
            "content-type": "a", "response-topic": "b", "correlation-data": "",
            "payload-format-indicator": 0, "user-properties": {"c": "d"},
            "message-expiry-interval": 1000, "subscription-identifiers": [1], "topic-alias": 3,
        }}),
        json!({"payload_base64": "/w==", "properties": {"payload-format-indicator": 0, "user-properties": []}}),
    ];
    let input = input.map(|line| line.to_string()).join("\n");
    let publisher = json_publisher(&broker).args(FLAGS).stdin(lines(&input));
    publisher.run(SOON).expect_code(0);
    let seen = witness.texts(4);
    assert_eq!(seen[..2], [READ, READ]);
    assert!(seen[2].starts_with("t|0|a|b||c:d|"), "{seen:?}");
    let expiry = seen[2].split('|').nth(6).unwrap().parse::<u32>().unwrap();
    assert!((990..=1_000).contains(&expiry), "{seen:?}");
    let kept = "t|0|text/plain; charset=utf-8|answers/7|-r 1|||";
    assert!(seen[3].starts_with(kept), "{seen:?}");
}

#[test]
fn properties_that_mqtt_does_not_allow_reject_their_line_and_the_others_go_on() {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "t", "%p");
    let bad = [
        (
            r#"{"response-topic":"a/+"}"#,
            "its response-topic contains the wildcard",
        ),
        (r#"{"response-topic":""}"#, "its response-topic is empty"),
        (
            r#"{"content-type":"\u0000"}"#,
            "content-type contains a NUL",
        ),
        (
            r#"{"user-properties":[["a","b\u0000"]]}"#,
            "user property contains a NUL",
        ),
        (r#"{"user-properties":7}"#, "array of"),
        (r#"{"payload-format-indicator":7}"#, "0 or 1"),
        ("7", "\"properties\": "),
    ];
    let mut input: String = bad
        .map(|(properties, _)| format!("{{\"payload\":\"x\",\"properties\":{properties}}}\n"))
        .concat();
    // The flag says that it is text.
    input += "{\"payload_base64\":\"/w==\"}\n{\"payload\":\"last\"}\n";
    let publisher = json_publisher(&broker).args(["--payload-format", "text"]);
    let mut outcome = publisher.stdin(lines(&input)).run(SOON).expect_code(65);
    for (number, (_, why)) in (1..).zip(bad) {
        let rejected = format!("message {number} is rejected: ");
        outcome = outcome.expect_stderr(&rejected).expect_stderr(why);
    }
    outcome.expect_stderr("message 8 is rejected: its payload is not UTF-8");
    assert_eq!(witness.texts(1), ["last"]);
}

#[test]
fn a_payload_that_is_no_text_is_rejected_if_it_is_said_to_be() {
    let publisher = Program::publisher().at_port(free_port());
    let publisher = publisher.args(["-t", "t", "-s", "--payload-format", "text"]);
    let publisher = publisher.stdin(Cursor::new(b"\xff".to_vec()));
    let outcome = publisher.args(["--flush-timeout", "0.1"]).run(SOON);
    outcome.expect_stderr("is rejected: not UTF-8, which --payload-format text says it is");
}

#[test]
fn a_wrong_flag_is_named_with_what_to_do() {
    let long = "x".repeat(65_536);
    let long_pair = format!("a={long}");
    let rows: [(&[&str], &[&str]); 15] = [
        (
            &["--user-property", "no-value"],
            &["--user-property", "NAME=VALUE"],
        ),
        (
            &["--user-property", &long_pair],
            &["--user-property", "65536 bytes"],
        ),
        (&["--user-property", "seq=1"], &["seq", "--no-sequence"]),
        (&["--content-type", ""], &["--content-type is empty"]),
        (&["--content-type", &long], &["--content-type is 65536"]),
        (
            &["--response-topic", "a/#"],
            &["--response-topic", "wildcard"],
        ),
        (&["--response-topic", ""], &["--response-topic", "is empty"]),
        (
            &["--correlation-data", &long],
            &["--correlation-data is 65536"],
        ),
        (&["--payload-format", "json"], &["--payload-format", "text"]),
        (
            &["--connect-user-property", "a"],
            &["--connect-user-property", "NAME=VALUE"],
        ),
        (
            &["--response-topic", "1/2/3/4/5/6/7/8/9", "--profile", "aws"],
            &["--response-topic", "AWS IoT Core"],
        ),
        (
            &["--content-type", "a", "--batch", "2", "-l"],
            &["--content-type", "--batch", "application/x-ndjson"],
        ),
        (
            &["--content-type", "a", "--mqtt-version", "3.1.1"],
            &["--content-type needs MQTT 5"],
        ),
        (
            &["--user-property", "a=", "--mqtt-version", "3.1.1"],
            &["--user-property needs MQTT 5"],
        ),
        (
            &["--connect-user-property", "a=b", "--mqtt-version", "3.1.1"],
            &["--connect-user-property needs MQTT 5"],
        ),
    ];
    for (flags, parts) in rows {
        let publisher = Program::publisher().endpoint(1).args(["-t", "t"]);
        let source: &[&str] = if flags.contains(&"-l") {
            &[]
        } else {
            &["-m", "x"]
        };
        publisher
            .args(source)
            .args(flags)
            .run(SOON)
            .expect_fault(64, parts);
    }
    let rows: [(&[&str], &[&str]); 4] = [
        (
            &["--subscription-identifier", "0"],
            &["from 1 to 268435455"],
        ),
        (
            &["--subscription-identifier", "268435456"],
            &["from 1 to 268435455"],
        ),
        (
            &["--subscription-identifier", "1", "--mqtt-version", "3.1.1"],
            &["--subscription-identifier needs MQTT 5"],
        ),
        (
            &["--subscription-identifier", "1", "--profile", "aws"],
            &["--subscription-identifier", "not supported by AWS IoT Core"],
        ),
    ];
    for (flags, parts) in rows {
        let subscriber = Program::subscriber().endpoint(1).args(["-t", "t"]);
        subscriber.args(flags).run(SOON).expect_fault(64, parts);
    }
}

#[test]
fn a_control_character_in_a_property_is_refused_before_the_broker_closes_for_it() {
    for c in ['\u{1}', '\t', '\n', '\u{7f}', '\u{85}'] {
        let code = format!("U+{:04X}", u32::from(c));
        for (flag, value) in [
            ("--user-property", format!("a={c}b")),
            ("--user-property", format!("a{c}=b")),
            ("--content-type", format!("text{c}")),
            ("--response-topic", format!("t{c}")),
            ("--connect-user-property", format!("a={c}")),
        ] {
            let program = Program::one_message().endpoint(1);
            let outcome = program.args([flag, &value]).run(SOON);
            let outcome = outcome.expect_fault(64, &[flag, &code]);
            assert_eq!(outcome.stderr.count(), 1, "{outcome}");
        }
    }
    let program = Program::one_message().endpoint(1);
    let outcome = program.env("IOT_USER_PROPERTY", "a=\u{1b}").run(SOON);
    outcome.expect_fault(64, &["IOT_USER_PROPERTY", "U+001B"]);
}

#[test]
fn a_line_with_a_control_character_in_a_property_is_found_if_the_broker_closes_for_it() {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "t", "%p");
    let input = "{\"payload\":\"1\"}\n\
                 {\"payload\":\"bad\",\"properties\":{\"user-properties\":{\"a\":\"b\\n\"}}}\n\
                 {\"payload\":\"2\"}\n";
    let publisher = json_publisher(&broker).args(["--receipts", "--base-backoff", "1ms"]);
    let outcome = publisher.stdin(lines(input)).run(SOON).expect_code(65);
    assert!(outcome.stdout.text().contains("dead 2 "), "{outcome}");
    assert_eq!(witness.texts(2), ["1", "2"]);
}

#[test]
fn the_file_and_the_environment_set_properties_too() {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "t", FORMAT);
    let text = "connect-user-property = \"a=b\"\n[publisher]\nuser-property = [\"site=7\", \"site=8\"]\n\
                content-type = \"text/csv\"\n";
    let publisher = Program::publisher().to(&broker).config(text);
    let publisher = publisher
        .env("IOT_RESPONSE_TOPIC", "answers")
        .env("IOT_CORRELATION_DATA", "c")
        .env("IOT_PAYLOAD_FORMAT", "text");
    let publisher = publisher.args(["-t", "t", "-m", "1", "--no-sequence"]);
    publisher.run(SOON).expect_code(0);
    let publisher = Program::publisher().to(&broker);
    let publisher = publisher.env("IOT_USER_PROPERTY", "a=b=c");
    let publisher = publisher.args(["-t", "t", "-m", "2", "--no-sequence"]);
    publisher.run(SOON).expect_code(0);
    assert_eq!(
        witness.texts(2),
        ["t|1|text/csv|answers|c|site:7 site:8||1", "t|||||a:b=c||2"]
    );
}

#[test]
fn connect_carries_its_user_properties_in_both_programs() {
    let flags = [
        "--connect-user-property",
        "fleet=a=b",
        "--connect-user-property",
        "fleet=",
    ];
    for program in [
        Program::one_message(),
        Program::subscriber().args(["-t", "t", "-C", "1"]),
    ] {
        let broker = ScriptedBroker::script()
            .after_subscribe("t", "t", b"x")
            .plain();
        let program = program.at_plain_port(broker.port()).args(flags);
        program.run(SOON).expect_code(0);
        let user = broker.events().into_iter().find_map(|event| match event {
            Event::Connect(connect) => Some(connect.user_properties),
            _ => None,
        });
        let fleet = |value: &str| ("fleet".to_owned(), value.to_owned());
        assert_eq!(user.unwrap(), [fleet("a=b"), fleet("")]);
    }
}

#[test]
fn with_mqtt_3_1_1_after_a_fallback_messages_go_without_and_that_is_said_once() {
    let broker = ScriptedBroker::script().refuse_version_5(&[]).plain();
    let publisher = Program::publisher().at_plain_port(broker.port());
    let publisher = publisher.args(["-t", "t", "-l", "--user-property", "a=b"]);
    let publisher = publisher.args(["--connect-user-property", "a=b", "--base-backoff", "0.1"]);
    let outcome = publisher.stdin(lines("1\n2\n3\n")).run(SOON).expect_code(0);
    let payloads: Vec<_> = broker.publishes().iter().map(Publish::text).collect();
    assert_eq!(payloads, ["1", "2", "3"]);
    for said in [
        "with which messages go without their properties",
        "with which CONNECT has no user properties",
    ] {
        assert_eq!(outcome.stderr.text().matches(said).count(), 1, "{outcome}");
    }
}

#[test]
fn the_queue_file_keeps_properties_shows_them_and_counts_their_bytes() {
    let queue = QueueFile::new();
    let publisher = queue.publisher().at_port(free_port()).args(FLAGS);
    let publisher = publisher.args(["-m", "21.5", "--flush-timeout", "0.1", "--no-sequence"]);
    publisher.run(SOON).expect_code(75);
    let expected = json!({
        "payload-format-indicator": 1,
        "content-type": "text/plain; charset=utf-8",
        "response-topic": "answers/7",
        "correlation-data": "-r 1",
        "user-properties": [["site", "7"], ["unit", "°C=x"], ["site", "8"]],
    });
    for command in [&["list", "--json"][..], &["export"]] {
        let shown = queue.command(command).expect_code(0).stdout.text();
        assert_eq!(objects(&shown)[0]["properties"], expected);
    }
    // A length, five bytes for a user property, three for others, two for the format.
    let user = 3 * 5 + "site7unit°C=xsite8".len();
    let others = 3 * 3 + "text/plain; charset=utf-8answers/7-r 1".len();
    let bytes = "t21.5".len() + 1 + 2 + user + others;
    assert_eq!(queue.status()["bytes"], bytes);

    expect_delivered(&queue);
    assert_eq!(queue.status()["bytes"], 0);
}

#[test]
fn a_dead_letter_keeps_its_properties_until_it_is_delivered() {
    let queue = QueueFile::new();
    let refusing = Broker::builder().acl("topic read #").start();
    let publisher = queue.publisher().to(&refusing).args(FLAGS);
    let publisher = publisher.args(["-m", "21.5", "--no-sequence"]);
    publisher.run(SOON);
    let list = ["list", "--dead", "--json"];
    let dead = queue.command(&list).expect_code(0).stdout.text();
    assert_eq!(
        objects(&dead)[0]["properties"]["response-topic"],
        "answers/7"
    );
    queue
        .command(&["retry"])
        .expect_code(0)
        .expect_stdout("1 back in the queue\n");
    expect_delivered(&queue);
    let status = queue.status();
    assert_eq!(
        (&status["bytes"], &status["dead_bytes"]),
        (&json!(0), &json!(0))
    );
}

#[test]
fn a_message_expires_at_the_time_that_its_line_names() {
    let queue = QueueFile::new();
    let publisher = queue.publisher().at_port(free_port());
    let publisher = publisher.args(["-l", "--input", "json", "--flush-timeout", "0.1"]);
    let publisher = publisher.args(["--expiry", "1h"]);
    let input = "{\"payload\":\"short\",\"properties\":{\"message-expiry-interval\":0}}\n\
                 {\"payload\":\"long\",\"properties\":{\"message-expiry-interval\":86400}}\n\
                 {\"payload\":\"by the flag\"}\n";
    publisher.stdin(lines(input)).run(SOON).expect_code(75);
    let export = queue.command(&["export"]).expect_code(0).stdout.text();
    let intervals: Vec<_> = objects(&export)
        .iter()
        .map(|line| line["properties"]["message-expiry-interval"].as_u64())
        .map(|seconds| seconds.unwrap().div_ceil(3_600))
        .collect();
    assert_eq!(intervals, [0, 24, 1]);
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "t", "%p %E");
    let outcome = queue.publisher().to(&broker).arg("-l").run(SOON);
    assert!(outcome.stdout.text().contains("expired 1\n"), "{outcome}");
    let seen = witness.texts(2);
    let seconds = |text: &str| text.rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    assert!(seen[0].starts_with("long ") && seen[1].starts_with("by the flag "));
    assert!((86_300..=86_400).contains(&seconds(&seen[0])), "{seen:?}");
    assert!((3_500..=3_600).contains(&seconds(&seen[1])), "{seen:?}");
}

#[test]
fn a_batch_has_the_properties_that_its_readings_share() {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "t", "%C|%P|%x");
    let input = "{\"payload\":\"1\"}\n{\"payload\":\"2\"}\n\
                 {\"payload\":\"3\",\"properties\":{\"user-properties\":{\"a\":\"c\"}}}\n\
                 {\"payload\":\"4\",\"properties\":{\"content-type\":\"text/plain\"}}\n\
                 {\"payload\":\"5\",\"properties\":{\"content-type\":\"application/x-ndjson\"}}\n\
                 {\"payload\":\"6\"}\n";
    let publisher = json_publisher(&broker).args(["--batch", "9", "--batch-wait", "1h"]);
    let publisher = publisher.args(["--user-property", "a=b"]);
    publisher.stdin(lines(input)).run(SOON).expect_code(0);
    assert_eq!(
        witness.texts(4),
        [
            "application/x-ndjson|a:b|310a320a",
            "|a:c|33",
            "text/plain|a:b|34",
            "application/x-ndjson|a:b|350a360a",
        ]
    );
}

#[test]
fn properties_count_against_the_packet_size_of_the_broker_and_the_bytes_of_the_queue() {
    let broker = Broker::builder().max_packet_size(500).start();
    let large = format!("a={}", "x".repeat(500));
    let publisher = Program::publisher()
        .to(&broker)
        .args(["-t", "t", "-m", "x"]);
    let publisher = publisher.args(["--user-property", &large]);
    publisher
        .run(SOON)
        .expect_code(65)
        .expect_stderr("maximum packet size of 500");

    let publisher = Program::publisher().at_port(free_port());
    let publisher = publisher.args(["-t", "t", "-l", "--flush-timeout", "0.1", "--summary"]);
    let publisher = publisher.args(["--queue-size", "-1", "--queue-bytes", "2000"]);
    let publisher = publisher.args(["--drop-behavior", "newest", "--user-property", &large]);
    let outcome = publisher.stdin(lines(&"1\n".repeat(10))).run(SOON);
    assert!(outcome.stdout.text().contains("\"queued\":3,"), "{outcome}");
}

#[test]
fn json_output_has_the_properties_without_our_own_number() {
    let broker = Broker::start();
    let subscriber = Program::subscriber().to(&broker);
    let subscriber = subscriber.args(["-t", "#", "-J", "-C", "4", "-d"]);
    let subscriber = subscriber
        .args(["--subscription-identifier", "268435455"])
        .start();
    subscriber.wait_subscribed();
    let publish = |args: &[&str]| {
        let publisher = Program::publisher()
            .to(&broker)
            .args(["-t", "t", "-m", "1"]);
        publisher.args(args).run(SOON).expect_code(0);
    };
    publish(&[]);
    publish(&FLAGS);
    // What only looks like ours is passed on.
    publish(&["--no-sequence", "--user-property", "seq=mine"]);
    publish(&["--no-sequence", "--mqtt-version", "3.1.1"]);
    let text = subscriber.finish(SOON).expect_code(0).stdout.text();
    let own: Vec<_> = objects(&text)
        .iter()
        .map(|line| line["properties"].clone())
        .collect();
    let ids = json!([268_435_455]);
    assert_eq!(
        own,
        [
            json!({"subscription-identifiers": ids}),
            json!({
                "subscription-identifiers": ids,
                "payload-format-indicator": 1,
                "content-type": "text/plain; charset=utf-8",
                "response-topic": "answers/7",
                "correlation-data": "-r 1",
                "user-properties": [["site", "7"], ["unit", "°C=x"], ["site", "8"]],
            }),
            json!({"subscription-identifiers": ids, "user-properties": [["seq", "mine"]]}),
            json!({"subscription-identifiers": ids}),
        ]
    );
}

#[test]
fn the_subscription_identifier_is_in_formats_and_there_is_none_without_the_flag() {
    let broker = Broker::start();
    for (flags, expected) in [
        (&["--subscription-identifier", "7"][..], "7 x\n"),
        (&[], " x\n"),
    ] {
        let subscriber = Program::subscriber().to(&broker);
        let subscriber = subscriber.args(["-t", "t", "-C", "1", "-d", "-F", "%S %p"]);
        let subscriber = subscriber.args(flags).start();
        subscriber.wait_subscribed();
        assert!(peer::publish(&broker, "t", "x").status.success());
        subscriber
            .finish(SOON)
            .expect_code(0)
            .expect_stdout(expected);
    }
    let incapable = ScriptedBroker::script()
        .connack_properties(&[0x29, 0])
        .plain();
    let subscriber = Program::subscriber().at_plain_port(incapable.port());
    let subscriber = subscriber.args(["-t", "t", "-C", "1", "--subscription-identifier", "7"]);
    let parts = [
        "no subscription identifiers",
        "leave --subscription-identifier out",
    ];
    subscriber.run(SOON).expect_fault(76, &parts);
}
