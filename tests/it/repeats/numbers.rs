//! Repeats and gaps.

use super::*;

#[test]
fn repeats_are_dropped_over_reconnects_too() {
    let mut broker = Broker::start();
    let running = start(subscriber(&broker, &["--dedup", "--summary"]));
    for number in [1, 2, 1, 2, 3] {
        send(&broker, &running, number, None);
    }
    running.stdout_lines(3, SOON);
    let seen = broker.log().count();
    broker.restart();
    let again = |line: &str| line.ends_with(" 1 s/#");
    assert!(broker.log().wait_from(seen, SOON, again).is_some());
    for number in [2, 3, 4] {
        send(&broker, &running, number, None);
    }
    // Of another stream, and of none.
    publish_numbered(&broker, "s/other", "other/1/0");
    publish_numbered(&broker, "s/none", "nonsense");
    publish_numbered(&broker, "s/none", "nonsense");
    running.stdout_lines(7, SOON);
    let outcome = running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let mut lines = outcome.stdout.texts();
    lines.pop();
    let expected = ["s/1", "s/2", "s/3", "s/4", "s/other", "s/none", "s/none"];
    assert_eq!(lines, expected, "{outcome}");
    assert_eq!(summary(&outcome)["duplicates"], 4, "{outcome}");
}

#[test]
fn without_dedup_repeats_are_printed() {
    let broker = Broker::start();
    let outcome = run(&broker, &[], &[1, 2, 1, 3]).expect_code(0);
    outcome.expect_stdout("s/1\ns/2\ns/1\ns/3\n");
}

#[test]
fn what_was_dealt_with_is_remembered_from_run_to_run() {
    let broker = Broker::start();
    let state = StateFile::new();
    let flags = ["--dedup", "--gaps", "--state", state.text()];
    run(&broker, &flags, &[1, 2, 3]).expect_code(0);
    let outcome = run(&broker, &flags, &[2, 3, 4]).expect_code(0);
    outcome.expect_stdout("s/4\n");
    // What was published in between is missed.
    let outcome = run(&broker, &flags, &[1, 7]).expect_code(65);
    assert_eq!(
        complaints(&outcome),
        ["gap: 5 to 6 of stream s are missing (s/7)"]
    );
    outcome.expect_stdout("s/7\n");
    // That is logged once, and they are not repeats.
    let outcome = run(&broker, &flags, &[7, 5, 8]).expect_code(0);
    outcome.expect_stdout("s/5\ns/8\n");
}

#[test]
fn it_is_remembered_even_by_a_run_that_is_killed() {
    let broker = Broker::start();
    let state = StateFile::new();
    let flags = ["--dedup", "--state", state.text()];
    for round in [0, 10, 20] {
        let running = start(subscriber(&broker, &flags));
        if round > 0 {
            // All but the last are known for sure: that may have been printed and not noted.
            send(&broker, &running, round - 9, None);
            send(&broker, &running, round - 8, None);
        }
        for (line, number) in (1..=3).zip(round + 1..) {
            send(&broker, &running, number, line);
        }
        running.signal(Signal::SIGKILL);
        let outcome = running.finish(SOON);
        let expected = [1, 2, 3].map(|n| format!("s/{}\n", round + n));
        outcome.expect_stdout(&expected.concat());
    }
}

#[test]
fn gaps_are_told_as_they_are_found_and_have_a_code() {
    let broker = Broker::start();
    let flags = ["--gaps", "--summary"];
    let outcome = run(&broker, &flags, &[5, 6, 7]).expect_code(0);
    assert!(complaints(&outcome).is_empty(), "{outcome}");

    let running = start(subscriber(&broker, &flags));
    send(&broker, &running, 1, 1);
    send(&broker, &running, 3, 2);
    running.stderr_line(SOON, |line| {
        line.ends_with("gap: 2 of stream s is missing (s/3)")
    });
    send(&broker, &running, 9, 3);
    let outcome = running.finish_by(Signal::SIGTERM, SOON).expect_code(65);
    let gaps = complaints(&outcome);
    assert_eq!(gaps.len(), 2, "{outcome}");
    assert_eq!(gaps[1], "gap: 4 to 8 of stream s are missing (s/9)");
    assert_eq!(summary(&outcome)["gaps"], 6, "{outcome}");

    // Without the flag they are only counted.
    let outcome = run(&broker, &["--summary"], &[1, 3]).expect_code(0);
    assert_eq!(summary(&outcome)["gaps"], 1, "{outcome}");
    assert!(complaints(&outcome).is_empty(), "{outcome}");
}

#[test]
fn gaps_that_are_not_in_the_log_are_counted_at_the_end() {
    let broker = Broker::start();
    let mut logged = complaints(&miss_each_third(&broker, &[]));
    let last = logged.pop().unwrap();
    assert!(
        logged.iter().all(|line| line.starts_with("gap: ")),
        "{logged:#?}"
    );
    let unlogged = COUNT / 3 - logged.len();
    let expected = format!("{unlogged} further gaps are not in the log; --debug logs all");
    assert_eq!(last, expected);

    let outcome = miss_each_third(&broker, &["--debug"]);
    let text = outcome.stderr.text();
    assert_eq!(text.matches("gap: ").count(), COUNT / 3, "{outcome}");
    assert!(!text.contains("further gap"), "{outcome}");
}

const COUNT: usize = 270;

/// A run that misses COUNT / 3 single messages.
fn miss_each_third(broker: &Broker, flags: &[&str]) -> Outcome {
    let seen = broker.log().count();
    let program = Program::subscriber().to(broker);
    let program = program.args(["-t", "s/#", "--gaps"]).args(flags);
    let running = program.start();
    let is_subscription = |line: &str| line.ends_with(" 1 s/#");
    assert!(
        broker
            .log()
            .wait_from(seen, SOON, is_subscription)
            .is_some()
    );
    let topic = |n: usize| if n % 3 == 2 { "other" } else { "s/x" };
    let line = |n| format!(r#"{{"topic":"{}","payload":"x"}}"#, topic(n));
    let lines: Vec<_> = (1..=COUNT).map(line).collect();
    let publisher = Program::publisher().to(broker);
    let publisher = publisher.args(["--input", "json", "--stdin-line"]);
    let publisher = publisher.stdin(Cursor::new(lines.join("\n")));
    publisher.run(SOON).expect_code(0);
    running.stdout_lines(COUNT / 3 * 2, SOON);
    running.finish_by(Signal::SIGTERM, SOON).expect_code(65)
}

#[test]
fn what_comes_late_is_not_missing() {
    let broker = Broker::start();
    let flags = ["--gaps", "--dedup", "--summary"];
    let outcome = run(&broker, &flags, &[1, 4, 2, 5]).expect_code(65);
    assert_eq!(summary(&outcome)["gaps"], 1, "{outcome}");
    let outcome = run(&broker, &flags, &[1, 4, 3, 2, 5]).expect_code(0);
    let text = outcome.stdout.text();
    assert!(text.starts_with("s/1\ns/4\ns/3\ns/2\ns/5\n"), "{outcome}");
    assert_eq!(complaints(&outcome).len(), 1, "{outcome}");
    let late = outcome.stderr.text().matches("came late").count();
    assert_eq!(late, 2, "{outcome}");
}

/// Publishes this number of the stream `s` to `s/NUMBER` as a retained message.
fn retain(broker: &Broker, number: u64) {
    let mut client = crate::harness::peer::client("mosquitto_pub", broker);
    client.args(["-V", "mqttv5", "-q", "1", "-r", "-m", "x", "-t"]);
    client.arg(format!("s/{number}"));
    let seq = format!("s/{number}/0");
    client.args(["-D", "publish", "user-property", "seq", &seq]);
    assert!(client.status().expect("mosquitto_pub").success());
}

#[test]
fn a_retained_message_is_old_so_nothing_is_missing_after_it() {
    let broker = Broker::start();
    retain(&broker, 3);
    retain(&broker, 5);
    let flags = ["--gaps", "--summary"];
    let outcome = run(&broker, &flags, &[8, 9]).expect_code(0);
    let lines = outcome.stdout.texts();
    assert_eq!(lines[..4], ["s/3", "s/5", "s/8", "s/9"], "{outcome}");
    assert_eq!(summary(&outcome)["gaps"], 0, "{outcome}");
    assert!(complaints(&outcome).is_empty(), "{outcome}");
}

#[test]
fn a_retained_message_after_a_reconnect_is_itself_not_missing() {
    let broker = Broker::start();
    let proxy = Proxy::start(broker.port(), Duration::ZERO);
    let program = Program::subscriber().at_port(proxy.port()).args(["-d"]);
    let program = program.args(["-t", "s/#", "-F", "%t", "--gaps", "--summary"]);
    let running = start(program.args(["--base-backoff", "0.1", "--max-backoff", "0.2"]));
    send(&broker, &running, 1, 1);
    proxy.stall();
    proxy.cut();
    for number in [2, 3] {
        send(&broker, &running, number, None);
    }
    retain(&broker, 4);
    send(&broker, &running, 5, None);
    let again = broker.log().count();
    proxy.resume();
    let subscribed = |line: &str| line.ends_with(" 1 s/#");
    assert!(broker.log().wait_from(again, SOON, subscribed).is_some());
    running.stdout_line(SOON, |line| line == "s/4");
    send(&broker, &running, 6, 3);
    let outcome = running.finish_by(Signal::SIGTERM, SOON).expect_code(65);
    let gaps = complaints(&outcome);
    let gaps: Vec<_> = gaps.iter().filter(|line| line.starts_with("gap")).collect();
    let expected = [
        "gap: 2 to 3 of stream s are missing (s/6)",
        "gap: 5 of stream s is missing (s/6)",
    ];
    assert_eq!(gaps, expected.iter().collect::<Vec<_>>(), "{outcome}");
    assert_eq!(summary(&outcome)["gaps"], 3, "{outcome}");
}

#[test]
fn a_filter_that_sees_a_part_of_a_publisher_s_topics_is_found_out() {
    let broker = Broker::start();
    let lines = (0..30).map(|n| {
        let topic = ["s/a", "s/b", "c"][n % 3];
        format!("{{\"topic\":\"{topic}\",\"payload\":\"{n}\"}}\n")
    });
    let lines: String = lines.collect();
    for (filter, count) in [("s/a", 10), ("#", 30)] {
        let program = Program::subscriber().to(&broker).args(["-d", "-t", filter]);
        let running = start(program.args(["--gaps", "--summary"]));
        Program::publisher()
            .to(&broker)
            .args(["-l", "--input", "json"])
            .stdin(Cursor::new(lines.clone()))
            .run(SOON)
            .expect_code(0);
        running.stdout_lines(count, SOON);
        let outcome = running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
        assert_eq!(summary(&outcome)["gaps"], 0, "{outcome}");
        let said = complaints(&outcome);
        let why = said
            .iter()
            .filter(|line| line.contains("only one number in 3 comes"));
        assert_eq!(why.count(), usize::from(filter != "#"), "{outcome}");
        assert!(filter != "#" || said.is_empty(), "{outcome}");
    }
}

#[test]
fn what_another_client_forges_suppresses_nothing() {
    let broker = Broker::start();
    let running = start(subscriber(&broker, &["--dedup"]));
    // The numbers that are next, on another topic, or not at the time at which they are taken.
    publish_numbered(&broker, "s/forged", "s/2/0");
    publish_numbered(&broker, "s/3", "s/3/1");
    for (number, line) in [(1, 3), (2, 4), (3, 5)] {
        send(&broker, &running, number, line);
    }
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}
