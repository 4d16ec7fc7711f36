//! Standard input, output and error as they come: closed, non-blocking and full, left by their reader, sockets,
//! terminals, devices. What commands inherit of them, and that they inherit nothing else.

use std::{
    fs::{self, File},
    io::{PipeReader, PipeWriter, Read, Write, pipe},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};

use crate::harness::lines::Lines;
use crate::harness::packet::Publish;
use crate::harness::running::Running;
use crate::harness::seen::acknowledged;
use crate::harness::{Broker, Program, SOON, ScriptedBroker, free_port, temp_dir, wait_until};

/// The size of a small pipe, in bytes.
const SMALL: usize = 4096;

fn set_non_blocking(fd: impl AsFd) {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL).unwrap());
    fcntl(&fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).unwrap();
}

/// A pipe that takes 4 KiB and whose writing end is not waited for by the system. The second writer is for the test: it
/// has to be dropped before the reader sees an end.
fn small_pipe() -> (PipeReader, PipeWriter, PipeWriter) {
    let (reader, writer) = pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(SMALL.try_into().unwrap())).unwrap();
    set_non_blocking(&writer);
    let ours = writer.try_clone().unwrap();
    (reader, writer, ours)
}

/// Whether nothing more can be written into the pipe.
fn is_full(writer: &PipeWriter) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut ready = [PollFd::new(writer.as_fd(), PollFlags::POLLOUT)];
    poll(&mut ready, PollTimeout::ZERO).unwrap() == 0
}

/// Everything that comes through the pipe, of which nothing is read before it has been full. For a program that
/// prints more than fits, and then ends.
fn read_once_full(reader: PipeReader, ours: PipeWriter) -> Lines {
    assert!(wait_until(SOON, || is_full(&ours)), "never full");
    // It has to wait, and to go on doing so.
    assert!(!wait_until(Duration::from_millis(200), || !is_full(&ours)));
    drop(ours);
    let lines = Lines::default();
    lines.collect(reader);
    lines
}

fn subscriber(broker: &ScriptedBroker) -> Program {
    Program::subscriber()
        .at_plain_port(broker.port())
        .args(["-t", "t"])
}

fn publisher(broker: &ScriptedBroker) -> Program {
    Program::publisher()
        .at_plain_port(broker.port())
        .args(["-t", "t"])
}

fn payloads(broker: &ScriptedBroker) -> Vec<String> {
    let publishes = broker.publishes();
    publishes.iter().map(Publish::text).collect()
}

fn numbers(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("reading {n}")).collect()
}

/// Sends each line to the topic `t`.
fn publish(broker: &Broker, lines: &[String]) {
    Program::publisher()
        .to(broker)
        .args(["-t", "t", "-l"])
        .stdin(std::io::Cursor::new(lines.join("\n")))
        .run(SOON)
        .expect_code(0);
}

#[test]
fn a_full_non_blocking_standard_output_is_waited_for() {
    let broker = Broker::start();
    let (reader, writer, ours) = small_pipe();
    let program = Program::subscriber().to(&broker).args(["-t", "t", "-d"]);
    let running = program.stdout(writer).start();
    running.wait_subscribed();
    let lines = numbers(2_000);
    publish(&broker, &lines);
    let got = read_once_full(reader, ours);
    let all = got.wait_count(lines.len(), SOON);
    assert!(all, "{} of {}\n{running}", got.count(), lines.len());
    assert!(got.texts() == lines, "not these, in order");
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn receipts_and_the_summary_wait_for_a_full_non_blocking_standard_output() {
    let broker = ScriptedBroker::script().plain();
    let (reader, writer, ours) = small_pipe();
    let lines = numbers(1_000).join("\n");
    let program = publisher(&broker).args(["-l", "--receipts", "--summary"]);
    let running = program
        .stdin(std::io::Cursor::new(lines))
        .stdout(writer)
        .start();
    let got = read_once_full(reader, ours);
    running.finish(SOON).expect_code(0);
    assert!(got.wait_end(SOON));
    let texts = got.texts();
    assert_eq!(texts.len(), 2_001, "accepted, delivered, summary");
    for n in 1..=1_000 {
        for what in ["accepted", "delivered"] {
            assert!(texts.contains(&format!("{what} {n}")), "{what} {n}");
        }
    }
    let summary: serde_json::Value = serde_json::from_str(texts.last().unwrap()).unwrap();
    assert_eq!(summary["delivered"], 1_000);
}

#[test]
fn texts_of_every_kind_are_whole_on_a_full_non_blocking_standard_output() {
    let dir = temp_dir();
    let queue = dir.path().join("queue");
    let program = Program::publisher().args(["--endpoint", "mqtt://localhost:1", "-t", "t"]);
    let program = program.args(["-l", "--flush-timeout", "0.5", "--queue"]);
    let program = program.arg(&queue);
    let program = program.stdin(std::io::Cursor::new(numbers(200).join("\n")));
    program.run(SOON).expect_code(75);
    let queue = queue.to_str().unwrap();
    for words in [
        &["man"][..],
        &["completions", "bash"],
        &["--help"],
        &["queue", "list", "--queue", queue],
        &["queue", "export", "--queue", queue],
    ] {
        let program = || Program::publisher().args(words);
        let expected = program().run(SOON).expect_code(0).stdout.text();
        assert!(expected.len() > SMALL, "{words:?}: {}", expected.len());
        let (reader, writer, ours) = small_pipe();
        let running = program().stdout(writer).start();
        let got = read_once_full(reader, ours);
        running.finish(SOON).expect_code(0);
        assert!(got.wait_end(SOON));
        assert!(got.text() == expected, "{words:?} is cut");
    }
}

#[test]
fn no_line_of_the_log_is_lost_or_cut_on_a_full_non_blocking_standard_error() {
    let (reader, writer, ours) = small_pipe();
    let program = Program::publisher().args(["--endpoint", "mqtt://localhost:1", "-t", "t"]);
    // All of them are too long, and after the first this is for the debug log.
    let program = program.args([
        "-l",
        "--queue-bytes",
        "4",
        "--flush-timeout",
        "0",
        "--debug",
    ]);
    let running = program
        .stdin(std::io::Cursor::new(numbers(1_000).join("\n")))
        .stderr(writer)
        .start();
    let got = read_once_full(reader, ours);
    running.finish(SOON);
    assert!(got.wait_end(SOON));
    let texts = got.texts();
    for n in 1..=1_000 {
        let what = format!(" message {n} is rejected: ");
        let found = texts.iter().filter(|line| line.contains(&what)).count();
        assert_eq!(found, 1, "{what}\n{}", got.text());
    }
    let stamped =
        |line: &&String| line.starts_with("20") && line.matches(" is rejected: ").count() <= 1;
    assert_eq!(texts.iter().filter(stamped).count(), texts.len());
}

#[test]
fn a_signal_ends_it_in_time_though_nobody_reads_standard_error() {
    let (_reader, writer, ours) = small_pipe();
    let program = Program::publisher().args(["--endpoint", "mqtt://localhost:1", "-t", "t"]);
    let program = program.args(["-l", "--queue-bytes", "4", "--stop-timeout", "1"]);
    let running = program
        .stdin(std::io::Cursor::new(numbers(1_000).join("\n")))
        .stderr(writer)
        .start();
    assert!(wait_until(SOON, || is_full(&ours)));
    let stopped = Instant::now();
    running.finish_by(Signal::SIGTERM, SOON);
    assert!(stopped.elapsed() < Duration::from_secs(4));
}

#[test]
fn a_non_blocking_standard_input_is_waited_for_whenever_it_became_so() {
    for (flag, early) in [("-l", true), ("-l", false), ("-s", true), ("-s", false)] {
        let broker = ScriptedBroker::script().plain();
        let (reader, mut writer) = pipe().unwrap();
        if early {
            set_non_blocking(&reader);
        }
        let theirs = reader.try_clone().unwrap();
        let mut running = publisher(&broker).arg(flag).stdin_given(theirs).start();
        let part = |from: usize| numbers(3_000)[from..from + 1_000].join("\n") + "\n";
        writer.write_all(part(0).as_bytes()).unwrap();
        if flag == "-l" {
            broker.wait_publishes(1_000, SOON);
        }
        set_non_blocking(&reader);
        for from in [1_000, 2_000] {
            let gone = wait_until(Duration::from_millis(300), || running.has_ended());
            assert!(!gone, "{running}");
            writer.write_all(part(from).as_bytes()).unwrap();
        }
        drop((writer, reader));
        running.finish(SOON).expect_code(0);
        let got = payloads(&broker).join("\n");
        assert!(got.trim_end() == numbers(3_000).join("\n"), "{flag}");
    }
}

#[test]
fn a_standard_output_that_is_closed_is_an_error_before_anything_is_done() {
    let broker = ScriptedBroker::script()
        .after_subscribe("t", "t", b"x")
        .plain();
    let programs = [
        subscriber(&broker),
        subscriber(&broker).arg("-J"),
        subscriber(&broker).args(["--output", "/dev/null", "--summary"]),
        publisher(&broker).args(["-m", "x", "--receipts"]),
        publisher(&broker).args(["-m", "x", "--verbose"]),
        publisher(&broker).args(["-m", "x", "--summary"]),
        publisher(&broker).args(["-l", "--receipts"]),
        Program::subscriber()
            .arg("check")
            .at_plain_port(broker.port()),
        Program::publisher()
            .args(["check", "--json"])
            .at_plain_port(broker.port()),
    ];
    for program in programs {
        let outcome = program.with_descriptors(">&-").run(SOON);
        outcome.expect_fault(74, &["standard output is closed"]);
    }
    assert!(broker.events().is_empty(), "{:?}", broker.events());
    for words in [
        &["man"][..],
        &["completions", "bash"],
        &["--help"],
        &["queue", "status", "--queue", "/no/such/file"],
    ] {
        let program = Program::publisher().args(words).with_descriptors(">&-");
        program.run(SOON).expect_fault(74, &["standard output"]);
    }
}

#[test]
fn a_standard_output_that_is_closed_does_not_matter_where_it_is_not_used() {
    let broker = ScriptedBroker::script()
        .after_subscribe("t", "t", b"x")
        .plain();
    let dir = temp_dir();
    let file = dir.path().join("out");
    publisher(&broker)
        .args(["-m", "x"])
        .with_descriptors(">&-")
        .run(SOON)
        .expect_code(0);
    subscriber(&broker)
        .args(["-C", "1", "--output"])
        .arg(&file)
        .with_descriptors(">&- <&-")
        .run(SOON)
        .expect_code(0);
    // No file has got the number of a descriptor that was closed: the command would have written to it.
    assert_eq!(fs::read_to_string(&file).unwrap(), "x\n");
    subscriber(&broker)
        .args(["-C", "1", "--exec", "sh", "-c", "echo here"])
        .with_descriptors(">&- 2>&-")
        .run(SOON)
        .expect_code(65);
}

#[test]
fn a_standard_input_that_is_closed_is_no_empty_input() {
    let broker = ScriptedBroker::script().plain();
    for flag in ["-l", "-s"] {
        let program = publisher(&broker).arg(flag).with_descriptors("<&-");
        let outcome = program.run(SOON);
        outcome.expect_fault(74, &["standard input is closed"]);
    }
    assert!(broker.publishes().is_empty());
    let program = publisher(&broker).args(["-m", "x"]);
    program.with_descriptors("<&-").run(SOON).expect_code(0);
    for flag in ["-l", "-s"] {
        let program = publisher(&broker).arg(flag).with_descriptors("</dev/null");
        program.run(SOON).expect_code(0);
    }
    assert_eq!(payloads(&broker), ["x", ""]);
}

#[test]
fn a_standard_error_that_is_closed_does_no_harm() {
    let broker = ScriptedBroker::script()
        .after_subscribe("t", "t", b"x")
        .plain();
    let program = publisher(&broker).args(["-m", "x", "-d", "--receipts"]);
    let outcome = program.with_descriptors("2>&-").run(SOON).expect_code(0);
    outcome.expect_stdout("accepted 1\ndelivered 1\n");
    let program = subscriber(&broker).args(["-C", "1", "-d"]);
    let outcome = program.with_descriptors("2>&-").run(SOON).expect_code(0);
    outcome.expect_stdout("x\n");
}

#[test]
fn devices_are_written_to_as_they_are() {
    let open = |device: &str, read: bool| {
        let file = File::options().read(read).write(true).open(device);
        Stdio::from(file.unwrap())
    };
    for read in [false, true] {
        let broker = ScriptedBroker::script()
            .after_subscribe("t", "t", b"x")
            .plain();
        let program = publisher(&broker).args(["-m", "x", "--receipts"]);
        let null = program.stdout(open("/dev/null", read));
        null.run(SOON).expect_code(0);
        let program = subscriber(&broker).args(["-C", "1"]);
        let null = program.stdout(open("/dev/null", read));
        null.run(SOON).expect_code(0);
        broker.wait(SOON, |events| acknowledged(events) == [1]);

        let broker = ScriptedBroker::script()
            .after_subscribe("t", "t", b"x")
            .plain();
        let full = subscriber(&broker).stdout(open("/dev/full", read));
        full.run(SOON).expect_code(74).expect_stderr("No space");
        assert!(acknowledged(&broker.events()).is_empty());
    }
    let program = Program::publisher()
        .arg("man")
        .stdout(open("/dev/full", false));
    program.run(SOON).expect_code(74).expect_stderr("No space");
    let broker = ScriptedBroker::script().plain();
    for words in [&["check"][..], &["check", "--json"]] {
        let program = Program::subscriber().args(words);
        let program = program.at_plain_port(broker.port());
        let outcome = program.stdout(open("/dev/full", false)).run(SOON);
        outcome.expect_fault(74, &["standard output", "No space", "; redirect it"]);
        // The step that failed is what scripts ask for.
        let program = Program::subscriber().args(words).at_plain_port(free_port());
        let program = program.args(["--connect-timeout", "1"]);
        let outcome = program.stdout(open("/dev/full", false)).run(SOON);
        outcome.expect_fault(69, &["standard output", "No space", "; redirect it"]);
    }
}

/// Ends a subscriber to a topic that nothing comes to, by the end of its reader.
fn leave(running: Running, reader: impl Sized) {
    drop(reader);
    let left = Instant::now();
    let outcome = running.finish(SOON).expect_code(0);
    assert!(left.elapsed() < Duration::from_secs(2), "{outcome}");
}

#[test]
fn a_reader_that_leaves_ends_the_run_on_a_quiet_topic_too() {
    let broker = ScriptedBroker::script().plain();
    for flags in [
        &[][..],
        &["-J", "--summary"],
        &["--persistent", "--client-id", "x"],
    ] {
        let (reader, writer) = pipe().unwrap();
        let program = subscriber(&broker).args(flags).arg("-d").stdout(writer);
        let running = program.start();
        running.wait_subscribed();
        leave(running, reader);
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    let program = subscriber(&broker).arg("-d").stdout(OwnedFd::from(theirs));
    let running = program.start();
    running.wait_subscribed();
    leave(running, ours);
    // Without a connection as well.
    let (reader, writer) = pipe().unwrap();
    let program = Program::subscriber().args(["--endpoint", "mqtt://localhost:1", "-t", "t"]);
    let running = program.stdout(writer).start();
    running.stderr_line(SOON, |line| line.contains("trying again"));
    leave(running, reader);
}

#[test]
fn a_reader_that_leaves_does_not_end_a_run_that_writes_elsewhere() {
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("out");
    let flags: [(&[&str], &Path); 2] = [
        (&["--output"], &file),
        (&["--exec", "sh", "-c", "cat >\"$0\""], &file),
    ];
    for (flags, path) in flags {
        let (reader, writer) = pipe().unwrap();
        let program = Program::subscriber().to(&broker).args(["-t", "t", "-d"]);
        let running = program.args(flags).arg(path).stdout(writer).start();
        running.wait_subscribed();
        drop(reader);
        publish(&broker, &["still here".to_owned()]);
        let there = || fs::read_to_string(path).is_ok_and(|text| text.starts_with("still here"));
        assert!(wait_until(SOON, there), "{running}");
        fs::remove_file(path).unwrap();
        running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    }
}

#[test]
fn sockets_are_read_and_written_like_pipes() {
    let broker = ScriptedBroker::script()
        .after_subscribe("t", "t", b"x")
        .plain();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let program = publisher(&broker)
        .arg("-l")
        .stdin_given(OwnedFd::from(theirs));
    let running = program.start();
    ours.write_all(b"one\ntwo\n").unwrap();
    broker.wait_publishes(2, SOON);
    ours.write_all(b"three").unwrap();
    drop(ours);
    running.finish(SOON).expect_code(0);
    assert_eq!(payloads(&broker), ["one", "two", "three"]);

    let (mut ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    let program = subscriber(&broker).args(["-C", "1"]);
    program
        .stdout(OwnedFd::from(theirs))
        .run(SOON)
        .expect_code(0);
    let mut text = String::new();
    ours.read_to_string(&mut text).unwrap();
    assert_eq!(text, "x\n");
}

#[test]
fn a_named_pipe_that_is_open_both_ways_never_ends() {
    let broker = ScriptedBroker::script()
        .after_subscribe("t", "t", b"x")
        .plain();
    let dir = temp_dir();
    let name = dir.path().join("fifo");
    mkfifo(&name, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let open = || File::options().read(true).write(true).open(&name).unwrap();
    let mut ours = open();
    let mut running = publisher(&broker).arg("-l").stdin_given(open()).start();
    ours.write_all(b"one\n").unwrap();
    broker.wait_publishes(1, SOON);
    assert!(!wait_until(Duration::from_millis(300), || running.has_ended()));
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let mut running = subscriber(&broker).arg("-d").stdout(open()).start();
    running.wait_subscribed();
    let mut text = [0; 2];
    ours.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"x\n");
    assert!(!wait_until(Duration::from_millis(300), || running.has_ended()));
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn a_command_inherits_the_three_standard_descriptors_and_nothing_else() {
    // Its own look at them is one more.
    let list = [
        "--exec",
        "sh",
        "-c",
        "ls -l /proc/self/fd | grep -v ' /proc/'",
    ];
    let numbers = |text: &str| -> Vec<String> {
        let targets = text.lines().filter_map(|line| line.split_once(" -> "));
        let mut numbers: Vec<_> = targets
            .map(|(left, _)| left.rsplit(' ').next().unwrap_or_default().to_owned())
            .collect();
        numbers.sort();
        numbers
    };
    let broker = Broker::start();
    let dir = temp_dir();
    let given = "7</etc/passwd 9</dev/null";
    let program = Program::subscriber()
        .to(&broker)
        .args(["-t", "t", "-C", "1", "-d"]);
    let program = program.arg("--state").arg(dir.path().join("state"));
    let running = program.args(list).with_descriptors(given).start();
    running.wait_subscribed();
    publish(&broker, &["x".to_owned()]);
    let outcome = running.finish(SOON).expect_code(0);
    assert_eq!(
        numbers(&outcome.stdout.text()),
        ["0", "1", "2"],
        "{outcome}"
    );

    let broker = ScriptedBroker::script().plain();
    let program = publisher(&broker).args(["-C", "2", "--interval", "0.3", "--queue"]);
    let program = program.arg(dir.path().join("queue")).args(list);
    let outcome = program.with_descriptors(given).run(SOON).expect_code(0);
    for text in payloads(&broker) {
        assert_eq!(numbers(&text), ["0", "1", "2"], "{outcome}");
    }
}
