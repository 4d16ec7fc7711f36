//! For which ends of connections a message is given up, and for which it is not.

use std::{
    io::Write,
    net::TcpStream,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::harness::packet::read_packet;
use crate::harness::{AwsLike, Broker, Program, Reply, SOON, ScriptedBroker, Server, times};

/// Ends of connections after which a message must still be there.
fn ends() -> usize {
    times("IOT_TEST_ENDS", 50)
}

/// One message at QoS 1, and no time lost between two connections.
fn one_message(port: u16) -> Program {
    Program::one_message()
        .at_plain_port(port)
        .args(["--base-backoff", "0.01", "--max-backoff", "0.01"])
        .args(["--stable-time", "9", "--flush-timeout", "60", "--receipts"])
}

/// Ends this many connections in this way when a message comes, then acknowledges.
fn ends_first(count: usize, reply: Reply) -> ScriptedBroker {
    let script = ScriptedBroker::script();
    let script = script.on_publish(move |publish| {
        if publish.connection < count {
            reply
        } else {
            Reply::Ack
        }
    });
    script.plain()
}

#[test]
fn no_reason_that_is_not_about_a_message_costs_one() {
    let codes = [
        0x00, 0x80, 0x83, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x93, 0x94, 0x96, 0x97, 0x98, 0x9C, 0x9D,
        0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
    ];
    let runs: Vec<_> = codes
        .into_iter()
        .map(|code| {
            let broker = ends_first(ends(), Reply::Disconnect(code));
            let publisher = one_message(broker.port());
            (broker, publisher.start())
        })
        .collect();
    for (broker, running) in runs {
        let outcome = running.finish(SOON * 3).expect_code(0);
        assert_eq!(broker.publishes().len(), ends() + 1, "{outcome}");
    }
}

#[test]
fn a_malformed_packet_is_the_message_if_that_is_alone() {
    for code in [0x81, 0x82] {
        let broker = ends_first(ends(), Reply::Disconnect(code));
        let outcome = one_message(broker.port()).run(SOON).expect_code(65);
        assert_eq!(broker.publishes().len(), 5, "{outcome}");
    }
}

#[test]
fn a_malformed_packet_is_at_once_the_message_if_its_topic_has_a_noncharacter() {
    let broker = Broker::builder().plain().start();
    let lines =
        "{\"topic\":\"a\\uffff\",\"payload\":\"bad\"}\n{\"topic\":\"a\",\"payload\":\"good\"}\n";
    let outcome = Program::publisher()
        .to(&broker)
        .args(["-l", "--input", "json", "--receipts", "--summary"])
        .args(["--base-backoff", "0.01", "--max-backoff", "0.01"])
        .stdin(std::io::Cursor::new(lines))
        .run(SOON)
        .expect_code(65);
    let lines = outcome.stdout.texts();
    assert!(lines.iter().any(|line| line == "delivered 2"), "{outcome}");
    let summary = lines.last().unwrap();
    // The second time it is alone.
    assert!(summary.contains("\"reconnects\":2,"), "{outcome}");
}

#[test]
fn a_close_without_a_reason_costs_the_message_that_it_answers() {
    for version in ["5", "3.1.1"] {
        let broker = ends_first(ends(), Reply::HangUp);
        let publisher = one_message(broker.port()).args(["--mqtt-version", version]);
        let outcome = publisher.run(SOON).expect_code(65);
        assert_eq!(broker.publishes().len(), 5, "{outcome}");
        let broker = AwsLike::builder().allow_publish(|_| false).start();
        let publisher = Program::one_message().at_port(broker.port());
        let publisher = publisher.args(["--base-backoff", "0.01", "--max-backoff", "0.01"]);
        let outcome = publisher
            .args(["--mqtt-version", version, "--receipts"])
            .run(SOON);
        let dead = |line: &str| line.starts_with("dead 1 ");
        assert!(outcome.stdout.texts().iter().any(|l| dead(l)), "{outcome}");
        let connects = if version == "5" { 1 } else { 5 };
        assert_eq!(broker.connects().len(), connects, "{outcome}");
    }
}

#[test]
fn a_close_before_the_message_has_arrived_costs_nothing() {
    let script = ScriptedBroker::script().close_after_connack(ends());
    let broker = script.plain();
    let publisher = one_message(broker.port()).args(["--max-attempts", "1"]);
    publisher.run(SOON).expect_code(0);
}

#[test]
fn silence_costs_nothing() {
    let broker = ends_first(7, Reply::Silence);
    let publisher = one_message(broker.port()).args(["--operation-timeout", "0.2"]);
    publisher.run(SOON).expect_code(0);
    assert_eq!(broker.publishes().len(), 8);
}

/// Accepts the connection, and resets it when a message has come; the last one acknowledges.
fn resets(count: usize) -> Server {
    let connections = AtomicUsize::new(0);
    Server::listen(0, move |mut stream: TcpStream| {
        let number = connections.fetch_add(1, Ordering::SeqCst);
        if read_packet(&mut stream).is_err() || stream.write_all(&[0x20, 3, 0, 0, 0]).is_err() {
            return;
        }
        if number < count {
            // Dropped with something unread, it is reset.
            let _ = stream.peek(&mut [0]);
            return;
        }
        while let Ok(packet) = read_packet(&mut stream) {
            if packet.kind() == crate::harness::packet::kind::PUBLISH {
                let [high, low] = packet.publish(number, 5).packet_id.to_be_bytes();
                let _ = stream.write_all(&[0x40, 2, high, low]);
            }
        }
    })
}

#[test]
fn a_reset_costs_nothing() {
    let server = resets(ends());
    one_message(server.port()).run(SOON).expect_code(0);
    assert!(server.accepted().len() > ends());
}

#[test]
fn a_broker_that_restarts_again_and_again_costs_nothing() {
    let mut broker = Broker::start();
    let publisher = Program::publisher()
        .to(&broker)
        .args(["-t", "t", "--interval", "0.005", "--queue-size", "-1"])
        .args([
            "--mqtt-version",
            "3.1.1",
            "--max-attempts",
            "1",
            "--summary",
        ])
        .args(["--base-backoff", "0.01", "--max-backoff", "0.02"])
        .args(["--drain-rate", "max", "--receipts", "--stop-timeout", "10"]);
    let running = publisher.start();
    for round in 0..times("IOT_TEST_RESTARTS", 12) {
        let delivered = |line: &str| line.starts_with("delivered ");
        let seen = running.stdout.count();
        running.stdout.wait_from(seen, SOON, delivered).unwrap();
        if round % 2 == 0 {
            broker.kill();
        } else {
            broker.stop();
        }
        broker.start_again();
    }
    let outcome = running.finish_by(Signal::SIGTERM, SOON * 2).expect_code(0);
    let summary = outcome.stdout.texts().pop().unwrap();
    assert!(summary.contains("\"dead\":0"), "{summary}");
}

/// Of a message that is denied among others no other is given up.
#[test]
fn a_denied_message_costs_no_other_in_a_full_window() {
    let script = ScriptedBroker::script().on_publish(|publish| match &*publish.text() {
        "77" => Reply::HangUp,
        _ => Reply::Ack,
    });
    let broker = script.plain();
    let lines: String = (1..=200).map(|n| n.to_string() + "\n").collect();
    let outcome = Program::publisher()
        .at_plain_port(broker.port())
        .args(["-t", "t", "-l", "--mqtt-version", "3.1.1", "--receipts"])
        .args(["--base-backoff", "0.01", "--max-backoff", "0.01"])
        .stdin(std::io::Cursor::new(lines))
        .run(SOON + Duration::from_secs(5))
        .expect_code(65);
    let printed = outcome.stdout.texts();
    let count = |word: &str| printed.iter().filter(|line| line.starts_with(word)).count();
    assert_eq!((count("dead 77 "), count("dead ")), (1, 1), "{outcome}");
    assert_eq!(count("delivered "), 199, "{outcome}");
}
