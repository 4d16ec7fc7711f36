//! Messages in a session that Mosquitto keeps: taken one by one, and while broker or subscriber are ended.

use std::{
    collections::HashMap,
    fs,
    io::{self, Cursor, Read},
    ops::RangeInclusive,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};

use crate::harness::proxy::Proxy;
use crate::harness::running::Running;
use crate::harness::{Broker, Program, SOON, temp_dir, times, wait_until};

const KEPT: [&str; 3] = ["--persistent", "--client-id", "stays"];

/// Publishes these numbers, a message each.
fn send(broker: &Broker, numbers: RangeInclusive<usize>, qos: &str) {
    let lines: Vec<String> = numbers.map(|n| n.to_string()).collect();
    let program = Program::publisher().to(broker);
    let program = program.args(["-t", "t", "-l", "-q", qos]);
    let program = program.stdin(Cursor::new(lines.join("\n")));
    program.run(SOON).expect_code(0);
}

fn subscriber(broker: &Broker, qos: &str) -> Program {
    let program = Program::subscriber()
        .to(broker)
        .args(["-t", "t", "-q", qos]);
    program.args(KEPT)
}

/// Makes a session, to which these numbers come.
fn fill(broker: &Broker, count: usize, qos: &str) {
    let running = subscriber(broker, qos).arg("-d").start();
    running.wait_subscribed();
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    send(broker, 1..=count, qos);
}

/// Takes messages from a session, each with its own run: sixty with MQTT 5, fewer with 3.1.1.
fn one_by_one(broker: &Broker, flags: impl Fn(usize) -> Vec<&'static str>) {
    for (version, qos, count) in [
        ("5", "1", 60),
        ("5", "2", 60),
        ("3.1.1", "1", 20),
        ("3.1.1", "2", 20),
    ] {
        fill(broker, count, qos);
        let started = Instant::now();
        for number in 1..=count {
            let program = subscriber(broker, qos).args(["--mqtt-version", version]);
            let outcome = program.args(["-C", "1"]).args(flags(number)).run(SOON);
            let outcome = outcome.expect_code(0);
            let expected = format!("{number}\n");
            assert_eq!(
                outcome.stdout.text(),
                expected,
                "{version} {qos}\n{outcome}"
            );
        }
        println!(
            "MQTT {version}, QoS {qos}: {count} of {count} once, {:?}",
            started.elapsed()
        );
        let rest = subscriber(broker, qos).args(["-W", "0.3"]).run(SOON);
        rest.expect_code(27).expect_stdout("");
    }
}

#[test]
fn sixty_messages_taken_one_by_one_come_once_each() {
    one_by_one(&Broker::start(), |_| vec![]);
}

#[test]
fn sixty_messages_taken_one_by_one_without_tls_come_once_each() {
    one_by_one(&Broker::builder().plain().start(), |_| vec![]);
}

#[test]
fn sixty_messages_taken_one_by_one_by_a_command_come_once_each() {
    // The next one comes only when the first is completed. A limit of time changes nothing.
    let broker = Broker::builder().plain();
    let broker = broker.line("max_inflight_messages 1").start();
    let command = ["--exec", "sh", "-c", "cat; echo"];
    one_by_one(&broker, |number| match number % 2 {
        0 => command.to_vec(),
        _ => [&["-W", "20"][..], &command].concat(),
    });
}

#[test]
fn a_signal_leaves_nothing_unacknowledged_that_was_written() {
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("out");
    for (qos, signal) in [("1", Signal::SIGTERM), ("2", Signal::SIGINT)] {
        let _ = fs::remove_file(&file);
        fill(&broker, 2_000, qos);
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..10 {
            let before = lines(&file).len();
            if before == 2_000 {
                break;
            }
            let running = subscriber(&broker, qos).arg("--output").arg(&file).start();
            let moves = wait_until(SOON, || lines(&file).len() > before);
            assert!(moves, "{running}");
            thread::park_timeout(Duration::from_micros(random.u64(0..5_000)));
            running.finish_by(signal, SOON).expect_code(0);
        }
        let program = subscriber(&broker, qos).arg("-d");
        let running = program.arg("--output").arg(&file).start();
        running.wait_subscribed();
        let all = wait_until(SOON, || lines(&file).contains(&2_000));
        assert!(all, "{running}");
        running.finish_by(signal, SOON).expect_code(0);
        assert_eq!(lines(&file), (1..=2_000).collect::<Vec<_>>(), "QoS {qos}");
    }
}

/// The numbers in a file. A command whose subscriber is killed may have been given nothing.
fn lines(file: &Path) -> Vec<usize> {
    let text = fs::read_to_string(file).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.is_empty());
    lines.map(|line| line.parse().unwrap()).collect()
}

/// How often each number from 1 on came, beyond once; that none is missing is expected.
fn repeats(file: &Path, count: usize) -> usize {
    let mut times = HashMap::new();
    for number in lines(file) {
        *times.entry(number).or_insert(0_usize) += 1;
    }
    let missing: Vec<_> = (1..=count).filter(|n| !times.contains_key(n)).collect();
    assert!(missing.is_empty(), "missing: {missing:?}");
    times.values().map(|times| times - 1).sum()
}

/// Several commands at a time, each of which notes its number first.
fn several(broker: &Broker, script: &str, dir: &Path) -> Running {
    let flags = [
        "--base-backoff",
        "0.05",
        "--max-backoff",
        "0.1",
        "--exec-jobs",
        "4",
        "-d",
    ];
    let program = subscriber(broker, "2").args(flags);
    let script = format!(r#"n=$(cat); echo "$n" >>"$0/out"; {script}"#);
    program
        .args(["--exec", "sh", "-c", &script])
        .arg(dir)
        .start()
}

#[test]
fn a_broker_that_is_restarted_while_commands_run_costs_no_repeat() {
    const COUNT: usize = 40;
    let mut broker = Broker::builder().persistent().start();
    let dir = temp_dir();
    let file = dir.path().join("out");
    fill(&broker, COUNT, "2");
    let running = several(&broker, "sleep 0.05", dir.path());
    for number in 1..=4 {
        let some = wait_until(SOON, || lines(&file).len() >= number * 8);
        assert!(some, "{running}");
        // In order: it keeps all that it knew.
        broker.restart();
    }
    let all = wait_until(SOON, || lines(&file).len() >= COUNT);
    assert!(all, "{running}");
    let outcome = running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    assert_eq!(repeats(&file, COUNT), 0, "{outcome}");
}

#[test]
fn a_broker_that_is_killed_while_commands_run_costs_no_repeat() {
    const COUNT: usize = 30;
    let broker = Broker::builder().persistent();
    // It is saved at each change.
    let broker = broker.line("autosave_on_changes true");
    let mut broker = broker.line("autosave_interval 1").start();
    let dir = temp_dir();
    let file = dir.path().join("out");
    fill(&broker, COUNT, "2");
    let wait = r#"until [ -e "$0/go" ]; do sleep 0.01; done"#;
    let running = several(&broker, wait, dir.path());
    assert!(wait_until(SOON, || lines(&file).len() == 4), "{running}");
    for _ in 0..3 {
        let seen = running.stderr.count();
        broker.kill();
        broker.start_again();
        let again = |line: &str| line.contains(": subscribed with QoS 2");
        assert!(
            running.stderr.wait_from(seen, SOON, again).is_some(),
            "{running}"
        );
    }
    fs::write(dir.path().join("go"), "").unwrap();
    let all = wait_until(SOON, || lines(&file).len() >= COUNT);
    assert!(all, "{running}");
    let outcome = running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    assert_eq!(repeats(&file, COUNT), 0, "{outcome}");
}

/// The messages that are sent between two kills.
const EACH: usize = 100;

/// Kills a subscriber at random moments while messages come; how many came twice, and of how many kills.
fn kill_at_random(program: impl Fn(&Broker, &Path) -> Program) -> (usize, usize) {
    let kills = times("IOT_TEST_EXACTLY_ONCE_KILLS", 8);
    let broker = Broker::builder().line("max_inflight_messages 20").start();
    let dir = temp_dir();
    let file = dir.path().join("out");
    fill(&broker, EACH, "2");
    let mut random = fastrand::Rng::with_seed(11);
    for kill in 1..=kills {
        let before = lines(&file).len();
        let running = program(&broker, dir.path()).start();
        let moves = wait_until(SOON, || lines(&file).len() > before);
        assert!(moves, "{running}");
        thread::park_timeout(Duration::from_micros(random.u64(0..6_000)));
        running.finish_by(Signal::SIGKILL, SOON);
        send(&broker, kill * EACH + 1..=(kill + 1) * EACH, "2");
    }
    let count = (kills + 1) * EACH;
    let running = program(&broker, dir.path()).start();
    let all = wait_until(SOON * 6, || lines(&file).contains(&count));
    assert!(all, "{running}");
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let repeats = repeats(&file, count);
    println!("{kills} kills, {count} messages, {repeats} repeats");
    (repeats, kills)
}

/// What one run writes to its standard output, write by write.
struct Writes(OwnedFd);

impl Writes {
    /// A pair of sockets that keeps the bounds of writes, and the end for the program.
    fn new() -> (Self, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC;
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
        let (ours, its) = pair.unwrap();
        (Self(ours), its)
    }

    fn wait_for_one(&self) -> bool {
        let mut ours = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut ours, u16::try_from(SOON.as_millis()).unwrap()).unwrap() == 1
    }

    /// The next write, in numbers; none once the program has ended.
    fn next(&self) -> Option<Vec<usize>> {
        let mut bytes = [0; 1 << 12];
        let length = recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
        let text = str::from_utf8(&bytes[..length]).unwrap();
        (length > 0).then(|| text.lines().map(|line| line.parse().unwrap()).collect())
    }
}

/// These numbers, a line each and one after the other.
struct SlowLines(RangeInclusive<usize>);

impl Read for SlowLines {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        thread::park_timeout(Duration::from_micros(500));
        let line = self.0.next().map(|number| format!("{number}\n"));
        line.unwrap_or_default().as_bytes().read(into)
    }
}

#[test]
fn killed_at_random_it_shows_again_only_what_the_last_write_wrote() {
    let kills = times("IOT_TEST_EXACTLY_ONCE_KILLS", 8);
    let broker = Broker::start();
    // Acknowledgements that are under way when it is killed are lost.
    let proxy = Proxy::start(broker.port(), Duration::from_millis(5));
    let dir = temp_dir();
    fill(&broker, 0, "2");
    let mut random = fastrand::Rng::with_seed(11);
    // By number, whether it may be shown again.
    let mut shown: HashMap<usize, bool> = HashMap::new();
    let mut repeats = 0;
    let count = (kills + 1) * EACH;
    for run in 0..=kills {
        let (writes, its) = Writes::new();
        let program = Program::subscriber().at_port(proxy.port()).args(KEPT);
        let program = program.args(["-d", "-t", "t", "-q", "2", "--state"]);
        let program = program.arg(dir.path().join("state"));
        let running = program.stdout(its).start();
        running.wait_subscribed();
        let sender = Program::publisher().to(&broker);
        let sender = sender.args(["-t", "t", "-l", "-q", "2"]);
        let numbers = run * EACH + 1..=(run + 1) * EACH;
        let sender = sender.stdin(SlowLines(numbers)).start();
        assert!(writes.wait_for_one(), "{running}");
        let mut show = |numbers: Vec<usize>, is_last: bool| {
            for number in numbers {
                if let Some(may) = shown.insert(number, is_last) {
                    assert!(may, "{number} again in run {run}");
                    repeats += 1;
                }
            }
            shown.len()
        };
        if run < kills {
            thread::park_timeout(Duration::from_micros(random.u64(0..60_000)));
            running.signal(Signal::SIGKILL);
            proxy.cut();
            running.finish(SOON);
            let mut all: Vec<_> = std::iter::from_fn(|| writes.next()).collect();
            let last = all.pop().unwrap();
            show(all.concat(), false);
            show(last, true);
        } else {
            while show(writes.next().unwrap(), false) < count {
                assert!(writes.wait_for_one(), "{running}");
            }
            running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
        }
        sender.finish(SOON).expect_code(0);
    }
    println!("{kills} kills, {count} messages, {repeats} repeats");
}

#[test]
fn killed_at_random_it_runs_again_only_the_command_that_ran() {
    let (repeats, kills) = kill_at_random(|broker, dir| {
        let program = subscriber(broker, "2")
            .arg("--state")
            .arg(dir.join("state"));
        let program = program.args(["--exec", "sh", "-c", r#"n=$(cat); echo "$n" >>"$0""#]);
        program.arg(dir.join("out"))
    });
    assert!(repeats <= kills, "{repeats} of {kills} kills");
}

#[test]
fn a_command_that_has_ended_behind_one_that_runs_is_not_run_by_the_next_run() {
    const COUNT: usize = 10;
    let broker = Broker::start();
    let dir = temp_dir();
    let file = dir.path().join("out");
    fill(&broker, COUNT, "2");
    let start = || {
        let program = subscriber(&broker, "2").args(["--exec-jobs", "2", "--state"]);
        let program = program.arg(dir.path().join("state"));
        let script = r#"n=$(cat); echo "$n" >>"$0/out"
            [ "$n" != 1 ] || until [ -e "$0/go" ]; do sleep 0.01; done"#;
        let program = program.args(["--exec", "sh", "-c", script]);
        program.arg(dir.path()).start()
    };
    let running = start();
    let all = wait_until(SOON, || lines(&file).len() == COUNT);
    assert!(all, "{running}");
    running.finish_by(Signal::SIGKILL, SOON);
    fs::write(dir.path().join("go"), "").unwrap();
    let running = start();
    let again = wait_until(SOON, || lines(&file)[COUNT..].contains(&1));
    assert!(again, "{running}");
    send(&broker, 11..=11, "2");
    assert!(wait_until(SOON, || lines(&file).contains(&11)), "{running}");
    let outcome = running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    // The last one may not have been noted.
    let mut again = lines(&file).split_off(COUNT);
    again.retain(|number| *number != COUNT);
    again.sort_unstable();
    assert_eq!(again, [1, 11], "{outcome}");
}
