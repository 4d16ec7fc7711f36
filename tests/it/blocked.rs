//! A reader that does not read: the connection lives, memory stays as it is, and nothing is lost.
//! A reader that leaves.

use std::{
    fs,
    io::{Cursor, PipeReader, PipeWriter, pipe},
    sync::{Arc, Barrier, Mutex},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::harness::{
    Broker, Program, SOON, Server,
    lines::Lines,
    packet::{self, kind, read_packet},
    peer,
    process::command,
    running::Running,
    wait_until,
};

/// Time limit for many messages on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// The most that a subscriber may have resident, in KiB.
const MEMORY: u64 = 20 << 10;

/// Messages of 1 kB, each with its number.
fn numbered(count: usize) -> Vec<String> {
    (0..count)
        .map(|n| format!("{n:06}{}", "x".repeat(994)))
        .collect()
}

/// A subscriber that nobody listens to. It is subscribed.
fn blocked(broker: &Broker, flags: &[&str]) -> (Running, PipeReader) {
    let (subscriber, reader) = unheard(broker, flags);
    subscriber.stderr_line(SOON, |line| line.contains(": subscribed with QoS"));
    (subscriber, reader)
}

/// A subscriber that nobody listens to.
fn unheard(broker: &Broker, flags: &[&str]) -> (Running, PipeReader) {
    let (reader, writer): (PipeReader, PipeWriter) = pipe().unwrap();
    let program = Program::subscriber().to(broker).args(["-t", "t", "-d"]);
    let program = program.args(["--keep-alive", "1", "--client-id", "blocked"]);
    let subscriber = program.args(flags).stdout(writer).start();
    (subscriber, reader)
}

fn publish(broker: &Broker, qos: &str, lines: &[String]) {
    let publisher = Program::publisher()
        .to(broker)
        .args(["-t", "t", "-l", "-q", qos]);
    let publisher = publisher.stdin(Cursor::new(lines.join("\n")));
    publisher.run(LONG).expect_code(0);
}

/// How often `blocked` has connected.
fn connections(broker: &Broker) -> usize {
    let lines = broker.log().texts();
    let connected = |line: &&String| line.contains(" as blocked ");
    lines.iter().filter(connected).count()
}

/// Watches it stand still for so long.
fn watch(subscriber: &Running, time: Duration) {
    let until = Instant::now() + time;
    let mut most = 0;
    while Instant::now() < until {
        most = most.max(subscriber.resident());
        assert!(most < MEMORY, "{most} KiB\n{subscriber}");
        let ended = subscriber.stderr.wait_end(Duration::from_millis(250));
        assert!(!ended, "{subscriber}");
    }
    println!("at most {most} KiB");
}

/// Reads on: these come, once each and in their order.
fn read_on(subscriber: Running, reader: PipeReader, expected: &[String]) {
    let lines = Lines::default();
    lines.collect(reader);
    let enough = lines.wait_count(expected.len(), LONG);
    assert!(
        enough,
        "{} of {}\n{subscriber}",
        lines.count(),
        expected.len()
    );
    subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    assert!(lines.wait_end(SOON));
    assert!(lines.texts() == expected, "not these, once each, in order");
}

/// Nobody reads for `time` while many messages come.
fn stands_still(qos: &str, time: Duration) {
    let broker = Broker::start();
    let (subscriber, reader) = blocked(&broker, &["-q", qos]);
    let lines = numbered(20_000);
    publish(&broker, qos, &lines);
    watch(&subscriber, time);
    assert_eq!(connections(&broker), 1, "{subscriber}");
    read_on(subscriber, reader, &lines);
    assert_eq!(connections(&broker), 1);
}

const WHILE: Duration = Duration::from_secs(6);

#[test]
fn at_qos_0_the_broker_is_held_up() {
    stands_still("0", WHILE);
}

#[test]
fn at_qos_1_acknowledgements_are_held_back() {
    stands_still("1", WHILE);
}

#[test]
fn at_qos_2_acknowledgements_are_held_back() {
    stands_still("2", WHILE);
}

#[test]
fn messages_that_trickle_in_do_not_keep_it_from_pinging() {
    let broker = Broker::start();
    let (subscriber, reader) = blocked(&broker, &[]);
    // More than the pipe takes, so that nothing of what follows is acknowledged.
    let mut lines = numbered(200);
    publish(&broker, "1", &lines);
    let publisher = Program::publisher().to(&broker).args(["-t", "t", "-l"]);
    let mut publisher = publisher.stdin_pipe().start();
    let until = Instant::now() + WHILE;
    while Instant::now() < until {
        let line = format!("more {}", lines.len());
        publisher.send(format!("{line}\n"));
        lines.push(line);
        publisher.stderr.wait_end(Duration::from_millis(200));
    }
    publisher.close_stdin();
    publisher.finish(SOON).expect_code(0);
    assert_eq!(connections(&broker), 1, "{subscriber}");
    read_on(subscriber, reader, &lines);
}

#[test]
fn a_reader_that_leaves_ends_the_run_at_once() {
    for qos in ["0", "1"] {
        let broker = Broker::start();
        let (subscriber, reader) = blocked(&broker, &["-q", qos]);
        publish(&broker, qos, &numbered(3_000));
        drop(reader);
        let left = Instant::now();
        let outcome = subscriber.finish(SOON).expect_code(0);
        assert!(left.elapsed() < Duration::from_secs(2), "{outcome}");
    }
}

#[test]
fn a_signal_ends_it_in_time_and_what_was_not_written_comes_again() {
    let broker = Broker::start();
    let flags = ["--persistent"];
    let (subscriber, reader) = blocked(&broker, &flags);
    let lines = numbered(3_000);
    publish(&broker, "1", &lines);
    let stopped = Instant::now();
    let outcome = subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    assert!(stopped.elapsed() < Duration::from_secs(5), "{outcome}");
    // What the pipe has taken has been written, and the last of it perhaps in part.
    let before = Lines::default();
    before.collect(reader);
    assert!(before.wait_end(SOON));
    let mut before = before.texts();
    before.retain(|line| line.len() == lines[0].len());
    // What waits in the session can come before the answer to SUBSCRIBE: that is not waited for.
    let (subscriber, reader) = unheard(&broker, &flags);
    let after = Lines::default();
    after.collect(reader);
    let last = after.wait(LONG, |line| line == lines.last().unwrap());
    assert!(last.is_some(), "{subscriber}");
    let after = after.texts();
    assert!(after.is_sorted());
    let mut all = [before, after].concat();
    all.dedup();
    all.sort();
    all.dedup();
    assert!(all == lines, "lost");
    subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn a_broker_that_restarts_meanwhile_is_found_again() {
    for qos in ["0", "1"] {
        let mut broker = Broker::builder().persistent().start();
        let flags = ["--persistent", "-q", qos, "--operation-timeout", "0.3"];
        let (subscriber, reader) = blocked(&broker, &flags);
        let lines = numbered(3_000);
        publish(&broker, qos, &lines);
        let seen = subscriber.stderr.count();
        broker.restart();
        let again = |line: &str| line.contains("the session of client \"blocked\" is resumed");
        let found = subscriber.stderr.wait_from(seen, SOON, again);
        assert!(found.is_some(), "{subscriber}");
        // Long enough for the answers to three SUBSCRIBEs to be missed, were they.
        watch(&subscriber, WHILE);
        assert_eq!(connections(&broker), 2, "{subscriber}");
        assert!(peer::publish(&broker, "t", "last").status.success());
        let all = Lines::default();
        all.collect(reader);
        let last = all.wait(LONG, |line| line == "last");
        assert!(last.is_some(), "{subscriber}");
        if qos == "1" {
            let mut texts = all.texts();
            texts.pop();
            texts.sort();
            texts.dedup();
            assert!(texts == lines, "lost");
        }
        subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    }
}

/// A broker that sends this many small messages at once, after it has met the test at `meeting`
/// twice, and records in `received` what is acknowledged.
fn burst(count: u16, received: &Arc<Mutex<Vec<u16>>>, meeting: &Arc<Barrier>) -> Server {
    let (received, meeting) = (Arc::clone(received), Arc::clone(meeting));
    Server::plain(move |stream| {
        let mut play = || -> std::io::Result<()> {
            loop {
                let said = read_packet(stream)?;
                match said.kind() {
                    kind::CONNECT => stream.write_all(&[0x20, 3, 0, 0, 0])?,
                    kind::SUBSCRIBE => {
                        let (id, _) = said.subscribe(5);
                        let [high, low] = id.to_be_bytes();
                        let mut all = vec![0x90, 4, high, low, 0, 1];
                        all.extend((1..=count).flat_map(|id| packet::publish(5, id, "t", b"")));
                        meeting.wait();
                        meeting.wait();
                        stream.write_all(&all)?;
                    }
                    kind::PUBACK => received.lock().unwrap().push(said.body().number()),
                    _ => (),
                }
            }
        };
        // An error is the end of the connection.
        let _ = play();
    })
}

/// Gives the thread of the connection the processor only when nothing else wants it, under the policy
/// `--idle`; under `--other` it gets its share again.
fn schedule_connection(subscriber: &Running, policy: &str) {
    let tasks = format!("/proc/{}/task", subscriber.id());
    let run = |words: &[&str]| {
        let mut command = command(words[0]);
        let done = command.args(&words[1..]).output().expect(words[0]);
        assert!(done.status.success(), "{words:?}: {done:?}");
    };
    for task in fs::read_dir(tasks).unwrap().flatten() {
        let name = fs::read_to_string(task.path().join("comm")).unwrap();
        let id = task.file_name().into_string().unwrap();
        run(&["taskset", "-cp", "0", &id]);
        if name.trim() == "connection" {
            run(&["chrt", policy, "-p", "0", &id]);
        }
    }
}

#[test]
fn no_acknowledgement_is_lost_however_late_they_can_be_taken() {
    let received = Arc::new(Mutex::new(Vec::new()));
    let meeting = Arc::new(Barrier::new(2));
    let broker = burst(20_000, &received, &meeting);
    let program = Program::subscriber().at_plain_port(broker.port());
    let subscriber = program.args(["-t", "t"]).start();
    let all: Vec<u16> = (1..=20_000).collect();
    meeting.wait();
    schedule_connection(&subscriber, "--idle");
    meeting.wait();
    let is_complete = || received.lock().unwrap().len() == all.len();
    if !wait_until(Duration::from_secs(2), is_complete) {
        // On a busy machine it may get nothing. What is lost stays lost.
        schedule_connection(&subscriber, "--other");
    }
    let complete = wait_until(SOON, is_complete);
    let received = received.lock().unwrap();
    assert!(
        complete,
        "{} of {}\n{subscriber}",
        received.len(),
        all.len()
    );
    assert!(*received == all, "in another order");
}
