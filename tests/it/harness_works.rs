//! Does the harness do what it says? Here Mosquitto's own programs take the place of
//! ours, so a failure is the harness's.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    process::Stdio,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::harness::{
    Broker, Program, Proxy, Reply, SOON, ScriptedBroker, Server, certs,
    certs::{Authority, Validity},
    peer,
    peer::Witness,
    process::command,
    scripted::Event,
    server, temp_dir, wait_until,
};

#[test]
fn a_message_passes_through_a_broker_that_requires_certificates() {
    let broker = Broker::start();
    let witness = Witness::start(&broker, "greetings");
    assert!(
        peer::publish(&broker, "greetings", "hello")
            .status
            .success()
    );
    assert_eq!(witness.messages(1, SOON)[0].text, "hello");
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let broker = Broker::start();
    let attempt = command("mosquitto_pub")
        .args(["-h", "localhost", "-p", &broker.port().to_string()])
        .arg("--cafile")
        .arg(&certs().ca)
        .args(["-q", "1", "-t", "greetings", "-m", "hello"])
        .output()
        .unwrap();
    assert!(!attempt.status.success());
}

#[test]
fn a_foreign_or_misnamed_server_certificate_is_not_trusted() {
    let dir = temp_dir();
    let (foreign, _) = Authority::foreign(dir.path());
    let ours = &certs().authority;
    for server in [
        foreign.server(dir.path(), "localhost", Validity::Now),
        ours.server(dir.path(), "elsewhere.example", Validity::Now),
        ours.server(dir.path(), "localhost", Validity::Expired),
    ] {
        let broker = Broker::builder().server(server).start();
        let attempt = peer::publish(&broker, "greetings", "hello");
        assert!(!attempt.status.success());
    }
    let good = ours.server(dir.path(), "localhost", Validity::Now);
    let broker = Broker::builder().server(good).start();
    assert!(
        peer::publish(&broker, "greetings", "hello")
            .status
            .success()
    );
}

#[test]
fn passwords_and_access_lists_are_enforced() {
    let broker = Broker::builder()
        .plain()
        .user("ann", "secret")
        .acl("user ann\ntopic write allowed\n")
        .start();
    let publish = |args: &[&str]| {
        let mut client = peer::client("mosquitto_pub", &broker);
        client.args(["-V", "mqttv5", "-q", "1", "-m", "hello"]);
        let output = client.args(args).output().unwrap();
        (output.status.success(), output.stderr.is_empty())
    };
    let (accepted, _) = publish(&["-t", "allowed"]);
    assert!(!accepted, "without a password");
    let ann = ["-u", "ann", "-P", "secret", "-t"];
    assert_eq!(publish(&[&ann[..], &["allowed"]].concat()), (true, true));
    let (_, silent) = publish(&[&ann[..], &["forbidden"]].concat());
    assert!(!silent, "the refusal is reported");
}

#[test]
fn a_witness_misses_nothing_over_a_restart_of_a_persistent_broker() {
    let mut broker = Broker::builder().persistent().start();
    let witness = Witness::start(&broker, "numbers");
    assert!(peer::publish(&broker, "numbers", "1").status.success());
    witness.messages(1, SOON);
    broker.restart();
    assert!(peer::publish(&broker, "numbers", "2").status.success());
    // The first may come twice: the broker had not saved that it was acknowledged.
    let is_second = |text: &str| text == "2";
    assert!(witness.lines.wait(SOON, is_second).is_some());
    assert!(
        witness
            .lines
            .all()
            .iter()
            .all(|line| ["1", "2"].contains(&line.text.as_str()))
    );
}

#[test]
fn a_paused_broker_answers_only_after_it_resumes() {
    let broker = Broker::start();
    broker.pause();
    let mut client = peer::client("mosquitto_pub", &broker);
    client.args(["-q", "1", "-t", "greetings", "-m", "hello"]);
    let mut client = crate::harness::process::Process::spawn(client);
    assert!(client.wait(Duration::from_millis(300)).is_none());
    broker.resume();
    let (status, elapsed) = client.wait(SOON).expect("an answer");
    assert!(status.success());
    assert!(elapsed >= Duration::from_millis(300));
}

#[test]
fn the_proxy_delays_without_limiting_what_passes() {
    let echo = Server::plain(|stream| {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            stream.write_all(&buffer[..length]).unwrap();
        }
    });
    let one_way = Duration::from_millis(50);
    let proxy = Proxy::start(echo.port(), one_way);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    let start = Instant::now();
    // A thousand messages share one round trip.
    for _ in 0..1000 {
        stream.write_all(&[7; 100]).unwrap();
    }
    let mut echoed = vec![0; 100_000];
    stream.read_exact(&mut echoed).unwrap();
    let elapsed = start.elapsed();
    assert!(elapsed >= 2 * one_way, "{elapsed:?}");
    assert!(
        elapsed < 2 * one_way + Duration::from_secs(1),
        "{elapsed:?}"
    );
}

#[test]
fn the_proxy_falls_silent_and_hangs_up_when_told() {
    let greeter = Server::plain(|stream| {
        stream.write_all(b"hello").unwrap();
        server::stay_silent(stream);
    });
    let proxy = Proxy::start(greeter.port(), Duration::ZERO);
    proxy.stall();
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port())).unwrap();
    let silence = Some(Duration::from_millis(200));
    stream.set_read_timeout(silence).unwrap();
    let mut greeting = [0; 5];
    assert!(stream.read(&mut greeting).is_err(), "nothing passes");
    stream.set_read_timeout(Some(SOON)).unwrap();
    proxy.resume();
    stream.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"hello");
    proxy.cut();
    assert_eq!(stream.read(&mut greeting).unwrap(), 0, "hung up");
}

#[test]
fn a_scripted_broker_acknowledges_refuses_and_keeps_a_record() {
    let broker = ScriptedBroker::script()
        .on_publish(|publish| match publish.topic.as_str() {
            "secret" => Reply::Refuse(0x87),
            _ => Reply::Ack,
        })
        .connack_properties(&[0x21, 0, 10])
        .tls();
    for (version, topic) in [("5", "open"), ("5", "secret"), ("311", "open")] {
        let device = &certs().device;
        let status = command("mosquitto_pub")
            .args(["-h", "localhost", "-p", &broker.port().to_string()])
            .arg("--cafile")
            .arg(&certs().ca)
            .arg("--cert")
            .arg(&device.cert)
            .arg("--key")
            .arg(&device.key)
            .args(["-V", version, "-q", "1", "-t", topic, "-m", "hello"])
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(status.success());
    }
    let publishes = broker.wait_publishes(3, SOON);
    assert_eq!(publishes[0].payload, b"hello");
    assert_eq!(publishes[1].topic, "secret");
    assert_eq!(publishes[2].connection, 2);
    let levels: Vec<_> = broker
        .wait(SOON, |events| matches!(events.last(), Some(Event::End)))
        .into_iter()
        .filter_map(|event| match event {
            Event::Connect(connect) => Some(connect.level),
            _ => None,
        })
        .collect();
    assert_eq!(levels, [5, 5, 4]);
}

#[test]
fn a_server_answers_as_told_and_records_when_it_was_called() {
    let refusing = Server::plain(server::answer(&[0x20, 2, 0, 5]));
    let output = command("mosquitto_pub")
        .args(["-h", "localhost", "-p", &refusing.port().to_string()])
        .args(["-q", "1", "-t", "greetings", "-m", "hello"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("not authorised"), "{said}");
    assert_eq!(refusing.wait_accepted(1, SOON).len(), 1);

    let hanging_up = Server::plain(server::hang_up);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, hanging_up.port())).unwrap();
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_program_is_seen_from_outside() {
    let mut shell = Program::new("/bin/sh").stdin_pipe().start();
    shell.send("echo one; echo two >&2\n");
    shell.stdout_line(SOON, |line| line == "one");
    shell.stderr_line(SOON, |line| line == "two");
    shell.send("trap 'echo three; exit 3' TERM; echo ready; while :; do wait; done\n");
    shell.stdout_line(SOON, |line| line == "ready");
    let outcome = shell.finish_by(Signal::SIGTERM, SOON).expect_code(3);
    outcome
        .expect_stdout("one\nready\nthree\n")
        .expect_stderr("two");

    let fed = Program::new("/bin/cat").stdin(&b"no newline"[..]).run(SOON);
    fed.expect_code(0).expect_stdout("no newline");
}

#[test]
fn a_program_on_a_terminal_can_find_it() {
    let ask = "test -t 0 && test -t 1 && echo prompt >/dev/tty";
    let outcome = Program::new("/bin/sh")
        .args(["-c", ask])
        .start_on_terminal()
        .finish(SOON)
        .expect_code(0);
    outcome.expect_stdout("prompt\r\n");
}

#[test]
fn an_outcome_tells_the_whole_scene() {
    let outcome = Program::new("/bin/sh")
        .args(["-c", "echo clue >&2; exit 4"])
        .run(SOON);
    let scene = outcome.to_string();
    for part in ["$ sh -c", "exit code 4", "--- stderr\nclue"] {
        assert!(scene.contains(part), "{scene}");
    }
}

#[test]
fn a_child_ends_with_its_owner() {
    let broker = Broker::start();
    let port = broker.port();
    let listens = move || TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok();
    assert!(listens());
    drop(broker);
    assert!(wait_until(SOON, || !listens()));
}
