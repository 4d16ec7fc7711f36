//! Subscribing: every filter on every connection, and every answer looked at.

use std::{fs, time::Duration};

use nix::sys::signal::Signal;

use crate::harness::running::Running;
use crate::harness::scripted::Event;
use crate::harness::{Broker, Program, SOON, ScriptedBroker, peer, temp_dir};

/// A subscriber to these filters that logs what the broker grants.
fn subscriber(filters: &[&str]) -> Program {
    let program = Program::subscriber().args(["-d"]);
    let program = program.args(["--base-backoff", "0.1", "--max-backoff", "0.2"]);
    filters.iter().fold(program, |p, f| p.args(["-t", f]))
}

fn wait_subscribed(subscriber: &Running, filter: &str) {
    let said = format!("{filter}: subscribed with QoS");
    subscriber.stderr_line(SOON, |line| line.contains(&said));
}

fn publish(broker: &Broker, topic: &str, payload: &str) {
    assert!(peer::publish(broker, topic, payload).status.success());
}

/// How often the broker was asked for this filter, connection by connection.
fn asked(events: &[Event], filter: &str) -> Vec<usize> {
    let mut asked = Vec::new();
    for event in events {
        match event {
            Event::Connect(_) => asked.push(0),
            Event::Subscribe(filters) if filters.iter().any(|(f, _)| f == filter) => {
                *asked.last_mut().expect("a CONNECT comes first") += 1;
            }
            _ => (),
        }
    }
    asked
}

/// Grants everything but `closed`, and publishes after each answer to either filter.
fn refusing(code: u8) -> ScriptedBroker {
    ScriptedBroker::script()
        .on_subscribe(move |filter, qos| Some(if filter == "closed" { code } else { qos }))
        .after_subscribe("closed", "open", b"still here")
        .tls()
}

#[test]
fn several_filters_are_received_on_one_connection() {
    let broker = Broker::start();
    let program = subscriber(&["a/+", "b/#", "c"]).to(&broker);
    let subscriber = program.args(["-v", "-C", "3"]).start();
    for filter in ["a/+", "b/#", "c"] {
        wait_subscribed(&subscriber, filter);
    }
    for topic in ["a/1", "b/1/2", "d", "c"] {
        publish(&broker, topic, "x");
    }
    let outcome = subscriber.finish(SOON).expect_code(0);
    outcome.expect_stdout("a/1 x\nb/1/2 x\nc x\n");
}

#[test]
fn sharers_of_a_subscription_get_each_message_once() {
    let broker = Broker::start();
    let filter = "$share/group/t";
    let sharer = || {
        let sharer = subscriber(&[filter]).to(&broker).start();
        wait_subscribed(&sharer, filter);
        sharer
    };
    let (one, other) = (sharer(), sharer());
    for number in 0..6 {
        publish(&broker, "t", &number.to_string());
    }
    let all = || {
        let lines = [one.stdout.all(), other.stdout.all()].concat();
        let mut texts: Vec<_> = lines.into_iter().map(|line| line.text).collect();
        texts.sort();
        texts
    };
    let arrived = crate::harness::wait_until(SOON, || all().len() >= 6);
    assert!(arrived, "{one}\n{other}");
    assert_eq!(all(), ["0", "1", "2", "3", "4", "5"]);
    assert!(one.stdout.count() > 0 && other.stdout.count() > 0);
}

#[test]
fn a_count_ends_the_run_after_exactly_so_many() {
    let broker = Broker::start();
    for number in ["1", "2", "3", "4", "5"] {
        let topic = format!("kept/{number}");
        let mut client = peer::client("mosquitto_pub", &broker);
        client.args(["-q", "1", "-r", "-t", &topic, "-m", number]);
        assert!(client.status().unwrap().success());
    }
    let program = Program::subscriber().to(&broker).args(["-t", "kept/#"]);
    let outcome = program.args(["-C", "3"]).run(SOON).expect_code(0);
    assert_eq!(outcome.stdout.count(), 3, "{outcome}");
    assert_eq!(outcome.stderr.text(), "", "success is silent\n{outcome}");
}

#[test]
fn the_end_of_the_time_has_a_code_of_its_own() {
    let broker = Broker::start();
    let program = Program::subscriber().to(&broker);
    let program = program.args(["-t", "t", "-C", "9", "-W", "0.5"]);
    let outcome = program.run(SOON).expect_code(27).expect_stdout("");
    assert!(outcome.elapsed >= Duration::from_millis(500), "{outcome}");
    assert!(outcome.elapsed < Duration::from_secs(2), "{outcome}");
    assert_eq!(outcome.stderr.text(), "", "{outcome}");
}

#[test]
fn a_restarted_broker_is_subscribed_to_again() {
    let mut broker = Broker::start();
    let program = subscriber(&["a", "b"]).to(&broker).arg("--summary");
    let subscriber = program.start();
    wait_subscribed(&subscriber, "b");
    for round in 1..=2 {
        publish(&broker, "a", "before");
        subscriber.stdout_lines(2 * round - 1, SOON);
        let seen = broker.log().count();
        broker.restart();
        let ends = |line: &str| line.contains("subscriber-") && line.ends_with(" 1 b");
        let again = broker.log().wait_from(seen, SOON, ends);
        assert!(again.is_some(), "{subscriber}");
        publish(&broker, "b", "after");
        subscriber.stdout_lines(2 * round, SOON);
    }
    let outcome = subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let summary = outcome.stdout.all().pop().unwrap().text;
    assert!(summary.contains("\"reconnects\":2"), "{outcome}");
}

#[test]
fn one_refused_filter_of_two_ends_a_finite_run() {
    for (version, code) in [("5", 0x87), ("5", 0x80), ("3.1.1", 0x80)] {
        let broker = refusing(code);
        let program = subscriber(&["open", "closed"]).at_port(broker.port());
        let program = program.args(["-C", "5", "--mqtt-version", version]);
        let outcome = program.run(SOON).expect_code(77);
        let outcome = outcome.expect_stderr("\"closed\"");
        let text = outcome.stderr.text();
        assert!(text.contains("refused the subscription"), "{outcome}");
        // Apart from the packets, which `-d` logs.
        let mut lines = text.lines().filter(|line| !line.contains(" DEBUG "));
        assert!(lines.all(|line| !line.contains("\"open\"")), "{outcome}");
        assert!(outcome.elapsed < Duration::from_secs(1), "{outcome}");
    }
}

#[test]
fn an_endless_run_receives_what_was_granted_and_asks_again_for_the_rest() {
    for (version, code) in [("5", 0x87), ("3.1.1", 0x80)] {
        let broker = refusing(code);
        let program = subscriber(&["open", "closed"]).at_port(broker.port());
        let subscriber = program.args(["--mqtt-version", version]).start();
        broker.wait(SOON, |events| asked(events, "closed") == [4]);
        // Messages for the other filter came in between.
        subscriber.stdout_lines(3, SOON);
        let outcome = subscriber.finish_by(Signal::SIGTERM, SOON);
        let refusals = outcome.stderr.text().matches("\"closed\"").count();
        assert!(refusals >= 3, "each is logged\n{outcome}");
        assert_eq!(asked(&broker.events(), "open"), [1], "{outcome}");
    }
}

#[test]
fn a_broker_with_an_access_list_is_believed() {
    let dir = temp_dir();
    let config = dir.path().join("security.json");
    let access = r#"{"defaultACLAccess":{"publishClientSend":true,"subscribe":false}}"#;
    fs::write(&config, access).unwrap();
    let plugin = "plugin /usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so";
    let options = format!("plugin_opt_config_file {}", config.display());
    let builder = Broker::builder().line(plugin).line(&options);
    let broker = builder.line("allow_anonymous true").start();
    for version in ["5", "3.1.1"] {
        let program = subscriber(&["t"]).to(&broker).args(["-C", "1"]);
        let program = program.args(["--mqtt-version", version]);
        program.run(SOON).expect_code(77).expect_stderr("\"t\"");
    }
}

#[test]
fn a_subscribe_without_an_answer_is_repeated_and_then_the_link_is_dead() {
    let broker = ScriptedBroker::script().ignore_subscribe().tls();
    let program = subscriber(&["t"]).at_port(broker.port());
    let subscriber = program.args(["--operation-timeout", "0.3"]).start();
    let events = broker.wait(SOON, |events| asked(events, "t").len() == 3);
    assert_eq!(asked(&events, "t")[..2], [3, 3], "{subscriber}");
    let named = |line: &str| line.contains("no SUBACK") && line.contains("\"t\"");
    subscriber.stderr_line(SOON, named);
}

#[test]
fn a_filter_that_mqtt_does_not_allow_is_a_usage_error() {
    let long = "x".repeat(65_536);
    for filter in ["", "a+", "a/#/b", "#a", "$share/g", "$share//t", &long] {
        let program = subscriber(&[filter]).endpoint(1);
        let outcome = program.run(SOON).expect_code(64);
        assert_eq!(outcome.stderr.count(), 1, "{outcome}");
        outcome.expect_stderr("--topic");
    }
    let without = Program::subscriber().endpoint(1).run(SOON);
    without.expect_code(64).expect_stderr("--topic");
}
