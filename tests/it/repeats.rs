//! What comes twice, and what is missing: `--dedup`, `--gaps`, sessions that the broker keeps,
//! what `--state` remembers from run to run; and batches, taken apart.

use std::{
    fs::{self, Permissions},
    io::Cursor,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::sys::signal::Signal;
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{
    Broker, Program, Proxy, SOON, ScriptedBroker,
    namespace::{MountNamespace, skipped},
    peer::publish_numbered,
    running::{Outcome, Running},
    seen::acknowledged,
    temp_dir,
};

/// Prints the topic of what comes to `s/…`; each message has a topic that says its number.
fn subscriber(broker: &Broker, flags: &[&str]) -> Program {
    let program = Program::subscriber().to(broker).args(["-d", "-t", "s/#"]);
    let program = program.args(["--base-backoff", "0.1", "--max-backoff", "0.2"]);
    program.args(["-F", "%t"]).args(flags)
}

fn start(program: Program) -> Running {
    let running = program.start();
    running.wait_subscribed();
    running
}

/// Publishes this number of the stream `s` to `s/NUMBER`, and waits until it is printed, if
/// it is to be: the `shown`th line.
fn send(broker: &Broker, running: &Running, number: u64, shown: impl Into<Option<usize>>) {
    publish_numbered(broker, &format!("s/{number}"), &format!("s/{number}/0"));
    if let Some(count) = shown.into() {
        running.stdout_lines(count, SOON);
    }
}

/// Sends these, the last of which is printed, and ends the run.
fn run(broker: &Broker, flags: &[&str], numbers: &[u64]) -> Outcome {
    let running = start(subscriber(broker, flags));
    for number in numbers {
        send(broker, &running, *number, None);
    }
    let last = format!("s/{}", numbers.last().unwrap());
    running.stdout_line(SOON, |line| line == last);
    running.finish_by(Signal::SIGTERM, SOON)
}

fn summary(outcome: &Outcome) -> Value {
    let last = outcome.stdout.texts().pop().unwrap_or_default();
    serde_json::from_str(&last).unwrap_or_else(|_| panic!("no summary\n{outcome}"))
}

/// What is on stderr beside what `-d` says, without time and level.
fn complaints(outcome: &Outcome) -> Vec<String> {
    let lines = outcome.stderr.texts().into_iter();
    let lines = lines.filter(|line| !line.contains(" DEBUG ") && !line.contains(" INFO "));
    let said = |line: String| line.splitn(3, ' ').nth(2).unwrap_or_default().to_owned();
    lines.map(said).collect()
}

/// A state file in a directory of its own; there is none until a subscriber makes it.
struct StateFile(TempDir);

impl StateFile {
    fn new() -> Self {
        Self(temp_dir())
    }

    /// One that a subscriber has made, with some numbers in it.
    fn used(broker: &Broker) -> Self {
        let state = Self::new();
        run(broker, &["--state", state.text()], &[1, 2, 4]).expect_code(0);
        state
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("state.db")
    }

    fn text(&self) -> &str {
        let path: &'static str = self.path().display().to_string().leak();
        path
    }

    /// A subscriber refuses it, in one line with these parts, at once or when `patient` after
    /// some waiting.
    fn expect_refused(&self, parts: &[&str]) {
        refused(&self.path(), parts);
    }
}

fn refused(file: &Path, parts: &[&str]) {
    let program = Program::subscriber()
        .endpoint(1)
        .args(["-t", "t", "--state"]);
    let outcome = program.arg(file).run(SOON).expect_code(73);
    let lines = outcome.stderr.texts();
    assert_eq!(lines.len(), 1, "{outcome}");
    let name = file.display().to_string();
    for part in parts.iter().chain([&"--state", &&*name]) {
        assert!(lines[0].contains(part), "no {part:?}\n{outcome}");
    }
    assert_eq!(lines[0].matches(&name).count(), 1, "named twice\n{outcome}");
}

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
    // That is told once, and they are not repeats.
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
            .filter(|line| line.contains("missing evenly, all but one of 3"));
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

#[test]
fn a_state_file_of_version_1_is_brought_to_the_present_one() {
    let broker = Broker::start();
    let state = StateFile::new();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/state-1.db");
    fs::copy(data, state.path()).unwrap();
    let flags = ["--dedup", "--gaps", "--state", state.text()];
    // It has no fingerprints: what came before comes once more, and no number is missing.
    let outcome = run(&broker, &flags, &[7, 8, 2, 8]).expect_code(0);
    outcome.expect_stdout("s/7\ns/8\ns/2\n");
    let outcome = run(&broker, &flags, &[2, 7, 9]).expect_code(0);
    outcome.expect_stdout("s/9\n");
}

#[test]
fn a_state_file_is_its_owner_s_alone_whatever_the_umask() {
    let broker = Broker::start();
    for umask in ["000", "022", "277", "777"] {
        let state = StateFile::new();
        let program = subscriber(&broker, &["--state", state.text()]);
        let shell = format!("umask {umask}; exec \"$@\"");
        let running = start(program.under(["sh", "-c", &shell, "sh"]));
        send(&broker, &running, 1, 1);
        let modes = |ending: &str| {
            let file = format!("{}{ending}", state.text());
            fs::metadata(file).unwrap().permissions().mode() & 0o7777
        };
        assert_eq!((modes(""), modes("-wal")), (0o600, 0o600), "{umask}");
        running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    }
}

#[test]
fn a_state_file_that_others_may_read_is_closed_to_them() {
    let broker = Broker::start();
    let state = StateFile::used(&broker);
    fs::set_permissions(state.path(), Permissions::from_mode(0o644)).unwrap();
    let outcome = run(&broker, &["--state", state.text()], &[9]).expect_code(0);
    let told = complaints(&outcome);
    assert!(told.len() == 1 && told[0].contains("0644"), "{outcome}");
    let mode = fs::metadata(state.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    for (flags, part) in [
        (&["-t", "$share/g/t", "--gaps"][..], "--gaps"),
        (&["-t", "t", "--persistent"], "--client-id"),
        (&["-t", "t", "--session-expiry", "1h"], "--persistent"),
        (&["-t", "t", "--rotate-size", "1MiB"], "--output"),
    ] {
        let program = Program::subscriber().endpoint(1).args(flags);
        program.run(SOON).expect_code(64).expect_stderr(part);
    }
}

#[test]
fn a_state_file_that_is_somebody_else_s_is_left_as_it_is() {
    let state = StateFile::new();
    let text = "not a database at all\n".repeat(100);
    fs::write(state.path(), &text).unwrap();
    state.expect_refused(&["no state of a subscriber", "a file of its own"]);
    assert_eq!(fs::read_to_string(state.path()).unwrap(), text);

    let state = StateFile::new();
    let other = Connection::open(state.path()).unwrap();
    other.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(other);
    let before = fs::read(state.path()).unwrap();
    state.expect_refused(&["no state of a subscriber", "a file of its own"]);
    assert!(fs::read(state.path()).unwrap() == before, "it was changed");
    let files = state.0.path().read_dir().unwrap().count();
    assert_eq!(files, 1, "something was left beside it");
}

#[test]
fn a_state_file_that_cannot_be_opened_is_told_why() {
    let dir = temp_dir();
    refused(&dir.path().join("missing/state.db"), &["cannot be opened"]);
    refused(dir.path(), &["cannot be opened"]);
}

#[test]
fn a_state_file_of_a_newer_version_is_refused() {
    let broker = Broker::start();
    let state = StateFile::used(&broker);
    let newer = Connection::open(state.path()).unwrap();
    newer.pragma_update(None, "user_version", 3).unwrap();
    drop(newer);
    state.expect_refused(&["newer version", "another file"]);
}

#[test]
fn a_damaged_state_file_is_refused() {
    let broker = Broker::start();
    let state = StateFile::used(&broker);
    let mut bytes = fs::read(state.path()).unwrap();
    assert!(bytes.len() >= 3 * 4096);
    // The root of a table.
    bytes[4096..8192].fill(0x55);
    fs::write(state.path(), &bytes).unwrap();
    state.expect_refused(&["is damaged", "move it aside"]);
    fs::write(state.path(), &bytes[..5_000]).unwrap();
    state.expect_refused(&["is damaged", "move it aside"]);
}

#[test]
fn a_state_file_belongs_to_one_subscriber_at_a_time() {
    let broker = Broker::start();
    let state = StateFile::new();
    let running = start(subscriber(&broker, &["--state", state.text()]));
    state.expect_refused(&["in use by another subscriber", "of its own"]);
    send(&broker, &running, 1, 1);
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn a_state_that_cannot_be_written_ends_the_run_and_nothing_is_acknowledged() {
    let dir = temp_dir();
    let Some(disk) = MountNamespace::with_tmpfs(dir.path(), "size=128k") else {
        return skipped("a_state_that_cannot", "no file system can be mounted here");
    };
    let broker = Broker::start();
    let file = dir.path().join("state.db");
    let flags = ["--persistent", "--client-id", "keeper", "--state"];
    let program = |broker| subscriber(broker, &flags).arg(&file).under(disk.enter());
    let running = start(program(&broker));
    let ballast = disk.seen_from_here(&dir.path().join("ballast"));
    assert!(fs::write(&ballast, vec![0; 128 << 10]).is_err(), "full");
    for number in 1..100 {
        // It ends at some number.
        send(&broker, &running, number, None);
    }
    let outcome = running.finish(SOON).expect_code(74);
    let lines = complaints(&outcome);
    assert_eq!(lines.len(), 1, "{outcome}");
    let name = file.display().to_string();
    assert!(lines[0].starts_with(&name), "{outcome}");
    assert!(lines[0].contains("full"), "{outcome}");

    // What was not noted comes again.
    fs::remove_file(ballast).unwrap();
    let shown = outcome.stdout.texts().pop().unwrap();
    let running = program(&broker).start();
    running.stdout_line(SOON, |line| line == shown);
    running.stdout_line(SOON, |line| line == "s/99");
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn what_is_published_while_away_waits_in_the_session() {
    let mut broker = Broker::builder().persistent().start();
    let state = StateFile::new();
    let flags = ["--persistent", "--client-id", "keeper", "--dedup", "--gaps"];
    let flags = [&flags[..], &["--state", state.text()]].concat();
    let numbers = |range: std::ops::RangeInclusive<u64>| {
        for number in range {
            publish_numbered(&broker, &format!("s/{number}"), &format!("s/{number}/0"));
        }
    };
    run(&broker, &flags, &[1, 2]).expect_code(0);
    numbers(3..=5);
    let outcome = run(&broker, &flags, &[2, 6]).expect_code(0);
    outcome.expect_stdout("s/3\ns/4\ns/5\ns/6\n");
    // A broker that has forgotten it is a reason to complain.
    broker.stop();
    let broker = Broker::builder().port(broker.port()).start();
    let outcome = run(&broker, &flags, &[9]).expect_code(65);
    let lines = complaints(&outcome);
    assert!(lines[0].contains("lost the session"), "{outcome}");
    assert_eq!(lines[1], "gap: 7 to 8 of stream s are missing (s/9)");
}

#[test]
fn a_filter_that_is_no_longer_wanted_leaves_the_session() {
    let broker = Broker::start();
    let state = StateFile::new();
    let flags = [
        "--persistent",
        "--client-id",
        "keeper",
        "--state",
        state.text(),
    ];
    let running = start(subscriber(&broker, &flags).args(["-t", "old/#"]));
    let both = |line: &str| line.contains("old/#: subscribed");
    running.stderr_line(SOON, both);
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let running = start(subscriber(&broker, &flags));
    running.stderr_line(SOON, |line| line.contains("no longer subscribed: old/#"));
    let gone = |line: &str| line.ends_with("keeper old/#");
    let gone = broker.log().wait(SOON, gone);
    assert!(gone.is_some(), "{running}");
    publish_numbered(&broker, "old/1", "s/1/0");
    send(&broker, &running, 2, 1);
    let outcome = running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    outcome.expect_stdout("s/2\n");
}

/// More than may wait comes before the answer to SUBSCRIBE, and is dealt with more slowly than
/// an answer may take.
#[test]
fn a_long_backlog_is_no_dead_connection() {
    let broker = Broker::start();
    let flags = ["-C", "20", "--persistent", "--client-id", "keeper"];
    let program = Program::subscriber().to(&broker).args(["-t", "t", "-d"]);
    let program = program
        .args(flags)
        .args(["--summary", "--operation-timeout", "0.1"]);
    let program = program.args(["--base-backoff", "0.1", "--max-backoff", "0.1"]);
    start(
        Program::subscriber()
            .to(&broker)
            .args(["-t", "t", "-d"])
            .args(flags),
    )
    .finish_by(Signal::SIGTERM, SOON)
    .expect_code(0);
    let line = "x".repeat(200_000) + "\n";
    Program::publisher()
        .to(&broker)
        .args(["-t", "t", "-l"])
        .stdin(Cursor::new(line.repeat(20)))
        .run(SOON)
        .expect_code(0);
    let program = program.args(["--exec", "sh", "-c", "sleep 0.1; echo ran"]);
    let outcome = program.run(SOON).expect_code(0);
    assert_eq!(outcome.stdout.count(), 21, "{outcome}");
    assert_eq!(summary(&outcome)["reconnects"], 0, "{outcome}");
    assert!(complaints(&outcome).is_empty(), "{outcome}");
}

fn lines(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("line {n}")).collect()
}

/// What a subscriber with these flags prints of 25 lines in batches of 10.
fn of_batches(flags: &[&str]) -> Outcome {
    let broker = Broker::start();
    let program = Program::subscriber().to(&broker).args(["-t", "t", "-d"]);
    let running = start(program.args(flags));
    publish_batches(&broker);
    running.finish(SOON).expect_code(0)
}

fn publish_batches(broker: &Broker) {
    Program::publisher()
        .to(broker)
        .args(["-t", "t", "-l", "--batch", "10", "--batch-wait", "1h"])
        .stdin(Cursor::new(lines(25).join("\n") + "\n"))
        .run(SOON)
        .expect_code(0);
}

#[test]
fn a_batch_is_taken_apart_in_every_way_of_output() {
    let all = lines(25);
    of_batches(&["-C", "25"]).expect_stdout(&(all.join("\n") + "\n"));
    let with_topic: Vec<_> = all.iter().map(|line| format!("t {line}\n")).collect();
    of_batches(&["-C", "25", "-v"]).expect_stdout(&with_topic.concat());
    let outcome = of_batches(&["-C", "25", "-J"]);
    for (line, object) in all.iter().zip(outcome.stdout.texts()) {
        let object: Value = serde_json::from_str(&object).unwrap();
        assert_eq!(object["payload"], **line, "{outcome}");
        assert_eq!(object["payloadlen"], line.len(), "{outcome}");
    }
    let format = of_batches(&["-C", "25", "-F", "%l %p"]);
    let lengths: Vec<String> = all.iter().map(|l| format!("{} {l}", l.len())).collect();
    format.expect_stdout(&(lengths.join("\n") + "\n"));
    let each = ["--exec", "sh", "-c", "cat; echo \" $MQTT_SEQ\""];
    let outcome = of_batches(&[&["-C", "25"][..], &each].concat());
    let numbered = all
        .iter()
        .zip(0..)
        .map(|(l, n)| format!("{l} {}\n", n / 10 + 1));
    outcome.expect_stdout(&numbered.collect::<String>());
}

#[test]
fn a_count_counts_readings_and_what_was_not_taken_whole_comes_again() {
    let broker = Broker::start();
    let session = |count| {
        let program = Program::subscriber().to(&broker).args(["-t", "t", "-d"]);
        let program = program.args(["--persistent", "--client-id", "keeper"]);
        program.args(["-C", count, "--summary"])
    };
    let running = start(session("13"));
    publish_batches(&broker);
    let outcome = running.finish(SOON).expect_code(0);
    let all = lines(25);
    assert_eq!(outcome.stdout.texts()[..13], all[..13], "{outcome}");
    assert_eq!(outcome.stdout.count(), 14, "{outcome}");
    assert_eq!(summary(&outcome)["received"], 13, "{outcome}");
    let outcome = session("15").run(SOON).expect_code(0);
    assert_eq!(outcome.stdout.texts()[..15], all[10..], "{outcome}");
}

#[test]
fn nothing_of_a_message_that_is_not_wanted_is_acknowledged() {
    let broker = ScriptedBroker::script()
        .after_subscribe("t", "t", b"1")
        .after_subscribe("t", "t", b"2")
        .after_subscribe("t", "t", b"3")
        .tls();
    let program = Program::subscriber().at_port(broker.port());
    let outcome = program
        .args(["-t", "t", "-C", "2"])
        .run(SOON)
        .expect_code(0);
    assert!(outcome.elapsed < Duration::from_secs(3), "{outcome}");
    broker.wait(SOON, |events| {
        matches!(events.last(), Some(crate::harness::scripted::Event::End))
    });
    assert_eq!(acknowledged(&broker.events()), [1, 2], "{outcome}");
}
