//! `--exec`, of the subscriber unless it is said otherwise: what a command is given, when its message is acknowledged, and
//! what becomes of commands that fail, hang, do not exist, or run when the end comes.

use std::{
    fs,
    io::Cursor,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::harness::{
    Broker, Program, SOON, ScriptedBroker,
    namespace::skipped,
    packet::Publish,
    peer,
    running::{Outcome, Running},
    scripted::Event,
    seen::acknowledged,
    temp_dir, wait_until,
};

const SECOND: Duration = Duration::from_secs(1);

/// A subscriber to everything that is told to run something; its `--exec` comes last.
fn subscriber(flags: &[&str]) -> Program {
    Program::subscriber().args(["-t", "#", "-d"]).args(flags)
}

/// With a script for the shell; `$0` is `path`.
fn script(program: Program, script: &str, path: &Path) -> Program {
    program.args(["--exec", "sh", "-c", script]).arg(path)
}

fn start(program: Program, broker: &Broker) -> Running {
    let running = program.start();
    broker.log().wait(SOON, |line| line.ends_with(" 1 #"));
    running.wait_subscribed();
    running
}

/// The flags that connect to a broker come before the command.
fn subscriber_to(broker: &Broker, flags: &[&str]) -> Program {
    subscriber(flags).to(broker)
}

/// Publishes these lines to `t`, a message each.
fn publish(broker: &Broker, lines: &str) {
    Program::publisher()
        .to(broker)
        .args(["-t", "t", "-l"])
        .stdin(Cursor::new(lines.to_owned()))
        .run(SOON)
        .expect_code(0);
}

/// Publishes these bytes to `t`, whatever they are.
fn publish_bytes(broker: &Broker, payload: &[u8], dir: &Path) {
    let file = dir.join("payload");
    fs::write(&file, payload).unwrap();
    let mut client = peer::client("mosquitto_pub", broker);
    client.args(["-q", "1", "-t", "t"]);
    if payload.is_empty() {
        client.arg("-n");
    } else {
        client.arg("-f").arg(&file);
    }
    assert!(client.stdout(Stdio::null()).status().unwrap().success());
}

fn summary(outcome: &Outcome) -> Value {
    let last = outcome.stdout.texts().pop().unwrap_or_default();
    serde_json::from_str(&last).unwrap_or_else(|_| panic!("no summary\n{outcome}"))
}

/// What is on stderr beside what `-d` says.
fn complaints(outcome: &Outcome) -> Vec<String> {
    let mut lines = outcome.stderr.texts();
    lines.retain(|line| !line.contains(" DEBUG ") && !line.contains(" INFO "));
    lines
}

/// Whether this process, whose number is in the file, has ended.
fn has_ended(file: &Path) -> bool {
    let number = fs::read_to_string(file).unwrap();
    let stat = format!("/proc/{}/stat", number.trim());
    // One that nobody has waited for has ended too.
    fs::read_to_string(stat).map_or(true, |stat| stat.contains(") Z "))
}

/// A process that is killed closes its files, and so lets go of ours, a moment before it has ended.
fn ends(file: &Path) -> bool {
    wait_until(SOON, || has_ended(file))
}

fn wait_file(running: &Running, file: &Path) {
    let written = || fs::read_to_string(file).is_ok_and(|text| text.ends_with('\n'));
    assert!(
        wait_until(SOON, written),
        "the command never ran\n{running}"
    );
}

#[test]
fn the_payload_is_on_standard_input_byte_by_byte() {
    let broker = Broker::start();
    let (dir, made) = (temp_dir(), temp_dir());
    let large: Vec<u8> = (0..1_u32 << 20)
        .map(|n| ((n * 7) >> 3).to_le_bytes()[0])
        .collect();
    let payloads = [
        &b"nul \0 and not UTF-8 \xff\xfe, newline\n"[..],
        b"",
        &large,
        b"last",
    ];
    let program = subscriber_to(&broker, &["-C", "4", "--summary"]);
    let copy = r#"cat >"$0/new"; mv "$0/new" "$0/$(ls "$0" | grep -vc new)""#;
    let running = start(script(program, copy, made.path()), &broker);
    for payload in payloads {
        publish_bytes(&broker, payload, dir.path());
    }
    let outcome = running.finish(SOON).expect_code(0);
    for (number, payload) in payloads.iter().enumerate() {
        let got = fs::read(made.path().join(number.to_string())).unwrap();
        assert!(got == *payload, "payload {number}\n{outcome}");
    }
    assert_eq!(summary(&outcome)["failed"], 0, "{outcome}");
}

#[test]
fn a_command_need_not_read_its_standard_input() {
    let broker = Broker::start();
    let dir = temp_dir();
    let program = subscriber_to(&broker, &["-C", "3", "--summary"]);
    let running = start(program.args(["--exec", "true"]), &broker);
    for payload in [&vec![b'x'; 1 << 20][..], b"small", b""] {
        publish_bytes(&broker, payload, dir.path());
    }
    let outcome = running.finish(SOON).expect_code(0);
    assert_eq!(summary(&outcome)["failed"], 0, "{outcome}");
    assert!(complaints(&outcome).is_empty(), "{outcome}");
}

#[test]
fn the_rest_of_the_message_is_in_the_environment() {
    let broker = Broker::start();
    let mut client = peer::client("mosquitto_pub", &broker);
    client.args(["-q", "1", "-r", "-t", "kept", "-m", "x"]);
    assert!(client.status().unwrap().success());
    let program = subscriber_to(&broker, &["-C", "2"]);
    let tell = "env | grep ^MQTT_ | sort; echo";
    let running = start(
        // What the program was started with is not the message's.
        script(program.env("MQTT_STREAM", "alien"), tell, Path::new("x")),
        &broker,
    );
    Program::one_message().to(&broker).run(SOON).expect_code(0);
    let outcome = running.finish(SOON).expect_code(0);
    let text = outcome.stdout.text();
    let (kept, ours) = text.split_once("\n\n").unwrap();
    assert_eq!(kept, "MQTT_QOS=1\nMQTT_RETAIN=1\nMQTT_TOPIC=kept");
    let ours: Vec<_> = ours.trim_end().lines().collect();
    let [qos, retain, seq, stream, taken, topic] = ours[..] else {
        panic!("{outcome}");
    };
    let fixed = [qos, retain, seq, topic];
    assert_eq!(
        fixed,
        ["MQTT_QOS=1", "MQTT_RETAIN=0", "MQTT_SEQ=1", "MQTT_TOPIC=t"]
    );
    let stream = stream.strip_prefix("MQTT_STREAM=").unwrap();
    assert!(!stream.is_empty() && stream != "alien", "{outcome}");
    let taken = taken.strip_prefix("MQTT_TAKEN=").unwrap();
    let age = jiff::Timestamp::now() - taken.parse::<jiff::Timestamp>().unwrap();
    assert!((0..30).contains(&age.as_secs()), "{outcome}");
}

#[test]
fn there_is_no_shell_that_could_take_text_for_orders() {
    let broker = Broker::start();
    let dir = temp_dir();
    let trap = dir.path().join("trap");
    let order = format!("x; touch {0} $(touch {0}) `touch {0}`", trap.display());
    let topic = order.replace('/', "_");
    let program = subscriber_to(&broker, &["-C", "1"]);
    let words = ["--exec", "printf", "%s|", "$HOME", "*", ";", &order];
    let running = start(program.args(words), &broker);
    assert!(peer::publish(&broker, &topic, &order).status.success());
    let outcome = running.finish(SOON).expect_code(0);
    outcome.expect_stdout(&format!("$HOME|*|;|{order}|"));

    let program = subscriber_to(&broker, &["-C", "1"]);
    let words = ["--exec", "sh", "-c", r#"echo "$MQTT_TOPIC"; cat"#];
    let running = start(program.args(words), &broker);
    assert!(peer::publish(&broker, &topic, &order).status.success());
    let outcome = running.finish(SOON).expect_code(0);
    outcome.expect_stdout(&format!("{topic}\n{order}"));
    assert!(!trap.exists());
}

#[test]
fn one_runs_at_a_time_and_in_order() {
    let broker = Broker::start();
    let program = subscriber_to(&broker, &["-C", "10"]);
    let tell = "read -r n; echo begin $n; sleep 0.02; echo end $n";
    let running = start(script(program, tell, Path::new("x")), &broker);
    let numbers: Vec<String> = (1..=10).map(|n| format!("{n}\n")).collect();
    publish(&broker, &numbers.concat());
    let expected: Vec<String> = (1..=10).map(|n| format!("begin {n}\nend {n}\n")).collect();
    let outcome = running.finish(SOON).expect_code(0);
    outcome.expect_stdout(&expected.concat());
}

#[test]
fn so_many_run_at_once_and_no_more() {
    let broker = Broker::start();
    let dir = temp_dir();
    let flags = ["-C", "8", "--exec-jobs", "4", "--exec-timeout", "8"];
    let program = subscriber_to(&broker, &flags);
    // Each waits until three others are there; none ever sees a fifth.
    let meet = r#"
        touch "$0/in.$$"
        while :; do
            set -- "$0"/in.*
            [ $# -le 4 ] || echo "$# at once"
            [ $# -lt 4 ] && ! [ -e "$0/met" ] || break
            sleep 0.01
        done
        touch "$0/met"; sleep 0.05; rm "$0/in.$$""#;
    let running = start(script(program, meet, dir.path()), &broker);
    publish(&broker, &"x\n".repeat(8));
    let outcome = running.finish(SOON).expect_code(0);
    assert!(dir.path().join("met").exists());
    outcome.expect_stdout("");
}

#[test]
fn a_command_that_takes_too_long_is_ended_with_its_children() {
    let broker = Broker::start();
    let dir = temp_dir();
    let child = dir.path().join("child");
    // Long enough for a busy machine to have started the child.
    let flags = ["-C", "1", "--exec-timeout", "2s", "--summary"];
    let program = subscriber_to(&broker, &flags);
    let hang = r#"sleep 600 & echo $! >"$0"; wait"#;
    let running = start(script(program, hang, &child), &broker);
    publish(&broker, "x\n");
    // The child has our standard output open: this returns before SOON only if it has ended.
    let outcome = running.finish(SOON).expect_code(65);
    assert!(outcome.elapsed < 6 * SECOND, "{outcome}");
    assert!(ends(&child), "{outcome}");
    assert_eq!(summary(&outcome)["failed"], 1, "{outcome}");
    let lines = complaints(&outcome);
    assert!(lines[0].contains("--exec-timeout 2s"), "{outcome}");
}

#[test]
fn every_failure_is_a_line_and_counts() {
    let broker = Broker::start();
    let program = subscriber_to(&broker, &["-C", "3", "--summary"]);
    let fail = "read -r how; case $how in good) ;; bad) exit 3;; worse) kill -9 $$;; esac";
    let running = start(script(program, fail, Path::new("x")), &broker);
    publish(&broker, "bad\ngood\nworse\n");
    let outcome = running.finish(SOON).expect_code(65);
    let lines = complaints(&outcome);
    assert_eq!(lines.len(), 3, "two, and their number\n{outcome}");
    for (line, parts) in lines.iter().zip([
        ["--exec sh", "/1 on \"t\"", "exit status: 3"],
        ["--exec sh", "/3 on \"t\"", "signal: 9"],
        ["--exec", "2 of 3", "failed"],
    ]) {
        for part in parts {
            assert!(line.contains(part), "no {part:?}\n{outcome}");
        }
    }
    let summary = summary(&outcome);
    assert_eq!(
        (&summary["received"], &summary["failed"]),
        (&3.into(), &2.into())
    );
}

#[test]
fn a_count_is_reached_when_so_many_commands_have_ended() {
    for jobs in ["1", "4"] {
        let broker = Broker::start();
        let flags = ["-C", "2", "--exec-jobs", jobs, "--summary"];
        let program = subscriber_to(&broker, &flags);
        let running = start(
            script(program, "sleep 0.3; echo ended", Path::new("x")),
            &broker,
        );
        publish(&broker, "1\n2\n3\n4\n");
        let outcome = running.finish(SOON).expect_code(0);
        assert_eq!(outcome.stdout.count(), 3, "{outcome}");
        let text = outcome.stdout.text();
        let then = "ended\nended\n{\"received\":2,";
        assert!(text.starts_with(then), "{outcome}");
    }
}

/// Makes a script of this name, in one step.
fn make(command: &Path, script: &str) {
    let draft = command.with_extension("draft");
    fs::write(&draft, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(draft, command).unwrap();
}

#[test]
fn a_command_that_cannot_be_run_is_an_error_at_the_start() {
    let dir = temp_dir();
    let plain = dir.path().join("plain");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    let alien = dir.path().join("alien");
    fs::write(&alien, "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(&alien, fs::Permissions::from_mode(0o755)).unwrap();
    let shown = |path: &Path| path.to_str().unwrap().to_owned();
    let broker = ScriptedBroker::script()
        .after_subscribe("#", "t", b"x")
        .plain();
    for (name, cause) in [
        ("no-such-program".to_owned(), "no such program in PATH"),
        (shown(&dir.path().join("missing")), "no such file"),
        (shown(dir.path()), "not a file"),
        (shown(&plain), "Permission denied"),
        (shown(&alien), "/no/such/interpreter"),
        ("echo hello".to_owned(), "there is no shell"),
        (String::new(), "empty"),
    ] {
        for program in [
            subscriber(&[]),
            Program::publisher()
                .args(["-t", "t", "--queue"])
                .arg(&plain),
        ] {
            let program = program.at_plain_port(broker.port());
            let outcome = program.args(["--exec", &name, "argument"]).run(SOON);
            outcome.expect_fault(66, &[&format!("--exec {name}: "), cause]);
        }
    }
    assert!(broker.events().is_empty());
}

#[test]
fn a_command_that_vanishes_is_tried_again_until_it_is_back() {
    let broker = Broker::start();
    let dir = temp_dir();
    let command = dir.path().join("command");
    make(&command, "echo here");
    let flags = ["-C", "1", "--persistent", "--client-id", "worker"];
    let program = || subscriber_to(&broker, &flags).arg("--exec").arg(&command);
    let running = start(program(), &broker);
    fs::remove_file(&command).unwrap();
    publish(&broker, "x\n");
    let again = |line: &str| line.contains("trying again") && line.contains("No such file");
    running.stderr_line(SOON, again);
    // It has not been acknowledged.
    running.signal(Signal::SIGKILL);
    running.finish(SOON);
    make(&command, "echo here");
    let running = program().start();
    running.finish(SOON).expect_code(0).expect_stdout("here\n");

    let running = program().start();
    running.wait_subscribed();
    fs::remove_file(&command).unwrap();
    publish(&broker, "x\n");
    running.stderr_line(SOON, again);
    make(&command, "echo here");
    let outcome = running.finish(SOON).expect_code(0);
    assert_eq!(complaints(&outcome).len(), 1, "said once\n{outcome}");
    outcome.expect_stdout("here\n");
}

#[test]
fn a_signal_ends_a_run_whose_command_has_vanished() {
    let broker = Broker::start();
    let dir = temp_dir();
    let command = dir.path().join("command");
    make(&command, "echo here");
    let running = start(
        subscriber_to(&broker, &[]).arg("--exec").arg(&command),
        &broker,
    );
    fs::remove_file(&command).unwrap();
    publish(&broker, "x\n");
    running.stderr_line(SOON, |line| line.contains("trying again"));
    let stopped = Instant::now();
    let outcome = running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    assert!(stopped.elapsed() < SECOND, "{outcome}");
    let lines = complaints(&outcome);
    let left = lines
        .iter()
        .any(|l| l.contains("1 message") && l.contains("not given"));
    assert!(left, "{outcome}");
}

#[test]
fn a_message_is_acknowledged_only_after_its_command_has_ended() {
    let broker = ScriptedBroker::script()
        .after_subscribe("#", "t", b"1")
        .after_subscribe("#", "t", b"2")
        .tls();
    let dir = temp_dir();
    let flags = ["-C", "2", "--exec-jobs", "2"];
    let program = subscriber(&flags).at_port(broker.port());
    // The second ends at once, the first when it may.
    let wait =
        r#"read -r n; [ "$n" = 2 ] || until [ -e "$0/go" ]; do sleep 0.01; done; echo $n >"$0/$n""#;
    let wait = wait.replace("read -r n", "n=$(cat)");
    let running = script(program, &wait, dir.path()).start();
    wait_file(&running, &dir.path().join("2"));
    let early = wait_until(Duration::from_millis(300), || {
        !acknowledged(&broker.events()).is_empty()
    });
    assert!(!early, "out of turn\n{running}");
    fs::write(dir.path().join("go"), "").unwrap();
    broker.wait(SOON, |events| acknowledged(events) == [1, 2]);
    running.finish(SOON).expect_code(0);
}

#[test]
fn a_signal_lets_the_command_end_and_its_message_is_acknowledged() {
    // Often: the end comes at the very moment at which nothing runs any more.
    for _ in 0..5 {
        let broker = ScriptedBroker::script()
            .after_subscribe("#", "t", b"1")
            .after_subscribe("#", "t", b"2")
            .tls();
        let dir = temp_dir();
        let begun = dir.path().join("begun");
        let program = subscriber(&["--summary"]).at_port(broker.port());
        let slow = r#"echo x >"$0"; sleep 0.2; echo ended; exit 3"#;
        let running = script(program, slow, &begun).start();
        wait_file(&running, &begun);
        let outcome = running.finish_by(Signal::SIGTERM, SOON).expect_code(65);
        let text = outcome.stdout.text();
        assert!(text.starts_with("ended\n{"), "{outcome}");
        let summary = summary(&outcome);
        assert_eq!(
            (&summary["received"], &summary["failed"]),
            (&1.into(), &1.into())
        );
        let said = |events: &[Event]| matches!(events.last(), Some(Event::End));
        assert_eq!(acknowledged(&broker.wait(SOON, said)), [1], "{outcome}");
    }
}

#[test]
fn a_signal_ends_a_command_that_hangs_with_its_children() {
    let broker = ScriptedBroker::script()
        .after_subscribe("#", "t", b"1")
        .tls();
    let dir = temp_dir();
    let child = dir.path().join("child");
    let program = subscriber(&[]).at_port(broker.port());
    let hang = r#"sleep 600 & echo $! >"$0"; wait"#;
    let running = script(program, hang, &child).start();
    wait_file(&running, &child);
    let stopped = Instant::now();
    let outcome = running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let took = stopped.elapsed();
    assert!(
        (2 * SECOND..5 * SECOND).contains(&took),
        "{took:?}\n{outcome}"
    );
    assert!(ends(&child), "{outcome}");
    let said = |events: &[Event]| matches!(events.last(), Some(Event::End));
    assert!(
        acknowledged(&broker.wait(SOON, said)).is_empty(),
        "{outcome}"
    );
}

#[test]
fn a_second_signal_ends_it_at_once_and_leaves_no_command_behind() {
    let broker = ScriptedBroker::script()
        .after_subscribe("#", "t", b"1")
        .tls();
    let dir = temp_dir();
    let child = dir.path().join("child");
    let program = subscriber(&[]).at_port(broker.port());
    let hang = r#"sleep 600 & echo $! >"$0"; wait"#;
    let running = script(program, hang, &child).start();
    wait_file(&running, &child);
    running.signal(Signal::SIGINT);
    let stopped = Instant::now();
    // Two within half a second are one.
    assert!(!wait_until(SECOND * 3 / 4, || has_ended(&child)));
    let outcome = running.finish_by(Signal::SIGINT, SOON).expect_code(0);
    assert!(stopped.elapsed() < SECOND * 2, "{outcome}");
    assert!(ends(&child), "{outcome}");
    assert!(acknowledged(&broker.events()).is_empty(), "{outcome}");
}

#[test]
fn a_message_whose_command_was_cut_short_comes_again() {
    let broker = Broker::start();
    let dir = temp_dir();
    let begun = dir.path().join("begun");
    let flags = ["--persistent", "--client-id", "worker", "-C", "2"];
    let program = subscriber_to(&broker, &flags);
    let hang = r#"[ "$(cat)" = first ] || { echo $$ >"$0"; exec sleep 20 >&- 2>&-; }"#;
    let running = start(script(program, hang, &begun), &broker);
    publish(&broker, "first\nsecond\n");
    wait_file(&running, &begun);
    running.signal(Signal::SIGKILL);
    running.finish(SOON);
    // Nobody is left who could end it.
    let orphan = fs::read_to_string(&begun).unwrap();
    kill(
        Pid::from_raw(orphan.trim().parse().unwrap()),
        Signal::SIGKILL,
    )
    .unwrap();
    let program = subscriber_to(&broker, &flags);
    let running = program.args(["--exec", "sh", "-c", "cat; echo"]).start();
    running.stdout_line(SOON, |line| line == "second");
    publish(&broker, "third\n");
    running
        .finish(SOON)
        .expect_code(0)
        .expect_stdout("second\nthird\n");
}

#[test]
fn a_child_left_in_the_background_holds_nothing_up() {
    let broker = Broker::start();
    let dir = temp_dir();
    let large = vec![b'x'; 1 << 20];
    let program = subscriber_to(&broker, &["-C", "2", "--summary"]);
    // It holds standard input open, and reads nothing of it.
    let leave = r#"exec 3<&0; sleep 600 <&3 >/dev/null 2>&1 & echo $! >>"$0""#;
    let left = dir.path().join("left");
    let running = start(script(program, leave, &left), &broker);
    for _ in 0..2 {
        publish_bytes(&broker, &large, dir.path());
    }
    let outcome = running.finish(SOON).expect_code(0);
    assert_eq!(summary(&outcome)["received"], 2, "{outcome}");
    // They go on, as nobody has ended them.
    for number in fs::read_to_string(&left).unwrap().lines() {
        kill(Pid::from_raw(number.parse().unwrap()), Signal::SIGKILL).unwrap();
    }
}

#[test]
fn a_time_limit_holds_for_a_command_of_the_publisher_and_its_children() {
    let dir = temp_dir();
    let child = dir.path().join("child");
    let rest = [
        r#"sleep 600 & echo $! >"$0"; wait"#,
        r#"exec >&-; sleep 600 & echo $! >"$0"; wait"#,
        r#"sleep 600 & echo $! >"$0"; yes | head -c 100000; wait"#,
    ];
    for hang in rest {
        let broker = ScriptedBroker::script().plain();
        let program = Program::publisher().at_plain_port(broker.port());
        let program = program.args(["-t", "t", "-C", "1", "--interval", "0.2", "--summary"]);
        let program = program.args(["--exec-timeout", "1s"]);
        let once = format!(r#"[ -e "$0" ] && {{ echo good; exit; }}; {hang}"#);
        let outcome = script(program, &once, &child).run(SOON).expect_code(0);
        assert!(ends(&child), "{outcome}");
        let lines = complaints(&outcome);
        let why = "--exec sh: ended: it took longer than --exec-timeout 1s; skipped";
        assert!(lines.iter().any(|line| line.contains(why)), "{outcome}");
        assert_eq!(summary(&outcome)["failed"], 1, "{outcome}");
        assert_eq!(broker.publishes()[0].text(), "good");
        fs::remove_file(&child).unwrap();
    }
}

#[test]
fn a_reading_is_taken_though_the_command_leaves_a_child_behind() {
    let broker = ScriptedBroker::script().plain();
    let dir = temp_dir();
    let left = dir.path().join("left");
    let program = Program::publisher().at_plain_port(broker.port());
    let program = program.args(["-t", "t", "-C", "3", "--interval", "0.1"]);
    let leave = r#"echo reading; setsid sleep 600 & echo $! >>"$0""#;
    let running = script(program, leave, &left).start();
    // Only our own pipes stay open: the children have standard error.
    broker.wait_publishes(3, SOON);
    let texts: Vec<_> = broker.publishes().iter().map(Publish::text).collect();
    assert_eq!(texts, ["reading"; 3]);
    for number in fs::read_to_string(&left).unwrap().lines() {
        // `setsid` has gone on in another process, if it led a group.
        let _ = kill(Pid::from_raw(number.parse().unwrap()), Signal::SIGKILL);
    }
    running.finish(SOON).expect_code(0);
}

#[test]
fn output_without_an_end_costs_no_memory_without_an_end() {
    let broker = ScriptedBroker::script().plain();
    let program = Program::publisher().at_plain_port(broker.port());
    let program = program.args(["-t", "t", "--interval", "0.1", "--queue-bytes", "1MiB"]);
    let running = program.args(["--exec", "yes"]).start();
    running.stderr_line(SOON, |line| line.contains("prints more than 1048576 bytes"));
    let most = running.status("VmHWM:").unwrap();
    assert!(most < 40 << 10, "{most} KiB\n{running}");
    running.finish_by(Signal::SIGTERM, SOON).expect_code(0);
}

#[test]
fn a_failure_that_repeats_itself_is_said_once() {
    let broker = ScriptedBroker::script().plain();
    let dir = temp_dir();
    let command = dir.path().join("command");
    make(&command, "echo here; rm \"$0\"");
    let program = Program::publisher().at_plain_port(broker.port());
    let program = program.args(["-t", "t", "--interval", "0.05", "-C", "2", "--summary"]);
    let running = program.arg("--exec").arg(&command).start();
    let fails = |line: &str| line.contains("cannot be run: No such file");
    running.stderr_line(SOON, fails);
    let again = wait_until(SECOND, || running.stderr.count_of(fails) > 1);
    assert!(!again, "{running}");
    make(&command, "echo here");
    let outcome = running.finish(SOON).expect_code(0);
    let failed = summary(&outcome)["failed"].as_u64().unwrap();
    assert!(failed > 3, "{outcome}");
}

/// Processes whose parent is this one, and that nobody has waited for.
fn zombies(parent: u32) -> usize {
    let stats = fs::read_dir("/proc").unwrap().flatten();
    let stats = stats.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let is_one = |stat: &String| {
        let (_, rest) = stat.rsplit_once(") ").unwrap_or_default();
        rest.starts_with(&format!("Z {parent} "))
    };
    stats.filter(is_one).count()
}

#[test]
fn as_process_1_it_waits_for_orphans_and_takes_no_command_s_exit_status() {
    let alone = ["unshare", "--pid", "--fork", "--kill-child", "--"];
    let may = Command::new(alone[0])
        .args(&alone[1..])
        .arg("true")
        .output();
    if !may.is_ok_and(|output| output.status.success()) {
        return skipped("as_process_1", "this user may not make PID namespaces");
    }
    let broker = Broker::start();
    // Each leaves ten orphans, which end soon, and has an exit status of its own.
    let orphans = "n=$(cat); for i in 0 1 2 3 4 5 6 7 8 9; do (sleep 0.0$i >/dev/null 2>&1 &) ; done; exit $n";
    let program = subscriber_to(&broker, &["--exec-jobs", "4", "--summary"]).under(alone);
    let running = start(script(program, orphans, Path::new("x")), &broker);
    let codes: Vec<String> = (0..40).map(|n| format!("{}\n", n % 2)).collect();
    publish(&broker, &codes.concat());
    let failed = |count: usize| {
        let fails = |line: &str| line.contains("failed: exit status: 1");
        running.stderr.count_of(fails) == count
    };
    assert!(wait_until(SOON, || failed(20)), "{running}");
    let children = format!("/proc/{0}/task/{0}/children", running.id());
    let child = || fs::read_to_string(&children).unwrap();
    let init: u32 = child().trim().parse().expect("one child");
    assert!(wait_until(SOON, || zombies(init) == 0), "{}", zombies(init));
    // It gets the signal itself: whoever is process 1 is not ended by others' defaults.
    kill(Pid::from_raw(init.try_into().unwrap()), Signal::SIGTERM).unwrap();
    let outcome = running.finish(SOON).expect_code(65);
    assert_eq!(summary(&outcome)["failed"], 20, "{outcome}");
    assert_eq!(summary(&outcome)["received"], 40, "{outcome}");
}
