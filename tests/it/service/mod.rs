//! A program as a service of systemd: what it reports, the watchdog, reloading, and the units.

mod reload;
mod units;

use std::{fs, path::Path, time::Duration};

use nix::{
    sys::{
        ptrace,
        signal::Signal,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

use crate::harness::{
    Broker, Program, Proxy, SOON, certs::certs, free_port, running::Running,
    service_manager::ServiceManager, temp_dir, wait_until,
};

const WATCHDOG: Duration = Duration::from_millis(300);

fn readings(program: Program) -> Program {
    program.args(["-t", "t", "--interval", "0.1", "--receipts"])
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
fn a_subscriber_that_removes_retained_messages_asks_for_the_time_that_this_may_take() {
    let broker = Broker::start();
    let proxy = Proxy::start(broker.port(), Duration::ZERO);
    let retained = Program::one_message().to(&broker).arg("--retain");
    retained.run(SOON).expect_code(0);
    let dir = temp_dir();
    let (begun, go) = (dir.path().join("begun"), dir.path().join("go"));
    let wait = r#"echo >"$0"; until [ -e "$1" ]; do sleep 0.01; done"#;
    let manager = ServiceManager::start();
    let subscriber = Program::subscriber().at_port(proxy.port());
    let subscriber = subscriber.args(["-t", "#", "-C", "1", "--remove-retained"]);
    let subscriber = subscriber.args(["--exec", "sh", "-c", wait]);
    let subscriber = subscriber.arg(&begun).arg(&go);
    let subscriber = manager.watched_service(subscriber, WATCHDOG).start();
    assert!(wait_until(SOON, || begun.exists()), "{subscriber}");
    // The removal is not acknowledged.
    proxy.stall();
    fs::write(go, "").unwrap();
    manager.wait(SOON, |line| line == "STOPPING=1");
    manager.wait(SOON, |line| line == "EXTEND_TIMEOUT_USEC=302000000");
    let fed = manager.count("WATCHDOG=1");
    let is_fed = || manager.count("WATCHDOG=1") > fed + 2;
    assert!(wait_until(SOON, is_fed), "{subscriber}");
    subscriber.finish(SOON).expect_code(69);

    let manager = ServiceManager::start();
    let subscriber = Program::subscriber().to(&broker);
    let subscriber = subscriber.args(["-t", "#", "--remove-retained"]);
    let subscriber = manager.service(subscriber).start();
    manager.wait(SOON, |line| line == "READY=1");
    subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    manager.wait(SOON, |line| line == "EXTEND_TIMEOUT_USEC=7000000");
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
fn a_socket_that_is_not_there_or_not_read_changes_nothing() {
    let broker = Broker::start();
    for name in ["/nonexistent/notify", "relative", "@nobody"] {
        let publisher = Program::one_message()
            .to(&broker)
            .env("NOTIFY_SOCKET", name);
        publisher.run(SOON).expect_code(0);
    }
}
