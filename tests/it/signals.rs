//! Stopping the publisher: a signal ends it within the stop timeout, whatever it is busy
//! with, a second one ends it at once, and the exit code is the truth.

use std::{
    fs::{self, File, OpenOptions},
    io::{Cursor, Write},
    net::UdpSocket,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use nix::{
    fcntl::OFlag,
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};

use crate::harness::running::Running;
use crate::harness::{
    Broker, Program, Reply, SOON, ScriptedBroker, Server, free_port, server, temp_dir,
};

const SECOND: Duration = Duration::from_secs(1);

/// A reading every 0.2 s to the topic `t`, with receipts and a stop timeout of one second.
fn readings(publisher: Program) -> Program {
    publisher
        .args(["--topic", "t", "--interval", "0.2", "--receipts"])
        .args(["--stop-timeout", "1"])
}

/// Signals, and expects the end no later than `within`; and how long it took.
fn stop(running: Running, signal: Signal, within: Duration, code: i32) -> Duration {
    let begin = Instant::now();
    let outcome = running.finish_by(signal, SOON).expect_code(code);
    let took = begin.elapsed();
    assert!(took <= within, "it took {took:?}\n{outcome}");
    took
}

#[test]
fn a_signal_ends_an_endless_run_at_once_if_nothing_is_left() {
    let broker = Broker::start();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let running = readings(Program::publisher().to(&broker)).start();
        running.stdout_line(SOON, |line| line == "delivered 2");
        stop(running, signal, SECOND * 3 / 4, 0);
        // In order, not by hanging up.
        let goodbyes = broker.log().texts();
        let last = goodbyes
            .iter()
            .rev()
            .find(|line| line.contains("lient publisher-"));
        assert!(last.unwrap().ends_with("disconnected."), "{last:?}");
    }
}

#[test]
fn a_signal_while_the_broker_is_away_flushes_until_the_stop_timeout() {
    let running = readings(Program::publisher().at_port(free_port())).start();
    running.stdout_line(SOON, |line| line == "accepted 2");
    let took = stop(running, Signal::SIGTERM, SECOND * 3 / 2, 69);
    assert!(took >= SECOND / 2, "no attempt to deliver: {took:?}");
}

#[test]
fn what_waits_is_delivered_if_the_broker_comes_back_within_the_stop_timeout() {
    let port = free_port();
    let running = Program::publisher()
        .at_port(port)
        .args(["--topic", "t", "--interval", "0.1", "--receipts"])
        .args(["--base-backoff", "0.2", "--max-backoff", "0.2", "--summary"])
        .args(["--stop-timeout", "8"])
        .start();
    running.stdout_line(SOON, |line| line == "accepted 5");
    running.signal(Signal::SIGTERM);
    let _broker = Broker::builder().port(port).start();
    let outcome = running.finish(SOON).expect_code(0);
    let summary = outcome.stdout.texts().pop().unwrap();
    assert!(summary.contains("\"queued\":0"), "{outcome}");
}

#[test]
fn a_signal_before_the_first_connection_ends_it_too() {
    // TCP only, TLS only, and one that says it is MQTT but not more.
    let silent = Server::plain(server::stay_silent);
    let silent_tls = Server::tls(server::stay_silent);
    for port in [silent.port(), silent_tls.port()] {
        let running = readings(Program::publisher().at_port(port)).start();
        running.stdout_line(SOON, |line| line == "accepted 1");
        stop(running, Signal::SIGTERM, SECOND * 3 / 2, 69);
    }
    silent.wait_accepted(1, SOON);
    silent_tls.wait_accepted(1, SOON);
}

#[test]
fn a_paused_broker_does_not_hold_it_up() {
    let broker = Broker::start();
    let running = readings(Program::publisher().to(&broker)).start();
    running.stdout_line(SOON, |line| line == "delivered 1");
    broker.pause();
    let seen = running.stdout.count();
    let waiting = |line: &str| line.starts_with("accepted ");
    running.stdout.wait_from(seen + 1, SOON, waiting).unwrap();
    stop(running, Signal::SIGTERM, SECOND * 3 / 2, 69);
}

#[test]
fn a_paused_broker_does_not_hold_up_the_goodbye_either() {
    let broker = Broker::start();
    let publisher = Program::publisher().to(&broker);
    let publisher = publisher.args(["--topic", "t", "-l", "--receipts", "--stop-timeout", "1"]);
    let mut running = publisher.stdin_pipe().start();
    running.send("x\n");
    running.stdout_line(SOON, |line| line == "delivered 1");
    broker.pause();
    // Everything is delivered, so nothing is lost.
    stop(running, Signal::SIGTERM, SECOND * 3 / 2, 0);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let broker = ScriptedBroker::script()
        .on_publish(|_| Reply::Silence)
        .plain();
    let running = Program::publisher()
        .at_plain_port(broker.port())
        .args(["--topic", "t", "--receipts", "--stop-timeout", "60"])
        .args(["--operation-timeout", "60"])
        .start();
    broker.wait_publishes(1, SOON);
    running.signal(Signal::SIGTERM);
    // It stays for the acknowledgement.
    let ended = running.stdout.wait_end(SECOND);
    assert!(!ended, "{running}");
    stop(running, Signal::SIGINT, SECOND / 2, 69);
}

#[test]
fn signals_that_come_together_are_one_wish() {
    let broker = ScriptedBroker::script()
        .on_publish(|_| {
            assert!(!crate::harness::wait_until(SECOND, || false));
            Reply::Ack
        })
        .plain();
    let running = Program::publisher()
        .at_plain_port(broker.port())
        .args(["--topic", "t", "-l", "--summary"])
        .stdin_pipe();
    let mut running = running.start();
    running.send("x\n");
    broker.wait_publishes(1, SOON);
    for signal in [
        Signal::SIGTERM,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ] {
        running.signal(signal);
    }
    let outcome = running.finish(SOON).expect_code(0);
    let summary = outcome.stdout.texts().pop().unwrap();
    assert!(summary.contains("\"delivered\":1"), "{outcome}");
}

#[test]
fn what_timeout_ends_is_whole() {
    let broker = Broker::start();
    for _ in 0..crate::harness::times("IOT_TEST_TIMEOUTS", 5) {
        let outcome = Program::publisher()
            .to(&broker)
            .under(["timeout", "--preserve-status", "0.4"])
            .args(["--topic", "t", "-l", "--receipts", "--summary"])
            .stdin(std::io::repeat(b'\n'))
            .run(SOON)
            .expect_code(0);
        let lines = outcome.stdout.texts();
        let count = |word: &str| lines.iter().filter(|line| line.starts_with(word)).count();
        assert!(lines.last().unwrap().starts_with('{'), "no summary");
        assert_eq!(count("accepted "), count("delivered "));
        assert!(count("delivered ") > 0);
    }
}

/// The publisher with a stdout that nobody reads, full from the start or soon: it is stuck
/// in a write. The file has to stay open.
fn with_blocked_stdout(port: u16, fifo: &Path, full: bool, more: &[&str]) -> (Running, File) {
    mkfifo(fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let both_ends = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(fifo);
    let mut both_ends = both_ends.unwrap();
    while full && both_ends.write(&[b'\n'; 4096]).is_ok() {}
    let running = Program::new("/bin/sh")
        .args(["-c", "exec \"$0\" \"$@\" >\"$FIFO\""])
        .env("FIFO", fifo.to_str().unwrap())
        .arg(env!("CARGO_BIN_EXE_publisher"))
        .at_plain_port(port)
        .args(["--topic", "t", "-l", "--receipts", "--queue-size", "-1"])
        .args(["--stop-timeout", "1", "--operation-timeout", "60"])
        .args(more)
        .stdin(Cursor::new("line\n".repeat(100_000)))
        .start();
    await_standstill(&running);
    (running, both_ends)
}

#[test]
fn a_blocked_stdout_does_not_hold_up_the_end() {
    let dir = temp_dir();
    for (name, signal) in [("term", Signal::SIGTERM), ("int", Signal::SIGINT)] {
        let fifo = dir.path().join(name);
        let (running, _unread) = with_blocked_stdout(free_port(), &fifo, false, &[]);
        stop(running, signal, SECOND * 3 / 2, 69);
    }
}

#[test]
fn what_a_blocked_stdout_kept_from_being_sent_counts_as_lost() {
    let dir = temp_dir();
    let broker = ScriptedBroker::script().plain();
    for (name, full) in [("full soon", false), ("full", true)] {
        let fifo = dir.path().join(name);
        let (running, _unread) = with_blocked_stdout(broker.port(), &fifo, full, &[]);
        // More has been read than the broker has got.
        stop(running, Signal::SIGTERM, SECOND * 3 / 2, 69);
    }
    assert!(broker.publishes().len() < 100_000);
}

#[test]
fn a_blocked_stdout_does_not_hold_up_the_deadline() {
    let dir = temp_dir();
    let broker = ScriptedBroker::script().plain();
    let fifo = dir.path().join("full");
    let deadline = ["--deadline", "3"];
    let (running, _unread) = with_blocked_stdout(broker.port(), &fifo, true, &deadline);
    running.finish(SECOND * 4).expect_code(69);
}

/// Until the process has used no more processor time for a while: it is stuck in a write.
fn await_standstill(running: &Running) {
    let used = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", running.id())).unwrap();
        let after_name = stat.rsplit(')').next().unwrap();
        let fields: Vec<_> = after_name.split_whitespace().collect();
        (fields[11].to_owned(), fields[12].to_owned())
    };
    let (mut last, mut since) = (used(), Instant::now());
    let still = crate::harness::wait_until(SOON, || {
        let now = used();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() > Duration::from_millis(800)
    });
    assert!(still, "it goes on");
}

#[test]
fn a_blocked_stdin_does_not_hold_up_the_end() {
    let broker = Broker::start();
    for port in [broker.port(), free_port()] {
        for source in ["-l", "-s"] {
            let publisher = Program::publisher().at_port(port);
            let publisher = publisher.args(["--topic", "t", source, "--stop-timeout", "5"]);
            let running = publisher.arg("--debug").stdin_pipe().start();
            running.stderr_line(SOON, |_| true);
            stop(running, Signal::SIGTERM, SECOND * 3 / 2, 0);
        }
    }
}

#[test]
fn a_command_that_does_not_end_does_not_hold_up_the_end() {
    let broker = ScriptedBroker::script().plain();
    let running = Program::publisher()
        .at_plain_port(broker.port())
        .args([
            "--topic",
            "t",
            "--stop-timeout",
            "5",
            "--exec",
            "sleep",
            "600",
        ])
        .start();
    broker.wait(SOON, |events| !events.is_empty());
    stop(running, Signal::SIGTERM, SECOND, 0);
}

#[test]
fn the_deadline_ends_an_endless_run() {
    let broker = ScriptedBroker::script().plain();
    for (port, code) in [(broker.port(), 0), (free_port(), 69)] {
        let outcome = Program::publisher()
            .at_plain_port(port)
            .args(["--topic", "t", "--interval", "0.7", "--deadline", "1"])
            .run(SOON)
            .expect_code(code);
        let about = SECOND..SECOND * 5 / 2;
        assert!(about.contains(&outcome.elapsed), "{outcome}");
    }
    assert_eq!(broker.publishes().len(), 2);
}

#[test]
fn a_hanging_name_look_up_does_not_hold_up_the_end() {
    // A name server that never answers, on another loopback address. Only root may
    // ask there, and put it in the place of the usual ones.
    let id = std::process::id().to_be_bytes();
    let address = format!("127.53.{}.{}", id[2], id[3]);
    let dir = temp_dir();
    let resolv_conf = dir.path().join("resolv.conf");
    fs::write(
        &resolv_conf,
        format!("nameserver {address}\noptions timeout:30\n"),
    )
    .unwrap();
    let mount = format!("mount --bind '{}' /etc/resolv.conf", resolv_conf.display());
    let alone = ["--mount", "--propagation", "private", "sh", "-c"];
    let may_mount = Command::new("unshare").args(alone).arg(&mount).output();
    let server = UdpSocket::bind((address.as_str(), 53));
    let (Ok(true), Ok(server)) = (may_mount.map(|out| out.status.success()), server) else {
        eprintln!("skipped: this needs root");
        return;
    };
    let running = Program::new("/usr/bin/unshare")
        .args(alone)
        .arg(format!("{mount} && exec \"$0\" \"$@\""))
        .arg(env!("CARGO_BIN_EXE_publisher"))
        .args(["--endpoint", "mqtt://broker.example"]);
    let running = readings(running).start();
    server.set_read_timeout(Some(SOON)).unwrap();
    server.recv(&mut [0; 512]).expect("a question");
    running.stdout_line(SOON, |line| line == "accepted 1");
    stop(running, Signal::SIGTERM, SECOND * 3 / 2, 69);
}
