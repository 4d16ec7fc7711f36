//! A program as a service of systemd: what it reports, the watchdog, reloading, and the units.

use std::{fs, path::Path, process::Command, time::Duration};

use nix::{
    sys::{
        ptrace,
        signal::Signal,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

use crate::harness::{
    Broker, Program, SOON,
    certs::{Pair, Validity, certs},
    free_port,
    running::Running,
    service_manager::ServiceManager,
    temp_dir, wait_until,
};

const WATCHDOG: Duration = Duration::from_millis(300);

fn readings(program: Program) -> Program {
    program.args(["-t", "t", "--interval", "0.1", "--receipts"])
}

/// A publisher or subscriber whose certificate is in `pair`.
fn with_pair(program: Program, broker: &Broker, pair: &Pair) -> Program {
    program
        .endpoint(broker.port())
        .ca(&certs().ca)
        .identity(pair)
        .env("RUST_LOG", "info")
}

/// A broker that logs the common name of each client as `u'NAME'`.
fn naming_broker() -> Broker {
    let broker = Broker::builder().line("use_identity_as_username true");
    broker.line("persistence true").start()
}

/// Puts another pair in the place of this one, the key first.
fn rotate(dir: &Path, pair: &Pair, name: &str) {
    let new = certs().authority.client(dir, name, Validity::Now);
    fs::rename(&new.key, &pair.key).unwrap();
    fs::rename(&new.cert, &pair.cert).unwrap();
}

fn reload(manager: &ServiceManager, service: &Running) {
    let before = manager.reports.count();
    service.signal(Signal::SIGHUP);
    let begun = manager.wait_from(before, SOON, |line| line.starts_with("MONOTONIC_USEC="));
    assert!(begun.len() > "MONOTONIC_USEC=".len());
    manager.wait_from(before, SOON, |line| line == "READY=1");
}

#[test]
fn a_publisher_reports_ready_when_it_is_connected_and_feeds_the_watchdog_until_it_stops() {
    let broker = Broker::start();
    let manager = ServiceManager::start();
    let publisher = readings(Program::publisher().to(&broker));
    let publisher = manager.watched_service(publisher, WATCHDOG).start();
    manager.wait(SOON, |line| line == "READY=1");
    let connected = format!("STATUS=connected to localhost:{}; ", broker.port());
    manager.wait(SOON, |line| line.starts_with(&connected));
    let fed = || manager.count("WATCHDOG=1") > 5;
    assert!(wait_until(SOON, fed), "{}", manager.reports.text());
    assert_eq!(manager.count("STOPPING=1"), 0);
    publisher.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    manager.wait(SOON, |line| line == "STOPPING=1");
    assert_eq!(manager.count("READY=1"), 1);
}

#[test]
fn a_publisher_without_a_connection_is_ready_when_the_first_reading_is_in_the_queue_file() {
    let dir = temp_dir();
    let queue = dir.path().join("queue.db");
    let manager = ServiceManager::start();
    let publisher = readings(Program::publisher().at_port(free_port()));
    let publisher = manager.service(publisher.arg("--queue").arg(queue)).start();
    manager.wait(SOON, |line| line == "READY=1");
    let accepted = publisher.stdout_line(SOON, |line| line.starts_with("accepted "));
    let ready = manager.reports.wait(SOON, |line| line == "READY=1");
    assert!(ready.unwrap().at + Duration::from_secs(5) > accepted.at);
    manager.wait(SOON, |line| line.starts_with("STATUS=not connected: "));
    manager.wait(SOON, |line| {
        line.contains("connection refused") && line.contains(" wait, 0 delivered")
    });
    publisher.finish_by(Signal::SIGTERM, SOON).expect_code(75);
}

#[test]
fn without_a_connection_and_without_a_queue_file_a_program_is_not_ready() {
    for program in [Program::publisher(), Program::subscriber()] {
        let manager = ServiceManager::start();
        let program = program.at_port(free_port()).args(["-t", "t"]);
        let is_publisher = format!("{:?}", program.path()).contains("publisher");
        let program = if is_publisher {
            program.args(["--interval", "0.1"])
        } else {
            program
        };
        let running = manager.watched_service(program, WATCHDOG).start();
        manager.wait(SOON, |line| line.starts_with("STATUS=not connected: "));
        let fed = manager.count("WATCHDOG=1");
        let waited = || manager.count("WATCHDOG=1") > fed + 2;
        assert!(wait_until(SOON, waited), "{running}");
        assert_eq!(manager.count("READY=1"), 0, "{running}");
    }
}

#[test]
fn a_subscriber_reports_ready_when_it_has_subscribed_also_to_an_abstract_address() {
    let broker = Broker::start();
    let manager = ServiceManager::start_abstract();
    let subscriber = Program::subscriber().to(&broker).args(["-t", "t"]);
    let subscriber = manager.service(subscriber).start();
    manager.wait(SOON, |line| line == "READY=1");
    let granted = broker.log().wait(SOON, |line| line.ends_with(" 1 t"));
    assert!(granted.is_some(), "{subscriber}");
    manager.wait(SOON, |line| line.ends_with("; 0 received"));
    subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    manager.wait(SOON, |line| line == "STOPPING=1");
}

/// Stops one thread of another process until it is dropped.
struct StoppedThread(Pid);

impl StoppedThread {
    fn stop(thread: u32) -> Self {
        let thread = Pid::from_raw(i32::try_from(thread).unwrap());
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Self(thread)
    }
}

impl Drop for StoppedThread {
    fn drop(&mut self) {
        // The process may have been killed.
        let _ = ptrace::detach(self.0, None);
    }
}

#[test]
fn only_the_event_loop_feeds_the_watchdog() {
    for program in [Program::publisher(), Program::subscriber()] {
        let broker = Broker::start();
        let manager = ServiceManager::start();
        let is_publisher = format!("{:?}", program.path()).contains("publisher");
        let program = program.to(&broker).args(["-t", "t"]);
        let program = if is_publisher {
            program.args(["--interval", "0.1"])
        } else {
            program
        };
        let running = manager.watched_service(program, WATCHDOG).start();
        manager.wait(SOON, |line| line == "READY=1");
        // The main thread runs the loop.
        let stuck = StoppedThread::stop(running.id());
        let fed = manager.count("WATCHDOG=1");
        let is_fed = || manager.count("WATCHDOG=1") > fed + 1;
        assert!(!wait_until(WATCHDOG * 4, is_fed), "{running}");
        drop(stuck);
        assert!(wait_until(SOON, is_fed), "{running}");
    }
}

#[test]
fn a_publisher_that_waits_for_the_reader_of_its_output_is_not_stuck() {
    let broker = Broker::start();
    let manager = ServiceManager::start();
    let (reader, writer) = std::io::pipe().unwrap();
    let lines = "reading\n".repeat(20_000);
    let publisher = Program::publisher()
        .to(&broker)
        .stdin(std::io::Cursor::new(lines));
    let publisher = publisher.args(["-t", "t", "--stdin-line", "--receipts"]);
    let publisher = manager.watched_service(publisher, WATCHDOG).stdout(writer);
    let publisher = publisher.start();
    manager.wait(SOON, |line| line == "READY=1");
    // The loop is blocked once the messages that Mosquitto gets no longer become more.
    let mut delivered = 0;
    let is_blocked = || {
        let earlier = std::mem::replace(&mut delivered, publisher.written());
        std::thread::park_timeout(WATCHDOG);
        delivered > 60_000 && delivered == earlier
    };
    assert!(wait_until(SOON, is_blocked), "{publisher}");
    let fed = manager.count("WATCHDOG=1");
    let is_fed = || manager.count("WATCHDOG=1") > fed + 4;
    assert!(wait_until(SOON, is_fed), "{publisher}");
    let rest = std::thread::spawn(move || std::io::read_to_string(reader).unwrap());
    publisher.finish(SOON * 3).expect_code(0);
    let receipts = rest.join().unwrap();
    assert_eq!(
        receipts
            .lines()
            .filter(|l| l.starts_with("delivered "))
            .count(),
        20_000
    );
}

#[test]
fn commands_do_not_get_the_variables_of_the_service_manager() {
    let broker = Broker::start();
    let manager = ServiceManager::start();
    let subscriber = Program::subscriber()
        .to(&broker)
        .args(["-t", "t", "-C", "1"]);
    let subscriber = subscriber.start();
    broker
        .log()
        .wait(SOON, |line| line.ends_with(" 1 t"))
        .unwrap();
    let publisher = Program::publisher()
        .to(&broker)
        .args(["-t", "t", "--count", "1"]);
    let publisher = publisher.args(["--interval", "0.1", "--exec", "env"]);
    let publisher = manager.watched_service(publisher, WATCHDOG).run(SOON);
    publisher.expect_code(0);
    let seen = subscriber.finish(SOON).expect_code(0).stdout.text();
    assert!(seen.contains("PATH="), "{seen}");
    assert!(
        !seen.contains("NOTIFY_SOCKET") && !seen.contains("WATCHDOG"),
        "{seen}"
    );
}

#[test]
fn a_reload_connects_again_with_a_new_certificate_and_nothing_is_lost_or_sent_twice() {
    let broker = naming_broker();
    let dir = temp_dir();
    let pair = certs().authority.client(dir.path(), "old", Validity::Now);
    let subscriber = Program::subscriber()
        .to(&broker)
        .args(["-t", "t", "--json"])
        .start();
    broker
        .log()
        .wait(SOON, |line| line.ends_with(" 1 t"))
        .unwrap();
    let manager = ServiceManager::start();
    let publisher = with_pair(Program::publisher(), &broker, &pair);
    let publisher = publisher.args(["-t", "t", "--interval", "0.02", "--receipts", "--summary"]);
    let publisher = manager.service(publisher).start();
    manager.wait(SOON, |line| line == "READY=1");
    let connected = |name: &str| broker.log().count_of(|line| line.contains(name));
    assert_eq!(connected("u'old'"), 1);

    // Nothing is new: the connection stays.
    reload(&manager, &publisher);
    rotate(dir.path(), &pair, "new");
    for _ in 0..2 {
        reload(&manager, &publisher);
        let count = publisher.stdout.count();
        let goes_on = || publisher.stdout.count() > count + 10;
        assert!(wait_until(SOON, goes_on), "{publisher}");
    }
    assert_eq!(
        (connected("u'old'"), connected("u'new'")),
        (1, 1),
        "{publisher}"
    );
    assert_eq!(
        connected("closed its connection"),
        0,
        "DISCONNECT came\n{publisher}"
    );
    let outcome = publisher.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let delivered = outcome
        .stdout
        .count_of(|line| line.starts_with("delivered "));
    let all_here = || subscriber.stdout.count() >= delivered;
    assert!(wait_until(SOON, all_here), "{outcome}\n{subscriber}");
    let seen = subscriber.finish_by(Signal::SIGTERM, SOON).stdout;
    assert_eq!(seen.count(), delivered);
    let number = |line: &str| {
        let (_, rest) = line.split_once("\"seq\":").unwrap();
        rest.split([',', '}'])
            .next()
            .unwrap()
            .parse::<usize>()
            .unwrap()
    };
    let numbers: Vec<_> = seen.all().iter().map(|line| number(&line.text)).collect();
    assert_eq!(numbers, (1..=delivered).collect::<Vec<_>>());
}

#[test]
fn a_reload_during_a_connection_attempt_connects_with_the_new_certificate_only() {
    for program in [Program::publisher(), Program::subscriber()] {
        let broker = naming_broker();
        let dir = temp_dir();
        let pair = certs().authority.client(dir.path(), "old", Validity::Now);
        let manager = ServiceManager::start();
        // Its kernel accepts connections, and nothing answers.
        broker.pause();
        let program = with_pair(program, &broker, &pair).args(["-t", "t"]);
        let running = manager.service(program).start();
        manager.wait(SOON, |line| {
            line.ends_with(" wait, 0 delivered") || line.ends_with(" received")
        });
        rotate(dir.path(), &pair, "new");
        running.signal(Signal::SIGHUP);
        running.stderr_line(SOON, |line| line.contains("reload: "));
        broker.resume();
        manager.wait(SOON, |line| line == "READY=1");
        let connected = |name: &str| broker.log().count_of(|line| line.contains(name));
        let counts = (connected("u'old'"), connected("u'new'"));
        assert_eq!(counts, (0, 1), "{running}");
        running.stderr_line(SOON, |line| {
            line.contains("reload: the attempt under way begins again")
        });
        running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    }
}

#[test]
fn a_reload_of_files_that_do_not_load_leaves_the_connection_open() {
    let broker = naming_broker();
    let dir = temp_dir();
    let pair = certs().authority.client(dir.path(), "old", Validity::Now);
    let manager = ServiceManager::start();
    let publisher = readings(with_pair(Program::publisher(), &broker, &pair));
    let publisher = manager.service(publisher).start();
    manager.wait(SOON, |line| line == "READY=1");
    fs::write(&pair.cert, "no certificate").unwrap();
    reload(&manager, &publisher);
    publisher.stderr_line(SOON, |line| {
        line.contains("WARN reload: ") && line.ends_with("; an open connection stays")
    });
    let count = publisher.stdout.count();
    let goes_on = || publisher.stdout.count() > count + 4;
    assert!(wait_until(SOON, goes_on), "{publisher}");
    assert_eq!(broker.log().count_of(|line| line.contains("u'old'")), 1);
    publisher.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn a_subscriber_connects_again_at_a_reload_only_if_the_broker_keeps_its_session() {
    let broker = naming_broker();
    for keeps_session in [true, false] {
        let dir = temp_dir();
        let (old, new) = (
            format!("old-{keeps_session}"),
            format!("new-{keeps_session}"),
        );
        let pair = certs().authority.client(dir.path(), &old, Validity::Now);
        let manager = ServiceManager::start();
        let subscriber = with_pair(Program::subscriber(), &broker, &pair);
        let subscriber = subscriber.args(["-t", "t", "--client-id", &old]);
        let subscriber = if keeps_session {
            subscriber.args(["--persistent", "--session-expiry", "1m"])
        } else {
            subscriber
        };
        let subscriber = manager.service(subscriber).start();
        manager.wait(SOON, |line| line == "READY=1");
        let feed =
            Program::publisher()
                .to(&broker)
                .args(["-t", "t", "--interval", "0.02", "--receipts"]);
        let feed = feed.start();
        subscriber.stdout_lines(5, SOON);
        rotate(dir.path(), &pair, &new);
        reload(&manager, &subscriber);
        let name = format!("u'{new}'");
        let reconnects = broker.log().count_of(|line| line.contains(&name));
        assert_eq!(reconnects, usize::from(keeps_session), "{subscriber}");
        if !keeps_session {
            subscriber.stderr_line(SOON, |line| line.contains("; the open one stays, because "));
        }
        let delivered = feed.finish_by(Signal::SIGTERM, SOON).expect_code(0).stdout;
        let delivered = delivered.count_of(|line| line.starts_with("delivered "));
        let all_here = || subscriber.stdout.count() >= delivered;
        assert!(wait_until(SOON, all_here), "{delivered}\n{subscriber}");
        let seen = subscriber
            .finish_by(Signal::SIGTERM, SOON)
            .expect_code(0)
            .stdout;
        assert_eq!(seen.count(), delivered);
    }
}

#[test]
fn a_reload_names_the_settings_that_need_a_restart() {
    let broker = Broker::start();
    let manager = ServiceManager::start();
    let dir = temp_dir();
    let file = dir.path().join("iot.toml");
    fs::write(
        &file,
        "topic = \"a\"\nqos = 1\n[publisher]\ninterval = 0.1\n",
    )
    .unwrap();
    let publisher = Program::publisher().to(&broker).arg("--config").arg(&file);
    let publisher = manager.service(publisher).start();
    manager.wait(SOON, |line| line == "READY=1");
    fs::write(
        &file,
        "topic = \"a\"\nqos = 1\nquiet = false\n[publisher]\ninterval = 0.1\n",
    )
    .unwrap();
    reload(&manager, &publisher);
    fs::write(&file, "topic = \"b\"\n[publisher]\ninterval = 0.1\n").unwrap();
    reload(&manager, &publisher);
    publisher.stderr_line(SOON, |line| {
        line.contains("WARN reload: qos, topic have changed and need a restart")
    });
    fs::write(&file, "topic = \"a\"\nqos = 7\n").unwrap();
    reload(&manager, &publisher);
    publisher.stderr_line(SOON, |line| {
        line.contains("WARN reload: ") && line.ends_with("; the settings stay as they are")
    });
    let warnings = publisher.stderr.count_of(|line| line.contains("reload: "));
    assert_eq!(warnings, 2, "{publisher}");
    publisher.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn sighup_ends_a_publisher_that_is_no_service_or_has_a_terminal() {
    let broker = Broker::start();
    let publisher = readings(Program::publisher().to(&broker)).start();
    publisher.stdout_line(SOON, |line| line.starts_with("delivered "));
    publisher.finish_by(Signal::SIGHUP, SOON).expect_code(0);
    let manager = ServiceManager::start();
    let publisher = readings(Program::publisher().to(&broker));
    let publisher = manager.service(publisher).start_on_terminal();
    publisher.stdout_line(SOON, |line| line.starts_with("delivered "));
    publisher.finish_by(Signal::SIGHUP, SOON).expect_code(0);
}

#[test]
fn a_socket_that_is_not_there_or_not_read_changes_nothing() {
    let broker = Broker::start();
    for name in ["/nonexistent/notify", "relative", "@nobody"] {
        let publisher = Program::one_message()
            .to(&broker)
            .env("NOTIFY_SOCKET", name);
        publisher.run(SOON).expect_code(0);
    }
}

/// Runs `systemd-analyze`; true without it.
fn analyze(args: &[&str], unit: &Path) -> bool {
    let Ok(done) = Command::new("systemd-analyze")
        .args(args)
        .arg(unit)
        .output()
    else {
        return true;
    };
    let text = String::from_utf8_lossy(&done.stderr).into_owned();
    let text = text + &String::from_utf8_lossy(&done.stdout);
    let name = unit.file_name().unwrap().to_str().unwrap();
    let problems: Vec<_> = text
        .lines()
        .filter(|line| line.contains(name) && args[0] == "verify")
        .collect();
    assert!(done.status.success() && problems.is_empty(), "{text}");
    true
}

#[test]
fn the_units_are_valid_and_their_sandbox_leaves_an_exposure_below_3() {
    let dir = temp_dir();
    for program in ["publisher", "subscriber"] {
        let name = format!("iot-{program}@.service");
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("scripts/package.d")
            .join(&name);
        let text = fs::read_to_string(&source).unwrap();
        for line in [
            "Type=notify",
            "StartLimitIntervalSec=0",
            "Restart=always",
            "RestartPreventExitStatus=64 78",
            "ExecReload=kill -HUP $MAINPID",
        ] {
            assert!(text.lines().any(|l| l == line), "{name}: {line}");
        }
        analyze(&["security", "--offline=true", "--threshold=30"], &source);
        // The program need not be installed, and is not at its place of a package.
        let installed = dir.path().join(format!("iot-{program}@check.service"));
        fs::write(
            &installed,
            text.replace(&format!("ExecStart={program}"), "ExecStart=/bin/true"),
        )
        .unwrap();
        analyze(&["verify", "--man=no"], &installed);
    }
}
