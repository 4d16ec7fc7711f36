//! Through a SOCKS5 proxy: a real one (microsocks), and scripted ones for what it never does.

use std::{
    io::Read as _,
    net::{Ipv4Addr, Shutdown, TcpStream},
    process::Stdio,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use crate::harness::{
    Broker, Program, SOON, Server, free_port,
    lines::Lines,
    process::{Process, command},
    server::{self, Stream},
    wait_until,
};

struct MicroSocks {
    _process: Process,
    port: u16,
    log: Lines,
}

impl MicroSocks {
    fn start(args: &[&str]) -> Self {
        let port = free_port();
        let mut microsocks = command("microsocks");
        microsocks.args(["-i", "127.0.0.1", "-p", &port.to_string()]);
        microsocks.args(args).stdin(Stdio::null());
        microsocks.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::spawn(microsocks);
        let log = Lines::default();
        log.collect(process.child().stderr.take().unwrap());
        let up = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        assert!(wait_until(SOON, up), "microsocks does not listen");
        Self {
            _process: process,
            port,
            log,
        }
    }

    fn url(&self) -> String {
        format!("socks5h://127.0.0.1:{}", self.port)
    }

    /// The proxy, not the program, was given the host name.
    fn expect_connected_to(&self, port: u16) {
        let target = format!("connected to localhost:{port}");
        let seen = self.log.wait(SOON, |line| line.contains(&target));
        assert!(seen.is_some(), "{}", self.log.text());
    }
}

#[test]
fn a_socks_proxy_is_gone_through_with_mutual_tls_and_without_tls() {
    let proxy = MicroSocks::start(&[]);
    let brokers = [Broker::start(), Broker::builder().plain().start()];
    for broker in &brokers {
        let program = Program::one_message().to(broker);
        program
            .args(["--proxy", &proxy.url()])
            .run(SOON)
            .expect_code(0);
        proxy.expect_connected_to(broker.port());
        for name in [
            "HTTPS_PROXY",
            "https_proxy",
            "ALL_PROXY",
            "all_proxy",
            "IOT_PROXY",
        ] {
            let program = Program::one_message().to(broker).env(name, &proxy.url());
            program.run(SOON).expect_code(0);
        }
    }
    let count = |lines: &Lines| lines.text().matches("connected to localhost").count();
    let all = || count(&proxy.log) == 12;
    assert!(wait_until(SOON, all), "{}", proxy.log.text());
}

#[test]
fn both_programs_receive_through_a_socks_proxy() {
    let broker = Broker::start();
    let proxy = MicroSocks::start(&[]);
    let at = |program: Program| program.to(&broker).args(["--proxy", &proxy.url()]);
    let subscriber = at(Program::subscriber())
        .args(["-t", "t", "-C", "1", "-d"])
        .start();
    subscriber.wait_subscribed();
    at(Program::one_message()).run(SOON).expect_code(0);
    subscriber
        .finish(SOON)
        .expect_code(0)
        .expect_stdout("hello\n");
}

#[test]
fn a_websocket_goes_through_a_socks_proxy() {
    let port = free_port();
    let listener = format!("listener {port} 127.0.0.1\nprotocol websockets");
    let _broker = Broker::builder().plain().line(&listener).start();
    let proxy = MicroSocks::start(&[]);
    let program = Program::one_message().args(["--endpoint", &format!("ws://localhost:{port}")]);
    let program = program.args(["--proxy", &proxy.url()]);
    program.run(SOON).expect_code(0);
    proxy.expect_connected_to(port);
}

#[test]
fn user_name_and_password_of_a_socks_proxy_are_asked_for_and_given() {
    let broker = Broker::start();
    let proxy = MicroSocks::start(&["-u", "ann", "-P", "s3:cr@t"]);
    let through = |user: &str| {
        let url = format!("socks5h://{user}127.0.0.1:{}", proxy.port);
        Program::one_message().to(&broker).args(["--proxy", &url])
    };
    through("ann:s3%3Acr%40t@").run(SOON).expect_code(0);
    let none = through("").run(SOON);
    none.expect_fault(
        77,
        &[
            "wants a user name and a password",
            "socks5h://USER:PASSWORD@",
        ],
    );
    let wrong = through("ann:wr0ng@").args(["-d"]).run(SOON).expect_code(77);
    assert!(!wrong.stderr.text().contains("wr0ng"), "{wrong}");
    wrong.expect_stderr("refuses user name and password of --proxy");
}

#[test]
fn the_check_says_that_the_proxy_resolves_the_name() {
    let broker = Broker::start();
    let proxy = MicroSocks::start(&[]);
    let check = Program::publisher()
        .arg("check")
        .to(&broker)
        .args(["--proxy", &proxy.url()]);
    let check = check.run(SOON).expect_code(0);
    let text = check.stdout.text();
    for line in [
        "DNS: 127.0.0.1 (the proxy); localhost is resolved by the proxy",
        "proxy: has opened a tunnel",
        &format!("proxy socks5h://127.0.0.1:{} (from --proxy)", proxy.port),
    ] {
        assert!(text.contains(line), "{line}\n{check}");
    }
    let forbids = socks_server(|stream| {
        let _ = stream.write_all(&[5, 0]);
        let _ = stream.read(&mut [0; 512]);
        let _ = stream.write_all(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
    });
    let url = format!("socks5h://127.0.0.1:{}", forbids.port());
    let check = Program::publisher().arg("check").to(&broker);
    let check = check.args(["--proxy", &url]).run(SOON).expect_code(77);
    let text = check.stdout.text();
    assert!(text.contains("FAILED  proxy:"), "{check}");
    assert!(text.contains("SOCKS5 reply 2"), "{check}");
}

#[test]
fn a_name_that_this_machine_cannot_resolve_is_left_to_the_proxy() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let received = Arc::clone(&asked);
    let proxy = Server::plain(move |stream| {
        let mut greeting = [0; 3];
        let mut request = [0; 4 + 1 + 14 + 2];
        let _ = stream.read_exact(&mut greeting);
        let _ = stream.write_all(&[5, 0]);
        let _ = stream.read_exact(&mut request);
        received.lock().unwrap().extend(request);
        let _ = stream.write_all(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]);
    });
    let outcome = Program::one_message()
        .args([
            "--endpoint",
            "mqtt://broker.invalid",
            "--flush-timeout",
            "0.2",
        ])
        .args(["--proxy", &format!("socks5h://127.0.0.1:{}", proxy.port())])
        .run(SOON)
        .expect_code(69);
    outcome
        .expect_stderr("cannot reach broker.invalid:1883: host unreachable (SOCKS5 reply 4)")
        .expect_stderr("can the proxy resolve this name");
    let asked = asked.lock().unwrap();
    assert_eq!(&asked[..5], [5, 1, 0, 3, 14]);
    assert_eq!(&asked[5..19], b"broker.invalid");
}

/// A proxy that reads the request and answers it, so.
fn socks_server(answer: impl Fn(&mut dyn Stream) + Send + Sync + 'static) -> Server {
    Server::plain(move |stream| {
        let _ = stream.read(&mut [0; 512]);
        answer(stream);
    })
}

#[test]
fn a_socks_proxy_that_fails_is_named_with_its_cause() {
    let through = |port: u16| {
        Program::one_message()
            .args(["--endpoint", "mqtt://localhost", "--flush-timeout", "0.2"])
            .args(["--proxy", &format!("socks5h://127.0.0.1:{port}")])
    };
    let broken = through(MicroSocks::start(&[]).port);
    // The proxy has ended.
    let outcome = broken.run(SOON).expect_code(69);
    outcome.expect_stderr("the proxy's port is closed");
    let live = MicroSocks::start(&[]);
    let program = through(live.port).args(["--port", &free_port().to_string()]);
    let outcome = program.run(SOON).expect_code(69);
    outcome.expect_stderr("connection refused (SOCKS5 reply 5)");

    let closes = socks_server(server::hang_up);
    let outcome = through(closes.port()).run(SOON).expect_code(69);
    outcome.expect_stderr("the proxy closed the connection");
    let refuses = socks_server(|stream| {
        let _ = stream.write_all(&[5, 0xff]);
    });
    through(refuses.port())
        .run(SOON)
        .expect_fault(77, &["wants a user name"]);
    let forbids = socks_server(|stream| {
        let _ = stream.write_all(&[5, 0]);
        let _ = stream.read(&mut [0; 512]);
        let _ = stream.write_all(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]);
    });
    let outcome = through(forbids.port()).run(SOON).expect_code(77);
    outcome.expect_stderr("does not allow connections to localhost:1883");
    let other = socks_server(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    through(other.port())
        .run(SOON)
        .expect_fault(76, &["does not speak SOCKS5", "http://HOST:PORT"]);
}

#[test]
fn a_silent_socks_proxy_costs_no_more_than_the_connect_timeout() {
    let begun = [&[][..], &[5, 0], &[5, 0, 5, 0, 0, 3, 255, b'x']].map(|answers| {
        let proxy = socks_server(move |stream| {
            let _ = stream.write_all(answers);
            server::stay_silent(stream);
        });
        let program = Program::one_message()
            .args(["--endpoint", "mqtt://localhost", "--flush-timeout", "2.5"])
            .args(["--connect-timeout", "2"])
            .args(["--proxy", &format!("socks5h://127.0.0.1:{}", proxy.port())]);
        (program.start(), proxy)
    });
    for (running, _proxy) in begun {
        let outcome = running.finish(SOON).expect_code(69);
        assert!(outcome.elapsed < Duration::from_secs(5), "{outcome}");
        outcome.expect_stderr("the proxy has not answered the SOCKS5 request in time");
    }
}

#[test]
fn a_socks_proxy_that_answers_byte_by_byte_works_within_the_deadline_only() {
    /// Passes bytes on, the first `slow` of an answer one at a time.
    fn relay(client: TcpStream, to: u16, slow: usize, pause: Duration) {
        let mut proxy = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).unwrap();
        let (mut from, mut into) = (client.try_clone().unwrap(), proxy.try_clone().unwrap());
        let upstream = thread::spawn(move || {
            let _ = std::io::copy(&mut from, &mut into);
            let _ = into.shutdown(Shutdown::Write);
        });
        let mut client = client;
        let mut byte = [0];
        for _ in 0..slow {
            if proxy.read_exact(&mut byte).is_err() {
                break;
            }
            thread::park_timeout(pause);
            if std::io::Write::write_all(&mut client, &byte).is_err() {
                break;
            }
        }
        let _ = std::io::copy(&mut proxy, &mut client);
        let _ = client.shutdown(Shutdown::Both);
        let _ = upstream.join();
    }
    let broker = Broker::start();
    let proxy = MicroSocks::start(&["-u", "ann", "-P", "pw"]);
    let port = proxy.port;
    // Method, login and reply have 14 bytes.
    for (pause, timeout, code) in [(10, "10", 0), (200, "1", 69)] {
        let pause = Duration::from_millis(pause);
        let slow = Server::listen(0, move |client| relay(client, port, 14, pause));
        let outcome = Program::one_message()
            .to(&broker)
            .args(["--connect-timeout", timeout, "--flush-timeout", "1.5"])
            .args([
                "--proxy",
                &format!("socks5h://ann:pw@127.0.0.1:{}", slow.port()),
            ])
            .run(SOON)
            .expect_code(code);
        assert!(outcome.elapsed < Duration::from_secs(5), "{outcome}");
        if code != 0 {
            outcome.expect_stderr("has not answered the SOCKS5 request in time");
        }
    }
}

#[test]
fn all_proxy_counts_after_https_proxy_and_not_for_hosts_in_no_proxy() {
    let broker = Broker::start();
    let proxy = MicroSocks::start(&[]);
    let dead = format!("socks5h://127.0.0.1:{}", free_port());
    let program = || Program::one_message().to(&broker).env("ALL_PROXY", &dead);
    program()
        .env("HTTPS_PROXY", &proxy.url())
        .run(SOON)
        .expect_code(0);
    program()
        .env("NO_PROXY", "localhost")
        .run(SOON)
        .expect_code(0);
    program().args(["--proxy", ""]).run(SOON).expect_code(0);
    let closed = program().args(["--flush-timeout", "0.2"]).run(SOON);
    closed.expect_code(69).expect_stderr("is ALL_PROXY right?");
    let local = Program::one_message()
        .to(&broker)
        .env("ALL_PROXY", "socks5://p:1")
        .run(SOON);
    let local = local.expect_code(0).expect_stderr("write socks5h://");
    local.expect_stderr("connecting without a proxy");
}

#[test]
fn a_socks_url_without_a_whole_login_is_refused_before_the_start() {
    for url in [
        "socks5h://secret@p",
        "socks5h://:secret@p",
        "socks5h://secret:@p",
    ] {
        let outcome = Program::one_message()
            .args(["--endpoint", "localhost", "--proxy", url])
            .run(SOON);
        assert!(!outcome.stderr.text().contains("secret"), "{outcome}");
        outcome.expect_fault(64, &["--proxy", "1 to 255 bytes"]);
    }
}
