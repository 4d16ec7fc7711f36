//! A file that is not what was written: cut short, bits flipped, something else. Never is a
//! wrong payload sent, never does a run begin from empty in its place, never does exit code 0
//! hide that something is missing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::sys::signal::Signal;

use crate::harness::queue_file::publisher_on;
use crate::harness::running::Outcome;
use crate::harness::{Broker, QueueFile, SOON, ScriptedBroker, free_port, temp_dir, times};

/// Messages in the files that are to be damaged.
const COUNT: usize = 40;

fn payload(n: usize) -> String {
    format!("message {n:03} of forty that wait")
}

/// A file as a run left it that ended in order.
fn clean() -> QueueFile {
    let lines: Vec<_> = (1..=COUNT).map(payload).collect();
    QueueFile::with(&lines.join("\n"))
}

/// One as a crash left it: each message a commit in the log.
fn crashed() -> QueueFile {
    let queue = QueueFile::new();
    let publisher = queue.publisher().at_port(free_port());
    let mut running = publisher.arg("-l").stdin_pipe().start();
    for n in 1..=COUNT {
        running.send(payload(n) + "\n");
        running.stdout_line(SOON, |line| line == format!("accepted {n}"));
    }
    running.finish_by(Signal::SIGKILL, SOON);
    fs::remove_file(queue.beside("-shm")).unwrap();
    queue
}

/// What came of draining a file.
struct Drained {
    outcome: Outcome,
    /// Numbers of the messages that arrived.
    arrived: Vec<u64>,
}

/// Drains it, and checks what arrives against what was written.
fn drain(file: &Path, broker: &ScriptedBroker) -> Drained {
    let before = broker.publishes().len();
    let outcome = publisher_on(file)
        .at_plain_port(broker.port())
        .args(["-l", "--flush-timeout", "8"])
        .run(SOON);
    let publishes = broker.publishes().split_off(before);
    let mut arrived = Vec::new();
    for publish in publishes {
        let (_, seq, _) = publish.seq().expect("a number");
        let index = usize::try_from(seq).unwrap();
        assert_eq!(
            (publish.topic.as_str(), publish.text()),
            ("t", payload(index)),
            "{outcome}"
        );
        arrived.push(seq);
    }
    assert!(arrived.len() <= COUNT, "sent over and over\n{outcome}");
    Drained { outcome, arrived }
}

/// A copy of a queue's files, to be damaged.
struct Copy {
    dir: tempfile::TempDir,
}

impl Copy {
    fn of(queue: &QueueFile) -> Self {
        let dir = temp_dir();
        for suffix in ["", "-wal"] {
            let from = queue.beside(suffix);
            if from.exists() {
                fs::copy(&from, dir.path().join(format!("queue.db{suffix}"))).unwrap();
            }
        }
        Self { dir }
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("queue.db")
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        self.dir.path().join(format!("queue.db{suffix}"))
    }
}

/// Exit code 0 means that everything is there; any other, that something was found.
fn check(drained: &Drained, missing_allowed: usize, what: &str) {
    let Drained { outcome, arrived } = drained;
    match outcome.code {
        Some(0) => assert!(
            arrived.len() + missing_allowed >= COUNT,
            "{what}: {} of {COUNT} arrived, and nothing is said\n{outcome}",
            arrived.len()
        ),
        Some(65 | 73 | 74) => {}
        _ => panic!("{what}: an exit code that says nothing of damage\n{outcome}"),
    }
}

/// Flips bits of one file of a queue, one at a time; gives how often it was found out.
fn flip(queue: &QueueFile, suffix: &str, missing_allowed: usize) -> usize {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let broker = ScriptedBroker::script().plain();
    let mut found = 0;
    let bytes = fs::read(queue.beside(suffix)).unwrap();
    // Where something was written; most of a page is empty.
    let used: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    for _ in 0..times("IOT_TEST_FLIPS", 150) {
        let copy = Copy::of(queue);
        let (at, bit) = (used[random.usize(..used.len())], random.u32(..8));
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << bit;
        fs::write(copy.beside(suffix), damaged).unwrap();
        let drained = drain(&copy.file(), &broker);
        check(
            &drained,
            missing_allowed,
            &format!("bit {bit} of byte {at} of queue.db{suffix}"),
        );
        found += usize::from(drained.outcome.code != Some(0));
    }
    found
}

#[test]
fn a_flipped_bit_is_found_or_does_no_harm() {
    let found = flip(&clean(), "", 0);
    assert!(found > 50, "only {found} were found");
}

#[test]
fn a_flipped_bit_in_the_log_is_found_or_costs_no_more_than_the_last_commits() {
    // Behind a bit in the last commits there is what a crash in the middle of a commit leaves.
    let found = flip(&crashed(), "-wal", 2);
    assert!(found > 100, "only {found} were found");
}

#[test]
fn a_file_that_was_cut_short_is_found_out() {
    let queue = clean();
    let broker = ScriptedBroker::script().plain();
    let length = fs::metadata(queue.path()).unwrap().len();
    let cuts = (0..length).step_by(1_711).chain((0..length).step_by(1_024));
    for cut in cuts {
        let copy = Copy::of(&queue);
        let file = fs::OpenOptions::new()
            .write(true)
            .open(copy.file())
            .unwrap();
        file.set_len(cut).unwrap();
        let drained = drain(&copy.file(), &broker);
        drained.outcome.expect_code(73).expect_stderr("damaged");
    }
}

#[test]
fn messages_that_are_damaged_go_to_the_dead_letters_and_the_rest_is_sent() {
    let queue = clean();
    let mut bytes = fs::read(queue.path()).unwrap();
    let needle = payload(7);
    // SQLite leaves copies where it has moved rows.
    let matches = bytes.windows(needle.len()).enumerate();
    let matches = matches.filter(|(_, bytes)| *bytes == needle.as_bytes());
    let positions: Vec<_> = matches.map(|(at, _)| at).collect();
    for at in positions {
        bytes[at + 10] ^= 1;
    }
    fs::write(queue.path(), bytes).unwrap();
    let broker = ScriptedBroker::script().plain();
    let drained = drain(&queue.path(), &broker);
    assert_eq!(drained.arrived.len(), COUNT - 1);
    assert!(!drained.arrived.contains(&7));
    drained
        .outcome
        .expect_code(65)
        .expect_stderr("1 messages in the queue are damaged");
    let list = queue.command(&["list", "--dead"]).stdout.text();
    assert_eq!(
        list, "",
        "its checksum does not fit: it is not shown as a message"
    );
    assert_eq!(queue.status()["dead"], 1);
}

#[test]
fn export_finds_what_lies_behind_a_page_that_cannot_be_read() {
    let lines: Vec<_> = (1..=300).map(|n| format!("{n:0100}")).collect();
    let queue = QueueFile::with(&lines.join("\n"));
    let bytes = fs::read(queue.path()).unwrap();
    // The leaf with the hundredth message is gone.
    let needle = lines[99].as_bytes();
    let at = bytes
        .windows(needle.len())
        .position(|w| w == needle)
        .unwrap();
    let page = at / 1_024 * 1_024;
    let mut damaged = bytes.clone();
    damaged[page..page + 1_024].fill(0);
    fs::write(queue.path(), damaged).unwrap();
    let export = queue.command(&["export"]).expect_code(74);
    let saved = export.stdout.text();
    let count = saved.lines().count();
    assert!((220..299).contains(&count), "{count} saved");
    assert!(
        saved.contains(&lines[0]) && saved.contains(&lines[299]),
        "{saved}"
    );
    export.expect_stderr("what could be read is written");
}

#[test]
fn a_damaged_log_stays_as_it_is_until_purge_moves_it_aside() {
    let queue = crashed();
    let mut log = fs::read(queue.beside("-wal")).unwrap();
    let middle = log.len() / 2;
    log[middle] ^= 0x10;
    fs::write(queue.beside("-wal"), &log).unwrap();
    for _ in 0..2 {
        queue
            .publisher()
            .at_port(free_port())
            .args(["-m", "x"])
            .run(SOON)
            .expect_fault(
                73,
                &[
                    "queue.db: the queue is damaged",
                    "commits in its log",
                    "purge",
                ],
            );
        queue.command(&["status"]).expect_fault(73, &["damaged"]);
        assert!(
            fs::read(queue.beside("-wal")).unwrap() == log,
            "nobody touched it"
        );
    }
    let saved = queue.command(&["export"]).expect_code(73).stdout.text();
    assert!(saved.lines().count() > COUNT / 4, "{saved}");
    let purged = queue.command(&["purge"]).expect_code(0).stdout.text();
    assert!(purged.contains("queue.db.damaged-20"), "{purged}");
    assert!(!queue.path().exists() && !queue.beside("-wal").exists());
    // What was saved can be published, and a new queue begins.
    let broker = Broker::start();
    queue.drain(&broker);
}

#[test]
fn books_that_lie_are_damage_that_purge_moves_aside() {
    for change in [
        // A number that goes back would give two messages one name.
        "UPDATE books SET next_seq = 1",
        "UPDATE books SET waiting = waiting - 1",
        "UPDATE books SET delivered = delivered + 1",
        // With the right checksum beside the books, but without what they count.
        "DELETE FROM queue",
        "UPDATE books SET last_row = last_row + 1",
        // A row with a number that the next message would get.
        "UPDATE queue SET id = id + 1 WHERE id = (SELECT max(id) FROM queue)",
    ] {
        let queue = clean();
        let connection = rusqlite::Connection::open(queue.path()).unwrap();
        connection.execute_batch(change).unwrap();
        connection.close().unwrap();
        let broker = ScriptedBroker::script().plain();
        let drained = drain(&queue.path(), &broker);
        assert_eq!(drained.arrived, [0; 0], "{change}");
        let outcome = drained.outcome.expect_stderr("is damaged");
        assert!(matches!(outcome.code, Some(73 | 74)), "{change}\n{outcome}");
        let purged = queue.command(&["purge"]).expect_code(0).stdout.text();
        assert!(purged.contains("queue.db.damaged-20"), "{change}: {purged}");
    }
}

#[test]
fn a_row_in_the_place_of_the_next_one_is_damage_that_ends_the_run() {
    let queue = QueueFile::new();
    let publisher = queue.publisher().at_port(free_port());
    let mut running = publisher.arg("-l").stdin_pipe().start();
    running.send("1\n");
    running.stdout_line(SOON, |line| line == "accepted 1");
    let connection = rusqlite::Connection::open(queue.path()).unwrap();
    let change = "UPDATE queue SET id = id + 1";
    assert_eq!(connection.execute(change, []), Ok(1));
    running.send("2\n");
    let outcome = running.finish(SOON);
    let outcome = outcome.expect_code(74);
    let lines = outcome.stderr.texts();
    let damage: Vec<_> = lines
        .iter()
        .filter(|line| line.contains("damaged"))
        .collect();
    assert_eq!(damage.len(), 1, "{outcome}");
    assert!(damage[0].contains("UNIQUE"), "{outcome}");
    connection.close().unwrap();
    let next = queue.publisher().at_port(free_port()).args(["-m", "x"]);
    let cause = "it has a row 2, and the last one that was written is 1";
    next.run(SOON).expect_fault(73, &["damaged", cause]);
    let saved = queue.command(&["export"]).expect_code(0);
    assert_eq!(saved.stdout.count(), 1);
}

#[test]
fn what_is_no_queue_is_not_touched() {
    let text = "no database at all\n".repeat(100);
    let cases: [(&[u8], &str); 3] = [
        (b"", "the queue is damaged: the file is empty"),
        (
            text.as_bytes(),
            "the file is not a queue; name another file",
        ),
        (b"SQLite", "the file is not a queue; name another file"),
    ];
    for (content, cause) in cases {
        let queue = QueueFile::new();
        fs::write(queue.path(), content).unwrap();
        queue
            .publisher()
            .at_port(free_port())
            .args(["-m", "x"])
            .run(SOON)
            .expect_fault(73, &["queue.db: the queue", cause])
            .expect_stdout("");
        assert_eq!(fs::read(queue.path()).unwrap(), content);
    }
    let queue = QueueFile::new();
    let other = rusqlite::Connection::open(queue.path()).unwrap();
    other.execute_batch("CREATE TABLE queue (x)").unwrap();
    other.close().unwrap();
    queue
        .publisher()
        .at_port(free_port())
        .args(["-m", "x"])
        .run(SOON)
        .expect_fault(73, &["queue.db", "something else", "another file"]);
}

#[test]
fn a_log_without_its_file_is_not_given_to_a_new_one() {
    let queue = crashed();
    let aside = queue.beside(".aside");
    fs::rename(queue.path(), &aside).unwrap();
    queue
        .publisher()
        .at_port(free_port())
        .args(["-m", "x"])
        .run(SOON)
        .expect_fault(73, &["queue.db", "its log is", "put the queue back"]);
    fs::rename(&aside, queue.path()).unwrap();
    let broker = ScriptedBroker::script().plain();
    let drained = drain(&queue.path(), &broker);
    assert_eq!(drained.arrived.len(), COUNT);
    drained.outcome.expect_code(0);
    assert!(drained.arrived.is_sorted());
}
