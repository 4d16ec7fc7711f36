//! What a command is given of a message, how many run, and what is said when they fail.

use super::*;

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
