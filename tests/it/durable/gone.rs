//! A queue that is removed, moved, replaced or overwritten under a running publisher.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::{accepted, receipts};
use crate::harness::namespace::skipped;
use crate::harness::process::command;
use crate::harness::queue_file::publisher_on;
use crate::harness::running::Running;
use crate::harness::{Broker, Program, SOON, ScriptedBroker, free_port, temp_dir, times};

/// What is done to it.
#[derive(Clone, Copy, Debug)]
enum Harm {
    RemoveAll,
    RemoveFile,
    RemoveLog,
    RemoveLock,
    RemoveDirectory,
    MoveFile,
    MoveLog,
    MoveDirectory,
    MoveParent,
    Empty,
    CutOff,
    Overwrite,
    Replace,
    ReplaceByAnotherQueue,
}

const HARMS: [Harm; 14] = [
    Harm::RemoveAll,
    Harm::RemoveFile,
    Harm::RemoveLog,
    Harm::RemoveLock,
    Harm::RemoveDirectory,
    Harm::MoveFile,
    Harm::MoveLog,
    Harm::MoveDirectory,
    Harm::MoveParent,
    Harm::Empty,
    Harm::CutOff,
    Harm::Overwrite,
    Harm::Replace,
    Harm::ReplaceByAnotherQueue,
];

impl Harm {
    /// Whether what was accepted before is gone with it.
    fn loses(self) -> bool {
        !matches!(
            self,
            Harm::RemoveLock
                | Harm::MoveFile
                | Harm::MoveLog
                | Harm::MoveDirectory
                | Harm::MoveParent
        )
    }
}

/// A queue two directories deep.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let dir = temp_dir();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        Self(dir)
    }

    fn queue(&self) -> std::path::PathBuf {
        self.0.path().join("a/b/queue.db")
    }

    fn harm(&self, harm: Harm) {
        let at = |name: &str| self.0.path().join(name);
        let (queue, log) = (self.queue(), at("a/b/queue.db-wal"));
        match harm {
            Harm::RemoveAll | Harm::ReplaceByAnotherQueue => {
                for suffix in ["", "-wal", "-shm", "-lock"] {
                    let _ = fs::remove_file(at(&format!("a/b/queue.db{suffix}")));
                }
                if matches!(harm, Harm::ReplaceByAnotherQueue) {
                    let another = publisher_on(&queue).at_port(free_port());
                    let another = another.args(["-m", "another", "--flush-timeout", "0"]);
                    another.run(SOON).expect_code(75);
                }
            }
            Harm::RemoveFile => fs::remove_file(queue).unwrap(),
            Harm::RemoveLog => fs::remove_file(log).unwrap(),
            Harm::RemoveLock => fs::remove_file(at("a/b/queue.db-lock")).unwrap(),
            Harm::RemoveDirectory => fs::remove_dir_all(at("a/b")).unwrap(),
            Harm::MoveFile => fs::rename(queue, at("a/b/other.db")).unwrap(),
            Harm::MoveLog => fs::rename(log, at("a/b/other-wal")).unwrap(),
            Harm::MoveDirectory => fs::rename(at("a/b"), at("a/c")).unwrap(),
            Harm::MoveParent => fs::rename(at("a"), at("c")).unwrap(),
            Harm::Empty => overwrite(&queue, |_| Vec::new()),
            Harm::CutOff => overwrite(&queue, |before| before[..4096].to_vec()),
            Harm::Overwrite => overwrite(&queue, |before| {
                before.iter().map(|_| fastrand::u8(..)).collect()
            }),
            Harm::Replace => {
                fs::write(at("new"), "something else").unwrap();
                fs::rename(at("new"), queue).unwrap();
            }
        }
    }
}

/// Writes something else into the same file.
fn overwrite(file: &Path, change: impl Fn(&[u8]) -> Vec<u8>) {
    let before = fs::read(file).unwrap();
    fs::write(file, change(&before)).unwrap();
}

fn fed(place: &Place, port: u16) -> Running {
    let publisher = publisher_on(&place.queue()).at_plain_port(port);
    let publisher = publisher.args(["-l", "--summary", "--flush-timeout", "0.3"]);
    publisher.stdin_pipe().start()
}

fn summary(lines: &[String]) -> Value {
    serde_json::from_str(lines.last().unwrap()).unwrap()
}

#[test]
fn a_queue_that_is_gone_is_noticed_within_a_second_and_what_is_lost_is_counted() {
    let fed = HARMS.map(|harm| {
        let place = Place::new();
        let mut running = fed(&place, free_port());
        running.send("1\n2\n");
        running.stdout_line(SOON, |line| line == "accepted 2");
        (harm, place, running)
    });
    for (harm, place, mut running) in fed {
        running.wait_watching();
        place.harm(harm);
        let since = Instant::now();
        // Without any other event.
        let is_report = |line: &str| line.contains("nothing more is accepted");
        let report = running.stderr.wait(SOON, is_report);
        let late = report.map(|line| line.at.saturating_duration_since(since));
        assert!(
            late.is_some_and(|late| late < Duration::from_secs(1)),
            "{harm:?}: {late:?}\n{running}"
        );
        let _ = running.try_send("3\n");
        let outcome = running.finish(SOON).expect_code(74);
        let queue = place.queue();
        let outcome = outcome.expect_stderr(queue.to_str().unwrap());
        let lines = outcome.stdout.texts();
        assert_eq!(accepted(&lines), 2, "{harm:?}\n{outcome}");
        let lost = summary(&lines)["lost"].as_u64().unwrap();
        let end = outcome.stderr.texts().pop().unwrap();
        if harm.loses() {
            assert!(lost >= 2, "{harm:?}\n{outcome}");
            assert!(
                end.contains(&format!("{lost} messages lost")),
                "{harm:?}: {end}"
            );
        } else {
            assert!(
                lost <= 1 && end.contains("2 messages wait"),
                "{harm:?}: {end}"
            );
        }
    }
}

#[test]
fn where_the_kernel_reports_no_changes_they_are_noticed_as_fast() {
    // No report at all, and of the files only.
    for limit in [
        "0 > /proc/sys/user/max_inotify_instances",
        "4 > /proc/sys/user/max_inotify_watches",
    ] {
        let limited = format!("echo {limit} && exec \"$@\"");
        let namespace = ["unshare", "--user", "--map-root-user", "--", "sh", "-c"];
        let words = [&namespace[..], &[&limited, "sh"]].concat();
        let may = command(words[0]).args(&words[1..]).arg("true").status();
        if !may.is_ok_and(|status| status.success()) {
            let test = "where_the_kernel_reports_no_changes_they_are_noticed_as_fast";
            return skipped(test, "there are no user namespaces");
        }
        polls(words);
    }
}

/// A publisher that is started by these words.
fn polls(words: Vec<&str>) {
    let place = Place::new();
    let publisher = publisher_on(&place.queue()).at_plain_port(free_port());
    let publisher = publisher
        .args(["-l", "-d", "--flush-timeout", "0.3"])
        .stdin_pipe();
    let mut running = publisher.under(words).start();
    running.stderr_line(SOON, |line| line.contains("changes are polled for"));
    running.send("1\n");
    running.stdout_line(SOON, |line| line == "accepted 1");
    place.harm(Harm::MoveParent);
    let since = Instant::now();
    let line = running.stderr_line(SOON, |line| line.contains("nothing more is accepted"));
    let late = line.at.saturating_duration_since(since);
    assert!(late < Duration::from_secs(1), "{late:?}\n{running}");
    running.finish(SOON).expect_code(74);
}

#[test]
fn what_is_removed_after_the_report_is_lost_as_well() {
    let place = Place::new();
    let port = free_port();
    let start = |text, number| {
        let publisher = publisher_on(&place.queue()).at_plain_port(port);
        let publisher = publisher.args(["-l", "--summary"]);
        let mut running = publisher.stdin_pipe().start();
        running.send(text);
        let accepted = format!("accepted {number}");
        running.stdout_line(SOON, |line| line == accepted);
        running
    };
    let drainer = start("1\n", 1);
    let adder = start("2\n", 2);
    fs::remove_file(place.0.path().join("a/b/queue.db-shm")).unwrap();
    for running in [&drainer, &adder] {
        running.stderr_line(SOON, |line| line.contains("nothing more is accepted"));
    }
    place.harm(Harm::RemoveDirectory);
    for running in [drainer, adder] {
        let outcome = running.finish(SOON).expect_code(74);
        let outcome = outcome.expect_stderr("put everything back");
        let lost = summary(&outcome.stdout.texts())["lost"].as_u64().unwrap();
        assert!(lost >= 1, "{outcome}");
        outcome.expect_stderr("before you remove its queue");
    }
}

#[test]
fn what_was_moved_away_is_all_there_once_it_is_back() {
    let place = Place::new();
    let mut running = fed(&place, free_port());
    running.send("1\n2\n");
    running.stdout_line(SOON, |line| line == "accepted 2");
    place.harm(Harm::MoveFile);
    running.finish(SOON).expect_code(74);
    fs::rename(place.0.path().join("a/b/other.db"), place.queue()).unwrap();
    let broker = ScriptedBroker::script().plain();
    let drained = publisher_on(&place.queue()).at_plain_port(broker.port());
    let drained = drained.args(["-m", "3"]).run(SOON).expect_code(0);
    let sent: Vec<_> = broker
        .publishes()
        .iter()
        .map(crate::harness::packet::Publish::text)
        .collect();
    assert_eq!(sent, ["1", "2", "3"], "{drained}");
}

#[test]
fn what_can_be_sent_is_sent_before_the_run_ends() {
    // More than are in memory at a time, and a broker that comes when the file has gone.
    let place = Place::new();
    let port = free_port();
    let lines: Vec<_> = (1..=2_000).map(|n: u32| n.to_string()).collect();
    let publisher = publisher_on(&place.queue()).at_plain_port(port);
    let publisher = publisher.args(["-l", "--base-backoff", "0.1", "--max-backoff", "0.1"]);
    let mut running = publisher.arg("--summary").stdin_pipe().start();
    running.send(lines.join("\n") + "\n");
    running.stdout_line(SOON * 3, |line| line == "accepted 2000");
    place.harm(Harm::RemoveAll);
    running.stderr_line(SOON, |line| line.contains("nothing more is accepted"));
    let _broker = Broker::builder().plain().port(port).start();
    let outcome = running.finish(SOON * 3).expect_code(74);
    let summary = summary(&outcome.stdout.texts());
    assert_eq!(
        (&summary["delivered"], &summary["lost"]),
        (&2_000.into(), &0.into()),
        "{outcome}"
    );
}

#[test]
fn one_that_only_adds_notices_as_well() {
    for harm in [Harm::RemoveAll, Harm::MoveDirectory, Harm::Empty] {
        let place = Place::new();
        let port = free_port();
        let mut drainer = fed(&place, port);
        drainer.send("1\n");
        drainer.stdout_line(SOON, |line| line == "accepted 1");
        let mut adder = fed(&place, port);
        adder.send("2\n");
        adder.stdout_line(SOON, |line| line == "accepted 2");
        place.harm(harm);
        for running in [adder, drainer] {
            let outcome = running.finish(SOON).expect_code(74);
            outcome.expect_stderr("nothing more is accepted");
        }
    }
}

/// Adds this many messages to what waits.
fn add(place: &Place, count: usize) {
    let lines = "reading\n".repeat(count);
    let publisher = publisher_on(&place.queue()).at_port(free_port());
    let publisher = publisher.args(["-l", "--flush-timeout", "0"]);
    publisher
        .stdin(std::io::Cursor::new(lines))
        .run(SOON * 3)
        .expect_code(75);
}

#[test]
fn an_earlier_copy_put_back_over_the_file_is_noticed() {
    for (first, then) in [(300, 300), (900, 100)] {
        let place = Place::new();
        add(&place, first);
        let copy = fs::read(place.queue()).unwrap();
        add(&place, then);
        let mut running = fed(&place, free_port());
        running.send("1\n2\n");
        let accepted = format!("accepted {}", first + then + 2);
        running.stdout_line(SOON, |line| line == accepted);
        overwrite(&place.queue(), |_| copy.clone());
        running.stderr_line(SOON, |line| line.contains("nothing more is accepted"));
        let outcome = running.finish(SOON).expect_code(74);
        let lost = summary(&outcome.stdout.texts())["lost"].as_u64().unwrap();
        assert!(lost >= 2, "{first}, {then}: {outcome}");
    }
}

#[test]
fn an_earlier_copy_put_back_just_before_the_end_is_noticed() {
    let place = Place::new();
    add(&place, 300);
    let copy = fs::read(place.queue()).unwrap();
    add(&place, 300);
    let mut running = fed(&place, free_port());
    running.send("1\n2\n");
    running.stdout_line(SOON, |line| line == "accepted 602");
    running.signal(Signal::SIGSTOP);
    overwrite(&place.queue(), |_| copy.clone());
    running.signal(Signal::SIGTERM);
    running.signal(Signal::SIGCONT);
    running.finish(SOON).expect_code(74);
}

#[test]
fn what_publishers_write_into_the_file_of_another_is_no_alarm() {
    let place = Place::new();
    let port = free_port();
    let touch = || {
        let file = fs::File::options().write(true).open(place.queue());
        let now = std::time::SystemTime::now();
        file.unwrap().set_modified(now).unwrap();
    };
    // So much that the log is copied into the file.
    let lines = ("x".repeat(60_000) + "\n").repeat(80);
    let mut drainer = fed(&place, port);
    drainer.send(lines.clone());
    drainer.stdout_line(SOON * 3, |line| line == "accepted 80");
    let mut adder = fed(&place, port);
    touch();
    adder.send(lines);
    adder.close_stdin();
    adder.finish(SOON * 3).expect_code(75);
    touch();
    drainer.send("1\n");
    drainer.close_stdin();
    drainer.finish(SOON * 3).expect_code(75);
    let export = Program::publisher().args(["queue", "export", "--queue"]);
    let export = export.arg(place.queue()).run(SOON * 3).expect_code(0);
    assert_eq!(export.stdout.count(), 161);
}

/// `scripts/crash-test gone` does it more often.
#[test]
fn at_a_random_moment_no_exit_code_hides_that_a_reading_is_missing() {
    const LINES: usize = 60;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let broker = Broker::builder().plain().start();
    let mut codes = std::collections::BTreeMap::new();
    for round in 0..times("IOT_TEST_GONE", 12) {
        let place = Place::new();
        let harm = HARMS[random.usize(..HARMS.len() - 1)];
        let online = random.bool();
        let mut running = fed(&place, if online { broker.port() } else { free_port() });
        let (at, end) = (random.usize(..LINES + 15), LINES);
        let mut sent = 0;
        let mut harmed = false;
        for step in 0..LINES + 15 {
            if step == at && place.0.path().join("a/b/queue.db-wal").exists() {
                // It cannot end in between.
                running.signal(Signal::SIGSTOP);
                if !running.has_ended() && place.0.path().join("a/b/queue.db-wal").exists() {
                    place.harm(harm);
                    harmed = true;
                }
                running.signal(Signal::SIGCONT);
            }
            if step < end && running.try_send(format!("{step}\n")).is_ok() {
                sent += 1;
            } else if step == end {
                running.close_stdin();
            }
            thread::park_timeout(Duration::from_millis(random.u64(..25)));
        }
        running.close_stdin();
        let outcome = running.finish(SOON);
        let lines = outcome.stdout.texts();
        let delivered: BTreeSet<_> = receipts(&lines, "delivered ").into_iter().collect();
        let missing = sent - delivered.len();
        let what = format!(
            "round {round}: {harm:?} at {at}, harmed {harmed}, {sent} sent, {missing} missing"
        );
        match outcome.code {
            Some(0) => assert_eq!(missing, 0, "{what}\n{outcome}"),
            Some(75) => {
                let queue = place.queue();
                let export = Program::publisher().args(["queue", "export", "--queue"]);
                let export = export.arg(queue).run(SOON).expect_code(0);
                assert!(
                    export.stdout.count() >= missing,
                    "{what}\n{outcome}\n{export}"
                );
            }
            Some(74) => {
                assert!(harmed, "{what}\n{outcome}");
                let kept = accepted(&lines) - delivered.len();
                let lost = summary(&lines)["lost"].as_u64().unwrap();
                assert!(!harm.loses() || lost >= kept as u64, "{what}\n{outcome}");
            }
            // While it was being opened.
            Some(73) => assert!(harmed && accepted(&lines) == 0, "{what}\n{outcome}"),
            _ => panic!("{what}\n{outcome}"),
        }
        *codes.entry(outcome.code).or_insert(0) += 1;
    }
    println!("exit codes: {codes:?}");
}
