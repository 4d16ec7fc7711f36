//! SIGHUP to a service: certificates and settings are read again.

use super::*;
use crate::harness::{
    Proxy,
    certs::{Pair, Validity},
};

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
fn a_run_that_ends_while_its_connection_is_replaced_acknowledges_on_the_next_one() {
    let broker = naming_broker();
    let proxy = Proxy::start(broker.port(), Duration::ZERO);
    let dir = temp_dir();
    let pair = certs().authority.client(dir.path(), "old", Validity::Now);
    let manager = ServiceManager::start();
    let persistent = ["-t", "t", "--persistent", "--client-id", "kept", "-C", "1"];
    let (begun, go) = (dir.path().join("begun"), dir.path().join("go"));
    let wait = r#"echo >"$0"; until [ -e "$1" ]; do sleep 0.01; done"#;
    let program = Program::subscriber()
        .endpoint(proxy.port())
        .ca(&certs().ca)
        .identity(&pair)
        .env("RUST_LOG", "info")
        .args(persistent)
        .args(["--exec", "sh", "-c", wait])
        .arg(&begun)
        .arg(&go);
    let running = manager.service(program).start();
    manager.wait(SOON, |line| line == "READY=1");
    let send = |text: &str| {
        let publisher = Program::publisher()
            .to(&broker)
            .args(["-t", "t", "-m", text]);
        publisher.run(SOON).expect_code(0);
    };
    send("first");
    assert!(wait_until(SOON, || begun.exists()), "{running}");
    rotate(dir.path(), &pair, "new");
    // The broker does not get DISCONNECT, so the old connection does not end.
    proxy.stall();
    running.signal(Signal::SIGHUP);
    running.stderr_line(SOON, |line| line.contains("reload: connecting again"));
    fs::write(&go, "").unwrap();
    manager.wait(SOON, |line| line == "STOPPING=1");
    proxy.resume();
    running.finish(SOON).expect_code(0);
    assert_eq!(broker.log().count_of(|line| line.contains("u'new'")), 1);
    send("second");
    let next = Program::subscriber().to(&broker).args(persistent).run(SOON);
    assert_eq!(next.expect_code(0).stdout.text(), "second\n");
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
