//! Through an HTTP proxy, and through a web server's WebSocket.

use std::{
    fs,
    io::Cursor,
    net::{Ipv4Addr, TcpStream},
    process::Stdio,
};

use tempfile::TempDir;

use crate::harness::{
    Broker, Program, SOON, Server, certs, free_port,
    process::{Process, command},
    server, temp_dir, wait_until,
};

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
fn a_server_without_websockets_is_named() {
    let web_server = Server::tls(|stream| {
        let mut bytes = [0; 1024];
        let _ = stream.read(&mut bytes);
        let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    });
    let url = format!("wss://localhost:{}/x", web_server.port());
    let program = Program::one_message().args(["--endpoint", &url]);
    let outcome = program.ca(&certs().ca).identity(&certs().device).run(SOON);
    outcome.expect_fault(76, &["no WebSocket at /x", "404", "check the path"]);
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
