//! Hundreds of attempts that fail in the same way, one soon after the other: the program goes on, and
//! keeps nothing of an attempt that is over. `scripts/reconnect-test` makes thousands of them.

use std::time::{Duration, Instant};

use nix::{
    libc::linger,
    sys::{
        signal::Signal,
        socket::{setsockopt, sockopt::Linger},
    },
};

use crate::harness::{
    Broker, Program, SOON, ScriptedBroker, Server, certs,
    certs::{Authority, Validity},
    running::Running,
    server::{self, Stream},
    temp_dir, times, wait_until,
};

/// Time limit for thousands of attempts.
const LONG: Duration = Duration::from_secs(600);

/// How long a program is watched to see how little it has between two attempts.
const WATCH: Duration = Duration::from_millis(500);

/// By how much resident memory may differ, in KiB.
const NOISE: u64 = 1 << 10;

const QUICKLY: [&str; 6] = [
    "--base-backoff",
    "0.001",
    "--max-backoff",
    "0.001",
    "--jitter",
    "0",
];

/// What counts the attempts.
enum Counter<'a> {
    Broker(&'a Broker),
    Server(&'a Server),
}

impl Counter<'_> {
    fn attempts(&self) -> usize {
        match self {
            Self::Broker(broker) => {
                let log = broker.log();
                log.count_of(|line| line.contains("New connection from "))
            }
            Self::Server(server) => server.accepted().len(),
        }
    }

    fn wait(&self, count: usize, running: &mut Running) {
        let made = || self.attempts() >= count;
        let in_time = wait_until(LONG, || made() || running.has_ended());
        assert!(in_time && made(), "{count} attempts\n{running}");
    }
}

/// What a program has open and in memory.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    threads: u64,
    /// In KiB.
    resident: u64,
}

impl Held {
    fn now(running: &Running) -> Option<Self> {
        Some(Self {
            resident: running.status("VmRSS:")?,
            threads: running.status("Threads:")?,
            descriptors: running.descriptors()?,
        })
    }

    /// The least of each while it is watched: what it has between two attempts.
    fn least(running: &mut Running) -> Self {
        let until = Instant::now() + WATCH;
        let mut least = Self::now(running);
        while Instant::now() < until && !running.has_ended() {
            let now = Self::now(running);
            least = least.zip(now).map(|(least, now)| Self {
                descriptors: least.descriptors.min(now.descriptors),
                threads: least.threads.min(now.threads),
                resident: least.resident.min(now.resident),
            });
            running.stderr.wait_end(Duration::from_millis(2));
        }
        assert!(!running.has_ended(), "{running}");
        least.expect("numbers of a live process")
    }

    fn is_within(self, other: Self) -> bool {
        self.descriptors <= other.descriptors
            && self.threads <= other.threads
            && (self.resident <= other.resident + NOISE || other_programs())
    }
}

/// Whether other builds of the programs are tested: with `AddressSanitizer`, which keeps freed memory aside for a while.
fn other_programs() -> bool {
    std::env::var_os("IOT_TEST_PROGRAMS").is_some()
}

/// Runs both programs where `flags` lead and every attempt fails: without an end, until this many attempts
/// have been made, and with one, which has to be ended with this exit code.
fn every_attempt_fails(counter: &Counter, code: i32, flags: &[&str]) {
    let attempts = times("IOT_TEST_ATTEMPTS", 150);
    let publisher = || Program::publisher().args(["-t", "t"]);
    let subscriber = || Program::subscriber().args(["-t", "t"]);
    let timed = ["--interval", "60", "--stop-timeout", "0.1"];
    for (name, endless, stopped) in [
        ("publisher", publisher().args(timed), code),
        ("subscriber", subscriber(), 0),
    ] {
        let before = counter.attempts();
        let started = Instant::now();
        let mut running = endless.args(QUICKLY).args(flags).start();
        counter.wait(before + (attempts / 3).min(100), &mut running);
        let early = Held::least(&mut running);
        counter.wait(before + attempts, &mut running);
        let took = started.elapsed();
        let mut late = Held::least(&mut running);
        let settled = wait_until(SOON, || {
            late.is_within(early) || {
                late = Held::least(&mut running);
                false
            }
        });
        println!("{name}: {attempts} attempts in {took:.1?}: {early:?}, then {late:?}");
        assert!(settled, "{early:?}, then {late:?}\n{running}");
        running
            .finish_by(Signal::SIGTERM, SOON)
            .expect_code(stopped);
    }
    for _ in 0..3 {
        for finite in [
            publisher().args(["-m", "x", "--flush-timeout", "2"]),
            subscriber().args(["-C", "1", "--timeout", "2"]),
        ] {
            let finite = finite.args(["--base-backoff", "0.2"]).args(flags);
            finite.run(SOON).expect_code(code);
        }
    }
}

/// The flags for a host without TLS.
fn plain(server: &Server) -> String {
    format!("mqtt://localhost:{}", server.port())
}

/// A Mosquitto that speaks nothing but TLS 1.3: it refuses a certificate after the handshake is over for
/// the client.
fn refusing_certificates(flags: &[&str]) {
    let broker = Broker::builder().line("tls_version tlsv1.3").start();
    let port = broker.port().to_string();
    let ca = certs().ca.to_str().unwrap();
    let there = ["--endpoint", "localhost", "--port", &port, "--cafile", ca];
    every_attempt_fails(&Counter::Broker(&broker), 77, &[&there, flags].concat());
    let log = broker.log().text();
    assert!(!log.contains("New client connected"), "{log}");
}

#[test]
fn a_certificate_of_a_foreign_ca() {
    let dir = temp_dir();
    let (foreign, _) = Authority::foreign(dir.path());
    let stranger = foreign.client(dir.path(), "stranger", Validity::Now);
    let cert = stranger.cert.to_str().unwrap();
    let key = stranger.key.to_str().unwrap();
    refusing_certificates(&["--cert", cert, "--key", key]);
}

#[test]
fn no_certificate() {
    refusing_certificates(&[]);
}

#[test]
fn a_server_that_accepts_and_closes() {
    let server = Server::plain(server::hang_up);
    every_attempt_fails(
        &Counter::Server(&server),
        69,
        &["--endpoint", &plain(&server)],
    );
}

#[test]
fn a_server_that_accepts_and_resets() {
    let server = Server::listen(0, |stream| {
        let at_once = linger {
            l_onoff: 1,
            l_linger: 0,
        };
        setsockopt(&stream, Linger, &at_once).unwrap();
    });
    every_attempt_fails(
        &Counter::Server(&server),
        69,
        &["--endpoint", &plain(&server)],
    );
}

#[test]
fn a_server_that_closes_after_the_tls_handshake() {
    let server = Server::tls(server::hang_up);
    let port = server.port().to_string();
    let device = &certs().device;
    let flags = [
        ["--endpoint", "localhost"],
        ["--port", &port],
        ["--cafile", certs().ca.to_str().unwrap()],
        ["--cert", device.cert.to_str().unwrap()],
        ["--key", device.key.to_str().unwrap()],
    ];
    every_attempt_fails(&Counter::Server(&server), 69, flags.as_flattened());
}

/// Reads a request of HTTP, answers with `answer` and hangs up.
fn http(answer: &'static str) -> impl Fn(&mut dyn Stream) + Send + Sync {
    move |stream| {
        let mut request = Vec::new();
        let mut byte = [0];
        while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n > 0) {
            request.extend(byte);
        }
        let _ = stream.write_all(answer.as_bytes());
    }
}

#[test]
fn a_websocket_upgrade_that_is_refused() {
    for (answer, code) in [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 77),
        (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
            69,
        ),
    ] {
        let server = Server::plain(http(answer));
        let url = format!("ws://localhost:{}/mqtt", server.port());
        every_attempt_fails(&Counter::Server(&server), code, &["--endpoint", &url]);
    }
}

#[test]
fn a_proxy_that_hangs_up() {
    for answer in ["", "HTTP/1.1 200 OK\r\n\r\n"] {
        let proxy = Server::plain(http(answer));
        let url = format!("http://localhost:{}", proxy.port());
        let flags = ["--endpoint", "mqtt://localhost:1", "--proxy", &url];
        every_attempt_fails(&Counter::Server(&proxy), 69, &flags);
    }
}

/// A broker that closes this many connections after it has accepted them.
const BRIEF: usize = 100;

#[test]
fn a_broker_that_closes_after_connack_is_connected_to_again() {
    for version in ["5", "3.1.1"] {
        for finite in [&[][..], &["-C", "1"]] {
            let script = ScriptedBroker::script().close_after_connack(BRIEF);
            let broker = script.after_subscribe("t", "t", b"arrives").plain();
            let program = Program::subscriber().at_plain_port(broker.port());
            let program = program.args(["-t", "t", "--mqtt-version", version]);
            let subscriber = program.args(QUICKLY).args(finite).start();
            let line = subscriber.stdout_line(SOON * 3, |_| true);
            assert_eq!(line.text, "arrives", "{subscriber}");
            assert_eq!(broker.connects().len(), BRIEF + 1, "{subscriber}");
            let outcome = if finite.is_empty() {
                subscriber.finish_by(Signal::SIGTERM, SOON)
            } else {
                subscriber.finish(SOON)
            };
            outcome.expect_code(0).expect_stdout("arrives\n");
        }
    }
}
