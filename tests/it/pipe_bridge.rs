//! `subscriber -J | publisher --input json` between two brokers.

use std::{
    fs::File,
    io::{Cursor, pipe},
    time::Duration,
};

use data_encoding::{BASE64, HEXLOWER};
use nix::sys::signal::Signal;

use tempfile::TempDir;

use crate::harness::{Broker, Program, SOON, peer, running::Running, temp_dir};

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

/// Both programs, that pass everything on from one broker to the other.
struct PipeBridge {
    from: Broker,
    to: Broker,
    subscriber: Running,
    publisher: Running,
    _dir: TempDir,
}

impl PipeBridge {
    fn start(publisher_flags: &[&str]) -> Self {
        let (from, to) = (Broker::start(), Broker::start());
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
        let publisher = publisher.args(["--base-backoff", "0.1"]);
        Self {
            from,
            to,
            subscriber,
            publisher: publisher.args(publisher_flags).start(),
            _dir: dir,
        }
    }

    /// After messages that came while the other broker was stopped.
    fn start_again_and_finish(mut self) -> (Broker, Broker) {
        std::thread::park_timeout(Duration::from_millis(300));
        self.to.start_again();
        let subscriber = self.subscriber.finish_by(Signal::SIGTERM, SOON);
        subscriber.expect_code(0);
        self.publisher.finish(SOON).expect_code(0);
        (self.from, self.to)
    }
}

#[test]
fn topic_bytes_qos_and_retain_cross_though_the_other_side_is_away() {
    let mut bridge = PipeBridge::start(&[]);
    let dir = temp_dir();

    let send = |from: &Broker, round: usize| {
        for (number, payload) in PAYLOADS.iter().enumerate() {
            let file = dir.path().join("payload");
            std::fs::write(&file, payload).unwrap();
            let mut client = peer::client("mosquitto_pub", from);
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
    let witness = peer::Witness::with_format(&bridge.to, "#", "%t %q %r %x");
    send(&bridge.from, 0);
    assert_eq!(witness.texts(PAYLOADS.len()), expected(0, false));
    drop(witness);

    bridge.to.stop();
    send(&bridge.from, 1);
    let (_, to) = bridge.start_again_and_finish();
    // The queue was emptied, and what was to be kept is kept on the other side.
    let kept = peer::Witness::with_format(&to, "r1/#", "%t %q %r %x");
    let wanted = expected(1, true);
    let mut got = kept.texts(wanted.len());
    got.sort();
    assert_eq!(got, wanted);
}

/// Every property, alone and together, with any bytes where MQTT allows any.
const PROPERTIES: [&str; 9] = [
    r#"{"content-type":"text/plain; charset=utf-8"}"#,
    r#"{"response-topic":"answers/\u00e9 \"7\""}"#,
    r#"{"correlation-data":"plain text"}"#,
    r#"{"correlation-data-base64":"/wCA/g=="}"#,
    r#"{"correlation-data":""}"#,
    r#"{"payload-format-indicator":1}"#,
    r#"{"user-properties":[["b","2"],["a",""],["","1"],["b","2"],["b","1"],["seq","mine"]]}"#,
    r#"{"message-expiry-interval":86400}"#,
    r#"{"content-type":"a","response-topic":"b","correlation-data-base64":"AP8=","payload-format-indicator":1,
        "user-properties":[["\ud83d\ude00","= \\ \" \u00b0C"],["b","2"],["a","1"]],"message-expiry-interval":86400}"#,
];

/// Without the expiry, which runs.
const ALL_BUT_EXPIRY: &str = "%t|%q|%r|%F|%C|%R|%D|%P|%x";

#[test]
fn every_property_crosses_with_any_payload_though_the_other_side_is_away() {
    let mut bridge = PipeBridge::start(&["--no-sequence"]);

    let count = PROPERTIES.len() * PAYLOADS.len();
    let send = |from: &Broker, round: &str| {
        let mut lines = String::new();
        let all = PROPERTIES
            .iter()
            .flat_map(|properties| PAYLOADS.iter().map(move |payload| (properties, payload)));
        for (number, (properties, payload)) in all.enumerate() {
            let (payload, retain) = (BASE64.encode(payload), number % 2);
            let properties = properties.replace('\n', "");
            lines += &[
                r#"{"topic":""#,
                &format!(r#"{round}/{number:03}","qos":1,"retain":{retain},"#),
                &format!(r#""payload_base64":"{payload}","properties":{properties}}}"#),
                "\n",
            ]
            .concat();
        }
        let source = Program::publisher().to(from);
        let source = source.args(["-l", "--input", "json", "--no-sequence"]);
        source.stdin(Cursor::new(lines)).run(SOON).expect_code(0);
    };
    let texts = |witness: &peer::Witness, count: usize| {
        let mut texts = witness.texts(count);
        texts.sort();
        texts
    };
    let (here, there) = (
        peer::Witness::with_format(&bridge.from, "live/#", ALL_BUT_EXPIRY),
        peer::Witness::with_format(&bridge.to, "live/#", ALL_BUT_EXPIRY),
    );
    send(&bridge.from, "live");
    let expected = texts(&here, count);
    assert!(
        expected
            .iter()
            .any(|line| line.contains("|b:2 a: :1 b:2 b:1 seq:mine|"))
    );
    for part in [
        "|text/plain; charset=utf-8|",
        "|plain text|",
        "|1||||",
        "|b|",
    ] {
        assert!(expected.iter().any(|line| line.contains(part)), "{part}");
    }
    assert_eq!(texts(&there, count), expected);
    drop(there);

    bridge.to.stop();
    send(&bridge.from, "away");
    let (from, to) = bridge.start_again_and_finish();
    // What is retained on both sides, with the properties; an empty payload is not.
    let kept = |broker: &Broker| {
        let witness = peer::Witness::with_format(broker, "away/#", ALL_BUT_EXPIRY);
        let is_kept =
            |number: &usize| number % 2 == 1 && !PAYLOADS[number % PAYLOADS.len()].is_empty();
        texts(&witness, (0..count).filter(is_kept).count())
    };
    assert_eq!(kept(&to), kept(&from));
    // The last one that is retained has all properties.
    let topic = format!("away/{:03}", count - 2);
    let witness = peer::Witness::with_format(&to, &topic, "%E");
    let left: u32 = witness.messages(1, SOON)[0].text.parse().unwrap();
    assert!((86_300..=86_400).contains(&left), "{left}");
}
