//! When a message is acknowledged, and how commands end: signals, time limits, children left behind.

use super::*;

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
    // Each leaves ten orphans, which end soon, and has its own exit status.
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
