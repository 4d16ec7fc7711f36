//! A disk that fails to sync, or may not be written.

use std::{io::Cursor, path::Path};

use super::{
    Listener, accepted,
    full_disk::{line, lines},
};
use crate::harness::{
    Broker, QueueFile, SOON, free_port,
    namespace::{MountNamespace, skipped},
    queue_file::publisher_on,
    strace::{Fault, Strace},
    temp_dir,
};

/// Syncs of SQLite's files, and those of ours and of directories.
const SYNCS: [&str; 2] = ["fdatasync", "fsync"];

/// Syncs that fail.
fn failing(call: &'static str, nth: usize) -> Fault {
    Fault {
        call,
        what: "error=EIO",
        nth,
    }
}

/// What comes after the sync that failed; none if there was none.
fn after_failure(strace: &mut Strace) -> Option<Vec<String>> {
    let mut calls = strace.calls();
    let at = calls.iter().position(|call| is_failure(call))?;
    Some(calls.split_off(at + 1))
}

fn is_failure(call: &str) -> bool {
    call.contains("(INJECTED)")
}

#[test]
fn a_sync_that_fails_while_the_file_is_made_is_named_and_nothing_is_accepted() {
    let (mut of_files, mut of_directory, mut harmless) = (0, 0, 0);
    let mut calls = SYNCS.into_iter();
    let (mut call, mut nth) = (calls.next(), 0);
    while let Some(failing_call) = call {
        nth += 1;
        let queue = QueueFile::new();
        let (mut strace, words) = Strace::on_main_thread(failing(failing_call, nth));
        let outcome = queue
            .publisher()
            .at_port(free_port())
            .args(["-m", "x", "--flush-timeout", "0.05"])
            .under(words)
            .run(SOON);
        let traced = strace.calls();
        let Some(failure) = traced.iter().find(|call| is_failure(call)) else {
            outcome.expect_code(75);
            (call, nth) = (calls.next(), 0);
            continue;
        };
        let of_file = failure.contains("queue.db");
        if outcome.code == Some(75) && !of_file {
            // SQLite syncs directories as well and passes over errors. We have done so ourselves.
            harmless += 1;
            continue;
        }
        *(if of_file {
            &mut of_files
        } else {
            &mut of_directory
        }) += 1;
        assert_eq!(accepted(&outcome.stdout.texts()), 0, "{outcome}");
        let outcome = outcome.expect_stderr("queue.db: the queue cannot be");
        assert!(matches!(outcome.code, Some(73 | 74)), "{outcome}");
        // What is half made is no queue, and in nobody's way.
        queue.add("x\n");
        assert_eq!(queue.status()["waiting"], 1);
    }
    assert!(of_files > 5, "{of_files}");
    // After the rename, and once the log is there.
    assert_eq!(of_directory, 2);
    assert!(harmless <= 4, "{harmless}");
}

#[test]
fn a_sync_that_fails_is_the_end_and_is_never_repeated() {
    let broker = Broker::start();
    let listener = Listener::start(&broker);
    let mut expected = Vec::new();
    let mut failures = 0;
    for nth in 1.. {
        let queue = QueueFile::new();
        let payload = |n: usize| format!("{nth}.{n}");
        queue.add(&(payload(1) + "\n"));
        let mut running = queue
            .publisher()
            .at_port(free_port())
            .args(["-l", "--flush-timeout", "0.05"])
            .stdin_pipe()
            .start();
        let mut strace = Strace::on_thread(&running, "store", failing(SYNCS[0], nth));
        for n in 2..=4 {
            // It may have ended.
            let _ = running.try_send(payload(n) + "\n");
            running.stdout.wait_count(n - 1, SOON);
        }
        running.close_stdin();
        let outcome = running.finish(SOON);
        let count = accepted(&outcome.stdout.texts());
        expected.extend((1..=count + 1).map(payload));
        if let Some(later) = after_failure(&mut strace) {
            failures += 1;
            let outcome = outcome
                .expect_code(74)
                .expect_stderr("the queue cannot be written");
            assert!(
                later.iter().all(|call| !call.contains("sync(")),
                "{later:?}\n{outcome}"
            );
            queue.drain(&broker);
            listener.wait_for(&expected);
        } else {
            outcome.expect_code(75);
            break;
        }
    }
    assert!(failures > 4, "only {failures} syncs");
}

#[test]
fn a_sync_that_fails_while_the_log_is_emptied_is_the_end_too() {
    // Much is written, so that the log is copied into the file in the middle of the run; at
    // which sync is a matter of luck.
    let count = 12_000;
    for nth in 4..100 {
        let queue = QueueFile::with("1\n");
        let publisher = queue.publisher().at_port(free_port());
        let mut running = publisher
            .args(["-l", "--flush-timeout", "0.05"])
            .stdin_pipe()
            .start();
        let mut strace = Strace::on_thread(&running, "store", failing(SYNCS[0], nth));
        for first in (1..=count).step_by(100) {
            let lines: Vec<_> = (first..first + 100).map(line).collect();
            let _ = running.try_send(lines.join("\n") + "\n");
        }
        running.close_stdin();
        let outcome = running.finish(SOON * 3).expect_code(74);
        let mut calls = strace.calls();
        calls.retain(|call| call.contains("sync("));
        let last = calls.last().expect("it did sync");
        assert!(is_failure(last), "synced again: {calls:?}\n{outcome}");
        if last.contains("queue.db>") {
            return;
        }
    }
    panic!("the log is never copied into the file");
}

#[test]
fn a_directory_that_cannot_be_written_is_named_and_nothing_is_taken() {
    let dir = temp_dir();
    let Some(namespace) = MountNamespace::with_tmpfs(dir.path(), "ro,size=1m") else {
        return skipped(
            "a read-only directory",
            "no file system can be mounted here",
        );
    };
    let file = dir.path().join("queue.db");
    publisher_on(&file)
        .at_port(free_port())
        .args(["-m", "x"])
        .under(namespace.enter())
        .run(SOON)
        .expect_fault(
            73,
            &[
                "queue.db: the queue",
                "the directory must exist and be writable",
            ],
        )
        .expect_stdout("");
    publisher_on(Path::new("/nonexistent/queue.db"))
        .at_port(free_port())
        .args(["-m", "x"])
        .run(SOON)
        .expect_fault(73, &["/nonexistent/queue.db", "the directory must exist"]);
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_no_sudden_death() {
    let queue = QueueFile::new();
    let input = (1..=3_000).map(line).collect::<Vec<_>>().join("\n");
    let outcome = queue
        .publisher()
        .at_port(free_port())
        .args(["-l", "--flush-timeout", "0.1"])
        .under(["prlimit", "--fsize=500000", "--"])
        .stdin(Cursor::new(input))
        .run(SOON)
        .expect_code(74)
        .expect_stderr("queue.db: the queue cannot be written");
    let count = accepted(&outcome.stdout.texts());
    let broker = Broker::start();
    let listener = Listener::start(&broker);
    queue.drain(&broker);
    listener.wait_for(&lines(1..=count as u64));
}
