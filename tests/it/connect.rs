//! What keeps a connection from coming about, or ends it: each cause is named, ends a
//! finite run with its exit code, and never an endless one.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::harness::packet::read_packet;
use crate::harness::running::Outcome;
use crate::harness::{Broker, Program, Reply, SOON, ScriptedBroker, Server, free_port, server};

const QUICKLY: [&str; 4] = ["--base-backoff", "0.1", "--max-backoff", "0.2"];

/// One message for at most half a second, with attempts in quick succession.
fn short() -> Program {
    Program::one_message()
        .args(QUICKLY)
        .args(["--flush-timeout", "0.5"])
        .log_each_attempt()
}

fn attempts(outcome: &Outcome) -> usize {
    let text = outcome.stderr.text();
    text.matches("trying again").count()
}

/// Expects a broker that answers `connack` to be taken at its word.
fn expect_refusal(version: &str, connack: &'static [u8], code: i32, reason: &str) {
    let server = Server::plain(server::answer(connack));
    let program = short().args(["--mqtt-version", version]);
    let outcome = program.at_plain_port(server.port()).run(SOON);
    let outcome = outcome.expect_code(code).expect_stderr(reason);
    let host = format!("localhost:{}", server.port());
    let outcome = outcome.expect_stderr(&host);
    assert!(!outcome.stderr.text().contains("  "), "{outcome}");
    if code == 69 {
        assert!(attempts(&outcome) >= 2, "it is not retried\n{outcome}");
        assert!(outcome.elapsed >= Duration::from_millis(500), "{outcome}");
    } else {
        assert_eq!(server.accepted().len(), 1, "it is retried\n{outcome}");
        assert!(outcome.elapsed < Duration::from_secs(1), "{outcome}");
    }
}

#[test]
fn every_return_code_of_mqtt_3_1_1_is_named() {
    expect_refusal("3.1.1", &[0x20, 2, 0, 1], 76, "version");
    expect_refusal("3.1.1", &[0x20, 2, 0, 2], 77, "identifier rejected");
    expect_refusal("3.1.1", &[0x20, 2, 0, 3], 69, "unavailable");
    expect_refusal("3.1.1", &[0x20, 2, 0, 4], 77, "user name or password");
    expect_refusal("3.1.1", &[0x20, 2, 0, 5], 77, "not authorized");
}

#[test]
fn the_reason_codes_of_mqtt_5_are_named() {
    expect_refusal("5", &[0x20, 3, 0, 0x84, 0], 76, "(0x84)");
    expect_refusal("5", &[0x20, 3, 0, 0x85, 0], 77, "not valid (0x85)");
    expect_refusal("5", &[0x20, 3, 0, 0x86, 0], 77, "password (0x86)");
    expect_refusal("5", &[0x20, 3, 0, 0x87, 0], 77, "not authorized (0x87)");
    expect_refusal("5", &[0x20, 3, 0, 0x88, 0], 69, "unavailable (0x88)");
    expect_refusal("5", &[0x20, 3, 0, 0x89, 0], 69, "busy (0x89)");
    expect_refusal("5", &[0x20, 3, 0, 0x8a, 0], 77, "banned (0x8A)");
}

#[test]
fn an_endless_run_goes_on_after_a_refusal() {
    for (version, connack) in [
        ("5", &[0x20, 3, 0, 0x87, 0][..]),
        ("3.1.1", &[0x20, 2, 0, 5]),
    ] {
        let server = Server::plain(server::answer(connack));
        let subscriber = Program::subscriber()
            .args(["-t", "t", "--mqtt-version", version])
            .args(QUICKLY)
            .log_each_attempt()
            .at_plain_port(server.port())
            .start();
        server.wait_accepted(4, SOON);
        let outcome = subscriber.finish_by(Signal::SIGTERM, SOON);
        let named = outcome.stderr.text().matches("not authorized").count();
        assert!(named >= 3, "at every attempt\n{outcome}");
    }
}

#[test]
fn a_broker_that_refuses_version_5_is_spoken_to_in_3_1_1() {
    let refusals: [&[u8]; 2] = [&[0x20, 2, 0, 1], &[0x20, 3, 0, 0x84, 0]];
    for refusal in refusals {
        let old = || ScriptedBroker::script().refuse_version_5(refusal).tls();
        let broker = old();
        let program = Program::one_message().at_port(broker.port());
        program.run(SOON).expect_code(0).expect_stdout("");
        assert_eq!(broker.levels(), [5, 4]);
        assert_eq!(broker.publishes()[0].payload, b"hello");

        let broker = old();
        let program = Program::one_message().at_port(broker.port());
        let only_5 = program.args(["--mqtt-version", "5"]).run(SOON);
        only_5.expect_code(76).expect_stderr("--mqtt-version 3.1.1");
        assert!(broker.publishes().is_empty());
    }
}

#[test]
fn an_end_before_the_connack_says_so() {
    let reads = Server::plain(|stream| drop(read_packet(stream)));
    let said = "closed the connection before CONNACK";
    let outcome = short().at_plain_port(reads.port()).run(SOON);
    outcome.expect_code(69).expect_stderr(said);

    let reads = Server::tls(|stream| drop(read_packet(stream)));
    let outcome = short().at_port(reads.port()).run(SOON).expect_code(69);
    outcome.expect_stderr(said).expect_stderr("client id");
}

#[test]
fn the_connect_timeout_covers_tcp_tls_and_connack() {
    let waits = |program: Program| {
        let started = Instant::now();
        let program = program.args(["-t", "t", "--connect-timeout", "0.5"]);
        let subscriber = program.start();
        let line = subscriber.stderr_line(SOON, |line| line.contains("trying again"));
        let took = line.at - started;
        assert!(took >= Duration::from_millis(450), "{took:?} {subscriber}");
        assert!(took < Duration::from_millis(1200), "{took:?} {subscriber}");
    };
    let silent = Server::plain(server::stay_silent);
    waits(Program::subscriber().at_plain_port(silent.port()));
    waits(Program::subscriber().at_port(silent.port()));
    let silent = Server::tls(server::stay_silent);
    waits(Program::subscriber().at_port(silent.port()));
    // Frozen, it still lets the kernel accept.
    let broker = Broker::start();
    broker.pause();
    waits(Program::subscriber().to(&broker));
}

#[test]
fn a_signal_ends_an_attempt_at_a_silent_server() {
    let silent = Server::plain(server::stay_silent);
    for subscriber in [
        Program::subscriber().at_plain_port(silent.port()),
        Program::subscriber().at_port(silent.port()),
    ] {
        let before = silent.accepted().len();
        let subscriber = subscriber.args(["-t", "t"]).start();
        silent.wait_accepted(before + 1, SOON);
        let stopped = Instant::now();
        subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
        assert!(stopped.elapsed() < Duration::from_secs(2));
    }
}

#[test]
fn a_host_name_that_does_not_resolve_is_named_and_retried() {
    let nowhere = ["--endpoint", "nosuch.invalid", "--flush-timeout", "1"];
    let program = Program::one_message().args(QUICKLY).args(nowhere);
    let program = program.log_each_attempt();
    let outcome = program.run(SOON).expect_code(69);
    let outcome = outcome.expect_stderr("nosuch.invalid: the host name does not resolve");
    assert!(attempts(&outcome) >= 2, "{outcome}");
    assert!(outcome.elapsed >= Duration::from_secs(1), "{outcome}");
}

#[test]
fn a_closed_port_is_named_and_retried() {
    let port = free_port();
    for program in [short().at_port(port), short().at_plain_port(port)] {
        let outcome = program.run(SOON).expect_code(69);
        let named = format!("localhost:{port}: the port is closed");
        let outcome = outcome.expect_stderr(&named);
        assert!(attempts(&outcome) >= 2, "{outcome}");
    }
}

#[test]
fn a_brokers_farewell_is_named() {
    for tls in [false, true] {
        let script = ScriptedBroker::script().on_publish(|_| Reply::Disconnect(0x8e));
        let broker = if tls { script.tls() } else { script.plain() };
        let program = if tls {
            short().at_port(broker.port())
        } else {
            short().at_plain_port(broker.port())
        };
        let outcome = program.run(SOON).expect_stderr("taken over (0x8E)");
        outcome.expect_stderr("--client-id");
    }
}

#[test]
fn a_connection_that_breaks_is_named() {
    let mut broker = Broker::start();
    let program = Program::subscriber().to(&broker);
    let subscriber = program.args(["-t", "t", "-d"]).start();
    subscriber.stderr_line(SOON, |line| line.contains("subscribed"));
    broker.kill();
    subscriber.stderr_line(SOON, |line| line.contains("connection was lost"));
}
