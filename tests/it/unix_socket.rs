//! A broker on a Unix socket of this machine.

use std::{
    fs,
    io::{self, Cursor, Read, Write as _},
    os::unix::{
        fs::PermissionsExt as _,
        net::{UnixDatagram, UnixListener, UnixStream},
    },
    path::PathBuf,
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::harness::{Broker, Program, SOON, packet::read_packet};

/// A Mosquitto that listens on a Unix socket too.
struct SocketBroker {
    broker: Broker,
    socket: PathBuf,
    _dir: TempDir,
}

impl SocketBroker {
    fn start(lines: &str) -> Self {
        let dir = short_dir();
        let socket = dir.path().join("broker.sock");
        let listener = format!("listener 0 {}\n{lines}", socket.display());
        let broker = Broker::builder().plain().line(&listener).start();
        Self {
            broker,
            socket,
            _dir: dir,
        }
    }

    fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    fn reached_by(&self, program: Program) -> Program {
        program.args(["--endpoint", &self.url()])
    }
}

/// The path of a Unix socket has at most 107 bytes.
fn short_dir() -> TempDir {
    let dir = tempfile::Builder::new().prefix("it-").tempdir_in("/tmp");
    dir.expect("a temporary directory")
}

/// At most 1 MB per second.
struct SlowReader<'a>(&'a UnixStream);

impl Read for SlowReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.len() > 1_000 {
            thread::park_timeout(Duration::from_millis(100));
        }
        let most = buffer.len().min(100_000);
        self.0.read(&mut buffer[..most])
    }
}

#[test]
fn messages_of_every_qos_and_size_pass_a_unix_socket() {
    let broker = SocketBroker::start("");
    let large = "x".repeat(5_000_000);
    let count = 1_002;
    for qos in ["0", "1", "2"] {
        let subscriber = broker
            .reached_by(Program::subscriber())
            .args(["-t", "t", "-q", qos, "-C", &count.to_string(), "-d"])
            .start();
        subscriber.wait_subscribed();
        let lines: Vec<String> = (1..count)
            .map(|n| n.to_string())
            .chain([large.clone()])
            .collect();
        let text = lines.join("\n");
        broker
            .reached_by(Program::publisher())
            .args(["-t", "t", "-l", "-q", qos])
            .stdin(Cursor::new(text.clone()))
            .run(SOON * 2)
            .expect_code(0);
        let outcome = subscriber.finish(SOON).expect_code(0);
        assert_eq!(outcome.stdout.text().trim_end(), text, "QoS {qos}");
    }
}

#[test]
fn the_check_and_the_log_know_a_unix_socket() {
    let broker = SocketBroker::start("");
    let check = broker
        .reached_by(Program::publisher().arg("check"))
        .args(["--topic", "t", "-i", "it"])
        .run(SOON)
        .expect_code(0);
    let text = check.stdout.text();
    assert!(
        text.contains(&format!("endpoint: {}", broker.url())),
        "{text}"
    );
    assert!(text.contains("Unix socket: is connected"), "{text}");
    assert!(text.contains("CONNECT: MQTT 5"), "{text}");
    for absent in ["DNS", "TCP", "TLS:", "port", "proxy"] {
        assert!(!text.contains(absent), "{absent}: {text}");
    }
    let log = broker.reached_by(Program::one_message()).args(["-d"]);
    let line = format!("connected to {} with MQTT 5", broker.url());
    log.run(SOON).expect_code(0).expect_stderr(&line);
}

#[test]
fn a_proxy_of_the_environment_is_not_used_for_a_unix_socket() {
    let broker = SocketBroker::start("");
    let program = broker.reached_by(Program::one_message());
    let program = program.env("HTTPS_PROXY", "http://127.0.0.1:9");
    program
        .env("ALL_PROXY", "socks5h://127.0.0.1:9")
        .run(SOON)
        .expect_code(0);
}

#[test]
fn a_connection_over_a_unix_socket_is_made_again_when_the_broker_is_back() {
    let mut broker = SocketBroker::start("");
    let mut publisher = broker
        .reached_by(Program::publisher())
        .args([
            "-t",
            "t",
            "-l",
            "--base-backoff",
            "0.1",
            "--max-backoff",
            "0.2",
            "-v",
        ])
        .stdin_pipe()
        .start();
    publisher.send("one\n");
    publisher.stdout_line(SOON, |line| line == "t one");
    broker.broker.stop();
    publisher.stderr_line(SOON, |line| line.contains("trying again"));
    publisher.send("two\n");
    broker.broker.start_again();
    publisher.close_stdin();
    publisher
        .finish(SOON)
        .expect_code(0)
        .expect_stdout("t one\nt two\n");
}

#[test]
fn pings_keep_a_connection_over_a_unix_socket_and_their_absence_ends_it() {
    let broker = SocketBroker::start("");
    let subscriber = broker
        .reached_by(Program::subscriber())
        .args(["-t", "t", "-d", "--keep-alive", "1"])
        .args(["--base-backoff", "0.1", "--max-backoff", "0.2"])
        .start();
    subscriber.wait_subscribed();
    subscriber.stderr_line(SOON, |line| line.contains("received PINGRESP"));
    broker.broker.pause();
    subscriber.stderr_line(SOON, |line| line.contains("trying again"));
    broker.broker.resume();
    subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn a_broker_that_reads_slowly_from_a_unix_socket_is_waited_for() {
    let dir = short_dir();
    let socket = dir.path().join("slow.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let slow = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        read_packet(&mut stream).unwrap();
        stream.write_all(&[0x20, 3, 0, 0, 0]).unwrap();
        // Longer than the operation timeout.
        read_packet(&mut SlowReader(&stream)).unwrap();
        stream.write_all(&[0x40, 2, 0, 1]).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let file = dir.path().join("large");
    fs::write(&file, vec![b'x'; 2_000_000]).unwrap();
    let outcome = Program::publisher()
        .args(["--endpoint", &format!("unix://{}", socket.display())])
        .args(["-t", "t", "--operation-timeout", "1", "-f"])
        .arg(&file)
        .run(SOON * 2)
        .expect_code(0);
    assert!(outcome.elapsed > Duration::from_secs(1), "{outcome}");
    slow.join().unwrap();
}

#[test]
fn a_unix_socket_that_is_of_no_use_is_named_with_its_cause() {
    let dir = short_dir();
    let at = |name: &str| {
        let url = format!("unix://{}", dir.path().join(name).display());
        Program::one_message().args(["--endpoint", &url, "--flush-timeout", "0.2"])
    };
    let fault = |name: &str, parts: &[&str]| {
        let mut outcome = at(name).run(SOON).expect_code(69);
        for part in parts {
            outcome = outcome.expect_stderr(part);
        }
    };
    fault(
        "none",
        &["the socket does not exist", "is the broker running"],
    );
    drop(UnixListener::bind(dir.path().join("left")).unwrap());
    fault("left", &["no broker listens on this socket"]);
    let _datagram = UnixDatagram::bind(dir.path().join("datagram")).unwrap();
    fault("datagram", &["is not one for a stream of bytes"]);
    fs::write(dir.path().join("file"), "").unwrap();
    fault("file", &["is this its socket?"]);
    let check = Program::publisher()
        .arg("check")
        .args([
            "--endpoint",
            &format!("unix://{}/none", dir.path().display()),
        ])
        .args(["--connect-timeout", "1"])
        .run(SOON)
        .expect_code(69);
    assert!(
        check.stdout.text().contains("FAILED  Unix socket:"),
        "{check}"
    );
    let silent = UnixListener::bind(dir.path().join("silent")).unwrap();
    let outcome = at("silent").args(["--connect-timeout", "0.3"]).run(SOON);
    outcome.expect_code(69).expect_stderr("silent");
    drop(silent);
}

#[test]
fn a_unix_socket_without_permission_is_named() {
    let broker = SocketBroker::start("");
    fs::set_permissions(&broker.socket, fs::Permissions::from_mode(0o600)).unwrap();
    let outcome = broker
        .reached_by(Program::one_message())
        .args(["--flush-timeout", "0.2"])
        .under(["setpriv", "--reuid", "65534", "--clear-groups", "--"])
        .run(SOON);
    // The temporary directory is for its owner only.
    outcome
        .expect_code(69)
        .expect_stderr("the socket cannot be opened: Permission denied");
}

#[test]
fn flags_that_a_unix_socket_has_no_use_for_are_refused() {
    for (args, parts) in [
        (&["--port", "1883"][..], &["a Unix socket has no port"][..]),
        (
            &["--proxy", "http://p"],
            &["--proxy", "has no use with a Unix socket"],
        ),
        (
            &["--bind", "lo"],
            &["--bind", "has no use with a Unix socket"],
        ),
        (&["--cafile", "/x"], &["--cafile", "has no use without TLS"]),
        (
            &["--unix", "/x"],
            &["--unix", "use --endpoint unix:///path/to/socket"],
        ),
    ] {
        let program = Program::one_message().args(["--endpoint", "unix:///run/x.sock"]);
        program.args(args).run(SOON).expect_fault(64, parts);
    }
    let relative = Program::one_message().args(["--endpoint", "unix://x.sock"]);
    relative
        .run(SOON)
        .expect_fault(64, &["absolute path", "unix:///"]);
}
