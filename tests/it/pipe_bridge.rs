//! `subscriber -J | publisher --input json` between two brokers.

use std::{fs::File, io::pipe, time::Duration};

use data_encoding::HEXLOWER;
use nix::sys::signal::Signal;

use crate::harness::{Broker, Program, SOON, peer, temp_dir};

/// Any bytes.
const PAYLOADS: [&[u8]; 7] = [
    b"21.5",
    b"",
    b"\0",
    b"\xff\xfe\0\x80",
    "\u{1f600} \"quoted\" \\".as_bytes(),
    b"two\nlines\r\n",
    b"\x1b[2J",
];

#[test]
fn topic_bytes_qos_and_retain_cross_though_the_other_side_is_away() {
    let from = Broker::start();
    let mut to = Broker::start();
    let dir = temp_dir();
    let (reader, writer) = pipe().unwrap();
    let subscriber = Program::subscriber().to(&from).stdout(writer);
    let subscriber = subscriber.args(["-t", "#", "-q", "2", "-J", "-d"]);
    let subscriber = subscriber.args(["--persistent", "--client-id", "bridge"]);
    let subscriber = subscriber.arg("--retain-as-published").start();
    subscriber.wait_subscribed();
    let publisher = Program::publisher().to(&to).stdin_given(reader);
    let publisher = publisher.args(["-l", "--input", "json", "--queue"]);
    let publisher = publisher.arg(dir.path().join("queue.db"));
    let publisher = publisher.args(["--base-backoff", "0.1"]).start();

    let send = |round: usize| {
        for (number, payload) in PAYLOADS.iter().enumerate() {
            let file = dir.path().join("payload");
            std::fs::write(&file, payload).unwrap();
            let mut client = peer::client("mosquitto_pub", &from);
            let (qos, topic) = (number % 3, format!("r{round}/{number}"));
            let whole = if payload.is_empty() { "-n" } else { "-s" };
            client.args(["-q", &qos.to_string(), "-t", &topic, whole]);
            if round == 1 && number % 2 == 0 && !payload.is_empty() {
                client.arg("-r");
            }
            client.stdin(File::open(&file).unwrap());
            assert!(client.status().unwrap().success());
        }
    };
    let expected = |round: usize, retained: bool| -> Vec<String> {
        let all = PAYLOADS.iter().enumerate().filter(|(number, payload)| {
            !retained || (round == 1 && number % 2 == 0 && !payload.is_empty())
        });
        all.map(|(number, payload)| {
            let hex = HEXLOWER.encode(payload);
            let retain = u8::from(retained);
            format!("r{round}/{number} {} {retain} {hex}", (number % 3).min(1))
        })
        .collect()
    };
    let witness = peer::Witness::with_format(&to, "#", "%t %q %r %x");
    send(0);
    let got = witness.messages(PAYLOADS.len(), SOON);
    let got: Vec<_> = got.iter().map(|line| line.text.clone()).collect();
    assert_eq!(got, expected(0, false));
    drop(witness);

    to.stop();
    send(1);
    std::thread::park_timeout(Duration::from_millis(300));
    to.start_again();
    subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    publisher.finish(SOON).expect_code(0);
    // The queue was emptied, and what was to be kept is kept on the other side.
    let kept = peer::Witness::with_format(&to, "r1/#", "%t %q %r %x");
    let wanted = expected(1, true);
    let mut got: Vec<_> = kept
        .messages(wanted.len(), SOON)
        .iter()
        .map(|line| line.text.clone())
        .collect();
    got.sort();
    assert_eq!(got, wanted);
}
