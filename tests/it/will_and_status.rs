//! The last will and the status topic: what a supervisor sees, however a run or a connection ends.

use std::{
    fs,
    io::Cursor,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::harness::{
    Broker, Program, Proxy, Reply, SOON, ScriptedBroker,
    peer::{Witness, client, publish},
    running::Running,
    temp_dir, wait_until,
};

const PROGRAMS: [&str; 2] = ["publisher", "subscriber"];
const VERSIONS: [&str; 2] = ["5", "3.1.1"];

/// A program that runs until it is stopped.
fn endless(name: &str) -> Program {
    match name {
        "publisher" => Program::publisher().args(["-t", "data", "-l"]).stdin_pipe(),
        _ => Program::subscriber().args(["-t", "data"]),
    }
}

fn with_status(name: &str, version: &str) -> Program {
    let program = endless(name).args(["--status-topic", "status", "--client-id", "device"]);
    program.args(["--mqtt-version", version, "--base-backoff", "50ms"])
}

fn numbers(count: usize) -> Vec<String> {
    (0..count).map(|n| n.to_string()).collect()
}

/// Ends a program in order.
fn stop(mut running: Running, name: &str) {
    if name == "publisher" {
        running.close_stdin();
        running.finish(SOON).expect_code(0);
    } else {
        running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    }
}

/// The retained message of the topic `status`; empty if there is none.
fn retained(broker: &Broker) -> String {
    let mut command = client("mosquitto_sub", broker);
    command.args(["-t", "status", "-F", "%r %p", "-C", "1", "-W", "5"]);
    let output = command.output().expect("mosquitto_sub");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn expect_retained(broker: &Broker, payload: &str, running: Option<&Running>) {
    let expected = format!("1 {payload}");
    let found = wait_until(SOON, || retained(broker) == expected);
    let scene = running.map(ToString::to_string).unwrap_or_default();
    assert!(found, "not {expected}\n{scene}\n{}", broker.log().text());
}

#[test]
fn a_run_is_online_and_after_an_orderly_end_offline_once() {
    for name in PROGRAMS {
        for version in VERSIONS {
            let broker = Broker::start();
            let witness = Witness::start(&broker, "status");
            let running = with_status(name, version).to(&broker).start();
            assert_eq!(witness.texts(1), ["online"], "{name} {version}");
            expect_retained(&broker, "online", Some(&running));
            stop(running, name);
            assert_eq!(retained(&broker), "1 offline", "{name} {version}");
            // A will in addition would come before this.
            publish(&broker, "status", "end");
            assert_eq!(witness.texts(3), ["online", "offline", "end"]);
        }
    }
}

#[test]
fn a_killed_program_is_offline_within_one_and_a_half_keep_alives() {
    for name in PROGRAMS {
        for version in VERSIONS {
            let broker = Broker::start();
            let witness = Witness::start(&broker, "status");
            let program = with_status(name, version).args(["--keep-alive", "2"]);
            let running = program.to(&broker).start();
            assert_eq!(witness.texts(1), ["online"]);
            let killed = Instant::now();
            running.signal(Signal::SIGKILL);
            let lines = witness.messages(2, Duration::from_secs(3));
            assert_eq!(lines[1].text, "offline", "{name} {version}");
            let delay = lines[1].at.duration_since(killed);
            assert!(delay < Duration::from_secs(3), "{delay:?}");
            assert_eq!(retained(&broker), "1 offline");
            // The next run is online again.
            let running = with_status(name, version).to(&broker).start();
            expect_retained(&broker, "online", Some(&running));
            stop(running, name);
        }
    }
}

#[test]
fn a_network_that_is_cut_or_falls_silent_leaves_offline_and_a_reconnect_online() {
    for (name, version) in [("publisher", "5"), ("subscriber", "3.1.1")] {
        let broker = Broker::builder().plain().start();
        let witness = Witness::start(&broker, "status");
        let proxy = Proxy::start(broker.port(), Duration::ZERO);
        let program = with_status(name, version).args(["--keep-alive", "1"]);
        let program = program.args(["--connect-timeout", "1"]);
        let running = program.at_plain_port(proxy.port()).start();
        assert_eq!(witness.texts(1), ["online"], "{running}");
        proxy.cut();
        assert_eq!(witness.texts(3)[1..], ["offline", "online"], "{running}");
        proxy.stall();
        assert_eq!(witness.texts(4)[3], "offline", "{running}");
        proxy.resume();
        // An attempt whose CONNECT arrives late may be replaced by the next one.
        expect_retained(&broker, "online", Some(&running));
        stop(running, name);
        expect_retained(&broker, "offline", None);
    }
}

#[test]
fn a_broker_that_restarts_or_crashes_has_the_right_status_again() {
    for (name, version) in [
        ("publisher", "5"),
        ("publisher", "3.1.1"),
        ("subscriber", "5"),
        ("subscriber", "3.1.1"),
    ] {
        let mut broker = Broker::builder().persistent().start();
        let running = with_status(name, version).to(&broker).start();
        expect_retained(&broker, "online", Some(&running));
        broker.restart();
        expect_retained(&broker, "online", Some(&running));
        broker.kill();
        broker.start_again();
        expect_retained(&broker, "online", Some(&running));
        stop(running, name);
        assert_eq!(retained(&broker), "1 offline", "{name} {version}");
    }
}

#[test]
fn online_comes_before_the_first_message_and_offline_after_the_last_even_if_one_may_be_in_flight() {
    for qos in ["0", "1", "2"] {
        let broker = Broker::builder().line("max_inflight_messages 1").start();
        let witness = Witness::start(&broker, "#");
        let program = Program::publisher().to(&broker).args(["-t", "data", "-l"]);
        let program = program.args(["-q", qos, "--status-topic", "status"]);
        let lines: String = numbers(200).join("\n");
        program.stdin(Cursor::new(lines)).run(SOON).expect_code(0);
        let seen = witness.texts(202);
        assert_eq!(seen.first().map(String::as_str), Some("online"));
        assert_eq!(seen[1..201], numbers(200), "QoS {qos}");
        assert_eq!(seen.last().map(String::as_str), Some("offline"));
    }
}

#[test]
fn a_kept_session_delivers_all_its_messages_once_beside_the_status() {
    for version in VERSIONS {
        for qos in ["1", "2"] {
            let broker = Broker::start();
            let subscriber = || {
                let program = with_status("subscriber", version).to(&broker);
                program.args(["--persistent", "-q", qos, "-d"])
            };
            let running = subscriber().start();
            running.wait_subscribed();
            running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
            let lines: String = numbers(500).join("\n");
            let program = Program::publisher().to(&broker).args(["-t", "data", "-l"]);
            let program = program.args(["-q", qos]).stdin(Cursor::new(lines));
            program.run(SOON).expect_code(0);
            let outcome = subscriber().args(["-C", "500"]).run(SOON).expect_code(0);
            let seen: Vec<_> = outcome.stdout.all().into_iter().map(|l| l.text).collect();
            assert_eq!(seen, numbers(500), "{version} QoS {qos}");
            assert_eq!(retained(&broker), "1 offline");
            let rest = subscriber().args(["-W", "0.5"]).run(SOON);
            rest.expect_code(27).expect_stdout("");
        }
    }
}

#[test]
fn other_texts_and_placeholders_can_be_given_and_everything_also_by_file_and_environment() {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "s/#", "%t %p");
    let text = "status-topic = \"s/{client-id}\"\nstatus-online = \"{up}\"\n";
    let program = Program::one_message().to(&broker).config(text);
    let program = program.args(["--client-id", "d7"]);
    let program = program.env("IOT_STATUS_OFFLINE", "-down-");
    program.run(SOON).expect_code(0);
    assert_eq!(witness.texts(2), ["s/d7 {up}", "s/d7 -down-"]);
}

#[test]
fn a_will_has_the_payload_qos_and_retain_flag_that_were_given() {
    let dir = temp_dir();
    let file = dir.path().join("will");
    let large = "abcde".repeat(13_107);
    fs::write(&file, &large).unwrap();
    for name in PROGRAMS {
        for version in VERSIONS {
            let broker = Broker::start();
            let witness = Witness::with_format(&broker, "w/#", "%t %q %l %p");
            let program = endless(name).to(&broker).args(["--mqtt-version", version]);
            let program = program.args(["--will-topic", "w/a", "--will-qos", "0"]);
            let running = program.args(["--will-message", "-gone-", "-d"]).start();
            running.stderr_line(SOON, |line| line.contains(" connected to "));
            running.signal(Signal::SIGKILL);
            assert_eq!(witness.texts(1), ["w/a 0 6 -gone-"]);

            let program = endless(name)
                .to(&broker)
                .args(["--mqtt-version", version, "-d"]);
            let program = program.args(["--will-topic", "status", "--will-retain"]);
            let running = program.arg("--will-file").arg(&file).start();
            running.stderr_line(SOON, |line| line.contains(" connected to "));
            running.signal(Signal::SIGKILL);
            expect_retained(&broker, &large, None);

            let program = endless(name)
                .to(&broker)
                .args(["--mqtt-version", version, "-d"]);
            let program = program.args(["--will-topic", "w/b", "--will-message", ""]);
            let running = program.start();
            running.stderr_line(SOON, |line| line.contains(" connected to "));
            stop(running, name);
            publish(&broker, "w/end", "");
            // The orderly end has left no will.
            assert_eq!(witness.texts(2)[1], "w/end 1 0 ");
        }
    }
}

#[test]
fn a_will_with_a_delay_comes_after_it_and_not_if_the_publisher_is_back_before() {
    let broker = Broker::builder().plain().start();
    let witness = Witness::start(&broker, "will");
    let proxy = Proxy::start(broker.port(), Duration::ZERO);
    let start = |qos: &str| {
        let program = Program::publisher().at_plain_port(proxy.port());
        let program = program.args(["-t", "data", "-l", "-v", "-i", "late", "-q", qos]);
        let program = program.args(["--base-backoff", "50ms", "--will-delay", "2"]);
        let program = program.args(["--will-topic", "will", "--will-message", "gone"]);
        program.stdin_pipe().start()
    };
    let connects = || {
        broker
            .log()
            .count_of(|line| line.contains(" as late (p5, c0"))
    };
    let mut running = start("1");
    running.send("1\n");
    running.stdout_line(SOON, |line| line == "data 1");
    proxy.cut();
    running.send("2\n");
    running.stdout_line(SOON, |line| line == "data 2");
    assert_eq!(connects(), 1, "{running}\n{}", broker.log().text());
    let killed = Instant::now();
    running.signal(Signal::SIGKILL);
    let lines = witness.messages(1, SOON);
    let delay = lines[0].at.duration_since(killed);
    assert!(delay > Duration::from_secs(1), "{delay:?}");
    assert_eq!(lines[0].text, "gone");

    // The broker remembers packet identifiers of QoS 2: there the session begins again.
    let mut running = start("2");
    running.send("1\n");
    running.stdout_line(SOON, |line| line == "data 1");
    proxy.cut();
    running.send("2\n");
    running.stdout_line(SOON, |line| line == "data 2");
    assert_eq!(connects(), 1, "{running}\n{}", broker.log().text());
    running.close_stdin();
    running.finish(SOON).expect_code(0);
}

#[test]
fn a_check_sets_no_will_and_publishes_no_status() {
    for name in PROGRAMS {
        let broker = Broker::start();
        let witness = Witness::start(&broker, "#");
        let program = || match name {
            "publisher" => Program::publisher(),
            _ => Program::subscriber(),
        };
        for flags in [
            &["--status-topic", "status"][..],
            &["--will-topic", "will", "--will-message", "gone"],
        ] {
            let check = program().arg("check").to(&broker).args(flags).arg("-d");
            let outcome = check.run(SOON).expect_code(0);
            let log = outcome.stderr.text();
            assert!(log.contains("sent CONNECT"), "{outcome}");
            assert!(!log.contains(" will "), "{outcome}");
            assert!(!log.contains("sent PUBLISH"), "{outcome}");
            let run = endless(name).to(&broker).args(flags).arg("-d").start();
            run.stderr_line(SOON, |line| {
                line.contains("sent CONNECT") && line.contains(" will ")
            });
        }
        drop(witness);
    }
}

#[test]
fn a_status_that_is_refused_or_not_answered_is_warned_about_once_and_messages_go_on() {
    for (silent, qos) in [(false, "1"), (true, "1"), (true, "0")] {
        let broker =
            ScriptedBroker::script().on_publish(move |publish| match (&*publish.topic, silent) {
                ("status", true) => Reply::Silence,
                ("status", false) => Reply::Refuse(0x87),
                _ => Reply::Ack,
            });
        let broker = broker.plain();
        let program = Program::one_message().at_plain_port(broker.port());
        let program = program.args(["--status-topic", "status", "--operation-timeout", "300ms"]);
        let outcome = program.args(["-q", qos]).run(SOON).expect_code(0);
        let lines = outcome.stderr.all();
        assert_eq!(lines.len(), 1, "{outcome}");
        let (cause, remedy) = if silent {
            ("does not acknowledge the status message", "see its log")
        } else {
            ("refuses the status message", "not authorized")
        };
        let line = &lines[0].text;
        assert!(line.contains(cause) && line.contains(remedy), "{outcome}");
        // The broker may still be reading the last of them.
        let sent = broker.wait_publishes(3, SOON).into_iter();
        let sent: Vec<_> = sent.map(|p| p.topic).collect();
        assert_eq!(sent, ["status", "t", "status"], "{outcome}");
    }
}

#[test]
fn a_broker_that_closes_the_connection_on_the_status_is_named_with_the_topic() {
    for version in VERSIONS {
        let broker = ScriptedBroker::script()
            .on_publish(|_| Reply::HangUp)
            .plain();
        let program = Program::one_message().at_plain_port(broker.port());
        let program = program.args(["--status-topic", "status", "--mqtt-version", version]);
        let outcome = program.args(["--flush-timeout", "500ms"]).run(SOON);
        outcome
            .expect_code(69)
            .expect_stderr("it had sent --status-topic \"status\"");
    }
}

#[test]
fn a_message_on_which_the_broker_closes_connections_is_found_beside_the_status() {
    let script = ScriptedBroker::script().on_publish(|publish| match &*publish.payload {
        b"bad" => Reply::HangUp,
        _ => Reply::Ack,
    });
    let broker = script.plain();
    let program = Program::publisher().at_plain_port(broker.port());
    let program = program.args(["-t", "t", "-l", "--status-topic", "status", "--receipts"]);
    let program = program.args(["--base-backoff", "1ms", "--max-attempts", "2"]);
    let outcome = program.stdin(Cursor::new("bad\ngood\n")).run(SOON);
    let outcome = outcome.expect_code(65);
    let receipts = outcome.stdout.text();
    assert!(receipts.contains("dead 1 "), "{outcome}");
    assert!(receipts.contains("delivered 2\n"), "{outcome}");
}

#[test]
fn a_broker_that_refuses_the_will_is_named_with_the_flags() {
    let broker = Broker::builder().line("retain_available false").start();
    let program = Program::one_message().to(&broker);
    let outcome = program.args(["--status-topic", "status"]).run(SOON);
    outcome.expect_fault(76, &["refused the connection", "--status-topic"]);
}

#[test]
fn a_will_or_status_that_cannot_be_is_a_usage_error_before_any_connection() {
    let long = "x".repeat(65_536);
    let will = ["--will-topic", "w", "--will-message", "x"];
    let and = |more: &[&'static str]| [&will[..], more].concat();
    let cases: Vec<(Vec<&str>, &[&str])> = vec![
        (
            vec!["--will-message", "x"],
            &["--will-message needs --will-topic"],
        ),
        (vec!["--will-qos", "1"], &["--will-qos needs --will-topic"]),
        (vec!["--will-retain"], &["--will-retain needs --will-topic"]),
        (
            vec!["--will-delay", "1"],
            &["--will-delay needs --will-topic"],
        ),
        (
            vec!["--will-topic", "w"],
            &["--will-topic needs a payload", "--will-file"],
        ),
        (
            vec!["--status-online", "x"],
            &["--status-online needs --status-topic"],
        ),
        (
            and(&["--status-topic", "s"]),
            &["--will-topic", "--status-topic"],
        ),
        (
            and(&["--will-file", "f"]),
            &["--will-message", "--will-file"],
        ),
        (
            and(&["--will-delay", "1", "--mqtt-version", "3.1.1"]),
            &["--will-delay needs MQTT 5"],
        ),
        (and(&["--will-qos", "3"]), &["--will-qos", "QoS 0, 1 and 2"]),
        (
            vec!["--will-topic", "w/#", "--will-message", "x"],
            &["--will-topic \"w/#\"", "wildcard"],
        ),
        (
            vec!["--status-topic", "s/+"],
            &["--status-topic \"s/+\"", "wildcard"],
        ),
        (
            vec!["--will-topic", "w", "--will-message", &long],
            &["--will-message", "65536 bytes", "65535"],
        ),
        (
            vec!["--status-topic", "s", "--status-offline", &long],
            &["--status-offline", "65536 bytes"],
        ),
        (
            and(&["--profile", "aws", "--will-qos", "2"]),
            &["--will-qos 2", "AWS IoT Core"],
        ),
        (
            vec!["--profile", "aws", "--status-topic", "1/2/3/4/5/6/7/8/9"],
            &["--status-topic", "8 slashes", "AWS IoT Core"],
        ),
        (
            vec![
                "--profile",
                "aws",
                "--status-topic",
                "$aws/things/t/shadow/update",
            ],
            &["--status-topic", "retained", "AWS IoT Core"],
        ),
    ];
    for name in PROGRAMS {
        for (flags, parts) in &cases {
            let outcome = endless(name).args(["-e", "h"]).args(flags).run(SOON);
            let outcome = outcome.expect_fault(64, parts);
            assert_eq!(outcome.stderr.count(), 1, "{outcome}");
        }
    }
    let missing = ["--will-topic", "w", "--will-file", "/does/not/exist"];
    let outcome = Program::one_message().args(["-e", "h"]).args(missing);
    let outcome = outcome.run(SOON);
    outcome.expect_fault(66, &["/does/not/exist: --will-file cannot be read"]);
}

#[test]
fn a_setting_of_higher_priority_replaces_the_other_kind_from_the_file() {
    let broker = Broker::start();
    let witness = Witness::start(&broker, "status");
    let text = "will-topic = \"w\"\nwill-message = \"x\"\nwill-qos = 1\nwill-retain = true\n";
    let program = Program::one_message().to(&broker).config(text);
    let program = program.args(["--status-topic", "status"]);
    program.run(SOON).expect_code(0);
    assert_eq!(witness.texts(2), ["online", "offline"]);
}
