//! `--metrics`: what Prometheus reads in each fault, and that a file that cannot be written changes nothing else;
//! `status`, which reads that file; `check` beside a running program.

mod status;

use std::{fs, io::Cursor, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    Broker, Program, Proxy, QueueFile, SOON, Server, certs,
    certs::{Authority, Validity},
    free_port,
    metrics_file::{MetricsFile, NEXT_WRITE, Values, at_least, expect_promtool, is},
    namespace::{MountNamespace, skipped},
    peer,
    queue_file::publisher_on,
    running::Running,
    server, temp_dir, wait_until,
};

const QUICKLY: [&str; 4] = ["--base-backoff", "0.1", "--max-backoff", "0.2"];

/// A publisher that runs until its input ends.
fn fed() -> Program {
    Program::publisher()
        .args(["-t", "t", "-l"])
        .args(QUICKLY)
        .stdin_pipe()
}

#[test]
fn the_files_of_both_programs_count_what_happened_and_say_that_the_run_has_ended() {
    let broker = Broker::start();
    let (sent, received) = (MetricsFile::new(), MetricsFile::new());
    let subscriber = Program::subscriber().to(&broker).args(["-t", "t", "-d"]);
    let subscriber = received.given_to(subscriber).start();
    subscriber.wait_subscribed();
    let values = received.wait(&subscriber, |values| is(values, "connected", 1.0));
    assert!(is(&values, "running", 1.0), "{values:?}");
    assert!(is(&values, "subscriptions_wanted", 1.0), "{values:?}");
    let day = 86_400.0;
    let left = "certificate_remaining_seconds";
    assert!(at_least(&values, left, 59.0 * day), "{values:?}");

    let publisher = Program::publisher().to(&broker).args(["-t", "t", "-l"]);
    let lines = Cursor::new("1\n2\n3\n4\n5\n");
    let outcome = sent.given_to(publisher).stdin(lines).run(SOON);
    outcome.expect_code(0).expect_stdout("");
    expect_promtool(&sent.path());
    let values = sent.values().unwrap();
    for (name, value) in [
        ("messages_accepted_total", 5.0),
        ("messages_delivered_total", 5.0),
        ("messages_dead_total", 0.0),
        ("ack_time_seconds_count", 5.0),
        ("ack_time_seconds_bucket{le=\"+Inf\"}", 5.0),
        ("connections_total", 1.0),
        ("backlog_messages", 0.0),
        ("backlog_bytes", 0.0),
        ("connected", 0.0),
        ("running", 0.0),
        ("exit_code", 0.0),
    ] {
        assert!(is(&values, name, value), "{name} {values:#?}");
    }
    let last = "last_delivery_timestamp_seconds";
    assert!(at_least(&values, last, 1e9), "{values:?}");
    assert_eq!(sent.names(), ["iot.prom"]);
    let mode = fs::metadata(sent.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);

    subscriber.stdout_lines(5, SOON);
    subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    expect_promtool(&received.path());
    let values = received.values().unwrap();
    for (name, value) in [
        ("readings_received_total", 5.0),
        ("ack_time_seconds_count", 5.0),
        ("ack_time_seconds_bucket{le=\"+Inf\"}", 5.0),
        ("messages_missing", 0.0),
        ("messages_duplicate_total", 0.0),
        ("subscriptions_granted", 0.0),
        ("connected", 0.0),
        ("running", 0.0),
    ] {
        assert!(is(&values, name, value), "{name} {values:#?}");
    }
}

#[test]
fn a_broker_that_goes_away_and_comes_back_shows_in_both_programs() {
    let mut broker = Broker::start();
    let (sent, received) = (MetricsFile::new(), MetricsFile::new());
    let mut publisher = sent.given_to(fed().to(&broker)).start();
    let subscriber = Program::subscriber().to(&broker).args(["-t", "t"]);
    let subscriber = received.given_to(subscriber.args(QUICKLY)).start();
    let both = [(&sent, 0), (&received, 1)];
    let online = |times: f64| {
        move |values: &Values| {
            is(values, "connected", 1.0) && is(values, "connections_total", times)
        }
    };
    let offline = |values: &Values| {
        let failures = "connect_failures_total{cause=\"tcp\"}";
        is(values, "connected", 0.0) && at_least(values, failures, 1.0)
    };
    let lost = |values: &Values| {
        let lost = values.iter();
        let lost = lost.filter(|(name, _)| name.starts_with("connections_lost_total"));
        let sum: f64 = lost.map(|(_, value)| value).sum();
        (sum - 1.0).abs() < 0.1
    };
    sent.wait(&publisher, online(1.0));
    received.wait(&subscriber, online(1.0));
    broker.kill();
    publisher.send("waits\n");
    for (file, index) in both {
        let running = [&publisher, &subscriber][index];
        let values = file.wait(running, offline);
        assert!(lost(&values), "{values:#?}");
    }
    let waits = |values: &Values| is(values, "backlog_messages", 1.0);
    let values = sent.wait(&publisher, waits);
    let size = ("t".len() + "waits".len()).to_string().parse().unwrap();
    assert!(is(&values, "backlog_bytes", size), "{values:#?}");
    sent.wait(&publisher, |values| {
        at_least(values, "backlog_age_seconds", 0.001)
    });
    broker.start_again();
    received.wait(&subscriber, online(2.0));
    sent.wait(&publisher, |values| {
        is(values, "messages_delivered_total", 1.0)
    });
    publisher.close_stdin();
    publisher.finish(SOON).expect_code(0);
}

/// Expects an endless run to show this cause while it goes on.
fn expect_failures(cause: &str, setup: impl Fn(Program) -> Program) {
    let name = format!("connect_failures_total{{cause=\"{cause}\"}}");
    let publisher = || Program::publisher().args(["-t", "t", "--interval", "0.2"]);
    let subscriber = || Program::subscriber().args(["-t", "t"]);
    for program in [publisher(), subscriber()] {
        let file = MetricsFile::new();
        let running = file.given_to(setup(program.args(QUICKLY))).start();
        let values = file.wait(&running, |values| at_least(values, &name, 2.0));
        assert!(is(&values, "connected", 0.0), "{values:#?}");
    }
}

#[test]
fn each_cause_for_which_no_connection_is_made_is_counted_apart() {
    let dir = temp_dir();
    let foreign = Authority::foreign(dir.path());
    let broker = Broker::start();
    expect_failures("tcp", |p| p.at_port(free_port()));
    expect_failures("dns", |p| {
        let p = p.args(["--endpoint", "no-such-host.invalid"]);
        p.ca(&certs().ca).identity(&certs().device)
    });
    expect_failures("tls", |p| {
        p.endpoint(broker.port())
            .ca(&foreign.1)
            .identity(&certs().device)
    });
    let refusing = Server::plain(server::answer(&[0x20, 3, 0, 0x87, 0]));
    expect_failures("refused", |p| p.at_plain_port(refusing.port()));
    let closing = Server::plain(server::hang_up);
    expect_failures("no_connack", |p| {
        let p = p.args(["--mqtt-version", "5"]);
        p.at_plain_port(closing.port())
    });
    let silent = Server::plain(server::stay_silent);
    expect_failures("timeout", |p| {
        let p = p.args(["--connect-timeout", "0.3", "--mqtt-version", "5"]);
        p.at_plain_port(silent.port())
    });
    let no_broker = Server::plain(server::answer(b"HTTP/1.1 400 Bad Request\r\n\r\n"));
    expect_failures("protocol", |p| p.at_plain_port(no_broker.port()));
}

#[test]
fn a_certificate_that_the_broker_does_not_accept_and_one_that_ends_show() {
    let dir = temp_dir();
    let (authority, _) = Authority::foreign(dir.path());
    let broker = Broker::start();
    let foreign = authority.client(dir.path(), "device", Validity::Now);
    let file = MetricsFile::new();
    let program = Program::subscriber().args(["-t", "t"]).args(QUICKLY);
    let program = program.endpoint(broker.port()).ca(&certs().ca);
    let running = file.given_to(program.identity(&foreign)).start();
    file.wait(&running, |values| {
        let causes = ["refused", "tls", "no_connack"];
        let counts = causes.map(|cause| format!("connect_failures_total{{cause=\"{cause}\"}}"));
        counts.iter().any(|name| at_least(values, name, 1.0))
    });
    let soon = authority.client(dir.path(), "device", Validity::EndsSoon);
    let file = MetricsFile::new();
    let program = Program::subscriber().args(["-t", "t"]).args(QUICKLY);
    let program = program.endpoint(broker.port()).ca(&certs().ca);
    let running = file.given_to(program.identity(&soon)).start();
    let day = 86_400.0;
    let values = file.wait(&running, |values| is(values, "connected", 0.0));
    let left = values["certificate_remaining_seconds"];
    assert!(left > 20.0 * day && left < 21.0 * day, "{left}");
}

#[test]
fn dropped_and_refused_messages_slow_acknowledgements_and_a_full_queue_show_while_the_run_goes_on()
{
    // The broker is away, and the queue is full.
    let dropped = MetricsFile::new();
    let program = fed().at_port(free_port());
    let program = program.args(["--queue-size", "2", "--drop-behavior", "oldest"]);
    let mut dropping = dropped.given_to(program).start();
    dropping.send("1\n2\n3\n4\n5\n");
    // The broker denies the topic.
    let strict = Broker::builder().acl("topic write good\n").start();
    let denied = MetricsFile::new();
    let program = fed().to(&strict).args(["--mqtt-version", "5"]);
    let mut refused = denied.given_to(program).start();
    refused.send("x\n");
    // An acknowledgement takes 0.6 s.
    let broker = Broker::start();
    let proxy = Proxy::start(broker.port(), Duration::from_millis(300));
    let slow = MetricsFile::new();
    let mut slowed = slow.given_to(fed().at_port(proxy.port())).start();
    slowed.send("x\n");
    // The disk of the queue file is full.
    let full = MetricsFile::new();
    let disk = small_disk("metrics of a full disk");
    let filling = disk.as_ref().map(|(namespace, dir)| {
        let program = publisher_on(&dir.path().join("queue.db")).under(namespace.enter());
        let program = program.at_port(free_port()).args(["-l"]).args(QUICKLY);
        let mut filling = full.given_to(program).stdin_pipe().start();
        let said = |line: &str| line.contains("nothing can be stored until there is space");
        let line = format!("{:01000}\n", 1);
        for _ in 0..2_000 {
            filling.send(&line);
            if filling.stderr.wait(Duration::ZERO, said).is_some() {
                break;
            }
        }
        filling.stderr_line(SOON, said);
        filling
    });

    dropped.wait(&dropping, |values| {
        is(values, "messages_dropped_total", 3.0) && is(values, "backlog_messages", 2.0)
    });
    denied.wait(&refused, |values| is(values, "messages_dead_total", 1.0));
    slow.wait(&slowed, |values| {
        is(values, "ack_time_seconds_bucket{le=\"0.5\"}", 0.0)
            && is(values, "ack_time_seconds_bucket{le=\"2.5\"}", 1.0)
            && at_least(values, "ack_time_seconds_sum", 0.6)
    });
    if let Some(filling) = &filling {
        full.wait(filling, |values| is(values, "queue_disk_full", 1.0));
        let outcome = full.status(Program::publisher()).expect_code(74);
        outcome.expect_stderr("");
    }
}

#[test]
fn the_time_of_a_slow_command_shows_in_the_time_to_the_acknowledgement() {
    let broker = Broker::start();
    let file = MetricsFile::new();
    let subscriber = Program::subscriber().args(["-t", "t", "-q", "1", "-C", "3", "-d"]);
    let subscriber = file.given_to(subscriber.to(&broker));
    let command = "[ \"$(cat)\" = quick ] || sleep 3";
    let subscriber = subscriber.args(["--exec", "sh", "-c", command]).start();
    subscriber.wait_subscribed();
    let mut unacknowledged = peer::client("mosquitto_pub", &broker);
    unacknowledged.args(["-q", "0", "-t", "t", "-m", "quick"]);
    assert!(unacknowledged.status().unwrap().success());
    let publisher = Program::publisher().to(&broker).args(["-t", "t", "-l"]);
    let lines = Cursor::new("quick\nslow\n");
    publisher.stdin(lines).run(SOON).expect_code(0);
    let outcome = subscriber.finish(SOON).expect_code(0);
    expect_promtool(&file.path());
    let values = file.values().unwrap();
    for (name, value) in [
        ("ack_time_seconds_bucket{le=\"2.5\"}", 1.0),
        ("ack_time_seconds_bucket{le=\"30\"}", 2.0),
        ("ack_time_seconds_count", 2.0),
    ] {
        assert!(is(&values, name, value), "{name} {values:#?}\n{outcome}");
    }
    assert!(
        at_least(&values, "ack_time_seconds_sum", 3.0),
        "{values:#?}"
    );
}

/// A small file system in memory, nearly full.
fn small_disk(test: &str) -> Option<(MountNamespace, TempDir)> {
    let dir = temp_dir();
    let Some(namespace) = MountNamespace::with_tmpfs(dir.path(), "size=2m") else {
        skipped(test, "no file system can be mounted here");
        return None;
    };
    let ballast = namespace.seen_from_here(&dir.path().join("ballast"));
    fs::write(ballast, vec![0; 1_300 << 10]).unwrap();
    Some((namespace, dir))
}

#[test]
fn a_metrics_file_on_a_full_disk_is_a_warning_and_nothing_else() {
    let dir = temp_dir();
    let Some(namespace) = MountNamespace::with_tmpfs(dir.path(), "size=64k") else {
        return skipped(
            "metrics on a full disk",
            "no file system can be mounted here",
        );
    };
    let ballast = namespace.seen_from_here(&dir.path().join("ballast"));
    let _ = fs::write(&ballast, vec![0; 128 << 10]);
    let broker = Broker::start();
    let file = dir.path().join("iot.prom");
    for program in [
        Program::one_message(),
        Program::subscriber().args(["-t", "t", "-E"]),
    ] {
        let program = program.to(&broker).under(namespace.enter());
        let outcome = program.arg("--metrics").arg(&file).run(SOON);
        let outcome = outcome.expect_code(0).expect_stderr("No space left");
        let lines = outcome.stderr.all();
        assert_eq!(lines.len(), 1, "{outcome}");
        assert!(lines[0].text.contains("iot.prom: --metrics cannot be"));
    }
    let there = namespace.seen_from_here(dir.path());
    let names = fs::read_dir(there).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["ballast"]);
}

#[test]
fn a_directory_that_is_removed_is_a_warning_and_the_file_comes_back_with_it() {
    let mut broker = Broker::start();
    let dir = temp_dir();
    let inner = dir.path().join("textfile");
    let file = inner.join("iot.prom");
    fs::create_dir(&inner).unwrap();
    let program = fed().to(&broker).arg("--metrics").arg(&file);
    let mut running = program.start();
    let is_written = || fs::read_to_string(&file).is_ok_and(|text| text.contains("connected"));
    assert!(wait_until(SOON, is_written), "{running}");
    fs::remove_dir_all(&inner).unwrap();
    // The end of the connection is a reason to write.
    broker.restart();
    running.stderr_line(SOON, |line| line.contains("--metrics cannot be written"));
    fs::create_dir(&inner).unwrap();
    broker.restart();
    assert!(wait_until(NEXT_WRITE, is_written), "{running}");
    running.send("x\n");
    running.close_stdin();
    let outcome = running.finish(SOON).expect_code(0);
    let said = outcome.stderr.text().matches("--metrics").count();
    assert_eq!(said, 1, "{outcome}");
}

#[test]
fn what_the_file_cannot_replace_is_refused_at_the_start() {
    let dir = temp_dir();
    for path in [Path::new("/dev/null"), dir.path()] {
        let program = Program::one_message().at_plain_port(free_port());
        let outcome = program.arg("--metrics").arg(path).run(SOON);
        outcome.expect_fault(64, &["--metrics is not a regular file"]);
    }
}

#[test]
fn of_two_programs_with_one_file_the_second_leaves_it_alone_until_the_first_has_ended() {
    let broker = Broker::start();
    let file = MetricsFile::new();
    let start = |id: &str| {
        let publisher = Program::publisher().to(&broker);
        let publisher = publisher.args(["-t", "t", "--interval", "0.1", "--client-id", id]);
        file.given_to(publisher.env("RUST_LOG", "info")).start()
    };
    let writer = || fs::read_to_string(file.path()).unwrap_or_default();
    let first = start("first");
    file.wait(&first, |values| is(values, "connected", 1.0));
    let second = start("second");
    second.stderr_line(SOON, |line| {
        line.ends_with(
            "iot.prom: --metrics cannot be written: another running program writes it; \
             give each program a separate file",
        )
    });
    second.stderr_line(SOON, |line| line.contains("connected to "));
    assert!(writer().contains("client_id=\"first\""), "{second}");
    first.signal(Signal::SIGKILL);
    first.finish(SOON);
    second.stderr_line(NEXT_WRITE, |line| {
        line.ends_with("iot.prom: --metrics is written again")
    });
    assert!(writer().contains("client_id=\"second\""), "{second}");
    second.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    assert_eq!(file.names(), ["iot.prom"]);
}
