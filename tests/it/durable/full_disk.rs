//! A disk that is full, and has space again.

use std::{fs, io::Cursor, path::PathBuf, time::Duration};

use tempfile::TempDir;

use nix::sys::signal::Signal;

use super::{Listener, accepted, receipts};
use crate::harness::{
    Broker, Program, SOON, free_port,
    namespace::{MountNamespace, skipped},
    queue_file::publisher_on,
    running::Running,
    temp_dir, wait_until,
};

/// A queue on a small file system in memory, with a ballast that can be thrown off.
struct SmallDisk {
    namespace: MountNamespace,
    dir: TempDir,
}

impl SmallDisk {
    /// None, and a word about it, where there are no mounts to be had.
    fn new(test: &str) -> Option<Self> {
        let dir = temp_dir();
        let namespace = MountNamespace::with_tmpfs(dir.path(), "size=2m");
        if namespace.is_none() {
            skipped(test, "no file system can be mounted here");
        }
        let disk = Self {
            namespace: namespace?,
            dir,
        };
        fs::write(disk.ballast(), vec![0; 1_300 << 10]).unwrap();
        Some(disk)
    }

    fn ballast(&self) -> PathBuf {
        self.namespace
            .seen_from_here(&self.dir.path().join("ballast"))
    }

    /// There is space again.
    fn throw_off_ballast(&self) {
        fs::remove_file(self.ballast()).unwrap();
    }

    /// A publisher on the queue there.
    fn publisher(&self) -> Program {
        publisher_on(&self.dir.path().join("queue.db")).under(self.namespace.enter())
    }

    /// Sends what is in the queue to a broker: these lines, in order, and no others.
    fn expect_in_it(&self, lines: &[String]) {
        let broker = Broker::start();
        let listener = Listener::start(&broker);
        let publisher = self.publisher().to(&broker).arg("-l");
        let outcome = publisher.run(SOON).expect_code(0);
        assert_eq!(listener.wait_for(lines).first, lines, "{outcome}");
    }

    /// One that is fed by hand, has no broker, and goes on until the disk is full and stays so;
    /// and how many messages it was given.
    fn filled_by(&self, more: &[&str]) -> (Running, usize) {
        let publisher = self.publisher().at_port(free_port());
        let publisher = publisher.args(["-l", "--flush-timeout", "0.2", "--stop-timeout", "1"]);
        let mut running = publisher.args(more).stdin_pipe().start();
        let full = |line: &str| line.contains("nothing can be stored until there is space");
        let mut sent = 0;
        while running
            .stderr
            .wait(Duration::from_millis(50), full)
            .is_none()
        {
            assert!(sent < 2_000, "the disk is never full\n{running}");
            for _ in 0..50 {
                sent += 1;
                running.send(line(sent) + "\n");
            }
        }
        // More than fits once the log has been emptied.
        for _ in 0..500 {
            sent += 1;
            running.send(line(sent) + "\n");
        }
        while running
            .stdout
            .wait_count(running.stdout.count() + 1, Duration::from_secs(2))
        {}
        (running, sent)
    }
}

/// The nth message: 1,000 bytes.
pub(super) fn line(n: usize) -> String {
    format!("{n:01000}")
}

pub(super) fn lines(numbers: impl Iterator<Item = u64>) -> Vec<String> {
    numbers.map(|n| line(usize::try_from(n).unwrap())).collect()
}

#[test]
fn a_full_disk_makes_lines_wait_until_there_is_space_again() {
    let Some(disk) = SmallDisk::new("a full disk, block") else {
        return;
    };
    let (mut running, sent) = disk.filled_by(&[]);
    let before = accepted(&running.stdout.texts());
    assert!(before < sent, "{running}");
    let more = running
        .stdout
        .wait_count(before + 1, Duration::from_secs(2));
    assert!(!more, "nothing more fits\n{running}");
    disk.throw_off_ballast();
    // Without any other event: what was refused is tried again automatically.
    let last = format!("accepted {sent}");
    running.stdout_line(SOON, |line| line == last);
    running.stderr_line(SOON, |line| {
        line.contains("there is space on the disk again")
    });
    running.send(line(sent + 1) + "\n");
    let last = format!("accepted {}", sent + 1);
    running.stdout_line(SOON, |line| line == last);
    running.close_stdin();
    running.finish(SOON).expect_code(75);

    let all = lines(1..=sent as u64 + 1);
    disk.expect_in_it(&all);
}

#[test]
fn on_a_full_disk_what_is_new_is_dropped_if_it_may_be_and_taken_again_later() {
    let Some(disk) = SmallDisk::new("a full disk, newest") else {
        return;
    };
    let (mut running, sent) = disk.filled_by(&["--drop-behavior", "newest"]);
    let dropped =
        |line: &str| line.starts_with("dropped ") && line.ends_with(" newest for a full disk");
    running.stdout_line(SOON, dropped);
    disk.throw_off_ballast();
    let mut n = sent;
    let taken_again = loop {
        n += 1;
        assert!(n < sent + 100, "nothing is taken any more\n{running}");
        running.send(line(n) + "\n");
        let accepted = format!("accepted {n}");
        let accepted = running
            .stdout
            .wait(Duration::from_millis(100), |line| line == accepted);
        if accepted.is_some() {
            break n;
        }
    };
    running.close_stdin();
    let outcome = running.finish(SOON).expect_code(75);
    let lines_out = outcome.stdout.texts();
    let (kept, lost) = (
        receipts(&lines_out, "accepted "),
        receipts(&lines_out, "dropped "),
    );
    assert_eq!(
        kept.len() + lost.len(),
        taken_again,
        "each has one end\n{outcome}"
    );

    let kept = lines(kept.into_iter());
    disk.expect_in_it(&kept);
}

#[test]
fn on_a_full_disk_the_oldest_make_room_if_they_may() {
    let Some(disk) = SmallDisk::new("a full disk, oldest") else {
        return;
    };
    let (mut running, sent) = disk.filled_by(&["--drop-behavior", "oldest"]);
    for n in sent + 1..=sent + 20 {
        running.send(line(n) + "\n");
        let printed = |line: &str| {
            let mut words = line.split(' ').skip(1);
            words.next().is_some_and(|seq| seq == n.to_string())
        };
        running.stdout_line(SOON, printed);
    }
    running.close_stdin();
    let outcome = running.finish(SOON * 4);
    let out = outcome.stdout.texts();
    let (all, gone) = (receipts(&out, "accepted "), receipts(&out, "dropped "));
    let oldest = |line: &String| line.contains("oldest on a full disk");
    assert!(out.iter().any(oldest), "{outcome}");
    assert!(
        all.contains(&(sent as u64 + 20)),
        "the newest is in\n{outcome}"
    );

    let kept = all.into_iter().filter(|seq| !gone.contains(seq));
    let kept = lines(kept);
    // A burst does not empty the queue.
    assert!(kept.len() > 100, "{} kept\n{outcome}", kept.len());
    disk.expect_in_it(&kept);
}

#[test]
fn a_reading_for_which_there_is_no_space_is_not_accepted_and_the_exit_code_says_so() {
    let Some(disk) = SmallDisk::new("a full disk, one message") else {
        return;
    };
    let (running, _) = disk.filled_by(&[]);
    drop(running);
    let big = "x".repeat(200_000);
    let outcome = disk
        .publisher()
        .at_port(free_port())
        .args(["-s", "--flush-timeout", "0.3"])
        .stdin(Cursor::new(big))
        .run(SOON)
        .expect_code(74)
        .expect_stderr("free some");
    assert!(outcome.elapsed < Duration::from_secs(3), "{outcome}");
    assert_eq!(accepted(&outcome.stdout.texts()), 0, "{outcome}");
}

#[test]
fn what_waits_drains_from_a_full_disk() {
    let Some(disk) = SmallDisk::new("a full disk, draining") else {
        return;
    };
    let (mut running, _) = disk.filled_by(&[]);
    running.close_stdin();
    let outcome = running.finish(SOON * 2);
    let count = accepted(&outcome.stdout.texts());
    assert!(count > 50, "{outcome}");
    let all = lines(1..=count as u64);
    disk.expect_in_it(&all);
}

#[test]
fn deleting_does_not_wait_for_what_cannot_be_inserted() {
    let Some(disk) = SmallDisk::new("a full disk, deleting") else {
        return;
    };
    // Lines wait for space, and stay; then there is a broker.
    let (running, sent) = disk.filled_by(&[]);
    let kept = accepted(&running.stdout.texts());
    assert!(kept < sent, "{running}");
    running.finish_by(Signal::SIGKILL, SOON);
    let broker = Broker::builder().line("max_inflight_messages 20").start();
    let listener = Listener::start(&broker);
    let mut running = disk.publisher().to(&broker).arg("-l").stdin_pipe().start();
    running.send("x".repeat(400_000) + "\n");
    let last = format!("delivered {kept}");
    running.stdout_line(SOON, |line| line == last);
    running.finish_by(Signal::SIGKILL, SOON);
    // What a crash repeats is a window, however full the disk was.
    disk.publisher()
        .to(&broker)
        .arg("-l")
        .run(SOON)
        .expect_code(0);
    let all = lines(1..=kept as u64);
    let repeats = listener.wait_for(&all).repeats;
    assert!(repeats <= 20, "{repeats} repeats");
}

#[test]
fn space_that_the_queue_has_in_itself_is_used_before_the_disk_s() {
    let Some(disk) = SmallDisk::new("a full disk, free pages") else {
        return;
    };
    let port = free_port();
    let publisher = disk
        .publisher()
        .at_port(port)
        .args(["-l", "--base-backoff", "0.2"]);
    let publisher = publisher.args(["--max-backoff", "0.2", "--drop-behavior", "newest"]);
    let mut running = publisher.stdin_pipe().start();
    let full = |line: &str| line.contains("nothing can be stored until there is space");
    let mut sent = 0;
    while running
        .stderr
        .wait(Duration::from_millis(20), full)
        .is_none()
    {
        sent += 1;
        running.send(line(sent) + "\n");
    }
    // It drains, and the broker goes away again: the disk is as full as before.
    let mut broker = Broker::builder().port(port).start();
    let delivered = |line: &str| line.starts_with("delivered ");
    let drained = || {
        running
            .stdout
            .texts()
            .iter()
            .filter(|line| delivered(line))
            .count()
    };
    assert!(wait_until(SOON, || drained() + 60 > sent), "{running}");
    broker.stop();
    let before = running.stdout.texts();
    for n in 1..=60 {
        running.send(line(sent + n) + "\n");
        let printed = before.len() + n;
        running
            .stdout
            .wait_count(printed, Duration::from_millis(300));
    }
    running.stdout.wait_count(before.len() + 60, SOON);
    let new = running.stdout.texts().split_off(before.len());
    assert_eq!(receipts(&new, "dropped "), [0; 0], "{running}");
}
