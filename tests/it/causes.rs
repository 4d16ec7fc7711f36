//! Who is blamed when a connection ends: the network, a broker that restarts, or what was not allowed.

use std::{
    net::{Ipv4Addr, TcpListener},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use nix::{
    libc::linger,
    sys::{
        signal::Signal,
        socket::{setsockopt, sockopt::Linger},
    },
};

use crate::harness::{
    Program, Reply, SOON, ScriptedBroker, Server,
    packet::{kind, read_packet},
    running::Outcome,
    server, wait_until,
};

const QUICKLY: [&str; 4] = ["--base-backoff", "0.1", "--max-backoff", "0.2"];

/// Connections that end, where no number of them is enough.
const ALWAYS: usize = usize::MAX;

fn check(broker: &ScriptedBroker, flags: &[&str]) -> Outcome {
    let check = Program::subscriber().arg("check").args(["-t", "t"]);
    check.at_port(broker.port()).args(flags).run(SOON)
}

fn names(outcome: &Outcome, parts: &[&str], not: &[&str]) {
    let text = outcome.stdout.text() + &outcome.stderr.text();
    for part in parts {
        assert!(text.contains(part), "{part} is missing\n{outcome}");
    }
    for part in not {
        assert!(!text.contains(part), "{part} is wrong\n{outcome}");
    }
}

#[test]
fn a_connection_that_breaks_once_is_no_refusal() {
    for script in [
        ScriptedBroker::script().close_after_subscribe(1),
        ScriptedBroker::script().close_after_connack(1),
        ScriptedBroker::script().on_publish(|publish| match publish.connection {
            0 => Reply::HangUp,
            _ => Reply::Ack,
        }),
        ScriptedBroker::script().on_publish(|publish| match publish.connection {
            // Server shutting down.
            0 => Reply::Disconnect(0x8b),
            _ => Reply::Ack,
        }),
    ] {
        let broker = script.tls();
        for flags in [&[][..], &["-i", "me", "--takeover"]] {
            check(&broker, flags).expect_code(0);
        }
    }
}

#[test]
fn what_breaks_twice_is_refused_in_the_words_of_the_broker() {
    let publish = || ScriptedBroker::script().on_publish(|_| Reply::HangUp).tls();
    let subscribe = || ScriptedBroker::script().close_after_subscribe(ALWAYS).tls();
    let aws = ["policy", "iot:"];
    let outcome = check(&publish(), &[]).expect_code(77);
    names(&outcome, &["FAILED  publish", "(ACL)", "twice"], &aws);
    let outcome = check(&subscribe(), &[]).expect_code(77);
    names(&outcome, &["FAILED  subscribe", "(ACL)", "twice"], &aws);
    let at_aws = ["--profile", "aws"];
    let outcome = check(&publish(), &at_aws).expect_code(77);
    names(&outcome, &["policy", "(iot:Publish)"], &["ACL"]);
    let outcome = check(&subscribe(), &at_aws).expect_code(77);
    names(&outcome, &["policy", "(iot:Subscribe)"], &["ACL"]);
    let twin = ScriptedBroker::script().close_after_connack(ALWAYS).tls();
    let outcome = check(&twin, &["-i", "me", "--takeover"]).expect_code(77);
    names(&outcome, &["another client connected", "\"me\""], &aws);
}

#[test]
fn a_broker_that_closes_every_connection_is_not_said_to_refuse_what_was_asked() {
    let broker = ScriptedBroker::script().close_after_connack(ALWAYS).tls();
    let any_request = "right after CONNACK, whatever is requested";
    let not = ["ACL", "refuses", "policy"];
    let outcome = check(&broker, &[]).expect_code(69);
    names(
        &outcome,
        &["FAILED  publish", "FAILED  subscribe", any_request],
        &not,
    );
    // With a filter nothing is published.
    let outcome = check(&broker, &["-t", "t/#"]).expect_code(69);
    names(&outcome, &["FAILED  subscribe", any_request], &not);
    // A broker that closes for one request only is still said to refuse that one.
    let publish = ScriptedBroker::script().on_publish(|_| Reply::HangUp).tls();
    let outcome = check(&publish, &[]).expect_code(77);
    names(
        &outcome,
        &["FAILED  publish", "ok      subscribe"],
        &[any_request],
    );
}

/// Reads CONNECT, answers it, and hangs up.
fn answers_connect(mut stream: impl server::Stream) {
    if read_packet(&mut stream).is_ok() {
        let _ = stream.write_all(&[0x20, 3, 0, 0, 0]);
    }
}

#[test]
fn a_broker_that_restarts_twice_is_no_twin() {
    let not = ["another client", "--client-id"];
    // A CONNECT that is not answered while it starts.
    let number = AtomicUsize::new(0);
    let server = Server::plain(move |stream| match number.fetch_add(1, Ordering::SeqCst) {
        1 => drop(read_packet(stream)),
        _ => answers_connect(stream),
    });
    let check = || {
        Program::subscriber()
            .arg("check")
            .args(["-i", "me", "--takeover"])
    };
    let outcome = check().at_plain_port(server.port()).run(SOON);
    names(&outcome.expect_code(69), &["FAILED  client id"], &not);
    // A port that is refused meanwhile.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let checking = check().at_plain_port(port).start();
    let mut accepted = None;
    assert!(wait_until(SOON, || {
        accepted = listener.accept().ok();
        accepted.is_some()
    }));
    drop(listener);
    answers_connect(accepted.unwrap().0);
    // The first attempt after the close is over by then.
    thread::park_timeout(Duration::from_millis(250));
    let _again = Server::listen(port, answers_connect);
    let outcome = checking.finish(SOON).expect_code(69);
    names(&outcome, &["FAILED  client id"], &not);
}

/// Accepts connections and resets them at the packet of this kind.
fn resets_at(wanted: u8) -> Server {
    Server::listen(0, move |mut stream| {
        while let Ok(packet) = read_packet(&mut stream) {
            let sent = match packet.kind() {
                kind::CONNECT => std::io::Write::write_all(&mut stream, &[0x20, 3, 0, 0, 0]),
                _ => Ok(()),
            };
            if sent.is_err() || packet.kind() == wanted {
                break;
            }
        }
        let at_once = linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&stream, Linger, &at_once).unwrap();
    })
}

#[test]
fn a_network_that_breaks_is_not_blamed_on_rules_or_twins() {
    let not = ["policy", "iot:", "ACL", "client id", "--client-id"];
    let server = resets_at(kind::SUBSCRIBE);
    let program = Program::subscriber().at_plain_port(server.port());
    let subscriber = program.args(["-t", "t", "-i", "me"]).args(QUICKLY).start();
    server.wait_accepted(8, SOON);
    let outcome = subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    names(&outcome, &["connection was lost"], &not);
    // With a filter nothing is published.
    let check = Program::subscriber().arg("check").args(["-t", "t/#"]);
    let outcome = check.at_plain_port(server.port()).run(SOON).expect_code(69);
    names(&outcome, &["FAILED  subscribe", "lost"], &not);

    let server = resets_at(kind::PUBLISH);
    let program = Program::one_message().at_plain_port(server.port());
    let program = program.args(["-i", "me", "--flush-timeout", "1", "--max-attempts", "99"]);
    let outcome = program.args(QUICKLY).run(SOON).expect_code(69);
    assert!(server.accepted().len() >= 3, "{outcome}");
    names(&outcome, &["connection was lost"], &not);
}

#[test]
fn a_broker_that_closes_after_every_subscribe_is_suspected_of_its_rules() {
    for (flags, parts, not) in [
        (
            &[][..],
            ["(ACL)", "the SUBSCRIBE for \"t\""],
            ["policy", "iot:"],
        ),
        (
            &["--profile", "aws"],
            ["(iot:Subscribe)", "the SUBSCRIBE for \"t\""],
            ["ACL", "log"],
        ),
    ] {
        let broker = ScriptedBroker::script().close_after_subscribe(3).tls();
        let program = Program::subscriber().at_port(broker.port()).args(flags);
        let subscriber = program.args(["-t", "t"]).args(QUICKLY).start();
        subscriber.stderr_line(SOON, |line| line.contains("right after the SUBSCRIBE"));
        let outcome = subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
        names(&outcome, &parts, &not);
    }
}

#[test]
fn what_a_broker_adds_to_a_refusal_is_part_of_a_check_too() {
    let refusal = b"\x20\x18\0\x9d\x15\x1f\0\x08moved on\x1c\0\x07b:8883x";
    let broker = Server::plain(server::answer(refusal));
    for program in [Program::publisher(), Program::subscriber()] {
        let check = program.arg("check").at_plain_port(broker.port());
        let outcome = check.run(SOON).expect_code(76);
        let parts = [
            "server moved (0x9D): moved on",
            "the server to use is b:8883x",
        ];
        names(&outcome, &parts, &[]);
    }
    let older = b"\x20\x0e\0\x84\x0b\x1f\0\x08only 311";
    let broker = Server::plain(server::answer(older));
    let check = Program::publisher().arg("check");
    let check = check.at_plain_port(broker.port());
    let outcome = check.args(["--mqtt-version", "5"]).run(SOON);
    names(&outcome.expect_code(76), &["(0x84): only 311"], &[]);
}
