//! The publisher's exit codes, each reached as a user would reach it, and what is said on
//! stderr about it.

use std::time::Duration;

use crate::harness::packet::Publish;
use crate::harness::{
    Broker, Program, Reply, SOON, ScriptedBroker, Server, free_port, server, temp_dir,
};

/// To the topic `t` of a port without TLS, one message.
fn one_message(port: u16) -> Program {
    let publisher = Program::publisher().at_plain_port(port);
    publisher.args(["--topic", "t", "--message", "x"])
}

/// Stdout of the publisher is a disk that is full.
fn on_full_disk(broker: &ScriptedBroker) -> Program {
    Program::new("/bin/sh")
        .args(["-c", "exec \"$0\" \"$@\" >/dev/full"])
        .arg(env!("CARGO_BIN_EXE_publisher"))
        .at_plain_port(broker.port())
        .args(["--topic", "t", "--message", "x"])
}

#[test]
fn a_usage_error_is_64_and_one_line_that_names_the_flag() {
    let cases: &[(&[&str], &str)] = &[
        (&["--no-such-flag"], "--no-such-flag"),
        (&["--qos", "3"], "--qos"),
        (&["--port", "0"], "--port"),
        (&["--port", "65536"], "--port"),
        (&["--keep-alive", "0"], "--keep-alive"),
        (&["--interval", "0"], "--interval"),
        (&["--interval", "soon"], "--interval"),
        (&["--connect-timeout", "0"], "--connect-timeout"),
        (&["--connect-timeout=-1"], "--connect-timeout"),
        (&["--operation-timeout", "x"], "--operation-timeout"),
        (&["--flush-timeout=-5"], "--flush-timeout"),
        (&["--deadline", "1 parsec"], "--deadline"),
        (&["--stop-timeout", "NaN"], "--stop-timeout"),
        (&["--base-backoff", "0"], "--base-backoff"),
        (&["--base-backoff=-1"], "--base-backoff"),
        (
            &["--base-backoff", "2", "--max-backoff", "1"],
            "--max-backoff",
        ),
        (&["--base-backoff", "20"], "--base-backoff"),
        (&["--jitter", "1.5"], "jitter"),
        (&["--jitter=-0.1"], "--jitter"),
        (&["--drain-rate", "0"], "--drain-rate"),
        (&["--drain-rate", "fast"], "--drain-rate"),
        (&["--max-inflight", "0"], "--max-inflight"),
        (&["--queue-bytes", "many"], "--queue-bytes"),
        (&["--drop-behavior", "some"], "--drop-behavior"),
        (&["--mqtt-version", "4"], "--mqtt-version"),
        (&["--cert", "device.pem.crt"], "--key"),
        (&["--message", "x", "--null-message"], "--null-message"),
        (&["--message", "x", "--stdin-line"], "--stdin-line"),
        (&["--debug", "--quiet"], "--quiet"),
    ];
    for (args, part) in cases {
        let broker = ["--endpoint", "mqtt://localhost", "--topic", "t"];
        let publisher = Program::publisher().args(broker).args(*args);
        let outcome = publisher.run(SOON).expect_code(64).expect_stdout("");
        let outcome = outcome.expect_stderr(part);
        assert_eq!(outcome.stderr.count(), 1, "{outcome}");
    }
}

#[test]
fn what_is_required_must_be_there() {
    for (args, part) in [
        (["--topic", "t"], "--endpoint"),
        (["--endpoint", "localhost"], "--topic"),
    ] {
        let outcome = Program::publisher().args(args).run(SOON);
        let outcome = outcome.expect_code(64).expect_stderr(part);
        assert_eq!(outcome.stderr.count(), 1, "{outcome}");
    }
}

#[test]
fn a_topic_that_cannot_be_published_to_is_a_usage_error_before_any_connection() {
    let listener = Server::plain(server::hang_up);
    let long = "x".repeat(65_536);
    for (topic, cause) in [
        ("", "empty"),
        ("a/+/b", "'+'"),
        ("a/#", "'#'"),
        (&long, "65536"),
    ] {
        let publisher = Program::publisher().at_plain_port(listener.port());
        let outcome = publisher.args(["-m", "x", "--topic", topic]).run(SOON);
        let outcome = outcome.expect_code(64).expect_stderr("--topic");
        let outcome = outcome.expect_stderr(cause);
        assert_eq!(outcome.stderr.count(), 1, "{outcome}");
        assert!(outcome.stderr.text().len() < 1_000, "{outcome}");
    }
    assert!(listener.accepted().is_empty());
}

#[test]
fn an_input_file_that_cannot_be_read_is_66() {
    let dir = temp_dir();
    for path in [dir.path().join("missing"), dir.path().to_owned()] {
        let publisher = Program::publisher().at_plain_port(free_port());
        let publisher = publisher.args(["--topic", "t", "--file"]).arg(&path);
        let outcome = publisher.run(SOON).expect_code(66);
        let outcome = outcome.expect_stderr(path.to_str().unwrap());
        assert_eq!(outcome.stderr.count(), 1, "{outcome}");
    }
}

#[test]
fn a_broker_not_reached_within_the_flush_timeout_is_69() {
    let outcome = one_message(free_port())
        .args(["--flush-timeout", "1.5", "--jitter", "0"])
        .run(SOON)
        .expect_code(69)
        .expect_stderr("1 message lost");
    let about = Duration::from_millis(1_400)..Duration::from_secs(3);
    assert!(about.contains(&outcome.elapsed), "{outcome}");
}

#[test]
fn a_host_that_does_not_exist_is_69_and_named() {
    Program::publisher()
        .args(["--endpoint", "mqtt://no-such-host.invalid", "--topic", "t"])
        .args(["--message", "x", "--flush-timeout", "1"])
        .run(SOON)
        .expect_code(69)
        .expect_stderr("no-such-host.invalid");
}

#[test]
fn a_line_too_long_for_the_queue_is_65_and_the_others_arrive() {
    let broker = ScriptedBroker::script().plain();
    let outcome = Program::publisher()
        .at_plain_port(broker.port())
        .args(["--topic", "t", "-l", "--queue-bytes", "64KiB"])
        .stdin(std::io::Cursor::new(
            ["a", &"x".repeat(70_000), "b"].join("\n"),
        ))
        .run(SOON)
        .expect_code(65);
    let arrived: Vec<_> = broker.publishes().iter().map(Publish::text).collect();
    assert_eq!(arrived, ["a", "b"], "{outcome}");
}

#[test]
fn a_full_disk_under_stdout_is_74_though_the_message_arrives() {
    for flag in ["--receipts", "--summary", "--verbose"] {
        let broker = ScriptedBroker::script().plain();
        let outcome = on_full_disk(&broker).arg(flag).run(SOON).expect_code(74);
        assert_eq!(broker.publishes().len(), 1, "{outcome}");
        let outcome = outcome.expect_stderr("standard output");
        assert_eq!(outcome.stderr.count(), 1, "{outcome}");
    }
    let broker = ScriptedBroker::script().plain();
    // Nothing to write, nothing wrong.
    on_full_disk(&broker).run(SOON).expect_code(0);
}

#[test]
fn a_broker_that_takes_a_lower_qos_only_is_76() {
    for (max, qos) in [(0, "1"), (0, "2"), (1, "2")] {
        let script = ScriptedBroker::script().connack_properties(&[0x24, max]);
        let broker = script.plain();
        one_message(broker.port())
            .args(["--qos", qos])
            .run(SOON)
            .expect_code(76)
            .expect_stderr("QoS");
        assert!(broker.publishes().is_empty());
    }
    let script = ScriptedBroker::script().connack_properties(&[0x24, 1]);
    one_message(script.plain().port()).run(SOON);
}

#[test]
fn a_broker_that_keeps_no_retained_messages_is_76_for_those() {
    let script = ScriptedBroker::script().connack_properties(&[0x25, 0]);
    let broker = script.plain();
    let retained = one_message(broker.port()).arg("--retain");
    retained.run(SOON).expect_code(76).expect_stderr("--retain");
    assert!(broker.publishes().is_empty());
    one_message(broker.port()).run(SOON).expect_code(0);
}

#[test]
fn a_broker_that_refuses_mqtt_5_is_76_if_nothing_else_is_allowed() {
    // As one says it that knows MQTT 3.1.1 only, and as MQTT 5 says it.
    for connack in [&[0x20, 2, 0, 1][..], &[0x20, 3, 0, 0x84, 0]] {
        let old = Server::plain(server::answer(connack));
        one_message(old.port())
            .args(["--mqtt-version", "5"])
            .run(SOON)
            .expect_code(76)
            .expect_stderr("--mqtt-version 3.1.1");
    }
}

#[test]
fn a_publish_that_mosquitto_does_not_allow_is_77_and_dead() {
    let acl = "topic write allowed\ntopic read #\n";
    let broker = Broker::builder().acl(acl).start();
    for (topic, code) in [("allowed", 0), ("forbidden", 77)] {
        let publisher = Program::publisher().to(&broker);
        let publisher = publisher.args(["--receipts", "-m", "x", "-t", topic]);
        let outcome = publisher.run(SOON).expect_code(code);
        let lines = outcome.stdout.texts();
        assert_eq!(lines[0], "accepted 1", "{outcome}");
        let end = if code == 0 { "delivered 1" } else { "dead 1 " };
        assert!(lines[1].starts_with(end), "{outcome}");
        if code == 77 {
            assert!(lines[1].contains("not authorized"), "{outcome}");
            outcome.expect_stderr("forbidden");
        }
    }
}

#[test]
fn a_refused_message_wins_over_a_rejected_one() {
    let broker = ScriptedBroker::script()
        .on_publish(|publish| match &publish.payload[..] {
            b"secret" => Reply::Refuse(0x87),
            b"odd" => Reply::Refuse(0x99),
            _ => Reply::Ack,
        })
        .plain();
    for (input, code) in [
        (&b"secret\nmuch too long\nlast"[..], 77),
        (b"odd\nsecret\nlast", 77),
        (b"odd\nlast", 65),
        (b"much too long\nlast", 65),
    ] {
        let before = broker.publishes().len();
        let outcome = Program::publisher()
            .at_plain_port(broker.port())
            .args(["-t", "t", "-l", "--queue-bytes", "10"])
            .stdin(input)
            .run(SOON)
            .expect_code(code);
        let publishes = broker.publishes();
        assert!(publishes.len() > before, "{outcome}");
        assert_eq!(publishes.last().unwrap().payload, b"last", "{outcome}");
    }
}

#[test]
fn lost_messages_win_over_dropped_ones() {
    Program::publisher()
        .at_plain_port(free_port())
        .args(["-t", "t", "-l", "--queue-size", "1"])
        .args(["--drop-behavior", "newest", "--flush-timeout", "0.5"])
        .stdin(&b"kept\ndropped\n"[..])
        .run(SOON)
        .expect_code(69);
}

#[test]
fn help_and_version_are_0_and_go_to_stdout() {
    let help = Program::publisher().arg("--help").run(SOON).expect_code(0);
    for flag in ["--endpoint", "--drop-behavior", "--flush-timeout"] {
        assert!(help.stdout.text().contains(flag), "{help}");
    }
    let version = Program::publisher().arg("--version").run(SOON);
    let version = version.expect_code(0);
    for part in [env!("CARGO_PKG_VERSION"), "Paho C ", "OpenSSL "] {
        assert!(version.stdout.text().contains(part), "{version}");
    }
}
