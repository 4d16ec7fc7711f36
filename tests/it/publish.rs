//! What the publisher sends and what it says about it: sources, payloads to the byte, the
//! `seq` property, receipts, summary.

use std::{
    collections::BTreeSet,
    fs,
    io::Cursor,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use data_encoding::HEXLOWER;
use serde_json::Value;

use crate::harness::{
    Broker, Program, SOON, ScriptedBroker, Server,
    packet::{Publish, read_packet},
    peer::{Witness, client},
    temp_dir, wait_until,
};

/// To the topic `t` of a scripted broker without TLS.
fn publisher(broker: &ScriptedBroker) -> Program {
    let publisher = Program::publisher().at_plain_port(broker.port());
    publisher.args(["--topic", "t"])
}

fn payloads(publishes: &[Publish]) -> Vec<String> {
    publishes.iter().map(Publish::text).collect()
}

#[test]
fn one_message_travels_over_mutual_tls_and_success_is_silent() {
    let broker = Broker::start();
    let witness = Witness::start(&broker, "greetings");
    let outcome = Program::publisher()
        .to(&broker)
        .args(["-t", "greetings", "-m", "grüße"])
        .run(SOON)
        .expect_code(0)
        .expect_stdout("");
    assert_eq!(outcome.stderr.text(), "", "{outcome}");
    assert_eq!(witness.messages(1, SOON)[0].text, "grüße");
}

#[test]
fn simulated_readings_arrive_every_interval_until_the_count() {
    let broker = Broker::start();
    let witness = Witness::start(&broker, "temperature");
    Program::publisher()
        .to(&broker)
        .args(["-t", "temperature", "-C", "4", "--interval", "300ms"])
        .run(SOON)
        .expect_code(0);
    let lines = witness.messages(4, SOON);
    for (number, line) in (1..).zip(&lines) {
        let reading: Value = serde_json::from_str(&line.text).expect(&line.text);
        assert_eq!(reading["sequence"], number, "{}", line.text);
        assert!(reading["temperature"].is_f64(), "{}", line.text);
        let taken = reading["timestamp"].as_str().unwrap();
        let form = "2026-01-31T08:00:00.000Z";
        assert!(taken.len() == form.len() && taken.ends_with('Z'), "{taken}");
        assert_eq!(reading.as_object().unwrap().len(), 3, "{}", line.text);
    }
    // The first waits for the connection, the others for nothing but the clock.
    for pair in lines[1..].windows(2) {
        let apart = pair[1].at - pair[0].at;
        assert!(apart >= Duration::from_millis(150), "{apart:?}");
    }
}

#[test]
fn lines_arrive_to_the_byte_whatever_is_in_them() {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "bytes", "%x");
    let long = vec![b'x'; 100_000];
    let lines: [&[u8]; 8] = [
        b"plain",
        b"\0nul\0",
        b"\xff\xfe not UTF-8 \xc3",
        b"carriage return\r",
        b"",
        &long,
        b"\x1b[31m",
        b"last, without a newline",
    ];
    Program::publisher()
        .to(&broker)
        .args(["-t", "bytes", "-l"])
        .stdin(std::io::Cursor::new(lines.join(&b'\n')))
        .run(SOON)
        .expect_code(0);
    for (line, arrived) in lines.iter().zip(witness.messages(lines.len(), SOON)) {
        let hex = HEXLOWER.encode(line);
        assert!(arrived.text == hex, "{}", String::from_utf8_lossy(line));
    }
    assert_eq!(witness.lines.count(), lines.len());
}

#[test]
fn a_file_or_all_of_stdin_is_one_message_with_every_byte() {
    let broker = ScriptedBroker::script().plain();
    let dir = temp_dir();
    let bytes = b"two\nlines\r\n\0\xff\n";
    let file = dir.path().join("message");
    fs::write(&file, bytes).unwrap();
    publisher(&broker).arg("-f").arg(&file).run(SOON);
    let from_stdin = publisher(&broker).arg("-s").stdin(&bytes[..]);
    from_stdin.run(SOON).expect_code(0);
    publisher(&broker).arg("-s").run(SOON).expect_code(0);
    let publishes = broker.publishes();
    assert_eq!(publishes.len(), 3);
    assert_eq!(publishes[0].payload, bytes);
    assert_eq!(publishes[1].payload, bytes);
    assert_eq!(publishes[2].payload, b"", "an empty stdin");
}

#[test]
fn a_null_message_is_empty_and_retain_and_qos_are_as_asked() {
    let broker = ScriptedBroker::script().plain();
    for args in [&["-n", "-r"][..], &["-n", "-q", "0"], &["-n", "-q", "2"]] {
        publisher(&broker).args(args).run(SOON).expect_code(0);
    }
    let seen: Vec<_> = broker.publishes();
    let seen: Vec<_> = seen.iter().map(|p| (p.qos, p.retain, p.dup)).collect();
    assert_eq!(
        seen,
        [(1, true, false), (0, false, false), (2, false, false)]
    );
    assert!(broker.publishes().iter().all(|p| p.payload.is_empty()));
}

#[test]
fn a_retained_message_waits_for_later_subscribers() {
    let broker = Broker::start();
    let args = ["-t", "state", "-r", "-m", "on"];
    let publisher = Program::publisher().to(&broker).args(args);
    publisher.run(SOON).expect_code(0);
    let mut later = client("mosquitto_sub", &broker);
    later.args(["-C", "1", "-W", "5", "-t", "state", "-F", "%r %p"]);
    assert_eq!(later.output().unwrap().stdout, b"1 on\n");
}

#[test]
fn a_command_is_run_every_interval_and_what_it_prints_is_the_message() {
    let broker = ScriptedBroker::script().plain();
    publisher(&broker)
        .args(["-C", "3", "--interval", "0.3", "--exec", "echo", "-t", "hi"])
        .run(SOON)
        .expect_code(0);
    let publishes = broker.publishes();
    assert_eq!(payloads(&publishes), ["-t hi"; 3]);
    let apart = publishes[2].at - publishes[1].at;
    assert!(apart >= Duration::from_millis(150), "{apart:?}");
}

#[test]
fn a_command_may_run_on_every_core() {
    let cores = |status: &str| {
        let line = status.lines().find(|l| l.starts_with("Cpus_allowed_list:"));
        line.unwrap().to_owned()
    };
    let broker = ScriptedBroker::script().plain();
    publisher(&broker)
        .args(["-C", "1", "--exec", "cat", "/proc/self/status"])
        .run(SOON)
        .expect_code(0);
    let printed = payloads(&broker.publishes()).concat();
    let ours = fs::read_to_string("/proc/thread-self/status").unwrap();
    assert_eq!(cores(&printed), cores(&ours));
}

#[test]
fn a_failing_command_is_logged_and_skipped() {
    let broker = ScriptedBroker::script().plain();
    let dir = temp_dir();
    let second_time = "if test -e seen; then echo ok; else touch seen; echo no; exit 3; fi";
    let script = format!("cd '{}'; {second_time}", dir.path().display());
    publisher(&broker)
        .args(["-C", "1", "--interval", "0.1", "--exec", "sh", "-c"])
        .arg(script)
        .run(SOON)
        .expect_code(0)
        .expect_stderr("--exec sh");
    assert_eq!(payloads(&broker.publishes()), ["ok"]);
}

#[test]
fn the_seq_property_numbers_one_stream_a_run_from_1_without_holes() {
    let broker = ScriptedBroker::script().plain();
    let now = || u64::try_from(UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let before = now();
    for _ in 0..2 {
        let lines = publisher(&broker).arg("-l").stdin(&b"a\nb\nc\nd\n"[..]);
        lines.run(SOON).expect_code(0);
    }
    let publishes = broker.publishes();
    let all: Vec<_> = publishes.iter().map(|p| p.seq().unwrap()).collect();
    let numbers: Vec<_> = all.iter().map(|(_, number, _)| *number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 1, 2, 3, 4]);
    let streams: BTreeSet<_> = all[..4].iter().map(|(stream, ..)| stream).collect();
    assert_eq!(streams.len(), 1);
    assert_ne!(all[0].0, all[4].0, "each run is its own stream");
    assert!(all.iter().all(|(.., ms)| (before..=now()).contains(ms)));
    assert!(publishes.iter().all(|p| p.user_properties.len() == 1));
}

#[test]
fn without_sequence_or_mqtt_5_there_is_no_seq_property() {
    let broker = ScriptedBroker::script().plain();
    let args = [&["--no-sequence"][..], &["--mqtt-version", "3.1.1"]];
    for (args, level) in args.into_iter().zip([5, 4]) {
        let message = publisher(&broker).args(["-m", "x"]).args(args);
        message.run(SOON).expect_code(0);
        assert_eq!(broker.connects().last().unwrap().level, level);
    }
    let publishes = broker.publishes();
    assert_eq!(payloads(&publishes), ["x", "x"]);
    assert!(publishes.iter().all(|p| p.user_properties.is_empty()));
}

#[test]
fn receipts_tell_of_each_message_in_the_order_of_the_input() {
    let broker = ScriptedBroker::script().plain();
    let input = (1..=500).map(|n| n.to_string() + "\n").collect::<String>();
    let outcome = publisher(&broker)
        .args(["-l", "--receipts"])
        .stdin(std::io::Cursor::new(input))
        .run(SOON)
        .expect_code(0);
    let lines = outcome.stdout.texts();
    let of = |what: &str| -> Vec<u64> {
        let numbers = lines.iter().filter_map(|line| line.strip_prefix(what));
        numbers.map(|number| number.parse().unwrap()).collect()
    };
    assert!(of("accepted ").into_iter().eq(1..=500), "{outcome}");
    let delivered: BTreeSet<_> = of("delivered ").into_iter().collect();
    assert!(delivered.into_iter().eq(1..=500), "{outcome}");
    assert_eq!(lines.len(), 1000, "one outcome each: {outcome}");
    let place = |text: String| lines.iter().position(|line| *line == text).unwrap();
    for n in 1..=500 {
        assert!(place(format!("accepted {n}")) < place(format!("delivered {n}")));
    }
}

#[test]
fn the_summary_is_the_last_line_and_has_every_figure() {
    let broker = ScriptedBroker::script().plain();
    let outcome = publisher(&broker)
        .args(["-l", "--receipts", "--summary", "--queue-bytes", "10"])
        .stdin(&b"one\nlonger than ten bytes\nthree\n"[..])
        .run(SOON)
        .expect_code(65);
    let lines = outcome.stdout.texts();
    let rejected: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("rejected "))
        .collect();
    assert_eq!(rejected.len(), 1, "{outcome}");
    assert!(rejected[0].len() > "rejected 2 ".len(), "{outcome}");
    assert!(rejected[0].starts_with("rejected 2 "), "{outcome}");
    // What is rejected uses up no number.
    assert!(lines.iter().any(|line| line == "delivered 2"), "{outcome}");
    assert_eq!(payloads(&broker.publishes()), ["one", "three"]);

    let summary: Value = serde_json::from_str(lines.last().unwrap()).unwrap();
    let mut summary = summary.as_object().expect("one object").clone();
    let elapsed = summary.remove("elapsed_s").and_then(|s| s.as_f64());
    let elapsed = elapsed.expect("a number of seconds");
    assert!((0.0..10.0).contains(&elapsed), "{elapsed}");
    let expected = serde_json::json!({
        "accepted": 2, "delivered": 2, "queued": 0, "lost": 0, "dropped": 0, "rejected": 1,
        "expired": 0, "dead": 0, "reconnects": 0,
    });
    assert_eq!(Value::Object(summary), expected);
}

#[test]
fn verbose_shows_topic_and_payload_as_they_are_delivered() {
    let broker = ScriptedBroker::script().plain();
    let outcome = publisher(&broker)
        .args(["-l", "-v"])
        .stdin(&b"a\nesc \x1b \xff\n\n"[..])
        .run(SOON)
        .expect_code(0);
    // A pipe gets the bytes as they are.
    assert_eq!(outcome.stdout.bytes(), b"t a\nt esc \x1b \xff\nt \n");
}

#[test]
fn a_count_ends_lines_too_and_the_rest_of_stdin_is_left() {
    let broker = ScriptedBroker::script().plain();
    let publisher = publisher(&broker).args(["-l", "-C", "2"]);
    let mut run = publisher.stdin_pipe().start();
    run.send("1\n2\n3\n4\n");
    // Its end does not depend on the end of the input.
    run.finish(SOON).expect_code(0);
    assert_eq!(payloads(&broker.publishes()), ["1", "2"]);
}

/// 8 MB are more than any buffer on the way holds at once.
#[test]
fn a_large_message_takes_no_longer_than_its_line() {
    let broker = Broker::start();
    let payload = vec![b'x'; 8 << 20];
    for qos in ["0", "1", "2"] {
        let program = Program::publisher()
            .to(&broker)
            .args(["-t", "t", "-s", "-q", qos]);
        let outcome = program
            .stdin(Cursor::new(payload.clone()))
            .run(SOON)
            .expect_code(0);
        let took = outcome.elapsed;
        assert!(took < Duration::from_secs(5), "{took:?}\n{outcome}");
    }
}

#[test]
fn a_run_at_qos_0_ends_when_all_has_gone_out() {
    const LINES: usize = 8_000;
    let received = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&received);
    let slow = Server::plain(move |stream| {
        let _ = read_packet(stream);
        let _ = stream.write_all(&[0x20, 3, 0, 0, 0]);
        std::thread::park_timeout(Duration::from_secs(3));
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            counted.fetch_add(count, Ordering::SeqCst);
        }
    });
    let lines = vec!["x".repeat(500); LINES].join("\n");
    let program = Program::publisher().at_plain_port(slow.port());
    let program = program.args(["-t", "t", "-l", "-q", "0", "--no-sequence"]);
    let outcome = program.stdin(Cursor::new(lines)).run(SOON).expect_code(0);
    let whole = LINES * (500 + 7);
    let all = || received.load(Ordering::SeqCst) >= whole;
    assert!(
        wait_until(SOON, all),
        "{}\n{outcome}",
        received.load(Ordering::SeqCst)
    );
}
