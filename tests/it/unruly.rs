//! Brokers that break the protocol, or pass on what they should not: what the user reads, which
//! exit code a run has, and that no message is lost or blamed.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use crate::harness::{
    Program, SOON, ScriptedBroker, Server, odd_certs,
    packet::{self, Packet, kind, read_packet},
    running::Outcome,
    scripted::Event,
    server::{Stream, answer_then_silence, stay_silent},
    temp_dir, wait_until,
};

const QUICK: [&str; 4] = ["--base-backoff", "0.01", "--max-backoff", "0.05"];

fn publisher(port: u16) -> Program {
    let program = Program::publisher().at_plain_port(port).args(QUICK);
    program.args(["-t", "t", "--flush-timeout", "1"])
}

fn subscriber(port: u16) -> Program {
    let program = Program::subscriber().at_plain_port(port).args(QUICK);
    program.args(["-t", "t"])
}

/// Accepts the connection and the subscription, then sends these packets in one piece, and goes on as a
/// broker does. `seen` gets each packet of the client's.
fn sends(
    packets: &[Vec<u8>],
    seen: impl Fn(&Packet, &mut dyn Stream) + Send + Sync + 'static,
) -> Server {
    let bytes = packets.concat();
    Server::plain(move |stream| {
        while let Ok(packet) = read_packet(stream) {
            let answer: &[u8] = match packet.kind() {
                kind::CONNECT => &[0x20, 3, 0, 0, 0],
                kind::SUBSCRIBE => &[&[0x90, 4, 0, 1, 0, 1][..], &bytes].concat(),
                kind::PINGREQ => &[0xd0, 0],
                kind::DISCONNECT => return,
                _ => &[],
            };
            seen(&packet, stream);
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    })
}

/// A PUBLISH of MQTT 5 without properties; the topic may be any bytes.
fn publish(first: u8, topic: &[u8], id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
    body.extend(topic);
    if first & 6 != 0 {
        body.extend(id.to_be_bytes());
    }
    body.push(0);
    body.extend(payload);
    [&[first, u8::try_from(body.len()).unwrap()][..], &body].concat()
}

fn count(outcome: &Outcome, words: &str) -> usize {
    outcome.stderr.text().matches(words).count()
}

#[test]
fn what_a_refusal_adds_is_said_and_its_code_is_as_it_came() {
    let words = [&b"\x1f\0\x04busy"[..], b"\x1c\0\x09b.example"].concat();
    for (code, name) in [
        (0x9d, "server moved (0x9D)"),
        (0xa5, "unknown reason code (0xA5)"),
    ] {
        let length = u8::try_from(words.len()).unwrap();
        let connack = [&[0x20, 3 + length, 0, code, length][..], &words].concat();
        let server = Server::plain(answer_then_silence(connack.leak()));
        let said = format!("{name}: busy, the server to use is b.example");
        let outcome = publisher(server.port()).args(["-m", "x"]).run(SOON);
        outcome.expect_code(76).expect_stderr(&said);
        let outcome = subscriber(server.port()).args(["-C", "1"]).run(SOON);
        outcome.expect_code(76).expect_stderr(&said);
    }
}

#[test]
fn a_connack_that_breaks_the_protocol_is_named_and_a_run_that_ends_for_it_has_76() {
    let server = Server::plain(answer_then_silence(b"\x20\x06\0\0\x03\x21\0\0"));
    let words = "CONNACK: Receive Maximum is 0: protocol error (0x82)";
    let outcome = publisher(server.port()).args(["-m", "x"]).run(SOON);
    outcome.expect_code(76).expect_stderr(words);
    let subscriber = subscriber(server.port()).args(["-C", "1", "--timeout", "1"]);
    subscriber.run(SOON).expect_code(76).expect_stderr(words);
}

#[test]
fn a_protocol_error_is_no_message_s_fault_and_no_policy_s() {
    // More often than a message may end connections before it is given up.
    const TIMES: usize = 8;
    let connections = AtomicUsize::new(0);
    let server = Server::plain(move |stream| {
        let number = connections.fetch_add(1, Ordering::SeqCst);
        while let Ok(packet) = read_packet(stream) {
            let answer: &[u8] = match packet.kind() {
                kind::CONNECT => &[0x20, 3, 0, 0, 0],
                kind::PUBLISH if number < TIMES => &[0x70, 2, 0, 1],
                kind::PUBLISH => &[0x40, 2, 0, 1],
                _ => return,
            };
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    });
    let program = Program::publisher()
        .at_plain_port(server.port())
        .args(QUICK);
    let program = program.args(["-t", "t", "-m", "x", "--receipts"]);
    let outcome = program.run(SOON * 3).expect_code(0);
    assert_eq!(server.accepted().len(), TIMES + 1, "{outcome}");
    let delivered = outcome.stdout.text();
    assert!(delivered.contains("delivered"), "{outcome}");
    for wrong in ["policy", "iot:", "client id"] {
        assert_eq!(count(&outcome, wrong), 0, "{wrong}\n{outcome}");
    }
}

#[test]
fn what_a_publisher_has_not_asked_for_is_acknowledged_and_dropped() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kinds = Arc::clone(&seen);
    let server = Server::plain(move |stream| {
        while let Ok(packet) = read_packet(stream) {
            kinds.lock().unwrap().push(packet.kind());
            let answer = match packet.kind() {
                kind::CONNECT => [
                    vec![0x20, 3, 0, 0, 0],
                    publish(0x30, b"a", 0, b"0"),
                    publish(0x32, b"b", 1, b"1"),
                    publish(0x34, b"c", 2, b"2"),
                ]
                .concat(),
                kind::PUBREC => vec![0x62, 2, 0, 2],
                kind::PUBLISH => vec![0x40, 2, 0, 1],
                kind::DISCONNECT => return,
                _ => Vec::new(),
            };
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    });
    let mut running = publisher(server.port()).arg("-l").stdin_pipe().start();
    let done = [kind::PUBACK, kind::PUBREC, kind::PUBCOMP];
    let all = || done.iter().all(|kind| seen.lock().unwrap().contains(kind));
    assert!(wait_until(SOON, all), "{running}");
    running.send("x\n");
    running.close_stdin();
    let outcome = running.finish(SOON).expect_code(0);
    assert_eq!(count(&outcome, "not asked for"), 1, "{outcome}");
}

#[test]
fn a_message_that_is_sent_again_before_it_is_acknowledged_is_the_same_message() {
    let (send, acknowledged) = mpsc::channel();
    let twice = publish(0x32, b"t", 7, b"job");
    let again = publish(0x3a, b"t", 7, b"job");
    let other = publish(0x32, b"t", 8, b"end");
    let server = sends(&[twice, again, other], move |packet, _| {
        if packet.kind() == kind::PUBACK {
            let _ = send.send(packet.body().number());
        }
    });
    let dir = temp_dir();
    let (ran, go_on) = (dir.path().join("ran"), dir.path().join("go-on"));
    nix::unistd::mkfifo(&go_on, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!(
        "cat >>{ran}; echo >>{ran}; read x <{go_on}",
        ran = ran.display(),
        go_on = go_on.display()
    );
    let program = subscriber(server.port()).args(["-C", "2", "--exec", "sh", "-c", &script]);
    let running = program.start();
    for expected in ["job\n", "job\nend\n"] {
        let has_run = || fs::read_to_string(&ran).is_ok_and(|text| text == expected);
        assert!(wait_until(SOON, has_run), "{expected}\n{running}");
        // The command that waits goes on.
        let opens = || {
            let mut options = fs::OpenOptions::new();
            let options = options.write(true).custom_flags(nix::libc::O_NONBLOCK);
            let opened = options.open(&go_on);
            opened.and_then(|mut file| file.write_all(b"\n")).is_ok()
        };
        assert!(wait_until(SOON, opens), "{running}");
    }
    running.finish(SOON).expect_code(0);
    drop(server);
    assert_eq!(acknowledged.iter().collect::<Vec<_>>(), [7, 8]);
}

/// Topics that are no text, as brokers pass them on.
const NO_TEXT: [&[u8]; 5] = [
    b"a\0b",
    b"\xff",
    b"lone \xed\xa0\x80 surrogate",
    b"over-long \xc0\x80",
    b"cut \xe2\x82",
];

fn untextual(send: mpsc::Sender<u16>) -> Server {
    let mut packets = Vec::new();
    for (id, topic) in (1..).zip(NO_TEXT) {
        // Retained and live.
        packets.push(publish(0x33, topic, id, b"retained"));
        packets.push(publish(0x32, topic, 100 + id, b"live"));
        packets.push(publish(0x30, topic, 0, b"unacknowledged"));
    }
    packets.push(publish(0x32, "noncharacter \u{ffff}".as_bytes(), 200, b"1"));
    packets.push(publish(0x32, b"t", 201, b"2"));
    sends(&packets, move |packet, _| {
        if packet.kind() == kind::PUBACK {
            let _ = send.send(packet.body().number());
        }
    })
}

#[test]
fn a_topic_that_is_no_text_is_acknowledged_skipped_and_counted() {
    let (send, acknowledged) = mpsc::channel();
    let server = untextual(send);
    let program = subscriber(server.port()).args(["-C", "2", "--summary"]);
    let outcome = program.run(SOON).expect_code(0);
    let lines = outcome.stdout.all();
    let texts: Vec<_> = lines.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts[..2], ["1", "2"], "{outcome}");
    let summary: serde_json::Value = serde_json::from_str(texts[2]).unwrap();
    assert_eq!(summary["skipped"], 3 * NO_TEXT.len(), "{outcome}");
    assert_eq!(summary["received"], 2, "{outcome}");
    assert_eq!(
        count(&outcome, "are acknowledged and skipped"),
        5,
        "{outcome}"
    );
    assert!(outcome.stderr.text().contains("a\\x00b"), "{outcome}");
    let expected = (1..=5).flat_map(|id| [id, 100 + id]).chain([200, 201]);
    assert_eq!(server.accepted().len(), 1, "{outcome}");
    drop(server);
    let acknowledged: Vec<_> = acknowledged.iter().collect();
    assert_eq!(acknowledged, expected.collect::<Vec<_>>(), "in order");
}

#[test]
fn a_bridge_goes_on_past_topics_that_are_no_text() {
    let (send, _acknowledged) = mpsc::channel();
    let from = untextual(send);
    let to = ScriptedBroker::script().plain();
    let mut subscriber = std::process::Command::new(env!("CARGO_BIN_EXE_subscriber"))
        .args(["-e", &format!("mqtt://localhost:{}", from.port())])
        .args(["-t", "t", "-J", "-C", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = subscriber.stdout.take().unwrap();
    let publisher = Program::publisher().at_plain_port(to.port());
    let publisher = publisher.args(["-l", "--input", "json"]).stdin_given(lines);
    publisher.run(SOON).expect_code(0);
    assert!(subscriber.wait().unwrap().success());
    let passed: Vec<_> = to.publishes().iter().map(packet::Publish::text).collect();
    assert_eq!(passed, ["1", "2"]);
}

#[test]
fn a_packet_above_the_maximum_that_was_announced_ends_the_connection_by_name() {
    let large = packet::publish(5, 1, "t", &[b'x'; 2_000]);
    let good = packet::publish(5, 2, "t", b"good");
    let connections = AtomicUsize::new(0);
    let (send, codes) = mpsc::channel();
    let server = Server::plain(move |stream| {
        let number = connections.fetch_add(1, Ordering::SeqCst);
        while let Ok(packet) = read_packet(stream) {
            let answer: &[u8] = match packet.kind() {
                kind::CONNECT => {
                    assert_eq!(packet.connect().maximum_packet_size, Some(1_024));
                    &[0x20, 3, 0, 0, 0]
                }
                kind::SUBSCRIBE => {
                    let message = if number == 0 { &large } else { &good };
                    &[&[0x90, 4, 0, 1, 0, 1][..], message].concat()
                }
                kind::DISCONNECT => {
                    let mut body = packet.body();
                    let _ = send.send(if body.is_empty() { 0 } else { body.byte() });
                    return;
                }
                _ => &[],
            };
            if stream.write_all(answer).is_err() {
                return;
            }
        }
    });
    let program = subscriber(server.port()).args(["-C", "1", "--max-packet", "1KiB"]);
    let outcome = program.run(SOON).expect_code(0).expect_stdout("good\n");
    outcome.expect_stderr("--max-packet, which is 1024: packet too large (0x95)");
    assert_eq!(codes.recv_timeout(SOON), Ok(0x95));
}

#[test]
fn the_broker_s_keep_alive_is_kept_to_the_second() {
    const PINGS: usize = 4;
    let broker = ScriptedBroker::script()
        .connack_properties(&[0x13, 0, 1])
        .plain();
    let running = subscriber(broker.port()).args(["-d"]).start();
    let pings = |events: &[Event]| {
        let is_ping = |event: &&Event| matches!(event, Event::Ping(_));
        events.iter().filter(is_ping).count() >= PINGS
    };
    // As a broker would: one and a half times the keep-alive, for each.
    let timeout = Duration::from_millis(1_500);
    broker.wait(SOON + timeout * u32::try_from(PINGS).unwrap(), pings);
    let times = broker.ping_times();
    for pair in times.windows(2) {
        let gap = pair[1] - pair[0];
        assert!(gap <= timeout, "{gap:?}\n{running}");
    }
    let is_end = |event: &Event| matches!(event, Event::End);
    assert!(!broker.events().iter().any(is_end), "{running}");
}

#[test]
fn what_goes_into_packets_is_checked_before_any_is_sent() {
    let nobody = Server::plain(stay_silent);
    let dir = temp_dir();
    let long = "u".repeat(65_536);
    let config = |text: &str| {
        let path = dir.path().join("config.toml");
        fs::write(&path, text).unwrap();
        path
    };
    for program in [publisher, subscriber] {
        let finite = |program: Program| program.args(["--max-packet", "1MiB"]);
        let nul = config("username = \"a\\u0000b\"");
        let outcome = finite(program(nobody.port()))
            .arg("--config")
            .arg(nul)
            .run(SOON);
        outcome
            .expect_code(64)
            .expect_stderr("--username contains a NUL character");
        let username = finite(program(nobody.port())).args(["-u", &long]).run(SOON);
        username
            .expect_code(64)
            .expect_stderr("--username is 65536 bytes long");
        let password = odd_certs::file(dir.path(), "password", &long);
        let outcome = finite(program(nobody.port())).args(["-u", "u", "--password-file"]);
        let outcome = outcome.arg(&password).run(SOON);
        outcome
            .expect_code(78)
            .expect_stderr("its line is 65536 bytes long");
        let endless = finite(program(nobody.port())).args(["--config", "/dev/zero"]);
        endless
            .run(SOON)
            .expect_code(66)
            .expect_stderr("/dev/zero: --config cannot be read");
    }
    let certs = dir.path().join("certs");
    fs::create_dir(&certs).unwrap();
    std::os::unix::fs::symlink("/dev/zero", certs.join("endpoint")).unwrap();
    let program = Program::publisher()
        .args(["-t", "t", "-m", "x", "--certs"])
        .arg(&certs);
    program
        .run(SOON)
        .expect_code(66)
        .expect_stderr("endpoint: cannot be read: it is larger");
    assert_eq!(nobody.accepted().len(), 0);
}

#[test]
fn a_filter_that_no_broker_can_have_is_not_unsubscribed() {
    let dir = temp_dir();
    let state = dir.path().join("state.db");
    let resumed = ScriptedBroker::script().session_present().plain();
    let port = resumed.port();
    let program = || {
        let program = subscriber(port).args(["-C", "1", "--persistent", "-i", "x", "--state"]);
        program.arg(&state)
    };
    let open = |filters: &str| {
        let connection = rusqlite::Connection::open(&state).unwrap();
        let sql = "UPDATE sessions SET filters = ?1";
        assert_eq!(connection.execute(sql, [filters]).unwrap(), 1);
    };
    let running = program().arg("-d").start();
    running.wait_subscribed();
    running.finish_by(nix::sys::signal::Signal::SIGTERM, SOON);
    open("[\"a\\u0000b\",\"old\",\"#/#\"]");
    let running = program().arg("-d").start();
    running.wait_subscribed();
    let outcome = running.finish_by(nix::sys::signal::Signal::SIGTERM, SOON);
    let outcome = outcome.expect_code(0);
    outcome.expect_stderr("no longer subscribed: old\n");
}
