//! `subscriber --request-topic`: a request, and its answers on the same connection.

use std::{fs, io::Cursor, thread, time::Duration};

use nix::sys::signal::Signal;

use crate::harness::{
    AwsLike, Broker, Program, QUICKLY, Reply, SOON, ScriptedBroker,
    peer::{Witness, publish},
    scripted::Event,
    temp_dir,
};

const ASKS: [&str; 4] = ["-t", "a/accepted", "-t", "a/rejected"];

/// With the request on its standard input.
fn asking(topic: &str) -> Program {
    let program = Program::subscriber().args(["--request-topic", topic, "--request-file", "-"]);
    program.stdin(Cursor::new("{\"n\":1}"))
}

#[test]
fn a_request_is_published_once_its_answers_can_come_and_the_first_one_ends_the_run() {
    for version in ["5", "3.1.1"] {
        let broker = Broker::start();
        let device = Witness::with_format(&broker, "a", "%q %r %p");
        let program = asking("a").to(&broker).args(ASKS);
        let program = program.args(["-v", "-C", "1", "-W", "20", "--mqtt-version", version]);
        let program = program.start();
        assert_eq!(device.texts(1), ["1 0 {\"n\":1}"]);
        publish(&broker, "a/accepted", "yes");
        let outcome = program.finish(SOON).expect_code(0);
        outcome.expect_stdout("a/accepted yes\n");
        assert_eq!(device.lines.count(), 1, "it was sent once");
    }
}

#[test]
fn without_an_acknowledgement_it_is_sent_again_and_with_one_never() {
    let broker = ScriptedBroker::script()
        .on_publish(|publish| match publish.connection {
            0 => Reply::HangUp,
            1 => Reply::Silence,
            _ => Reply::Ack,
        })
        .plain();
    let program = asking("a").at_plain_port(broker.port()).args(ASKS);
    let program = program.args(QUICKLY).args(["--operation-timeout", "0.5"]);
    let running = program.start();
    let sent = broker.wait_publishes(3, SOON);
    for (connection, publish) in (0..).zip(&sent) {
        assert_eq!(
            (publish.connection, &*publish.topic, publish.qos),
            (connection, "a", 1)
        );
        assert!(!publish.retain && publish.payload == b"{\"n\":1}");
    }
    // Each time the filters come first.
    let events = broker.events();
    let mut subscribed = 0;
    for event in &events {
        match event {
            Event::Connect(_) => subscribed = 0,
            Event::Subscribe(filters) => subscribed += filters.len(),
            Event::Publish(_) => assert_eq!(subscribed, 2, "{events:#?}"),
            _ => {}
        }
    }
    let outcome = running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let outcome = outcome.expect_stderr("no PUBACK for the request to \"a\" within");
    outcome.expect_stdout("");
    assert_eq!(broker.publishes().len(), 3);
}

#[test]
fn an_acknowledged_request_is_not_repeated_on_the_next_connection() {
    let mut broker = Broker::start();
    let device = Witness::start(&broker, "a");
    let program = asking("a")
        .to(&broker)
        .args(["-t", "b", "-d"])
        .args(QUICKLY);
    let running = program.start();
    assert_eq!(device.texts(1).len(), 1);
    // PUBACK has come: a probe that was sent after it arrives.
    publish(&broker, "b", "before");
    running.stdout_line(SOON, |line| line == "before");
    drop(device);
    broker.restart();
    let device = Witness::start(&broker, "a");
    let again = |line: &str| line.contains("connected to");
    running.stderr_line(SOON, again);
    assert!(crate::harness::wait_until(SOON, || {
        publish(&broker, "b", "after");
        running.stdout.text().contains("after")
    }));
    publish(&broker, "a", "another");
    assert_eq!(device.texts(1), ["another"]);
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn a_refused_request_ends_any_run_with_one_line() {
    for (version, why) in [
        ("5", "the broker refuses the request: not authorized"),
        ("3.1.1", "the broker closes each connection on which"),
    ] {
        let broker = AwsLike::builder()
            .allow_publish(|topic| topic != "a")
            .start();
        let program = asking("a").at_port(broker.port()).args(ASKS).args(QUICKLY);
        let program = program.args(["--mqtt-version", version, "--quiet"]);
        let outcome = program.run(SOON).expect_code(77);
        let said = outcome.stderr.text();
        let line = said
            .lines()
            .find(|line| line.contains("--request-topic \"a\": "));
        assert!(line.is_some_and(|line| line.contains(why)), "{outcome}");
        assert!(
            line.is_some_and(|line| line.contains("publish")),
            "{outcome}"
        );
    }
}

#[test]
fn a_request_above_the_largest_packet_is_not_sent() {
    let script = ScriptedBroker::script().connack_properties(&[0x27, 0, 0, 0, 14]);
    let broker = script.plain();
    let program = asking("a").at_plain_port(broker.port()).args(ASKS);
    program.run(SOON).expect_fault(
        65,
        &["--request-topic \"a\": 15 bytes are above the broker's maximum packet size of 14"],
    );
    assert!(broker.publishes().is_empty());
    let script = ScriptedBroker::script().connack_properties(&[0x27, 0, 0, 0, 15]);
    let broker = script.plain();
    let program = asking("a").at_plain_port(broker.port()).args(ASKS);
    program.arg("-E").run(SOON).expect_code(0);
    assert_eq!(broker.publishes().len(), 1);
}

#[test]
fn the_end_of_a_run_says_that_the_request_has_not_arrived() {
    // Nothing is acknowledged.
    let broker = ScriptedBroker::script()
        .on_publish(|_| Reply::Silence)
        .plain();
    let program = asking("a").at_plain_port(broker.port()).args(ASKS);
    let outcome = program.args(["-W", "1"]).run(SOON);
    let parts = ["has not acknowledged the request", "may have taken it"];
    let outcome = outcome.expect_fault(69, &parts);
    assert!(!outcome.stderr.text().contains("--topic"), "{outcome}");
    // It was never sent.
    let broker = ScriptedBroker::script().ignore_subscribe().plain();
    let program = asking("a").at_plain_port(broker.port()).args(ASKS);
    let outcome = program.args(["-W", "1"]).run(SOON);
    outcome.expect_fault(69, &["was not published", "grants each --topic"]);
    assert!(broker.publishes().is_empty());
    // A filter is refused: one line says so, and nothing is sent.
    let script = ScriptedBroker::script();
    let broker = script
        .on_subscribe(|filter, qos| Some(if filter == "a/rejected" { 0x87 } else { qos }))
        .plain();
    let program = asking("a").at_plain_port(broker.port()).args(ASKS);
    let outcome = program.args(["-W", "5"]).run(SOON);
    outcome.expect_fault(77, &["refused the subscription to \"a/rejected\""]);
    assert!(broker.publishes().is_empty());
}

#[test]
fn a_run_that_is_complete_waits_for_the_acknowledgement() {
    // It comes well within --operation-timeout; for other acknowledgements the end of a run waits two seconds.
    const DELAY: Duration = Duration::from_millis(3_500);
    for flags in [&["-C", "1"][..], &["-E"]] {
        // A message comes before it, and ends the run with -C 1.
        let broker = ScriptedBroker::script()
            .after_subscribe("a/rejected", "a/accepted", b"yes")
            .on_publish(|_| {
                thread::park_timeout(DELAY);
                Reply::Ack
            })
            .plain();
        let program = asking("a").at_plain_port(broker.port()).args(ASKS);
        let outcome = program.args(flags).run(SOON).expect_code(0);
        outcome.expect_stdout("yes\n");
        assert_eq!(broker.publishes().len(), 1);
    }
}

#[test]
fn wrong_topics_and_files_are_named_before_any_connection() {
    let dir = temp_dir();
    let large = dir.path().join("large");
    fs::write(&large, vec![b'x'; (16 << 20) + 1]).unwrap();
    let above_aws = dir.path().join("above-aws");
    fs::write(&above_aws, vec![b'x'; 131_073]).unwrap();
    let (large, above_aws) = (large.to_str().unwrap(), above_aws.to_str().unwrap());
    for (topic, file, code, part) in [
        ("a/+", "/dev/null", 64, "--request-topic \"a/+\""),
        ("", "/dev/null", 64, "--request-topic"),
        (
            "a",
            "/does/not/exist",
            66,
            "/does/not/exist: --request-file cannot be read",
        ),
        ("a", large, 66, "larger than 16 MiB"),
        (
            "a",
            above_aws,
            65,
            "131073 bytes, AWS IoT Core allows 131072",
        ),
    ] {
        let program = Program::subscriber().args(["-e", "localhost:1", "--profile", "aws"]);
        let program = program.args(ASKS).args(["--request-topic", topic]);
        let program = program.args(["--request-file", file]);
        program.run(SOON).expect_fault(code, &[part]);
    }
    for (flag, other) in [
        (["--request-topic", "a"], "--request-file"),
        (["--request-file", "f"], "--request-topic"),
    ] {
        let program = Program::subscriber().args(["-e", "localhost:1"]).args(ASKS);
        program.args(flag).run(SOON).expect_fault(64, &[other]);
    }
}

#[test]
fn the_file_and_the_environment_ask_too() {
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("request.json");
    fs::write(&file, "from a file").unwrap();
    for by_file in [true, false] {
        let device = Witness::with_format(&broker, "ask/#", "%t %p");
        let program = Program::subscriber()
            .to(&broker)
            .args(["-t", "b", "-E", "-i", "dev"]);
        let program = if by_file {
            let file = file.display();
            program.config(&format!(
                "[subscriber]\nrequest-topic = \"ask/{{client-id}}\"\nrequest-file = \"{file}\"\n"
            ))
        } else {
            let program = program.env("IOT_REQUEST_TOPIC", "ask/{client-id}");
            program.env("IOT_REQUEST_FILE", file.to_str().unwrap())
        };
        program.run(SOON).expect_code(0);
        assert_eq!(device.texts(1), ["ask/dev from a file"]);
    }
    // In a file, too, - is standard input.
    let device = Witness::with_format(&broker, "ask/#", "%t %p");
    let program = Program::subscriber().to(&broker).args(["-t", "b", "-E"]);
    let program = program.config("request-topic = \"ask/in\"\nrequest-file = \"-\"\n");
    program.stdin(Cursor::new("piped")).run(SOON).expect_code(0);
    assert_eq!(device.texts(1), ["ask/in piped"]);
}
