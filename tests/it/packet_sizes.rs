//! Packets as large as the broker takes, and a byte larger: the first are sent, the others never. Which size a
//! packet has, every property included, the broker measures.

use std::io::Cursor;

use crate::harness::packet::Publish;
use crate::harness::running::Outcome;
use crate::harness::{Program, QueueFile, SOON, ScriptedBroker};

/// A broker that takes packets of this many bytes.
fn broker(most: u32) -> ScriptedBroker {
    let [a, b, c, d] = most.to_be_bytes();
    let script = ScriptedBroker::script().connack_properties(&[0x27, a, b, c, d]);
    script.plain()
}

/// Publishes one message whose payload has this many bytes.
fn publish(broker: &ScriptedBroker, payload: usize, flags: &[&str]) -> Outcome {
    let program = Program::publisher().at_plain_port(broker.port());
    let program = program.args(["-t", "t", "-m", &"x".repeat(payload)]);
    program.args(flags).run(SOON)
}

fn sizes(broker: &ScriptedBroker) -> Vec<usize> {
    broker
        .publishes()
        .iter()
        .map(|publish| publish.size)
        .collect()
}

/// The payload with which a packet has exactly `most` bytes; `known` is one that has this many already.
fn filling(most: usize, known: &Publish) -> usize {
    known.payload.len() + most - known.size
}

#[test]
fn a_packet_as_large_as_the_broker_takes_is_sent_and_one_byte_more_is_not() {
    const MOST: usize = 512;
    for flags in [
        &[][..],
        &["--no-sequence"],
        &["--expiry", "1h"],
        &["--no-sequence", "--expiry", "1h"],
    ] {
        for qos in ["0", "1", "2"] {
            let broker = broker(512);
            let flags = [flags, &["-q", qos]].concat();
            publish(&broker, 300, &flags).expect_code(0);
            let filling = filling(MOST, &broker.wait_publishes(1, SOON)[0]);
            publish(&broker, filling, &flags).expect_code(0);
            publish(&broker, filling + 1, &flags)
                .expect_code(65)
                .expect_stderr("513 bytes are above the broker's maximum packet size of 512");
            // At QoS 0 nobody waits for the broker.
            broker.wait_publishes(2, SOON);
            assert_eq!(sizes(&broker)[1..], [MOST], "{flags:?}");
        }
    }
}

#[test]
fn where_a_length_takes_a_byte_more_the_packet_grows_by_two() {
    for (most, known) in [(130, 100), (16_387, 16_300)] {
        let broker = broker(most);
        let most = usize::try_from(most).unwrap();
        let flags = ["--no-sequence", "--expiry", "1h"];
        publish(&broker, known, &flags).expect_code(0);
        // No packet has `most` bytes.
        let filling = filling(most - 1, &broker.wait_publishes(1, SOON)[0]);
        publish(&broker, filling, &flags).expect_code(0);
        publish(&broker, filling + 1, &flags).expect_code(65);
        assert_eq!(sizes(&broker)[1..], [most - 1]);
    }
}

#[test]
fn once_the_limit_is_known_what_is_above_it_is_refused_before_it_is_accepted() {
    let queue = QueueFile::new();
    let path = queue.path();
    for flags in [&[][..], &["--queue", path.to_str().unwrap()]] {
        let broker = broker(512);
        let publisher = Program::publisher().at_plain_port(broker.port());
        let publisher = publisher.args(["-t", "t", "-l", "--receipts", "--expiry", "1h"]);
        let mut running = publisher.args(flags).stdin_pipe().start();
        let mut send = |payload: usize| running.send("x".repeat(payload) + "\n");
        send(300);
        let known = broker.wait_publishes(1, SOON);
        let filling = filling(512, &known[0]);
        running.stdout_line(SOON, |line| line == "delivered 1");
        running.send("x".repeat(filling + 1) + "\n" + &"x".repeat(filling) + "\n");
        running.stdout_line(SOON, |line| line == "delivered 2");
        running.close_stdin();
        let outcome = running.finish(SOON).expect_code(65);
        let lines = outcome.stdout.texts();
        let rejected = "rejected 2 513 bytes are above the broker's maximum packet size of 512";
        assert!(lines.iter().any(|line| line == rejected), "{outcome}");
        assert!(
            !lines.iter().any(|line| line.starts_with("dead")),
            "{outcome}"
        );
        assert_eq!(sizes(&broker)[1..], [512]);
    }
}

#[test]
fn a_batch_is_filled_as_far_as_the_broker_takes_it() {
    for flags in [&[][..], &["--expiry", "1h"], &["--no-sequence"]] {
        let broker = broker(512);
        let publisher = Program::publisher().at_plain_port(broker.port());
        let publisher = publisher.args(["-t", "t", "-l", "--batch", "1000", "--batch-wait", "1h"]);
        let lines = "abc\n".repeat(1_000);
        let publisher = publisher.args(flags).stdin(Cursor::new(lines.clone()));
        publisher.run(SOON).expect_code(0);
        let sizes = sizes(&broker);
        assert!(sizes.iter().all(|size| *size <= 512), "{sizes:?}");
        // Of the `seq` property only the longest is known in advance; without it, all is.
        let least = if flags.contains(&"--no-sequence") {
            509
        } else {
            420
        };
        assert!(sizes[0] >= least, "{sizes:?}");
        let payloads: Vec<_> = broker.publishes().into_iter().map(|p| p.payload).collect();
        assert_eq!(payloads.concat(), lines.as_bytes());
    }
}

#[test]
fn mqtt_3_1_1_has_neither_properties_nor_a_limit() {
    let broker = broker(512);
    let flags = ["--mqtt-version", "3.1.1", "--expiry", "1h"];
    publish(&broker, 1_000, &flags).expect_code(0);
    // Fixed header 3, topic 2 + 1, packet identifier 2.
    assert_eq!(sizes(&broker), [1_008]);
}
