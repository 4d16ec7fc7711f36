//! At AWS IoT Core: its limits, its quota, its ports, and what it says by hanging up.

use std::{
    io::Cursor,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::harness::{
    AwsLike, Program, QueueFile, Reply, SOON, ScriptedBroker, Server, free_port, server,
};

/// With the limits of AWS, which a name that does not resolve here would bring automatically.
fn guarded(program: Program) -> Program {
    program.args(["--profile", "aws"])
}

#[test]
fn every_limit_is_a_usage_error_that_names_it_before_any_connection() {
    let server = Server::plain(server::stay_silent);
    let long = "x".repeat(257);
    let long_id = "x".repeat(129);
    let deep = "1/2/3/4/5/6/7/8/9";
    let many: Vec<String> = (0..51).map(|n| format!("t/{n}")).collect();
    let many: Vec<&str> = many.iter().flat_map(|t| ["-t", t.as_str()]).collect();
    let publisher: &[(&[&str], &str)] = &[
        (&["-t", &long, "-m", "x"], "256"),
        (&["-t", deep, "-m", "x"], "8 slashes, AWS IoT Core allows 7"),
        (&["-t", "$SYS/x", "-m", "x"], "reserves"),
        (
            &["-t", "t", "-m", "x", "-q", "2"],
            "--qos 2 is not supported",
        ),
        (&["-t", "t", "-m", "x", "-i", &long_id], "allows 128"),
        (&["-t", "t", "-m", "x", "-i", "$id"], "begins with $"),
        (
            &["-t", "t", "-m", "x", "--keep-alive", "29"],
            "from 30 to 1200",
        ),
        (
            &["-t", "t", "-m", "x", "--keep-alive", "1201"],
            "from 30 to 1200",
        ),
        (
            &["-t", "t", "-m", "x", "--max-inflight", "101"],
            "at most 100",
        ),
        (
            &["-t", "$aws/things/x/shadow/update", "-m", "x", "-r"],
            "--retain",
        ),
    ];
    for (args, part) in publisher {
        let program = guarded(Program::publisher()).at_port(server.port());
        program
            .args(*args)
            .run(SOON)
            .expect_fault(64, &[part, "AWS IoT Core"]);
    }
    let subscriber: &[(&[&str], &str)] = &[
        (&["-t", &long], "256"),
        (&["-t", deep], "8 slashes"),
        (&["-t", "t", "-q", "2"], "--qos 2"),
        (&many, "50 subscriptions"),
    ];
    for (args, part) in subscriber {
        let program = guarded(Program::subscriber()).at_port(server.port());
        program
            .args(*args)
            .run(SOON)
            .expect_fault(64, &[part, "AWS IoT Core"]);
    }
    assert_eq!(server.accepted().len(), 0);
}

#[test]
fn the_endpoint_name_brings_the_limits_and_the_flag_takes_them_away() {
    let at = |host: &str| {
        let endpoint = format!("mqtt://{host}:1");
        Program::one_message().args(["--endpoint", &endpoint, "-q", "2", "--flush-timeout", "0"])
    };
    let aws = "a-ats.iot.eu-west-1.amazonaws.com";
    at(aws).run(SOON).expect_fault(64, &["AWS IoT Core"]);
    at(&format!("{aws}.cn"))
        .run(SOON)
        .expect_fault(64, &["AWS IoT Core"]);
    at("localhost").run(SOON).expect_code(69);
    let generic = at(aws).args(["--profile", "generic", "--connect-timeout", "1"]);
    generic.run(SOON).expect_code(69);
}

#[test]
fn a_wrong_kind_of_endpoint_gets_a_hint() {
    let old = "mqtt://a1b2.iot.eu-west-1.amazonaws.com:1";
    let program = Program::one_message().args(["--endpoint", old, "--flush-timeout", "0"]);
    let outcome = program.args(["--connect-timeout", "1"]).run(SOON);
    outcome.expect_stderr("use a1b2-ats.iot.eu-west-1.amazonaws.com");
}

#[test]
fn a_message_above_the_limit_is_rejected_and_one_at_it_arrives() {
    let broker = AwsLike::builder().start();
    for (bytes, code) in [(131_072, 0), (131_073, 65)] {
        let program = guarded(Program::publisher()).at_port(broker.port());
        let program = program.args(["-t", "t", "-s"]);
        let outcome = program.stdin(Cursor::new(vec![b'x'; bytes])).run(SOON);
        let outcome = outcome.expect_code(code);
        if code != 0 {
            outcome.expect_stderr("longer than 131072 bytes, which is AWS IoT Core's limit");
        }
    }
    let line =
        |topic: &str, more: &str| format!("{{\"topic\":\"{topic}\",\"payload\":\"x\"{more}}}\n");
    let lines = [
        line("ok", ""),
        line("1/2/3/4/5/6/7/8/9", ""),
        line("t", ",\"qos\":2"),
        line("$aws/x", ",\"retain\":true"),
    ];
    let program = guarded(Program::publisher()).at_port(broker.port());
    let program = program.args(["-l", "--input", "json", "--receipts"]);
    let outcome = program.stdin(Cursor::new(lines.concat())).run(SOON);
    let outcome = outcome.expect_code(65);
    let rejected: Vec<_> = outcome.stdout.all().into_iter().map(|l| l.text).collect();
    let rejected = rejected.iter().filter(|l| l.starts_with("rejected"));
    assert_eq!(rejected.count(), 3, "{outcome}");
    let sizes: Vec<_> = broker.arrivals().iter().map(|a| a.payload.len()).collect();
    assert_eq!(sizes, [131_072, 1]);
}

/// What an earlier run has queued without these limits goes to the dead letters, and not to a
/// broker that would hang up on it again and again.
#[test]
fn a_queued_message_above_the_limit_becomes_a_dead_letter() {
    let queue = QueueFile::new();
    let program = queue.publisher().at_port(free_port());
    let program = program.args(["-s", "--flush-timeout", "0.1"]);
    program
        .stdin(Cursor::new(vec![b'x'; 140_000]))
        .run(SOON)
        .expect_code(75);
    let broker = AwsLike::builder().start();
    let program = guarded(queue.publisher()).at_port(broker.port());
    let outcome = program.args(["-m", "small"]).run(SOON).expect_code(65);
    let dead = |line: &str| line.starts_with("dead 1 ") && line.contains("131072");
    assert!(
        outcome.stdout.all().iter().any(|l| dead(&l.text)),
        "{outcome}"
    );
    let arrivals = broker.arrivals();
    assert_eq!(arrivals.len(), 1);
    assert_eq!(broker.connects().len(), 1, "{outcome}");
}

/// Nor is anything else that an earlier run accepted for a broker with other limits.
#[test]
fn queued_messages_that_aws_would_hang_up_on_become_dead_letters() {
    let queue = QueueFile::new();
    let line =
        |topic: &str, more: &str| format!("{{\"topic\":\"{topic}\",\"payload\":\"x\"{more}}}\n");
    let lines = [
        line("1/2/3/4/5/6/7/8/9", ""),
        line("$SYS/x", ""),
        line("$aws/x", ",\"retain\":true"),
        line("t", ",\"qos\":2"),
        line("good", ""),
    ];
    let program = queue.publisher().at_port(free_port());
    let program = program.args(["-l", "--input", "json", "--flush-timeout", "0.1"]);
    program
        .stdin(Cursor::new(lines.concat()))
        .run(SOON)
        .expect_code(75);
    let broker = AwsLike::builder().start();
    let outcome = guarded(queue.publisher()).at_port(broker.port()).arg("-l");
    let outcome = outcome.run(SOON).expect_code(65);
    let dead = outcome.stdout.all();
    let dead = dead.iter().filter(|l| l.text.starts_with("dead "));
    assert_eq!(dead.count(), 4, "{outcome}");
    assert_eq!(
        (broker.arrivals().len(), broker.connects().len()),
        (1, 1),
        "{outcome}"
    );
}

/// The largest number of messages within any second.
fn fastest(times: &[Instant]) -> usize {
    let second = Duration::from_secs(1);
    let within = |i: usize| {
        times[i..]
            .iter()
            .take_while(|t| **t - times[i] < second)
            .count()
    };
    (0..times.len()).map(within).max().unwrap_or(0)
}

#[test]
fn ten_thousand_queued_messages_arrive_none_too_fast_and_none_lost() {
    const COUNT: usize = 10_000;
    let queue = QueueFile::new();
    let lines: Vec<_> = (1..=COUNT).map(|n| n.to_string()).collect();
    let offline = queue.publisher().at_port(free_port());
    let offline = offline.args(["-l", "--flush-timeout", "0.1"]);
    let lines = Cursor::new(lines.join("\n"));
    offline.stdin(lines).run(SOON * 6).expect_code(75);

    let broker = AwsLike::builder().start();
    let online = guarded(queue.publisher()).at_port(broker.port());
    let online = online.args(["-l", "--flush-timeout", "200"]).start();
    let arrived = broker.wait_arrivals(COUNT, SOON * 18);
    let arrivals = broker.arrivals();
    assert!(arrived, "only {}\n{online}", arrivals.len());
    let outcome = online.finish(SOON).expect_code(0);
    let payloads: Vec<usize> = arrivals
        .iter()
        .map(|a| String::from_utf8_lossy(&a.payload).parse().unwrap())
        .collect();
    assert_eq!(
        payloads,
        (1..=COUNT).collect::<Vec<_>>(),
        "none lost, none twice\n{outcome}"
    );
    let times: Vec<_> = arrivals.iter().map(|a| a.at).collect();
    let fastest = fastest(&times);
    println!(
        "{COUNT} messages in {:?}, {fastest} in the fastest second",
        times[COUNT - 1] - times[0]
    );
    assert!(fastest <= 100, "{fastest} in one second");
    assert!(arrivals.iter().all(|a| !a.discarded));
}

#[test]
fn a_stream_of_large_lines_keeps_below_the_quota_of_bytes() {
    let broker = AwsLike::builder().start();
    let lines = vec!["x".repeat(20_000); 100].join("\n");
    let program = guarded(Program::publisher()).at_port(broker.port());
    let program = program.args(["-t", "t", "-l"]).stdin(Cursor::new(lines));
    program.run(SOON).expect_code(0);
    let arrivals = broker.arrivals();
    assert_eq!(arrivals.len(), 100);
    let took = arrivals[99].at - arrivals[0].at;
    // 2 MB at 512 KiB a second.
    assert!(took > Duration::from_millis(3_500), "{took:?}");
}

#[test]
fn one_client_id_connects_once_a_second_at_most() {
    let broker = AwsLike::builder().allow_client_ids(|_| false).start();
    let program = guarded(Program::subscriber()).at_port(broker.port());
    let program = program.args(["-t", "t", "--base-backoff", "0.1", "--max-backoff", "0.2"]);
    let subscriber = program.start();
    let seen = crate::harness::wait_until(SOON, || broker.connects().len() >= 4);
    assert!(seen, "{subscriber}");
    let connects = broker.connects();
    for pair in connects.windows(2) {
        let gap = pair[1] - pair[0];
        assert!(gap > Duration::from_millis(950), "{gap:?}");
    }
    subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn a_denied_message_is_the_only_one_that_is_given_up() {
    let broker = AwsLike::builder()
        .allow_publish(|topic| topic == "good")
        .start();
    let line = |topic: &str| format!("{{\"topic\":\"{topic}\",\"payload\":\"{topic}\"}}\n");
    let lines = [line("good"), line("bad"), line("good")].concat();
    for version in ["5", "3.1.1"] {
        let before = broker.arrivals().len();
        let program = Program::publisher().at_port(broker.port());
        let program = program.args(["-l", "--input", "json", "--receipts"]);
        let program = program.args(["--mqtt-version", version]);
        let program = program.args(["--base-backoff", "0.05", "--max-backoff", "0.1"]);
        let outcome = program.stdin(Cursor::new(lines.clone())).run(SOON);
        let outcome = outcome.expect_code(if version == "5" { 77 } else { 65 });
        let printed = outcome.stdout.all();
        let dead: Vec<_> = printed
            .iter()
            .filter(|l| l.text.starts_with("dead"))
            .collect();
        assert_eq!(dead.len(), 1, "{outcome}");
        assert!(dead[0].text.starts_with("dead 2 "), "{outcome}");
        assert!(broker.arrivals().len() >= before + 2, "{outcome}");
    }
}

#[test]
fn a_disconnect_with_a_reason_condemns_the_message_that_it_is_about() {
    for (code, exit, part) in [
        (0x87, 77, "not authorized (0x87)"),
        (0x95, 65, "packet too large (0x95)"),
        (0x90, 65, "topic name invalid (0x90)"),
    ] {
        let script = ScriptedBroker::script().on_publish(move |_| Reply::Disconnect(code));
        let broker = script.plain();
        let program = Program::one_message().at_plain_port(broker.port());
        let program = program.args(["--receipts", "--base-backoff", "0.1"]);
        let outcome = program.run(SOON).expect_code(exit);
        let dead = |line: &str| line.starts_with("dead 1 ") && line.contains(part);
        assert!(
            outcome.stdout.all().iter().any(|l| dead(&l.text)),
            "{outcome}"
        );
        assert_eq!(broker.publishes().len(), 1, "{outcome}");
    }
}

/// The names in the ALPN extension of a `ClientHello` (RFC 8446 section 4.1.2, RFC 7301), read
/// from the wire.
pub(crate) fn alpn_of(hello: &[u8]) -> Vec<String> {
    let number = |at: usize| usize::from(u16::from_be_bytes([hello[at], hello[at + 1]]));
    assert_eq!(
        (hello[0], hello[5]),
        (22, 1),
        "a handshake record with a ClientHello"
    );
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + number(at);
    at += 1 + usize::from(hello[at]);
    let end = at + 2 + number(at);
    at += 2;
    while at < end {
        let (kind, length) = (number(at), number(at + 2));
        at += 4;
        if kind == 16 {
            let mut names = Vec::new();
            let mut name = at + 2;
            while name < at + length {
                let size = usize::from(hello[name]);
                let bytes = &hello[name + 1..=name + size];
                names.push(String::from_utf8(bytes.to_vec()).unwrap());
                name += 1 + size;
            }
            assert_eq!(name, at + length, "nothing behind the last name");
            return names;
        }
        at += length;
    }
    Vec::new()
}

/// What the first record of a connection asks for by ALPN.
fn asked_for(setup: impl FnOnce(Program) -> Program) -> Vec<String> {
    let received = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&received);
    let server = Server::plain(move |stream| {
        let mut hello = vec![0; 5];
        if stream.read_exact(&mut hello).is_ok() {
            let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
            hello.resize(5 + length, 0);
            if stream.read_exact(&mut hello[5..]).is_ok() {
                kept.lock().unwrap().push(hello);
            }
        }
    });
    let program = setup(Program::one_message().at_port(server.port()));
    program
        .args(["--flush-timeout", "0.2"])
        .run(SOON)
        .expect_code(69);
    let received = received.lock().unwrap();
    alpn_of(&received[0])
}

#[test]
fn only_port_443_of_aws_is_asked_by_name() {
    assert_eq!(asked_for(|p| p), [""; 0]);
    assert_eq!(asked_for(guarded), [""; 0], "not on another port");
}

#[test]
fn a_port_443_that_wants_the_name_refuses_who_does_not_say_it() {
    let broker = AwsLike::builder().needs_alpn().start();
    let program = Program::one_message().at_port(broker.port());
    let outcome = program.args(["--flush-timeout", "0.2"]).run(SOON);
    outcome
        .expect_code(69)
        .expect_stderr("closed the connection");
    assert!(broker.connects().is_empty());
}
