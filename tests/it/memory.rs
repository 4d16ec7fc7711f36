//! Memory: what happens when there is too little for a message, and how little a large one takes.
//! `scripts/memory-test` goes through many limits.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Cursor, Write as _},
    net::TcpStream,
    path::Path,
    process::Stdio,
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::harness::{
    Broker, Program, SOON, Server,
    packet::{kind, read_packet},
    peer,
    running::Running,
    screen::screen,
    temp_dir, times, wait_until,
};

/// Time limit for 60 MB on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// The exit codes of the README.
const TABLE: [i32; 12] = [0, 27, 64, 65, 66, 69, 73, 74, 75, 76, 77, 78];

/// Small messages on each side of the large one.
const SMALL: usize = 20;
const LARGE: usize = 20_000_000;

/// Messages as they are printed; the large one by its size.
fn messages() -> BTreeSet<String> {
    let small = (0..SMALL).flat_map(|n| [format!("before {n}"), format!("after {n}")]);
    small.chain([format!("{LARGE} bytes")]).collect()
}

/// The messages that a file holds whole.
fn printed(file: &Path) -> BTreeSet<String> {
    let bytes = fs::read(file).unwrap_or_default();
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    let whole = lines.filter_map(|line| line.strip_suffix(b"\n"));
    let name = |line: &[u8]| match line.len() {
        ..100 => String::from_utf8(line.to_vec()).unwrap(),
        length => format!("{length} bytes"),
    };
    whole.map(name).collect()
}

/// A subscriber with its own session, which prints to `file`.
fn keeping(broker: &Broker, id: &str, file: &Path) -> Program {
    Program::subscriber()
        .to(broker)
        .args([
            "-t",
            "t",
            "-d",
            "--persistent",
            "--client-id",
            id,
            "--dedup",
        ])
        .args(["--max-packet", "32MiB", "--base-backoff", "0.2"])
        .stdout(File::create(file).unwrap())
}

/// Publishes what `flags` say to `t`.
fn publish(broker: &Broker, flags: &[&str], lines: String) {
    let publisher = Program::publisher().to(broker).args(["-t", "t"]);
    let publisher = publisher.args(flags).stdin(Cursor::new(lines));
    publisher.run(LONG).expect_code(0);
}

/// Runs with less address space than a message may need, then with enough: the small messages before the
/// large one are printed, and every message in one of the two runs.
fn nothing_is_lost_under(limits: &[usize]) {
    let broker = Broker::start();
    let dir = temp_dir();
    let large = dir.path().join("large");
    fs::write(&large, vec![b'x'; LARGE]).unwrap();
    let id = |limit: usize| format!("limit-{limit}");
    for limit in limits {
        let program = keeping(&broker, &id(*limit), &dir.path().join("none"));
        let subscriber = program.start();
        subscriber.wait_subscribed();
        subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    }
    let small = |name: &str| {
        let lines: Vec<_> = (0..SMALL).map(|n| format!("{name} {n}")).collect();
        lines.join("\n")
    };
    publish(&broker, &["-l"], small("before"));
    publish(&broker, &["-f", large.to_str().unwrap()], String::new());
    publish(&broker, &["-l"], small("after"));

    let all = messages();
    for limit in limits {
        let [first, second] = ["first", "second"].map(|run| dir.path().join(run));
        let count = all.len().to_string();
        let limited = keeping(&broker, &id(*limit), &first)
            .args(["-C", &count, "-W", "3"])
            .under(["prlimit", &format!("--as={}", limit * 1_000_000)]);
        let outcome = limited.run(SOON * 3);
        let code = outcome.code.filter(|code| TABLE.contains(code));
        let code = code.unwrap_or_else(|| panic!("{limit} MB: {outcome}"));
        let came = printed(&first);
        assert!(came.len() >= SMALL, "{limit} MB: {came:?}\n{outcome}");
        let unlimited = keeping(&broker, &id(*limit), &second).start();
        let lost = || {
            let both = &came | &printed(&second);
            all.difference(&both).cloned().collect::<Vec<_>>()
        };
        let complete = wait_until(SOON, || lost().is_empty());
        println!(
            "{limit} MB: exit code {code}, {} messages, then {}",
            came.len(),
            printed(&second).len()
        );
        assert!(complete, "{limit} MB: {:?}\n{unlimited}", lost());
        unlimited.wait_subscribed();
        unlimited.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    }
}

#[test]
fn what_a_limit_on_memory_keeps_out_comes_in_the_next_run() {
    let step = times("IOT_TEST_MEMORY_STEP", 100);
    let limits: Vec<_> = (60..=400).step_by(step).collect();
    nothing_is_lost_under(&limits);
}

/// This many MB in KiB, as `/proc` counts.
const fn megabytes(count: u64) -> u64 {
    count * 1_000_000 / 1_024
}

/// Expects that it has never had more than `most` KiB resident.
fn expect_peak(what: &str, running: &Running, most: u64) {
    let peak = running.status("VmHWM:").expect("a live process");
    println!("{what}: {peak} KiB");
    assert!(peak < most, "{what}: {peak} KiB\n{}", running.stderr.text());
}

/// Publishes a file to `t` as it is, with these flags of `mosquitto_pub`.
fn publish_file(broker: &Broker, file: &Path, flags: &[&str]) {
    let mut client = peer::client("mosquitto_pub", broker);
    client.args(["-V", "mqttv5", "-q", "1", "-t", "t", "-f"]);
    client.arg(file).args(flags).stdout(Stdio::null());
    assert!(client.status().unwrap().success());
}

fn subscriber(broker: &Broker) -> Program {
    Program::subscriber().to(broker).args(["-t", "t", "-d"])
}

fn length(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |file| file.len())
}

/// Has `payload` written to stdout, to a file and by a command that `shell` is, and expects that at most
/// `most` KiB are resident. `written` is how much ends up in a file.
struct Large<'a> {
    payload: Vec<u8>,
    /// Of `mosquitto_pub`.
    publish: &'a [&'a str],
    /// Of the subscriber.
    flags: &'a [&'a str],
    /// How much is written of it.
    written: u64,
    /// A script of the shell for `--exec`, and how much it writes to `$0` until it is measured.
    command: (&'a str, u64),
    /// The most that may be resident, in KiB.
    most: u64,
}

impl Large<'_> {
    fn takes_little(&self) {
        let broker = Broker::start();
        let dir = temp_dir();
        let payload = dir.path().join("payload");
        fs::write(&payload, &self.payload).unwrap();
        let (script, by_command) = self.command;
        for (what, written) in [
            ("stdout", self.written),
            ("--output", self.written),
            ("--exec", by_command),
        ] {
            let file = dir.path().join(what);
            let program = subscriber(&broker).args(self.flags);
            let program = match what {
                "stdout" => program.stdout(File::create(&file).unwrap()),
                "--output" => program.arg(what).arg(&file),
                _ => program.args([what, "sh", "-c", script]).arg(&file),
            };
            let running = program.start();
            running.wait_subscribed();
            publish_file(&broker, &payload, self.publish);
            let complete = wait_until(LONG, || length(&file) >= written);
            assert!(
                complete,
                "{what}: {} of {written}\n{running}",
                length(&file)
            );
            expect_peak(what, &running, self.most);
            running.finish_by(Signal::SIGKILL, SOON);
        }
    }
}

const NDJSON: [&str; 4] = ["-D", "publish", "content-type", "application/x-ndjson"];

/// As many readings as a batch may have.
const READINGS: usize = 100_000;

/// More lines than that are one reading.
const MEBIBYTE: usize = 1 << 20;

#[test]
fn a_batch_of_empty_readings_takes_little() {
    Large {
        payload: vec![b'\n'; READINGS],
        publish: &NDJSON,
        flags: &[],
        written: READINGS as u64,
        command: ("echo >>\"$0\"", 100),
        most: megabytes(32),
    }
    .takes_little();
}

#[test]
fn a_mebibyte_of_newlines_takes_little() {
    Large {
        payload: vec![b'\n'; MEBIBYTE],
        publish: &NDJSON,
        flags: &[],
        written: MEBIBYTE as u64 + 1,
        command: ("echo >>\"$0\"", 1),
        most: megabytes(32),
    }
    .takes_little();
}

#[test]
fn many_newlines_are_drawn_in_little() {
    for (lines, readings) in [(READINGS, READINGS), (MEBIBYTE, 1)] {
        let broker = Broker::builder().plain().start();
        let dir = temp_dir();
        let payload = dir.path().join("payload");
        fs::write(&payload, vec![b'\n'; lines]).unwrap();
        let program = Program::subscriber().to(&broker);
        let program = program.args(["-t", "t", "--plot"]);
        let program = program
            .env("TERM", "xterm-256color")
            .env("LC_ALL", "C.UTF-8");
        let running = program.start_on_terminal();
        let subscribed = broker.log().wait(SOON, |line| line.ends_with(" 1 t"));
        assert!(subscribed.is_some(), "{running}");
        publish_file(&broker, &payload, &NDJSON);
        let drawn = format!(" {readings} without a value");
        let shown = || screen(&running.stdout).screen().contents();
        let drawn = wait_until(LONG, || shown().contains(&drawn));
        assert!(drawn, "{}", shown());
        expect_peak("--plot", &running, megabytes(32));
        running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    }
}

#[test]
fn a_message_of_60_mb_takes_twice_its_size() {
    const SIZE: usize = 60_000_000;
    Large {
        payload: vec![b'x'; SIZE],
        publish: &[],
        flags: &["--max-packet", "64MiB"],
        written: SIZE as u64 + 1,
        command: ("wc -c >>\"$0\"", 9),
        most: megabytes(140),
    }
    .takes_little();
}

/// A broker of MQTT 5 that accepts what it is asked for, and then sends `flood` again and again and reads nothing, until
/// the program takes no more of it, or has taken `most` bytes. What it has taken is sent then.
fn flooding(flood: Vec<u8>, most: usize) -> (Server, Receiver<usize>) {
    let (send, taken) = mpsc::channel();
    let server = Server::listen(0, move |mut stream: TcpStream| {
        stream
            .set_write_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let mut accepted = false;
        while let Ok(packet) = read_packet(&mut stream) {
            let answer: &[u8] = match packet.kind() {
                kind::CONNECT => &[0x20, 3, 0, 0, 0],
                kind::SUBSCRIBE => &[0x90, 4, 0, 1, 0, 1],
                _ => &[],
            };
            if stream.write_all(answer).is_err() {
                return;
            }
            accepted |= matches!(packet.kind(), kind::SUBSCRIBE | kind::PUBLISH);
            if accepted {
                break;
            }
        }
        let mut count = 0;
        while count < most && stream.write_all(&flood).is_ok() {
            count += flood.len();
        }
        let _ = send.send(count);
        // What has been written stays to be read.
        while let Ok(1..) = stream.peek(&mut [0]) {
            std::thread::park_timeout(Duration::from_millis(50));
        }
    });
    (server, taken)
}

#[test]
fn answers_that_a_broker_does_not_read_are_bounded() {
    const MOST: usize = 100_000_000;
    let pubrels: Vec<u8> = (1..=8_000u16)
        .flat_map(|id| [[0x62, 2], id.to_be_bytes()].concat())
        .collect();
    let unasked: Vec<u8> = (1..=8_000u16)
        .flat_map(|id| [&b"\x32\x06\0\x01t"[..], &id.to_be_bytes(), b"\0"].concat())
        .collect();
    let publisher = Program::publisher().args(["-l", "--operation-timeout", "60"]);
    let subscriber = Program::subscriber();
    for (program, flood) in [(subscriber, pubrels), (publisher, unasked)] {
        let (server, taken) = flooding(flood, MOST);
        let program = program.at_plain_port(server.port()).args(["-t", "t"]);
        let program = program.args(["--keep-alive", "600"]);
        let mut running = program.stdin_pipe().start();
        // A subscriber does not read it.
        let _ = running.try_send("x\n");
        let taken = taken.recv_timeout(LONG).expect("a flood");
        assert!(taken < MOST, "{running}");
        expect_peak("answers", &running, megabytes(40));
        running.finish_by(Signal::SIGKILL, SOON);
    }
}

/// A PUBLISH of MQTT 5 at QoS 0 with these properties.
fn publish_with(topic: &[u8], properties: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut body = u16::try_from(topic.len()).unwrap().to_be_bytes().to_vec();
    body.extend(topic);
    push_length(&mut body, properties.len());
    body.extend(properties);
    body.extend(payload);
    let mut packet = vec![0x30];
    push_length(&mut packet, body.len());
    packet.extend(body);
    packet
}

fn push_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        bytes.push(u8::try_from(length % 0x80).unwrap() | 0x80);
        length /= 0x80;
    }
    bytes.push(u8::try_from(length).unwrap());
}

#[test]
fn what_a_message_says_beside_its_payload_is_bounded() {
    let ndjson = [&b"\x03\0\x14"[..], b"application/x-ndjson"].concat();
    let newlines = vec![b'\n'; READINGS];
    for (what, flags, large) in [
        (
            "user properties",
            "-J",
            publish_with(b"t", &[0x26, 0, 0, 0, 0].repeat(3_000_000), b"x"),
        ),
        (
            "a topic for each reading",
            "-v",
            publish_with(&vec![b't'; 60_000], &ndjson, &newlines),
        ),
        (
            "a line of JSON for each reading",
            "-J",
            publish_with(b"t", &ndjson, &newlines),
        ),
    ] {
        let later = publish_with(b"t", b"", b"later");
        let (server, _taken) = flooding([large, later].concat(), 1);
        let program = Program::subscriber().at_plain_port(server.port());
        let running = program.args(["-t", "t", flags]).start();
        running.stdout_line(LONG, |line| line.contains("later"));
        expect_peak(what, &running, megabytes(64));
        running.finish_by(Signal::SIGKILL, SOON);
    }
}
