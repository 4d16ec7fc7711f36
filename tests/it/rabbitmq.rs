//! `RabbitMQ` 3.10, which knows no MQTT 5 and closes the connection on it.

use std::io::Cursor;

use crate::harness::rabbitmq::RabbitMq;
use crate::harness::{Program, SOON};

/// All in one test, because a node takes as long to start as everything else together.
#[test]
fn rabbitmq_with_mutual_tls_is_reached_with_default_flags() {
    let broker = RabbitMq::start();
    let publisher = || Program::publisher().at_port(broker.port());
    let subscriber = || Program::subscriber().at_port(broker.port());

    let checks = || [Program::publisher(), Program::subscriber()].map(|p| p.arg("check"));
    for check in checks() {
        let check = check.at_port(broker.port());
        let check = check.args(["-t", "it/check", "-i", "me"]);
        let check = check.run(SOON * 2).expect_code(0);
        let printed = check.stdout.text();
        assert!(printed.contains("CONNECT: MQTT 3.1.1"), "{check}");
    }

    let running = subscriber().args(["-t", "it/#", "-C", "103", "-d"]).start();
    running.wait_subscribed();
    let numbers: Vec<String> = (1..=100).map(|n| n.to_string()).collect();
    let lines = Cursor::new(numbers.join("\n"));
    let stream = publisher().args(["-t", "it/lines", "-l"]).stdin(lines);
    stream.run(SOON * 2).expect_code(0);
    for qos in ["0", "1"] {
        let one = publisher().args(["-t", "it/one", "-m", "one", "-q", qos]);
        let one = one.run(SOON * 2).expect_code(0);
        one.expect_stderr("the broker does not answer MQTT 5");
    }
    // It takes QoS 2 for QoS 1, and has the message all the same.
    let twice = publisher().args(["-t", "it/two", "-m", "two", "-q", "2"]);
    let twice = twice.args(["--flush-timeout", "5"]).run(SOON * 2);
    twice.expect_code(76).expect_stderr("give --qos 1");
    let outcome = running.finish(SOON).expect_code(0);
    let mut wanted = numbers;
    wanted.extend(["one", "one", "two"].map(String::from));
    outcome.expect_stdout(&(wanted.join("\n") + "\n"));

    // A session that is kept.
    let keeps = || {
        let keeps = subscriber().args(["-t", "it/kept", "-i", "keeper"]);
        keeps.args(["--persistent", "-C", "1", "-d"])
    };
    let running = keeps().start();
    running.wait_subscribed();
    for text in ["first", "second"] {
        let one = publisher().args(["-t", "it/kept", "-m", text]);
        one.run(SOON * 2).expect_code(0);
    }
    running.finish(SOON).expect_code(0).expect_stdout("first\n");
    keeps()
        .run(SOON * 2)
        .expect_code(0)
        .expect_stdout("second\n");

    // What its permissions do not allow ends the connection.
    for check in checks() {
        let check = check.at_port(broker.port()).args(["-t", "other"]);
        let check = check.run(SOON * 3);
        let printed = check.stdout.text();
        println!("{check}");
        let log = || broker.log().text();
        assert!(printed.contains("(ACL)"), "{check}\n{}", log());
        assert!(!printed.contains("policy"), "{check}");
        check.expect_code(77);
    }
}
