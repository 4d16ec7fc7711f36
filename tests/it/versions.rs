//! Brokers that know no MQTT 5 and do not say so: they close the connection, or keep silent.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::{
    Program, Reply, SOON, ScriptedBroker,
    running::{Outcome, Running},
    scripted::Script,
    wait_until,
};

const QUICKLY: [&str; 4] = ["--base-backoff", "0.1", "--max-backoff", "0.2"];

/// What is said of it, once per run.
const SAID: &str = "the broker does not answer MQTT 5; MQTT 3.1.1 is used";

/// A broker that closes the connection on a CONNECT of MQTT 5, as `RabbitMQ` 3.10 does.
fn closing() -> Script {
    ScriptedBroker::script().refuse_version_5(&[])
}

fn silent() -> Script {
    ScriptedBroker::script().ignore_version_5()
}

fn said_once(outcome: &Outcome) {
    let count = outcome.stderr.text().matches(SAID).count();
    assert_eq!(count, 1, "{outcome}");
}

fn wait_levels(broker: &ScriptedBroker, count: usize, running: &Running) -> Vec<u8> {
    let seen = wait_until(SOON, || broker.levels().len() >= count);
    let levels = broker.levels();
    assert!(seen, "only {levels:?}\n{running}");
    levels
}

#[test]
fn a_broker_that_closes_on_mqtt_5_is_spoken_to_in_3_1_1_after_the_second_time() {
    for tls in [false, true] {
        let script = closing().after_subscribe("t", "t", b"arrives");
        let broker = if tls { script.tls() } else { script.plain() };
        let to = |program: Program| {
            let program = program.args(QUICKLY);
            if tls {
                program.at_port(broker.port())
            } else {
                program.at_plain_port(broker.port())
            }
        };
        let outcome = to(Program::one_message()).run(SOON).expect_code(0);
        assert_eq!(broker.levels(), [5, 5, 4], "{outcome}");
        assert_eq!(broker.publishes()[0].payload, b"hello");
        said_once(&outcome);
        let subscriber = Program::subscriber().args(["-t", "t", "-C", "1"]);
        let outcome = to(subscriber).run(SOON).expect_code(0);
        let outcome = outcome.expect_stdout("arrives\n");
        assert_eq!(broker.levels(), [5, 5, 4, 5, 5, 4], "{outcome}");
        said_once(&outcome);
    }
}

#[test]
fn a_broker_that_keeps_silent_on_mqtt_5_is_spoken_to_in_3_1_1_in_the_second_attempt() {
    let broker = silent().after_subscribe("t", "t", b"arrives").plain();
    let to = |program: Program| {
        let program = program.at_plain_port(broker.port()).args(QUICKLY);
        // Half of it is enough for a machine with much else to do.
        program.args(["--connect-timeout", "3"])
    };
    let started = Instant::now();
    let outcome = to(Program::one_message()).run(SOON).expect_code(0);
    assert_eq!(broker.levels(), [5, 5, 4], "{outcome}");
    said_once(&outcome);
    // One timeout, the pause, and half a timeout.
    let took = started.elapsed();
    assert!(took > Duration::from_millis(4_500), "{took:?}\n{outcome}");
    let subscriber = Program::subscriber().args(["-t", "t", "-C", "1"]);
    let outcome = to(subscriber).run(SOON).expect_code(0);
    said_once(&outcome.expect_stdout("arrives\n"));
}

#[test]
fn what_worked_comes_first_from_then_on() {
    let broker = closing().on_publish(|publish| match publish.connection {
        2..=4 => Reply::HangUp,
        _ => Reply::Ack,
    });
    let broker = broker.plain();
    let program = Program::one_message().at_plain_port(broker.port());
    let outcome = program.args(QUICKLY).run(SOON).expect_code(0);
    assert_eq!(broker.levels(), [5, 5, 4, 4, 4, 4], "{outcome}");
    said_once(&outcome);
}

#[test]
fn neither_version_is_given_up() {
    let broker = ScriptedBroker::script().cut_connack(usize::MAX, &[]).tls();
    let program = Program::subscriber().at_port(broker.port());
    let program = program.args(["-t", "t", "-i", "me"]).args(QUICKLY);
    let subscriber = program.start();
    let levels = wait_levels(&broker, 9, &subscriber);
    assert_eq!(levels[..9], [5, 5, 4, 5, 5, 4, 5, 5, 4], "{subscriber}");
    let both = |line: &str| line.contains("before CONNACK, with MQTT 3.1.1 as with 5");
    subscriber.stderr_line(SOON, both);
    let outcome = subscriber.finish_by(Signal::SIGTERM, SOON);
    let outcome = outcome.expect_stderr("does it accept this certificate, the client id \"me\"");
    for wrong in ["policy", "iot:", "active"] {
        assert!(!outcome.stderr.text().contains(wrong), "{wrong}\n{outcome}");
    }
    let one = Program::one_message().at_port(broker.port()).args(QUICKLY);
    one.args(["--flush-timeout", "1"]).run(SOON).expect_code(69);
}

#[test]
fn at_aws_and_by_wish_the_version_stays() {
    let broker = closing().tls();
    for (flags, level) in [
        (["--profile", "aws"], 5),
        (["--mqtt-version", "5"], 5),
        (["--mqtt-version", "3.1.1"], 4),
    ] {
        let before = broker.levels().len();
        let program = Program::one_message().at_port(broker.port()).args(flags);
        let program = program.args(["--base-backoff", "0.1", "--max-backoff", "0.1"]);
        let outcome = program.args(["--flush-timeout", "2.5"]).run(SOON);
        let levels = broker.levels();
        let levels = &levels[before..];
        assert!(levels.iter().all(|l| *l == level), "{levels:?}\n{outcome}");
        assert!(level == 4 || levels.len() >= 3, "{levels:?}\n{outcome}");
        let text = outcome.stderr.text();
        let at_aws = flags[0] == "--profile";
        assert_eq!(text.contains("iot:Connect"), at_aws, "{outcome}");
        outcome.expect_code(if level == 4 { 0 } else { 69 });
    }
}

#[test]
fn a_connack_that_is_cut_short_is_a_passing_fault() {
    for bytes in [&[0x20][..], &[0x20, 3], &[0x20, 9, 0, 0, 6, 0x21]] {
        let script = || ScriptedBroker::script().cut_connack(3, bytes);
        let broker = script().plain();
        let program = Program::one_message().at_plain_port(broker.port());
        let outcome = program.args(QUICKLY).run(SOON).expect_code(0);
        let outcome = outcome.expect_stderr("in the middle of its CONNACK");
        assert_eq!(broker.levels(), [5; 4], "{outcome}");
        let broker = script().after_subscribe("t", "t", b"arrives").tls();
        let program = Program::subscriber().at_port(broker.port()).args(QUICKLY);
        let outcome = program.args(["-t", "t", "-C", "1"]).run(SOON);
        outcome.expect_code(0).expect_stdout("arrives\n");
        assert_eq!(broker.levels(), [5; 4]);
        let broker = ScriptedBroker::script().cut_connack(1, bytes).plain();
        let check = Program::publisher().arg("check");
        check.at_plain_port(broker.port()).run(SOON).expect_code(0);
    }
}

#[test]
fn a_check_tries_both_versions_too() {
    for script in [closing, silent] {
        let broker = script().plain();
        for program in [Program::publisher(), Program::subscriber()] {
            let check = program.arg("check").at_plain_port(broker.port());
            let check = check.args(["-t", "t", "-i", "me", "--connect-timeout", "1"]);
            let check = check.run(SOON).expect_code(0);
            let printed = check.stdout.text();
            assert!(printed.contains("ok      CONNECT: MQTT 3.1.1"), "{check}");
            assert!(printed.contains(SAID), "{check}");
        }
        assert_eq!(broker.levels(), [5, 5, 4, 5, 5, 4]);
    }
}

#[test]
fn a_check_names_a_broker_that_answers_neither_version() {
    let broker = ScriptedBroker::script().cut_connack(usize::MAX, &[]).tls();
    let check = Program::publisher().arg("check").at_port(broker.port());
    let check = check.args(["-i", "me", "--json"]).run(SOON).expect_code(69);
    assert_eq!(broker.levels(), [5, 5, 4], "{check}");
    let report: serde_json::Value = serde_json::from_str(&check.stdout.text()).unwrap();
    let steps = report["steps"].as_array().unwrap();
    let connect = steps.iter().find(|step| step["step"] == "CONNECT").unwrap();
    let text = |key: &str| connect[key].as_str().unwrap();
    let detail = text("detail");
    assert!(detail.contains("with MQTT 3.1.1 as with 5"), "{check}");
    let remedy = text("remedy");
    assert!(remedy.contains("the client id \"me-check\""), "{check}");
    assert!(detail.ends_with(remedy), "{check}");
}
