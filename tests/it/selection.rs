//! Which messages a subscriber asks for, leaves out and removes, and when it ends by itself.

use std::fs;
use std::time::Duration;

use crate::harness::{Broker, Program, SOON, ScriptedBroker, hostname, peer, temp_dir};

fn subscriber(broker: &Broker, flags: &[&str]) -> Program {
    Program::subscriber()
        .to(broker)
        .args(["-t", "site/#"])
        .args(flags)
}

fn retain(broker: &Broker, topic: &str, payload: &str) {
    let mut client = peer::client("mosquitto_pub", broker);
    client.args(["-q", "1", "-r", "-t", topic, "-m", payload]);
    assert!(client.status().expect("mosquitto_pub").success());
}

fn publish(broker: &Broker, topic: &str, payload: &str) {
    assert!(peer::publish(broker, topic, payload).status.success());
}

/// What is retained below `site`, as Mosquitto's own client sees it: topic and payload.
fn retained(broker: &Broker) -> Vec<String> {
    let mut client = peer::client("mosquitto_sub", broker);
    client.args([
        "-t",
        "site/#",
        "-t",
        "end",
        "--retained-only",
        "-F",
        "%t %p",
        "-W",
        "5",
    ]);
    let mut child = {
        client.stdout(std::process::Stdio::piped());
        client.spawn().expect("mosquitto_sub")
    };
    // It ends at the first message that is not retained.
    let mut lines = String::new();
    while child.try_wait().unwrap().is_none() {
        publish(broker, "end", "x");
    }
    std::io::Read::read_to_string(&mut child.stdout.take().unwrap(), &mut lines).unwrap();
    lines.lines().map(str::to_owned).collect()
}

#[test]
fn a_granted_subscription_ends_the_run_of_exit_after_subscribe() {
    let broker = Broker::start();
    for flags in [
        &["-E"][..],
        &["--exit-after-subscribe", "--mqtt-version", "3.1.1"],
    ] {
        let program = subscriber(&broker, flags).args(["-t", "second"]);
        program.run(SOON).expect_code(0).expect_stdout("");
    }
}

#[test]
fn an_excluded_topic_is_left_out_and_no_gap() {
    let broker = Broker::start();
    let flags = [
        "-T",
        "site/noise/#",
        "--exclude",
        "+/+/secret",
        "-v",
        "-C",
        "3",
        "--gaps",
        "-d",
    ];
    let subscriber = subscriber(&broker, &flags).start();
    subscriber.wait_subscribed();
    for (seq, topic) in [
        "site/a",
        "site/noise",
        "site/noise/1",
        "site/b/secret",
        "site/b",
        "site/c",
    ]
    .iter()
    .enumerate()
    {
        peer::publish_numbered(&broker, topic, &format!("s/{}/0", seq + 1));
    }
    let outcome = subscriber.finish(SOON).expect_code(0);
    outcome.expect_stdout("site/a x\nsite/b x\nsite/c x\n");
}

#[test]
fn any_number_of_excluded_messages_of_qos_0_holds_up_nothing() {
    const COUNT: usize = 20_000;
    let broker = Broker::start();
    for output in [&[][..], &["--exec", "cat"]] {
        let flags = ["-T", "site/noise", "-q", "0", "-C", "1", "-d"];
        let subscriber = subscriber(&broker, &flags).args(output).start();
        subscriber.wait_subscribed();
        let noise = Program::publisher().to(&broker);
        let noise = noise.args(["-t", "site/noise", "-q", "0", "-l"]);
        let lines = std::io::Cursor::new("x\n".repeat(COUNT));
        noise.stdin(lines).run(SOON * 3).expect_code(0);
        publish(&broker, "site/a", "x");
        let outcome = subscriber.finish(SOON * 3).expect_code(0);
        assert!(outcome.stdout.text().starts_with('x'), "{outcome}");
    }
}

#[test]
fn silence_begins_after_an_excluded_message_of_qos_0_as_well() {
    let broker = Broker::start();
    let mut client = peer::client("mosquitto_pub", &broker);
    client.args(["-r", "-t", "site/a", "-m", "kept"]);
    assert!(client.status().expect("mosquitto_pub").success());
    let program = subscriber(&broker, &["-T", "site/a", "--idle-timeout", "300ms"]);
    program.run(SOON).expect_code(0).expect_stdout("");
}

#[test]
fn placeholders_in_excluded_filters_are_replaced() {
    let broker = Broker::start();
    let flags = [
        "-T",
        "site/{client-id}/#",
        "-T",
        "site/{env:UNIT}",
        "-T",
        "site/{hostname}",
        "-T",
        "site/{{x}}",
    ];
    let program = subscriber(&broker, &flags).args(["-i", "me", "-v", "-C", "2", "-d"]);
    let subscriber = program.env("UNIT", "7").start();
    subscriber.wait_subscribed();
    let host = format!("site/{}", hostname());
    for topic in [
        "site/me/a",
        "site/7",
        &host,
        "site/{x}",
        "site/{env:UNIT}",
        "site/8",
    ] {
        publish(&broker, topic, "x");
    }
    let outcome = subscriber.finish(SOON).expect_code(0);
    outcome.expect_stdout("site/{env:UNIT} x\nsite/8 x\n");
    let program = Program::subscriber().args(["-e", "localhost", "-t", "t", "-T", "{host}"]);
    program
        .run(SOON)
        .expect_fault(64, &["--exclude \"{host}\"", "{hostname}"]);
}

#[test]
fn an_excluded_filter_that_is_wrong_is_a_usage_error() {
    for (filter, cause) in [
        ("a/#/b", "last level"),
        ("$share/g/a", "shared subscription"),
    ] {
        let program = Program::subscriber().args(["-e", "localhost", "-t", "t", "-T", filter]);
        program.run(SOON).expect_fault(64, &["--exclude", cause]);
    }
}

#[test]
fn silence_since_the_last_message_ends_the_run_of_idle_timeout() {
    const SILENCE: Duration = Duration::from_millis(600);
    let broker = Broker::start();
    let subscriber = subscriber(&broker, &["--idle-timeout", "600ms", "-d"]).start();
    subscriber.wait_subscribed();
    for number in 0..5 {
        publish(&broker, "site/a", &number.to_string());
        subscriber.stdout_lines(number + 1, SOON);
    }
    let last = subscriber.stdout_lines(5, SOON).pop().unwrap().at;
    subscriber.finish(SOON).expect_code(0);
    // The line is seen a little later than its message came.
    assert!(last.elapsed() + Duration::from_millis(200) >= SILENCE);
}

#[test]
fn the_broker_sends_retained_messages_as_retain_handling_says() {
    let broker = Broker::start();
    retain(&broker, "site/a", "kept");
    for (flags, expected) in [
        (&["--retain-handling", "always"][..], "kept\nlive\n"),
        (&["--retain-handling", "never"], "live\n"),
        (&["--retain-handling", "new"], "kept\nlive\n"),
    ] {
        let subscriber = subscriber(&broker, flags)
            .args(["--idle-timeout", "1", "-d"])
            .start();
        subscriber.wait_subscribed();
        publish(&broker, "site/live", "live");
        subscriber
            .finish(SOON)
            .expect_code(0)
            .expect_stdout(expected);
    }
    // A session that knows the subscription: nothing with new, all of them with always.
    let kept = [
        "--persistent",
        "--client-id",
        "keeper",
        "--idle-timeout",
        "1",
    ];
    for (handling, expected) in [("new", "kept\n"), ("new", ""), ("always", "kept\n")] {
        let program = subscriber(&broker, &kept).args(["--retain-handling", handling]);
        program.run(SOON).expect_code(0).expect_stdout(expected);
    }
    let older = ["--retain-handling", "never", "--mqtt-version", "3.1.1"];
    subscriber(&broker, &older)
        .run(SOON)
        .expect_fault(64, &["--retain-handling", "MQTT 5"]);
}

#[test]
fn retained_messages_are_removed_after_they_were_printed_but_not_excluded_ones() {
    for version in ["5", "3.1.1"] {
        let broker = Broker::start();
        let mut expected: Vec<_> = (0..60).map(|n| format!("site/{n:02} v{n}")).collect();
        for (n, line) in expected.iter().enumerate() {
            let (topic, payload) = line.split_once(' ').unwrap();
            retain(&broker, topic, payload);
            assert!(n < 60);
        }
        retain(&broker, "site/keep/me", "safe");
        let flags = [
            "--remove-retained",
            "-T",
            "site/keep/#",
            "-v",
            "--mqtt-version",
            version,
        ];
        let program = subscriber(&broker, &flags).args(["--idle-timeout", "1"]);
        let outcome = program.run(SOON).expect_code(0);
        let mut printed: Vec<_> = outcome
            .stdout
            .all()
            .into_iter()
            .map(|line| line.text)
            .collect();
        printed.sort();
        expected.sort();
        assert_eq!(printed, expected, "the empty messages are not printed");
        assert_eq!(retained(&broker), ["site/keep/me safe"], "MQTT {version}");
    }
}

#[test]
fn a_counted_run_removes_what_it_has_printed_before_it_ends() {
    let broker = Broker::start();
    retain(&broker, "site/a", "1");
    retain(&broker, "site/b", "2");
    let program = subscriber(&broker, &["--remove-retained", "-C", "2"]);
    program.run(SOON).expect_code(0);
    assert_eq!(retained(&broker), Vec::<String>::new());
}

#[test]
fn a_batch_of_which_only_some_readings_were_printed_is_not_removed() {
    let broker = Broker::start();
    let batch = ["-t", "site/a", "-l", "--batch", "3", "--retain"];
    let publisher = Program::publisher().to(&broker).args(batch);
    publisher.stdin(&b"1\n2\n3\n"[..]).run(SOON).expect_code(0);
    for (count, printed, left) in [
        ("2", "1\n2\n", &["site/a 1", "2", "3", ""][..]),
        ("3", "1\n2\n3\n", &[]),
    ] {
        let program = subscriber(&broker, &["--remove-retained", "-C", count]);
        program.run(SOON).expect_code(0).expect_stdout(printed);
        assert_eq!(retained(&broker), left);
    }
}

#[test]
fn a_broker_without_mqtt_5_is_warned_about_once_because_it_ignores_retain_handling() {
    let broker = ScriptedBroker::script().refuse_version_5(&[]).plain();
    let program = |flags: &[&str]| {
        let program = Program::subscriber().at_plain_port(broker.port());
        program
            .args(["-t", "t", "-E", "--base-backoff", "0.1"])
            .args(flags)
    };
    let warning = "a subscription neither an identifier nor --retain-handling";
    let outcome = program(&["--retain-handling", "new"])
        .run(SOON)
        .expect_code(0);
    assert_eq!(
        outcome.stderr.text().matches(warning).count(),
        1,
        "{outcome}"
    );
    let outcome = program(&[]).run(SOON).expect_code(0);
    assert!(!outcome.stderr.text().contains(warning), "{outcome}");
}

#[test]
fn csv_has_its_header_once_in_each_file_and_quotes_what_needs_it() {
    let broker = Broker::start();
    let dir = temp_dir();
    let path = dir.path().join("out.csv");
    let file = path.to_str().unwrap();
    for payload in ["21.5", "a,\"b\"\nc"] {
        let program = subscriber(&broker, &["--csv", "-C", "1", "--output", file, "-d"]);
        let subscriber = program.start();
        subscriber.wait_subscribed();
        publish(&broker, "site/a", payload);
        subscriber.finish(SOON).expect_code(0);
    }
    let text = fs::read_to_string(&path).unwrap();
    let without_time: Vec<_> = text
        .split("\r\n")
        .map(|line| line.split_once(',').map_or(line, |(_, rest)| rest))
        .collect();
    let expected = [
        "topic,qos,retain,payload",
        "site/a,1,0,21.5",
        "site/a,1,0,\"a,\"\"b\"\"\nc\"",
        "",
    ];
    assert_eq!(without_time, expected, "{text}");
    let subscriber = subscriber(&broker, &["--csv", "-C", "1", "-d"]).start();
    subscriber.wait_subscribed();
    publish(&broker, "site/a", "1");
    let outcome = subscriber.finish(SOON).expect_code(0);
    assert!(
        outcome
            .stdout
            .text()
            .starts_with("tst,topic,qos,retain,payload"),
        "{outcome}"
    );
}

#[test]
fn rotated_csv_files_have_a_header_each() {
    let broker = Broker::start();
    let dir = temp_dir();
    let path = dir.path().join("out.csv");
    let flags = ["--csv", "-C", "3", "--rotate-size", "80", "-d", "--output"];
    let program = subscriber(&broker, &flags).arg(&path);
    let subscriber = program.start();
    subscriber.wait_subscribed();
    for payload in ["1", "2", "3"] {
        publish(&broker, "site/a", payload);
    }
    subscriber.finish(SOON).expect_code(0);
    for name in ["out.csv", "out.csv.1", "out.csv.2"] {
        let text = fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(
            text.starts_with("tst,topic,qos,retain,payload\r\n"),
            "{name}: {text}"
        );
        assert_eq!(text.lines().count(), 2, "{name}: {text}");
    }
}

#[test]
fn pretty_json_is_the_same_object_on_several_lines() {
    let broker = Broker::start();
    let subscriber = subscriber(&broker, &["-J", "--pretty", "-C", "1", "-d"]).start();
    subscriber.wait_subscribed();
    publish(&broker, "site/a", "21.5");
    let text = subscriber.finish(SOON).expect_code(0).stdout.text();
    let object: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(object["payload"], "21.5");
    assert!(text.starts_with("{\n  \"tst\""), "{text}");
    let program = Program::subscriber().args(["-e", "localhost", "-t", "t", "--pretty"]);
    program.run(SOON).expect_fault(64, &["--json"]);
}

#[test]
fn retained_messages_are_left_out_or_are_the_only_ones() {
    let broker = Broker::start();
    retain(&broker, "site/a", "kept");
    retain(&broker, "site/b", "kept");
    for flag in ["-R", "--no-retained"] {
        let subscriber = subscriber(&broker, &[flag, "-v", "-C", "1", "-d"]).start();
        subscriber.wait_subscribed();
        publish(&broker, "site/live", "x");
        let outcome = subscriber.finish(SOON).expect_code(0);
        outcome.expect_stdout("site/live x\n");
    }
    let subscriber = subscriber(&broker, &["--retained-only", "-v", "-d"]).start();
    subscriber.wait_subscribed();
    subscriber.stdout_lines(2, SOON);
    publish(&broker, "site/live", "x");
    let outcome = subscriber.finish(SOON).expect_code(0);
    let mut lines = outcome.stdout.texts();
    lines.sort();
    assert_eq!(lines, ["site/a kept", "site/b kept"]);
}

#[test]
fn the_file_and_the_environment_select_and_remove_too() {
    const IDLE: (&str, &str) = ("idle-timeout", "\"500ms\"");
    const ONE: (&str, &str) = ("count", "1");
    let broker = Broker::start();
    let run = |settings: &[(&str, &str)], by_file: bool| {
        let mut program = Program::subscriber().to(&broker);
        let mut text = "topic = \"site/#\"\n".to_owned();
        for (name, value) in settings {
            if by_file {
                text += &[name, " = ", value, "\n"].concat();
            } else {
                let variable = format!("IOT_{}", name.to_uppercase().replace('-', "_"));
                program = program.env(&variable, value.trim_matches('"'));
            }
        }
        let outcome = program.config(&text).run(SOON);
        outcome.expect_code(0).stdout.text()
    };
    for by_file in [true, false] {
        retain(&broker, "site/a", "1");
        retain(&broker, "site/b", "2");
        let exclude = ("exclude", "\"site/b\"");
        assert_eq!(run(&[IDLE, exclude], by_file), "1\n");
        assert_eq!(run(&[IDLE, ("retain-handling", "\"never\"")], by_file), "");
        let csv = run(&[ONE, ("csv", "true")], by_file);
        assert!(csv.starts_with("tst,topic,qos,retain,payload\r\n"), "{csv}");
        let pretty = run(&[ONE, ("json", "true"), ("pretty", "true")], by_file);
        assert!(pretty.starts_with("{\n  \"tst\""), "{pretty}");
        run(&[("exit-after-subscribe", "true")], by_file);
        run(&[IDLE, exclude, ("remove-retained", "true")], by_file);
        assert_eq!(retained(&broker), ["site/b 2"]);
    }
}
