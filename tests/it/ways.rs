//! The ways to a broker where the straight one is blocked: port 443, a proxy, a WebSocket; and
//! the directory that `--certs` names.

use std::{
    fs,
    io::{Cursor, Read as _},
    net::{Ipv4Addr, TcpStream},
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
    unistd::gettid,
};
use tempfile::TempDir;

use crate::{
    aws::alpn_of,
    harness::{
        AwsLike, Broker, Program, SOON, Server, certs,
        certs::Validity,
        free_port,
        namespace::skipped,
        process::{Process, command},
        server, temp_dir, wait_until,
    },
    misconfigured::SilentPort,
};

/// Runs a test in a network of its own, where the ports 443 and 8883 are free for everybody.
fn in_a_network_of_its_own(test: &str, run: impl FnOnce() + Send) {
    let alone = || {
        if unshare(CloneFlags::CLONE_NEWNET).is_err() {
            return skipped(test, "no network namespaces here");
        }
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.expect("ip, of iproute2").success());
        run();
    };
    thread::scope(|scope| {
        let ran = scope.spawn(alone).join();
        if let Err(panic) = ran {
            std::panic::resume_unwind(panic);
        }
    });
}

/// At an AWS endpoint, as far as the program can tell, in the network of this thread.
fn at_aws(program: Program) -> Program {
    let here = format!(
        "--net=/proc/{}/task/{}/ns/net",
        std::process::id(),
        gettid()
    );
    program
        .under(["nsenter", &here, "--"])
        .args(["--endpoint", "localhost", "--profile", "aws"])
        .ca(&certs().ca)
        .identity(&certs().device)
}

fn connect_by_443(timeout: u64) {
    let broker = AwsLike::builder().needs_alpn().port(443).start();
    let started = Instant::now();
    let timeout_flag = timeout.to_string();
    let program = at_aws(Program::one_message()).args(["--connect-timeout", &timeout_flag]);
    let outcome = program.args(["--debug"]).run(SOON * 2).expect_code(0);
    let took = broker.arrivals()[0].at - started;
    println!("there after {took:?} with --connect-timeout {timeout}");
    assert!(
        took < Duration::from_secs(timeout + 2),
        "{took:?}\n{outcome}"
    );
    outcome.expect_stderr("(port 443)");
}

#[test]
fn a_silent_8883_leads_to_443_within_the_connect_timeout() {
    in_a_network_of_its_own("ways", || {
        let _swallows = SilentPort::open(8883);
        connect_by_443(4);
    });
    in_a_network_of_its_own("ways", || {
        let _mute = Server::listen(8883, |mut stream| server::stay_silent(&mut stream));
        connect_by_443(4);
    });
    // A closed one costs nothing.
    in_a_network_of_its_own("ways", || connect_by_443(1));
}

#[test]
fn the_port_that_worked_is_remembered() {
    in_a_network_of_its_own("ways", || {
        let mute = Server::listen(8883, |mut stream| server::stay_silent(&mut stream));
        let broker = AwsLike::builder().needs_alpn().port(443).start();
        let program = at_aws(Program::publisher()).args(["-t", "t", "--interval", "0.2"]);
        let program = program.args(["--connect-timeout", "2", "-i", "me"]);
        let publisher = program.start();
        assert!(broker.wait_arrivals(2, SOON), "{publisher}");
        assert_eq!(mute.accepted().len(), 1);
        // Another client with its identifier throws it out.
        let rival = at_aws(Program::one_message()).args(["--port", "443", "-i", "me"]);
        rival.run(SOON).expect_code(0);
        publisher.stderr_line(SOON, |line| line.contains("taken over"));
        let so_far = broker.arrivals().len();
        assert!(broker.wait_arrivals(so_far + 2, SOON), "{publisher}");
        assert_eq!(mute.accepted().len(), 1, "8883 was not tried again");
        publisher.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    });
}

#[test]
fn both_ways_are_named_if_neither_works() {
    in_a_network_of_its_own("ways", || {
        let program = at_aws(Program::one_message()).args(["--flush-timeout", "0.2"]);
        let outcome = program.run(SOON).expect_code(69);
        let outcome = outcome.expect_stderr("localhost:8883: the port is closed");
        outcome.expect_stderr("nor does the other way work: localhost:443: the port is closed");
        let check = at_aws(Program::publisher().arg("check"))
            .run(SOON)
            .expect_code(69);
        assert!(
            check.stdout.text().contains("going on to the next"),
            "{check}"
        );
    });
}

#[test]
fn port_443_of_aws_is_asked_for_by_name_and_with_nothing_behind_it() {
    in_a_network_of_its_own("ways", || {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heard);
        let _server = Server::listen(443, move |mut stream: TcpStream| {
            let mut hello = vec![0; 5];
            stream.read_exact(&mut hello).unwrap();
            let length = usize::from(u16::from_be_bytes([hello[3], hello[4]]));
            hello.resize(5 + length, 0);
            stream.read_exact(&mut hello[5..]).unwrap();
            kept.lock().unwrap().push(hello);
        });
        for flags in [&["--port", "443"][..], &[]] {
            let program = at_aws(Program::one_message()).args(flags);
            program
                .args(["--flush-timeout", "0.2"])
                .run(SOON)
                .expect_code(69);
        }
        let heard = heard.lock().unwrap();
        assert!(heard.len() >= 2);
        for hello in heard.iter() {
            assert_eq!(alpn_of(hello), ["x-amzn-mqtt-ca"]);
        }
    });
}

/// A real tinyproxy.
struct TinyProxy {
    _process: Process,
    port: u16,
    log: std::path::PathBuf,
    _dir: TempDir,
}

impl TinyProxy {
    fn start(lines: &str) -> Self {
        let dir = temp_dir();
        let port = free_port();
        let (config, log) = (dir.path().join("conf"), dir.path().join("log"));
        let log_line = format!("LogFile \"{}\"", log.display());
        fs::write(
            &config,
            format!(
                "Port {port}\nListen 127.0.0.1\nTimeout 60\nMaxClients 20\nAllow 127.0.0.1\n\
                 LogLevel Connect\n{log_line}\n{lines}\n"
            ),
        )
        .unwrap();
        let mut tinyproxy = command("tinyproxy");
        tinyproxy.arg("-d").arg("-c").arg(&config);
        tinyproxy
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Process::spawn(tinyproxy);
        let up = || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
        assert!(wait_until(SOON, up), "tinyproxy does not listen");
        Self {
            _process: process,
            port,
            log,
            _dir: dir,
        }
    }

    fn has_tunnelled_to(&self, port: u16) -> bool {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        text.contains(&format!("CONNECT localhost:{port}"))
    }
}

#[test]
fn a_proxy_is_gone_through_with_mutual_tls() {
    let broker = Broker::start();
    let proxy = TinyProxy::start("");
    let url = format!("http://127.0.0.1:{}", proxy.port);
    Program::one_message()
        .to(&broker)
        .args(["--proxy", &url])
        .run(SOON)
        .expect_code(0);
    assert!(proxy.has_tunnelled_to(broker.port()));
    let plain = Broker::builder().plain().start();
    for broker in [&broker, &plain] {
        for name in ["HTTPS_PROXY", "https_proxy"] {
            let program = Program::one_message().to(broker).env(name, &url);
            program.run(SOON).expect_code(0);
        }
        assert!(proxy.has_tunnelled_to(broker.port()));
    }
    let check = Program::publisher()
        .arg("check")
        .to(&broker)
        .args(["--proxy", &url]);
    let check = check.run(SOON).expect_code(0);
    assert!(
        check.stdout.text().contains("proxy: has opened a tunnel"),
        "{check}"
    );
}

#[test]
fn a_proxy_s_password_is_asked_for_and_given() {
    let broker = Broker::start();
    let proxy = TinyProxy::start("BasicAuth ann s3cret");
    let address = format!("127.0.0.1:{}", proxy.port);
    let through = |url: String| Program::one_message().to(&broker).args(["--proxy", &url]);
    through(format!("http://ann:s3cret@{address}"))
        .run(SOON)
        .expect_code(0);
    through(format!("http://ann:s3%63ret@{address}"))
        .run(SOON)
        .expect_code(0);
    let none = through(address.clone()).run(SOON);
    none.expect_fault(77, &["wants a user name and a password", "HTTPS_PROXY"]);
    let wrong = through(format!("http://ann:wr0ng@{address}")).run(SOON);
    assert!(!wrong.stderr.text().contains("wr0ng"), "{wrong}");
    wrong.expect_fault(77, &["refuses user name and password"]);
    let variable = Program::one_message().to(&broker);
    let variable = variable.env("HTTPS_PROXY", &format!("http://ann:s3cret@{address}"));
    variable.run(SOON).expect_code(0);
}

#[test]
fn no_proxy_and_a_proxy_that_is_of_no_use() {
    let broker = Broker::start();
    let dead = format!("http://127.0.0.1:{}", free_port());
    let program = || {
        Program::one_message()
            .to(&broker)
            .args(["--flush-timeout", "0.2"])
    };
    let exempt = program()
        .env("HTTPS_PROXY", &dead)
        .env("NO_PROXY", "example.com,localhost");
    exempt.run(SOON).expect_code(0);
    let none = program().env("HTTPS_PROXY", &dead).args(["--proxy", ""]);
    none.run(SOON).expect_code(0);
    let closed = program()
        .env("HTTPS_PROXY", &dead)
        .run(SOON)
        .expect_code(69);
    closed.expect_stderr("the proxy's port is closed");
    let socks = program()
        .args(["--proxy", "socks5://localhost:1080"])
        .run(SOON);
    socks.expect_fault(64, &["--proxy", "socks5"]);
    let mail = Server::plain(|stream| {
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
        server::stay_silent(stream);
    });
    let at = format!("http://127.0.0.1:{}", mail.port());
    let outcome = program().args(["--proxy", &at]).run(SOON);
    outcome.expect_fault(76, &["does not speak HTTP"]);
    let filter = TinyProxy::start("ConnectPort 443");
    let at = format!("http://127.0.0.1:{}", filter.port);
    let outcome = program().args(["--proxy", &at]).run(SOON).expect_code(77);
    outcome
        .expect_stderr("refuses a tunnel")
        .expect_stderr("ask its operator");
}

/// A Mosquitto that also takes `WebSocket`s, on this port.
fn websocket_broker(port: u16, tls: bool) -> Broker {
    let builder =
        Broker::builder().line(&format!("listener {port} 127.0.0.1\nprotocol websockets"));
    if tls {
        let server = &certs().server;
        let (cert, key, ca) = (
            server.cert.display(),
            server.key.display(),
            certs().ca.display(),
        );
        builder
            .line(&format!(
                "certfile {cert}\nkeyfile {key}\ncafile {ca}\nrequire_certificate true"
            ))
            .start()
    } else {
        builder.plain().start()
    }
}

#[test]
fn a_websocket_carries_mqtt_both_ways_with_and_without_tls() {
    for tls in [true, false] {
        let port = free_port();
        let _broker = websocket_broker(port, tls);
        let url = format!("{}://localhost:{port}", if tls { "wss" } else { "ws" });
        let at = |program: Program| {
            let program = program.args(["--endpoint", &url]);
            if tls {
                program.ca(&certs().ca).identity(&certs().device)
            } else {
                program
            }
        };
        let large = "x".repeat(300_000);
        let subscriber = at(Program::subscriber())
            .args(["-t", "t", "-C", "2001", "-d"])
            .start();
        subscriber.stderr_line(SOON, |line| line.contains("subscribed"));
        let lines: Vec<String> = (0..2_000).map(|n| n.to_string()).chain([large]).collect();
        let publisher = at(Program::publisher()).args(["-t", "t", "-l"]);
        let text = lines.join("\n");
        publisher
            .stdin(Cursor::new(text.clone()))
            .run(SOON * 2)
            .expect_code(0);
        let outcome = subscriber.finish(SOON).expect_code(0);
        assert_eq!(outcome.stdout.text().trim_end(), text);
        let check = at(Program::publisher().arg("check"))
            .run(SOON)
            .expect_code(0);
        assert!(
            check.stdout.text().contains("WebSocket: is open"),
            "{check}"
        );
    }
}

#[test]
fn a_websocket_goes_through_a_proxy_as_well() {
    let port = free_port();
    let _broker = websocket_broker(port, true);
    let proxy = TinyProxy::start("");
    let program =
        Program::one_message().args(["--endpoint", &format!("wss://localhost:{port}/mqtt")]);
    let program = program.ca(&certs().ca).identity(&certs().device);
    let program = program.args(["--proxy", &format!("127.0.0.1:{}", proxy.port)]);
    program.run(SOON).expect_code(0);
    assert!(proxy.has_tunnelled_to(port));
}

#[test]
fn a_server_without_websockets_is_named() {
    let page = Server::tls(|stream| {
        let mut bytes = [0; 1024];
        let _ = stream.read(&mut bytes);
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    });
    let url = format!("wss://localhost:{}/x", page.port());
    let program = Program::one_message().args(["--endpoint", &url]);
    let outcome = program.ca(&certs().ca).identity(&certs().device).run(SOON);
    outcome.expect_fault(76, &["no WebSocket at /x", "404", "check the path"]);
}

/// Copies the usual files into a directory, under these names.
fn directory(names: [&str; 3]) -> TempDir {
    let dir = temp_dir();
    let device = &certs().device;
    for (from, name) in [&certs().ca, &device.cert, &device.key]
        .into_iter()
        .zip(names)
    {
        // A copy keeps the mode.
        fs::copy(from, dir.path().join(name)).unwrap();
    }
    dir
}

fn with_certs(dir: &Path, port: u16) -> Program {
    Program::one_message()
        .endpoint(port)
        .arg("--certs")
        .arg(dir)
}

#[test]
fn the_files_are_found_under_the_names_of_the_console_and_under_plain_ones() {
    let broker = Broker::start();
    for names in [
        [
            "AmazonRootCA1.pem",
            "1a2b-certificate.pem.crt",
            "1a2b-private.pem.key",
        ],
        ["ca.pem", "device.pem.crt", "private.pem.key"],
    ] {
        let dir = directory(names);
        fs::write(dir.path().join("1a2b-public.pem.key"), "x").unwrap();
        with_certs(dir.path(), broker.port())
            .run(SOON)
            .expect_code(0);
        let endpoint = format!("localhost:{}\n", broker.port());
        fs::write(dir.path().join("endpoint"), endpoint).unwrap();
        let without = Program::one_message().arg("--certs").arg(dir.path());
        without.run(SOON).expect_code(0);
    }
}

#[test]
fn a_directory_that_does_not_have_each_file_once_says_what_it_has() {
    let port = free_port();
    let dir = directory(["ca.pem", "device.pem.crt", "x.key"]);
    let outcome = with_certs(dir.path(), port).run(SOON);
    let found = "found: ca.pem, device.pem.crt, x.key";
    outcome.expect_fault(
        78,
        &["--certs has no private key (*-private.pem.key", found],
    );
    let dir = directory(["ca.pem", "device.pem.crt", "private.pem.key"]);
    fs::copy(&certs().ca, dir.path().join("AmazonRootCA1.pem")).unwrap();
    let outcome = with_certs(dir.path(), port).run(SOON);
    outcome.expect_fault(
        78,
        &["has more than one CA file", "AmazonRootCA1.pem, ca.pem"],
    );
    let check = Program::publisher().args(["check", "-e", "localhost", "--certs"]);
    let check = check
        .arg(dir.path())
        .args(["--port", &port.to_string()])
        .run(SOON);
    let check = check.expect_code(78);
    assert!(
        check.stdout.text().contains("FAILED  directory: "),
        "{check}"
    );
    let outcome = with_certs(Path::new("/nosuch"), port).run(SOON);
    outcome.expect_fault(66, &["/nosuch: --certs cannot be read"]);
    // A flag names what is ambiguous in the directory.
    let broker = Broker::start();
    let program = with_certs(dir.path(), broker.port()).ca(&certs().ca);
    program.run(SOON).expect_code(0);
}

#[test]
fn a_certificate_that_ends_soon_is_warned_of_once() {
    let dir = temp_dir();
    let pair = certs()
        .authority
        .client(dir.path(), "soon", Validity::EndsSoon);
    let mut broker = Broker::start();
    let program = Program::publisher()
        .endpoint(broker.port())
        .ca(&certs().ca)
        .identity(&pair);
    let program = program.args(["-t", "t", "--interval", "0.1", "--base-backoff", "0.1"]);
    let publisher = program.args(["--receipts"]).start();
    let warned = |line: &str| line.contains("soon.pem.crt: --cert expires in ");
    publisher.stderr_line(SOON, warned);
    broker.restart();
    let before = publisher.stdout.count();
    let goes_on = || publisher.stdout.count() > before + 4;
    assert!(wait_until(SOON, goes_on), "{publisher}");
    let outcome = publisher.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let count = outcome
        .stderr
        .all()
        .iter()
        .filter(|l| warned(&l.text))
        .count();
    assert_eq!(count, 1, "{outcome}");
    // The usual one is good for a year, and not worth a word.
    let quiet = Program::one_message().to(&broker).run(SOON).expect_code(0);
    assert_eq!(quiet.stderr.text(), "", "{quiet}");
}
