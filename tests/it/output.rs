//! `--output`: a file that is appended to, rotated, moved away under the writer, full, torn;
//! and SIGHUP.

use std::{
    fs::{self, File, OpenOptions},
    io::{BufRead, BufReader, Cursor, Write},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use nix::{
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};

use crate::harness::{
    Broker, Program, SOON, ScriptedBroker,
    namespace::{MountNamespace, skipped},
    running::{Outcome, Running},
    scripted::Event,
    seen::acknowledged,
    temp_dir, wait_until,
};

/// A subscriber to the topic `t` that writes to this file.
fn to_file(file: &Path) -> Program {
    Program::subscriber()
        .args(["-t", "t", "-d", "--output"])
        .arg(file)
}

/// The same, in a session that the broker keeps.
fn session_to_file(file: &Path) -> Program {
    to_file(file).args(["--persistent", "--client-id", "keeper"])
}

/// Publishes these lines to `t`, a message each.
fn publish(broker: &Broker, lines: &[String]) {
    publisher(broker)
        .stdin(Cursor::new(lines.join("\n") + "\n"))
        .run(SOON)
        .expect_code(0);
}

fn publisher(broker: &Broker) -> Program {
    Program::publisher().to(broker).args(["-t", "t", "-l"])
}

fn numbers(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("message {n}")).collect()
}

/// Long lines: few of them fill a small disk.
fn long_numbers(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("{n:0200}")).collect()
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

/// `FILE.N`; `FILE` for 0.
fn numbered(file: &Path, number: usize) -> PathBuf {
    match number {
        0 => file.to_owned(),
        _ => PathBuf::from(format!("{}.{number}", file.display())),
    }
}

/// The lines of these files, one after the other; each file has whole ones only.
fn lines_of(files: impl IntoIterator<Item = PathBuf>) -> Vec<String> {
    let mut lines = Vec::new();
    for file in files {
        let text = read(&file);
        assert!(
            text.is_empty() || text.ends_with('\n'),
            "{} is cut",
            file.display()
        );
        lines.extend(text.lines().map(str::to_owned));
    }
    lines
}

/// Until the file has this line.
fn wait_line(running: &Running, file: &Path, line: &str) {
    let there = || read(file).lines().rev().any(|found| found == line);
    assert!(wait_until(SOON, there), "no {line:?}\n{running}");
}

/// One line on stderr with these parts, beside what `-d` says.
fn expect_one_line(outcome: &Outcome, parts: &[&str]) {
    let mut errors = outcome.stderr.texts();
    errors.retain(|line| !line.contains(" DEBUG ") && !line.contains(" INFO "));
    assert_eq!(errors.len(), 1, "{outcome}");
    for part in parts {
        assert!(errors[0].contains(part), "no {part:?}\n{outcome}");
    }
}

#[test]
fn it_is_appended_to_from_run_to_run() {
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("out");
    for round in ["one", "two"] {
        let running = to_file(&file).to(&broker).args(["-C", "2", "-v"]).start();
        running.wait_subscribed();
        publish(&broker, &[round.to_owned(), String::new()]);
        running.finish(SOON).expect_code(0).expect_stdout("");
    }
    assert_eq!(read(&file), "t one\nt \nt two\nt \n");
}

#[test]
fn every_message_is_in_one_of_the_rotated_files_once() {
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("out");
    let program = to_file(&file).to(&broker).args(["-C", "5000"]);
    let program = program.args(["--rotate-size", "4KiB", "--rotate-keep", "1000"]);
    let running = program.start();
    running.wait_subscribed();
    let lines = numbers(5_000);
    publish(&broker, &lines);
    running.finish(SOON).expect_code(0);
    let count = dir.path().read_dir().unwrap().count();
    assert!(count > 10, "{count} files");
    let files = || (0..count).rev().map(|n| numbered(&file, n));
    assert!(lines_of(files()) == lines, "not what was sent");
    for file in files() {
        let size = fs::metadata(&file).unwrap().len();
        assert!((1..=4 << 10).contains(&size), "{file:?}: {size}");
    }
}

#[test]
fn no_more_than_so_many_rotated_files_are_kept_and_those_are_the_latest() {
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("out");
    let program = to_file(&file).to(&broker).args(["-C", "5000"]);
    let program = program.args(["--rotate-size", "1KiB", "--rotate-keep", "2"]);
    let running = program.start();
    running.wait_subscribed();
    let lines = numbers(5_000);
    publish(&broker, &lines);
    running.finish(SOON).expect_code(0);
    assert_eq!(dir.path().read_dir().unwrap().count(), 3);
    let kept = lines_of([2, 1, 0].map(|n| numbered(&file, n)));
    assert!(kept.len() > 100 && lines.ends_with(&kept), "{kept:?}");
}

#[test]
fn a_file_moved_away_goes_on_in_a_new_one_after_hang_up_and_nothing_is_lost() {
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("out");
    let running = to_file(&file).to(&broker).args(["-C", "6000"]).start();
    running.wait_subscribed();
    let lines = numbers(6_000);
    let mut sender = publisher(&broker).stdin_pipe().start();
    for (number, part) in lines.chunks(200).enumerate() {
        sender.send(part.join("\n") + "\n");
        fs::rename(&file, numbered(&file, number + 1)).unwrap();
        running.signal(Signal::SIGHUP);
        let reopened = wait_until(SOON, || file.exists());
        assert!(reopened, "no new file\n{running}");
    }
    sender.close_stdin();
    sender.finish(SOON).expect_code(0);
    running.finish(SOON).expect_code(0);
    let files = (1..=30).chain([0]).map(|n| numbered(&file, n));
    let files: Vec<_> = files.collect();
    let filled = files.iter().filter(|file| !read(file).is_empty());
    assert!(filled.count() > 5, "they do not flow");
    assert!(lines_of(files) == lines, "not what was sent");
}

#[test]
fn a_file_that_is_removed_or_moved_away_is_made_anew_without_a_hang_up() {
    let broker = Broker::start();
    let dir = temp_dir();
    let (directory, aside) = (dir.path().join("output"), dir.path().join("aside"));
    fs::create_dir(&directory).unwrap();
    let file = directory.join("out");
    let running = to_file(&file).to(&broker).start();
    running.wait_subscribed();
    let lines = numbers(500);
    let part = |n: usize| &lines[n * 100..(n + 1) * 100];
    let expect = |n: usize| {
        publish(&broker, part(n));
        wait_line(&running, &file, part(n).last().unwrap());
        assert!(lines_of([file.clone()]) == part(n), "part {n}");
    };
    expect(0);
    fs::remove_file(&file).unwrap();
    expect(1);
    fs::rename(&file, directory.join("out.1")).unwrap();
    expect(2);
    fs::rename(&directory, &aside).unwrap();
    fs::create_dir(&directory).unwrap();
    expect(3);
    // logrotate's copytruncate.
    fs::write(&file, "").unwrap();
    expect(4);
    assert!(lines_of([aside.join("out.1")]) == part(1));
    assert!(lines_of([aside.join("out")]) == part(2));
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn nothing_that_comes_after_a_removal_is_lost_however_fast_it_comes() {
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("out");
    let running = to_file(&file).to(&broker).args(["-C", "6000"]).start();
    running.wait_subscribed();
    let lines = numbers(6_000);
    let mut sender = publisher(&broker).stdin_pipe().start();
    for part in lines.chunks(500) {
        let removed = fs::remove_file(&file);
        sender.send(part.join("\n") + "\n");
        assert!(removed.is_ok(), "{removed:?}\n{running}");
        // All that was sent since is there.
        wait_line(&running, &file, part.last().unwrap());
        assert!(lines_of([file.clone()]) == part);
    }
    sender.close_stdin();
    sender.finish(SOON).expect_code(0);
    running.finish(SOON).expect_code(0);
}

#[test]
fn a_file_that_cannot_be_made_anew_ends_the_run_and_nothing_is_acknowledged() {
    let broker = Broker::start();
    let dir = temp_dir();
    let (directory, aside) = (dir.path().join("output"), dir.path().join("aside"));
    fs::create_dir(&directory).unwrap();
    let file = directory.join("out");
    let running = session_to_file(&file).to(&broker).start();
    running.wait_subscribed();
    publish(&broker, &["before".to_owned()]);
    wait_line(&running, &file, "before");
    fs::rename(&directory, &aside).unwrap();
    publish(&broker, &["after".to_owned()]);
    let outcome = running.finish(SOON).expect_code(74);
    let name = file.display().to_string();
    let parts = [
        &*name,
        "removed or renamed",
        "No such file",
        "not acknowledged",
    ];
    expect_one_line(&outcome, &parts);
    fs::create_dir(&directory).unwrap();
    let program = session_to_file(&file).to(&broker).args(["-C", "1"]);
    program.run(SOON).expect_code(0);
    assert_eq!(read(&file), "after\n");
    assert_eq!(read(&aside.join("out")), "before\n");
}

#[test]
fn many_hang_ups_at_once_do_no_harm() {
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("out");
    let running = to_file(&file).to(&broker).args(["-C", "3000"]).start();
    running.wait_subscribed();
    let lines = numbers(3_000);
    let sender = publisher(&broker).stdin(Cursor::new(lines.join("\n") + "\n"));
    let sender = sender.start();
    let all = wait_until(SOON, || {
        for _ in 0..20 {
            running.signal(Signal::SIGHUP);
            thread::yield_now();
        }
        read(&file).lines().count() >= 3_000
    });
    assert!(all, "{} of 3000", read(&file).lines().count());
    sender.finish(SOON).expect_code(0);
    running.finish(SOON).expect_code(0);
    assert!(lines_of([file]) == lines, "not what was sent");
}

#[test]
fn a_directory_that_is_gone_at_a_hang_up_ends_the_run() {
    let broker = Broker::start();
    let dir = temp_dir();
    let (before, after) = (dir.path().join("before"), dir.path().join("after"));
    fs::create_dir(&before).unwrap();
    let file = before.join("out");
    let running = to_file(&file).to(&broker).start();
    running.wait_subscribed();
    publish(&broker, &["kept".to_owned()]);
    wait_line(&running, &file, "kept");
    fs::rename(&before, &after).unwrap();
    let outcome = running.finish_by(Signal::SIGHUP, SOON).expect_code(73);
    let name = file.display().to_string();
    expect_one_line(&outcome, &["--output", &name, "No such file"]);
    assert_eq!(read(&after.join("out")), "kept\n");
}

#[test]
fn a_file_that_cannot_be_opened_is_told_in_one_line() {
    let dir = temp_dir();
    let missing = dir.path().join("missing/out");
    for (file, why) in [(&*missing, "No such file"), (dir.path(), "Is a directory")] {
        let outcome = to_file(file).endpoint(1).run(SOON);
        let name = file.display().to_string();
        let outcome = outcome.expect_fault(73, &["--output", &name, why]);
        expect_one_line(&outcome, &[]);
    }
}

#[test]
fn a_file_without_permission_is_told_in_one_line() {
    let dir = temp_dir();
    let file = dir.path().join("out");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o500)).unwrap();
    let mut program = to_file(&file).endpoint(1);
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        let nobody = ["setpriv", "--reuid", "65534", "--clear-groups", "--"];
        let runs = Command::new(nobody[0])
            .args(&nobody[1..])
            .args([env!("CARGO_BIN_EXE_subscriber"), "--version"])
            .output();
        if !runs.is_ok_and(|output| output.status.success()) {
            return skipped("without_permission", "nobody may not run the program");
        }
        program = program.under(nobody);
    }
    let outcome = program.run(SOON);
    let outcome = outcome.expect_fault(73, &["--output", "Permission denied"]);
    expect_one_line(&outcome, &[]);
}

#[test]
fn a_device_that_is_full_is_an_io_error_and_nothing_is_acknowledged() {
    let broker = ScriptedBroker::script()
        .after_subscribe("t", "t", b"one")
        .after_subscribe("t", "t", b"two")
        .tls();
    let program = to_file(Path::new("/dev/full")).at_port(broker.port());
    let outcome = program.run(SOON).expect_code(74);
    expect_one_line(
        &outcome,
        &["/dev/full", "No space left", "not acknowledged"],
    );
    broker.wait(SOON, |events| matches!(events.last(), Some(Event::End)));
    assert!(acknowledged(&broker.events()).is_empty(), "{outcome}");
}

#[test]
fn a_disk_that_fills_up_costs_no_message_once_there_is_space_again() {
    let dir = temp_dir();
    let Some(disk) = MountNamespace::with_tmpfs(dir.path(), "size=512k") else {
        return skipped("a_disk_that_fills_up", "no file system can be mounted here");
    };
    let broker = Broker::start();
    let file = dir.path().join("out");
    let (seen, ballast) = (
        disk.seen_from_here(&file),
        disk.seen_from_here(&dir.path().join("ballast")),
    );
    fs::write(&ballast, vec![0; 300 << 10]).unwrap();
    let subscriber = || session_to_file(&file).under(disk.enter()).to(&broker);
    let running = subscriber().start();
    running.wait_subscribed();
    // About 400 KiB, to a place for 200.
    let lines = long_numbers(2_000);
    publish(&broker, &lines);
    let outcome = running.finish(SOON).expect_code(74);
    let name = file.display().to_string();
    expect_one_line(&outcome, &[&name, "No space left", "not acknowledged"]);
    let first = lines_of([seen.clone()]);
    assert!(lines.starts_with(&first), "{outcome}");
    assert!((100..1_500).contains(&first.len()), "{}", first.len());

    fs::remove_file(ballast).unwrap();
    let running = subscriber().start();
    wait_line(&running, &seen, lines.last().unwrap());
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    // What had been written was acknowledged, so it did not come again.
    let all = lines_of([seen]);
    let twice = all.len().saturating_sub(lines.len());
    assert!(
        all == lines,
        "lost, or {twice} twice, {} at first",
        first.len()
    );
}

/// Fills a disk of 64 KiB, on which somebody else does something to the file after its first
/// 100 lines; what is in it then.
fn filled_with_others(test: &str, meanwhile: impl FnOnce(&Path)) -> Option<String> {
    let dir = temp_dir();
    let Some(disk) = MountNamespace::with_tmpfs(dir.path(), "size=64k") else {
        skipped(test, "no file system can be mounted here");
        return None;
    };
    let broker = Broker::start();
    let file = dir.path().join("out");
    let seen = disk.seen_from_here(&file);
    let running = to_file(&file).under(disk.enter()).to(&broker).start();
    running.wait_subscribed();
    let lines = long_numbers(1_000);
    publish(&broker, &lines[..100]);
    wait_line(&running, &seen, &lines[99]);
    meanwhile(&seen);
    publish(&broker, &lines[100..]);
    running.finish(SOON).expect_code(74);
    Some(read(&seen))
}

#[test]
fn a_full_disk_costs_no_line_where_another_writer_has_added_some() {
    let theirs = "theirs\n".repeat(3_000);
    let text = filled_with_others("another_writer", |file| {
        let mut file = File::options().append(true).open(file).unwrap();
        file.write_all(theirs.as_bytes()).unwrap();
    });
    let Some(text) = text else { return };
    let both = long_numbers(100).join("\n") + "\n" + &theirs;
    assert!(text.starts_with(&both), "{} bytes are left", text.len());
    assert!(text.ends_with('\n'), "torn");
}

#[test]
fn a_full_disk_adds_nothing_to_a_file_that_somebody_has_emptied() {
    let text = filled_with_others("emptied", |file| fs::write(file, "").unwrap());
    let Some(text) = text else { return };
    assert!(text.is_empty() || text.ends_with('\n'), "torn");
    let lines = long_numbers(1_000);
    let found: Vec<_> = text.lines().collect();
    assert_eq!(found, lines[100..100 + found.len()]);
}

#[test]
fn a_torn_last_line_is_ended_before_anything_is_added() {
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("out");
    fs::write(&file, "whole\ntor").unwrap();
    let running = to_file(&file).to(&broker).args(["-C", "1"]).start();
    running.wait_subscribed();
    publish(&broker, &["new".to_owned()]);
    running.finish(SOON).expect_code(0);
    assert_eq!(read(&file), "whole\ntor\nnew\n");
}

#[test]
fn a_run_that_is_killed_again_and_again_loses_nothing() {
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("out");
    let lines = numbers(20_000);
    let subscriber = || session_to_file(&file).to(&broker);
    let running = subscriber().start();
    running.wait_subscribed();
    let sender = publisher(&broker).stdin(Cursor::new(lines.join("\n") + "\n"));
    let sender = sender.start();
    let mut running = running;
    for _ in 0..5 {
        let before = fs::metadata(&file).unwrap().len();
        let grown = || fs::metadata(&file).unwrap().len() > before + 5_000;
        assert!(wait_until(SOON, grown), "nothing comes\n{running}");
        running.signal(Signal::SIGKILL);
        drop(running);
        running = subscriber().start();
    }
    sender.finish(SOON).expect_code(0);
    wait_line(&running, &file, lines.last().unwrap());
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let mut found = lines_of([file]);
    found.sort();
    found.dedup();
    // A line that was torn came again in full.
    found.retain(|line| lines.binary_search(line).is_ok() || lines.contains(line));
    let mut sorted = lines;
    sorted.sort();
    assert!(found == sorted, "{} of {}", found.len(), sorted.len());
}

#[test]
fn a_named_pipe_is_written_to_as_long_as_somebody_reads() {
    let broker = Broker::start();
    let dir = temp_dir();
    let fifo = dir.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    // Before the program starts, which refuses a pipe that nobody reads. As a second writer it does
    // not wait for the program.
    let both_ends = OpenOptions::new().read(true).write(true).open(&fifo);
    let reader = File::open(&fifo).unwrap();
    let running = to_file(&fifo)
        .args(["--rotate-size", "1"])
        .to(&broker)
        .start();
    running.wait_subscribed();
    drop(both_ends);
    let mut reader = BufReader::new(reader);
    publish(&broker, &numbers(3));
    let mut next = || {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        line
    };
    assert_eq!(
        [next(), next(), next()].concat(),
        numbers(3).join("\n") + "\n"
    );
    running.signal(Signal::SIGHUP);
    publish(&broker, &["again".to_owned()]);
    assert_eq!(next(), "again\n");
    drop(reader);
    publish(&broker, &["unread".to_owned()]);
    let outcome = running.finish(SOON).expect_code(74);
    expect_one_line(&outcome, &[&fifo.display().to_string(), "Broken pipe"]);
    assert_eq!(dir.path().read_dir().unwrap().count(), 1, "rotated");
}

#[test]
fn a_hang_up_ends_a_run_that_writes_to_standard_output() {
    let broker = Broker::start();
    let program = Program::subscriber().to(&broker).args(["-t", "t", "-d"]);
    let running = program.start();
    running.wait_subscribed();
    let outcome = running.finish_by(Signal::SIGHUP, SOON).expect_code(0);
    assert!(outcome.elapsed < Duration::from_secs(3), "{outcome}");
}

#[test]
fn a_run_that_was_started_with_hang_ups_ignored_survives_them() {
    let broker = Broker::start();
    let program = Program::subscriber().to(&broker).args(["-t", "t", "-d"]);
    let running = program.under(["nohup"]).start();
    running.wait_subscribed();
    running.signal(Signal::SIGHUP);
    publish(&broker, &["still here".to_owned()]);
    running.stdout_line(SOON, |line| line == "still here");
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);

    let dir = temp_dir();
    let file = dir.path().join("out");
    let running = to_file(&file).to(&broker).under(["nohup"]).start();
    running.wait_subscribed();
    fs::remove_file(&file).unwrap();
    running.signal(Signal::SIGHUP);
    assert!(
        wait_until(SOON, || file.exists()),
        "not opened anew\n{running}"
    );
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}
