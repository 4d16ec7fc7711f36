//! Messages that a broker sends again, and sessions that outlive connections and runs: each message is dealt with
//! once, and none is acknowledged before.

use std::{
    fs,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;

use crate::harness::{
    Program, SOON, Server,
    packet::{Packet, kind, read_packet},
    running::Running,
    temp_dir, wait_until,
};

/// What a broker does next.
#[derive(Clone)]
enum Step {
    Bytes(Vec<u8>),
    Pause(Duration),
    Close,
}
use Step::{Bytes, Close, Pause};

/// A packet of the client's: on which connection it came, its type and its packet identifier.
type Seen = (usize, u8, u16);

/// A broker without TLS that does what a script says. It grants every filter automatically.
struct Scripted {
    server: Server,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Scripted {
    /// `present` is whether there is a session on this connection, `script` what follows a packet on it.
    fn start(
        present: impl Fn(usize) -> bool + Send + Sync + 'static,
        script: impl Fn(usize, u8, u16) -> Vec<Step> + Send + Sync + 'static,
    ) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = Arc::clone(&seen);
        let connections = AtomicUsize::new(0);
        let server = Server::plain(move |stream| {
            let connection = connections.fetch_add(1, Ordering::SeqCst);
            while let Ok(packet) = read_packet(stream) {
                let (kind, id) = (packet.kind(), identifier(&packet));
                record.lock().unwrap().push((connection, kind, id));
                let answer = match kind {
                    kind::CONNECT => vec![0x20, 3, u8::from(present(connection)), 0, 0],
                    kind::SUBSCRIBE => {
                        vec![0x90, 4, id.to_be_bytes()[0], id.to_be_bytes()[1], 0, 2]
                    }
                    kind::PINGREQ => vec![0xd0, 0],
                    kind::DISCONNECT => return,
                    _ => Vec::new(),
                };
                let follows = script(connection, kind, id);
                for step in [Bytes(answer)].into_iter().chain(follows) {
                    match step {
                        Bytes(bytes) if stream.write_all(&bytes).is_err() => return,
                        Bytes(_) => {}
                        Pause(duration) => thread::park_timeout(duration),
                        Close => return,
                    }
                }
            }
        });
        Self { server, seen }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The acknowledgements so far: connection, type and identifier.
    fn acknowledgements(&self) -> Vec<Seen> {
        let kinds = [kind::PUBACK, kind::PUBREC, kind::PUBCOMP];
        let mut seen = self.seen();
        seen.retain(|(_, kind, _)| kinds.contains(kind));
        seen
    }

    fn wait(&self, running: &Running, what: Seen) {
        let came = wait_until(SOON, || self.seen().contains(&what));
        assert!(came, "no {what:?} in {:?}\n{running}", self.seen());
    }

    fn subscriber(&self, flags: &[&str]) -> Program {
        self.patient_subscriber("0.1", flags)
    }

    /// One that waits for this many seconds before it connects again.
    fn patient_subscriber(&self, backoff: &str, flags: &[&str]) -> Program {
        let program = Program::subscriber().at_plain_port(self.server.port());
        let program = program.args(["-t", "t", "-q", "2", "--base-backoff", backoff]);
        program.args(["--max-backoff", backoff]).args(flags)
    }
}

fn identifier(packet: &Packet) -> u16 {
    match packet.kind() {
        kind::PUBACK | kind::PUBREC | kind::PUBREL | kind::PUBCOMP | kind::SUBSCRIBE => {
            packet.body().number()
        }
        _ => 0,
    }
}

const FIRST: u8 = 0;
const AGAIN: u8 = 8;

/// A PUBLISH of MQTT 5 to `t`; `dup` is [`FIRST`] or [`AGAIN`].
fn publish(qos: u8, dup: u8, id: u16, payload: &str) -> Step {
    let [high, low] = id.to_be_bytes();
    let length = u8::try_from(6 + payload.len()).unwrap();
    let first = 0x30 | dup | qos << 1;
    let head = [first, length, 0, 1, b't', high, low, 0];
    Bytes([&head[..], payload.as_bytes()].concat())
}

fn pubrel(id: u16) -> Step {
    let [high, low] = id.to_be_bytes();
    Bytes(vec![0x62, 2, high, low])
}

/// The acknowledgement of a message at this QoS.
fn acknowledgement(qos: u8) -> u8 {
    [0, kind::PUBACK, kind::PUBREC][usize::from(qos)]
}

const KEPT: [&str; 3] = ["--persistent", "--client-id", "stays"];

/// A command that notes each message in `ran` and ends once there is a file `go`.
struct Command {
    dir: tempfile::TempDir,
}

impl Command {
    fn new() -> Self {
        Self { dir: temp_dir() }
    }

    fn of(&self, program: Program) -> Program {
        let script =
            r#"cat >>"$0/ran"; echo >>"$0/ran"; until [ -e "$0/go" ]; do sleep 0.01; done"#;
        let program = program.args(["--exec", "sh", "-c", script]);
        program.arg(self.dir.path())
    }

    fn ran(&self) -> String {
        fs::read_to_string(self.dir.path().join("ran")).unwrap_or_default()
    }

    fn wait_ran(&self, running: &Running, text: &str) {
        let ran = wait_until(SOON, || self.ran() == text);
        assert!(ran, "{:?}, not {text:?}\n{running}", self.ran());
    }

    fn let_go(&self) {
        fs::write(self.dir.path().join("go"), "").unwrap();
    }
}

#[test]
fn a_message_that_is_sent_again_on_the_same_connection_is_run_once() {
    for (qos, dup) in [(1, FIRST), (1, AGAIN), (2, FIRST), (2, AGAIN)] {
        let broker = Scripted::start(
            |_| false,
            move |_, kind, id| match (kind, id) {
                (kind::SUBSCRIBE, _) => vec![
                    publish(qos, FIRST, 7, "job"),
                    Pause(Duration::from_secs(1)),
                    publish(qos, dup, 7, "job"),
                ],
                (kind::PUBREC, _) => vec![pubrel(id)],
                (kind::PUBACK | kind::PUBCOMP, 7) => {
                    // The identifier is free: another message, which looks the same.
                    vec![publish(qos, FIRST, 7 + u16::from(dup > 0), "job")]
                }
                _ => vec![],
            },
        );
        let command = Command::new();
        let running = command.of(broker.subscriber(&["-C", "2"])).start();
        command.wait_ran(&running, "job\n");
        let early = wait_until(Duration::from_millis(1_300), || {
            !broker.acknowledgements().is_empty() || command.ran() != "job\n"
        });
        assert!(!early, "{:?}\n{running}", broker.acknowledgements());
        command.let_go();
        let outcome = running.finish(SOON).expect_code(0);
        assert_eq!(command.ran(), "job\njob\n", "{outcome}");
        let second = 7 + u16::from(dup > 0);
        let expected = match qos {
            1 => vec![(0, kind::PUBACK, 7), (0, kind::PUBACK, second)],
            _ => [7, second]
                .iter()
                .flat_map(|id| [(0, kind::PUBREC, *id), (0, kind::PUBCOMP, *id)])
                .collect(),
        };
        assert_eq!(broker.acknowledgements(), expected, "{outcome}");
    }
}

#[test]
fn a_message_that_has_crossed_its_acknowledgement_is_shown_once() {
    for qos in [1, 2] {
        let broker = Scripted::start(
            |_| false,
            move |_, kind, id| match (kind, id) {
                (kind::SUBSCRIBE, _) => vec![publish(qos, FIRST, 7, "once")],
                (kind::PUBACK | kind::PUBREC, 7) => {
                    vec![
                        publish(qos, AGAIN, 7, "once"),
                        publish(qos, FIRST, 8, "end"),
                    ]
                }
                _ => vec![],
            },
        );
        let program = broker.subscriber(&["-C", "2"]);
        let outcome = program.run(SOON).expect_code(0);
        outcome.expect_stdout("once\nend\n");
        let first = broker.acknowledgements();
        let acknowledged = acknowledgement(qos);
        assert_eq!(first[..2], [(0, acknowledged, 7); 2]);
    }
}

#[test]
fn an_identifier_that_is_used_for_another_message_hides_and_acknowledges_none() {
    for qos in [1, 2] {
        // The broker does not wait for the first to be acknowledged.
        let broker = Scripted::start(
            |_| false,
            move |_, kind, _| match kind {
                kind::SUBSCRIBE => {
                    vec![publish(qos, FIRST, 7, "old"), publish(qos, FIRST, 7, "new")]
                }
                _ => vec![],
            },
        );
        let command = Command::new();
        let running = command.of(broker.subscriber(&["-C", "2"])).start();
        command.wait_ran(&running, "old\n");
        command.let_go();
        let outcome = running.finish(SOON).expect_code(0);
        assert_eq!(command.ran(), "old\nnew\n", "{outcome}");
        assert_eq!(
            broker.acknowledgements(),
            [(0, acknowledgement(qos), 7)],
            "{outcome}"
        );
    }
}

/// The connection ends while the command runs. On the next one the broker, which has the session if it is `present`,
/// sends `again`, and after its acknowledgement a last message; `ran` is what the command is then to have been given.
fn cut_while_the_command_runs(qos: u8, present: bool, again: &Step, ran: &str) {
    let (resent, again) = (Arc::new(AtomicUsize::new(0)), again.clone());
    let count = Arc::clone(&resent);
    let broker = Scripted::start(
        move |connection| present && connection > 0,
        move |connection, kind, id| match (connection, kind, id) {
            (0, kind::SUBSCRIBE, _) => {
                let short = Duration::from_millis(100);
                vec![publish(qos, FIRST, 7, "job"), Pause(short), Close]
            }
            (1, kind::SUBSCRIBE, _) => {
                count.store(1, Ordering::SeqCst);
                vec![again.clone()]
            }
            (1, kind::PUBREC, _) => vec![pubrel(id)],
            (1, kind::PUBACK | kind::PUBCOMP, 7) => vec![publish(qos, FIRST, 8, "end")],
            _ => vec![],
        },
    );
    let command = Command::new();
    let wanted = ran.lines().count().to_string();
    let flags = [&KEPT[..], &["-C", &wanted]].concat();
    let running = command.of(broker.subscriber(&flags)).start();
    let sent = wait_until(SOON, || resent.load(Ordering::SeqCst) > 0);
    assert!(sent, "{:?}\n{running}", broker.seen());
    let early = wait_until(Duration::from_millis(300), || {
        !broker.acknowledgements().is_empty()
    });
    assert!(!early, "{:?}\n{running}", broker.seen());
    assert_eq!(command.ran(), "job\n", "{running}");
    command.let_go();
    let outcome = running.finish(SOON).expect_code(0);
    assert_eq!(command.ran(), ran, "qos {qos} {present}\n{outcome}");
    let acknowledgements = broker.acknowledgements();
    let acknowledged = |id| (1, acknowledgement(qos), id);
    let of_the_first = acknowledgements.iter().filter(|a| **a == acknowledged(7));
    assert_eq!(of_the_first.count(), 1, "{acknowledgements:?}\n{outcome}");
    assert!(acknowledgements.contains(&acknowledged(8)), "{outcome}");
}

#[test]
fn a_command_that_runs_while_the_connection_ends_is_not_run_again() {
    for qos in [1, 2] {
        for dup in [AGAIN, FIRST] {
            let again = publish(qos, dup, 7, "job");
            cut_while_the_command_runs(qos, true, &again, "job\nend\n");
        }
    }
}

#[test]
fn what_is_new_after_the_connection_has_ended_is_run() {
    for qos in [1, 2] {
        // The identifier is used for another message; the session is another one.
        let other = publish(qos, FIRST, 7, "other");
        cut_while_the_command_runs(qos, true, &other, "job\nother\nend\n");
        let same = publish(qos, FIRST, 7, "job");
        cut_while_the_command_runs(qos, false, &same, "job\njob\nend\n");
    }
}

#[test]
fn what_is_dealt_with_while_there_is_no_connection_is_acknowledged_on_the_next_one() {
    for qos in [1, 2] {
        let broker = Scripted::start(
            |connection| connection > 0,
            move |connection, kind, id| match (connection, kind) {
                (0, kind::SUBSCRIBE) => {
                    let short = Duration::from_millis(100);
                    vec![publish(qos, FIRST, 7, "job"), Pause(short), Close]
                }
                (1, kind::SUBSCRIBE) => vec![publish(qos, AGAIN, 7, "job")],
                (_, kind::PUBREC) => vec![pubrel(id)],
                _ => vec![],
            },
        );
        let command = Command::new();
        let flags = [&KEPT[..], &["-d", "-C", "1"]].concat();
        let program = broker.patient_subscriber("1", &flags);
        let running = command.of(program).start();
        running.stderr_line(SOON, |line| line.contains("trying again"));
        command.let_go();
        let outcome = running.finish(SOON).expect_code(0);
        assert_eq!(command.ran(), "job\n", "{outcome}");
        let last = if qos == 1 {
            kind::PUBACK
        } else {
            kind::PUBCOMP
        };
        let acknowledged = broker.acknowledgements();
        assert_eq!(acknowledged.last(), Some(&(1, last, 7)), "{outcome}");
    }
}

/// The first connection ends at PUBREC. On those that follow, the broker sends the message again, then
/// PUBREL, and then another that looks the same.
fn cuts_after_pubrec() -> Scripted {
    Scripted::start(
        |connection| connection > 0,
        |connection, kind, id| match (connection, kind, id) {
            (0, kind::SUBSCRIBE, _) => vec![publish(2, FIRST, 7, "once")],
            (0, kind::PUBREC, _) => vec![Close],
            (_, kind::SUBSCRIBE, _) => vec![publish(2, AGAIN, 7, "once")],
            (_, kind::PUBREC, _) => vec![pubrel(id)],
            (1, kind::PUBCOMP, 7) => {
                vec![publish(2, FIRST, 7, "once"), publish(2, FIRST, 8, "end")]
            }
            _ => vec![],
        },
    )
}

#[test]
fn a_message_whose_pubrec_was_lost_is_shown_once() {
    let broker = cuts_after_pubrec();
    let program = broker.subscriber(&KEPT).args(["-C", "3"]);
    let outcome = program.run(SOON).expect_code(0);
    outcome.expect_stdout("once\nonce\nend\n");
}

#[test]
fn with_state_a_message_whose_pubrec_was_lost_is_shown_by_one_run() {
    let broker = cuts_after_pubrec();
    let dir = temp_dir();
    let state = dir.path().join("state");
    let start = |flags: &[&str]| {
        let program = broker.patient_subscriber("10", &KEPT).arg("--state");
        program.arg(&state).args(flags).start()
    };
    let running = start(&[]);
    broker.wait(&running, (0, kind::PUBREC, 7));
    let outcome = running.finish_by(Signal::SIGKILL, SOON);
    outcome.expect_stdout("once\n");
    // Now the broker has another message, and a run is killed before its PUBREL comes.
    let outcome = start(&["-C", "2"]).finish(SOON).expect_code(0);
    outcome.expect_stdout("once\nend\n");
    let rows = || {
        let file = rusqlite::Connection::open(&state).unwrap();
        let count = file.query_row("SELECT count(*) FROM exchanges", [], |row| {
            row.get::<_, u32>(0)
        });
        count.unwrap()
    };
    assert_eq!(rows(), 0, "all were completed");
}

#[test]
fn with_state_a_session_that_is_lost_is_forgotten() {
    let broker = Scripted::start(
        |_| false,
        |_, kind, _| match kind {
            kind::SUBSCRIBE => vec![publish(2, FIRST, 7, "same")],
            _ => vec![],
        },
    );
    let dir = temp_dir();
    let state = dir.path().join("state");
    for _ in 0..2 {
        let program = broker.subscriber(&KEPT).arg("--state").arg(&state);
        let running = program.start();
        running.stdout_line(SOON, |line| line == "same");
        running.finish_by(Signal::SIGKILL, SOON);
    }
}

#[test]
fn what_was_wanted_is_acknowledged_before_the_end_and_nothing_else_is() {
    for qos in [1, 2] {
        let slow = Duration::from_millis(300);
        let broker = Scripted::start(
            |_| true,
            move |_, kind, id| match kind {
                // They come before a client has had time to subscribe.
                kind::CONNECT => (1..=5)
                    .map(|id| publish(qos, FIRST, id, &id.to_string()))
                    .collect(),
                kind::PUBREC => vec![Pause(slow), pubrel(id)],
                _ => vec![],
            },
        );
        let program = broker.subscriber(&KEPT).args(["-C", "2"]);
        let outcome = program.run(SOON).expect_code(0);
        let outcome = outcome.expect_stdout("1\n2\n");
        let ended = wait_until(SOON, || broker.seen().contains(&(0, kind::DISCONNECT, 0)));
        assert!(ended, "{:?}\n{outcome}", broker.seen());
        let mut acknowledged = broker.acknowledgements();
        acknowledged.sort_unstable();
        let kinds = if qos == 1 {
            &[kind::PUBACK][..]
        } else {
            &[kind::PUBREC, kind::PUBCOMP]
        };
        let expected = kinds.iter().flat_map(|kind| [(0, *kind, 1), (0, *kind, 2)]);
        assert_eq!(acknowledged, expected.collect::<Vec<Seen>>(), "{outcome}");
    }
}

#[test]
fn a_broker_that_does_not_release_is_not_waited_for_long() {
    let broker = Scripted::start(
        |_| true,
        |_, kind, _| match kind {
            kind::CONNECT => vec![publish(2, FIRST, 1, "x")],
            _ => vec![],
        },
    );
    let program = broker.subscriber(&KEPT).args(["-C", "1"]);
    let outcome = program.run(SOON).expect_code(0);
    assert!(outcome.elapsed < Duration::from_millis(4_500), "{outcome}");
    assert!(
        broker.seen().contains(&(0, kind::DISCONNECT, 0)),
        "{outcome}"
    );
}

#[test]
fn a_connection_that_ends_before_pubrel_is_followed_by_one_that_completes_the_exchange() {
    let once = |dup| publish(2, dup, 7, "once");
    let short = Pause(Duration::from_millis(50));
    // The broker has not read PUBREC, or has; then it sends the message again, or PUBREL.
    for (first, at_pubrec, next) in [
        (vec![once(FIRST), short, Close], vec![], once(AGAIN)),
        (vec![once(FIRST)], vec![Close], once(AGAIN)),
        (vec![once(FIRST)], vec![Close], pubrel(7)),
    ] {
        let broker = Scripted::start(
            |connection| connection > 0,
            move |connection, kind, id| match (connection, kind) {
                (0, kind::SUBSCRIBE) => first.clone(),
                (0, kind::PUBREC) => at_pubrec.clone(),
                (1, kind::SUBSCRIBE) => vec![next.clone()],
                (1, kind::PUBREC) => vec![pubrel(id)],
                _ => vec![],
            },
        );
        let program = broker.subscriber(&KEPT).args(["-C", "1"]);
        let outcome = program.run(SOON).expect_code(0).expect_stdout("once\n");
        let ended = wait_until(SOON, || broker.seen().contains(&(1, kind::DISCONNECT, 0)));
        assert!(ended, "{:?}\n{outcome}", broker.seen());
        let last = broker.acknowledgements().pop();
        assert_eq!(last, Some((1, kind::PUBCOMP, 7)), "{outcome}");
    }
}

#[test]
fn a_message_that_is_sent_again_after_pubcomp_on_the_same_connection_is_shown_once() {
    let completed = AtomicUsize::new(0);
    let broker = Scripted::start(
        |_| false,
        move |_, kind, id| match (kind, id) {
            (kind::SUBSCRIBE, _) => vec![publish(2, FIRST, 7, "once")],
            (kind::PUBREC, _) => vec![pubrel(id)],
            (kind::PUBCOMP, 7) => match completed.fetch_add(1, Ordering::SeqCst) {
                0 => vec![publish(2, AGAIN, 7, "once")],
                // It is another one.
                1 => vec![publish(2, FIRST, 7, "once"), publish(2, FIRST, 8, "end")],
                _ => vec![],
            },
            _ => vec![],
        },
    );
    let outcome = broker.subscriber(&["-C", "3"]).run(SOON).expect_code(0);
    let outcome = outcome.expect_stdout("once\nonce\nend\n");
    let acknowledged = broker.acknowledgements();
    let exchange = [(0, kind::PUBREC, 7), (0, kind::PUBCOMP, 7)];
    assert_eq!(
        acknowledged[..4],
        [exchange, exchange].concat(),
        "{outcome}"
    );
}
