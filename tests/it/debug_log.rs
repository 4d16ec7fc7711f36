//! What `-d` shows: each packet, in both directions.

use crate::harness::{Broker, Program, SOON, temp_dir};

/// Whether a line about a packet is there that begins and ends so.
fn has(log: &str, begin: &str, end: &str) -> bool {
    let packets = log
        .lines()
        .filter_map(|line| line.split_once("DEBUG ").map(|(_, text)| text));
    packets
        .into_iter()
        .any(|text| text.starts_with(begin) && text.ends_with(end))
}

#[test]
fn each_packet_is_a_line_of_the_debug_log_and_of_no_other() {
    let dir = temp_dir();
    let broker = Broker::builder().plain().user("ann", "xyzzy").start();
    let password = dir.path().join("password");
    std::fs::write(&password, "xyzzy").unwrap();
    let user = |program: Program| {
        let program = program
            .to(&broker)
            .args(["-u", "ann", "--allow-readable-key"]);
        program.arg("--password-file").arg(&password)
    };
    let large = "x".repeat(5_000);
    let publish = |flags: &[&str], text: &str| {
        let program = user(Program::publisher()).args(["-t", "a/b", "-i", "me", "-r", "-m", text]);
        program.args(flags).run(SOON).expect_code(0).stderr.text()
    };
    let log = publish(&["-d"], "21.4");
    for (begin, end) in [
        (
            "sent CONNECT version 5 client \"me\" clean 1",
            "keep-alive 30",
        ),
        ("received CONNACK", "code 0x00 session-present 0"),
        (
            "sent PUBLISH qos 1 id ",
            " retain topic \"a/b\" 4 bytes \"21.4\"",
        ),
        ("received PUBACK id ", "code 0x10"),
        ("sent DISCONNECT", "code 0x00"),
    ] {
        assert!(has(&log, begin, end), "{begin} … {end}: {log}");
    }
    assert!(!log.contains("xyzzy") && !log.contains("ann"), "{log}");
    let log = publish(&["-d", "-q", "0"], &large);
    assert!(has(&log, "sent PUBLISH qos 0 retain", "x…\""), "{log}");
    assert!(log.lines().all(|line| line.len() < 300), "{log}");
    for level in ["info", "warn"] {
        let program = user(Program::publisher()).args(["-t", "a/b", "-m", "x"]);
        let log = program
            .env("RUST_LOG", level)
            .run(SOON)
            .expect_code(0)
            .stderr
            .text();
        assert!(!log.contains("PUBLISH"), "{log}");
    }

    let subscriber = user(Program::subscriber()).args(["-d", "-t", "a/#", "-C", "1"]);
    let log = subscriber.run(SOON).expect_code(0).stderr.text();
    for (begin, end) in [
        ("sent SUBSCRIBE id ", "filter \"a/#\" qos 1"),
        ("received SUBACK id ", "code 0x01"),
        ("received PUBLISH qos ", "x…\""),
    ] {
        assert!(has(&log, begin, end), "{begin} … {end}: {log}");
    }
}
