//! Flags, the environment and a configuration file: who wins, and what is said of mistakes.

use std::{fs, path::PathBuf};

use clap::CommandFactory as _;
use iot_pubsub::{publisher, subscriber};
use tempfile::TempDir;

use crate::harness::{Broker, Program, SOON, certs, temp_dir};

/// A configuration file, and the directory that goes with it.
fn file(text: &str) -> (TempDir, PathBuf) {
    let dir = temp_dir();
    let path = dir.path().join("iot.toml");
    fs::write(&path, text).unwrap();
    (dir, path)
}

/// The lines that every file here begins with.
fn broker_lines(broker: &Broker) -> String {
    let device = &certs().device;
    format!(
        "endpoint = \"localhost\"\nport = {}\ncafile = '{}'\ncert = '{}'\nkey = '{}'\n",
        broker.port(),
        certs().ca.display(),
        device.cert.display(),
        device.key.display()
    )
}

#[test]
fn every_long_flag_can_come_from_the_file_or_the_environment_and_the_flag_wins() {
    let broker = Broker::start();
    let text = broker_lines(&broker)
        + "topic = \"from/file\"\nqos = 0\nclient-id = \"me\"\n\
           [publisher]\nmessage = \"file\"\nverbose = true\nmax-inflight = 7\n\
           [subscriber]\njson = true\ncount = 3\n";
    let (_dir, path) = file(&text);
    let publisher = || Program::publisher().arg("--config").arg(&path);
    publisher()
        .run(SOON)
        .expect_code(0)
        .expect_stdout("from/file file\n");
    let outcome = publisher().env("IOT_TOPIC", "from/env").run(SOON);
    outcome.expect_code(0).expect_stdout("from/env file\n");
    let outcome = publisher()
        .env("IOT_TOPIC", "from/env")
        .args(["-t", "flag"]);
    outcome
        .run(SOON)
        .expect_code(0)
        .expect_stdout("flag file\n");
    // Off is a value as well.
    let outcome = publisher().env("IOT_VERBOSE", "off").run(SOON);
    outcome.expect_code(0).expect_stdout("");
    assert!(broker.log().text().contains(" as me "));

    let variable = Program::publisher().env("IOT_CONFIG", path.to_str().unwrap());
    variable
        .run(SOON)
        .expect_code(0)
        .expect_stdout("from/file file\n");

    let subscriber = Program::subscriber().arg("--config").arg(&path);
    let subscriber = subscriber.args(["-i", "other", "-d", "-t", "t"]).start();
    subscriber.stderr_line(SOON, |line| line.contains("subscribed"));
    for _ in 0..3 {
        publisher().args(["-t", "t"]).run(SOON).expect_code(0);
    }
    let outcome = subscriber.finish(SOON).expect_code(0);
    assert!(outcome.stdout.text().starts_with("{\"tst\""), "{outcome}");
}

#[test]
fn what_was_typed_keeps_out_what_does_not_go_with_it() {
    let broker = Broker::start();
    let text = broker_lines(&broker) + "topic = \"t\"\nstdin-line = true\nquiet = true\n";
    let (_dir, path) = file(&text);
    let program = Program::publisher().arg("--config").arg(&path);
    // --message and --stdin-line are both sources, --debug and --quiet both log levels.
    let outcome = program.args(["-m", "typed", "-v", "-d"]).run(SOON);
    outcome.expect_code(0).expect_stdout("t typed\n");
}

#[test]
fn lists_in_the_file_are_flags_given_several_times() {
    let broker = Broker::start();
    let text = broker_lines(&broker)
        + "[subscriber]\ntopic = [\"a\", \"b\"]\n[publisher]\ntopic = \"a\"\n\
           exec = [\"echo\", \"-n\", \"by command\"]\ncount = 1\n";
    let (_dir, path) = file(&text);
    let subscriber = Program::subscriber().arg("--config").arg(&path);
    let subscriber = subscriber.args(["-C", "1", "-v", "-d"]).start();
    for filter in ["a", "b"] {
        let line = format!("{filter}: subscribed");
        subscriber.stderr_line(SOON, |l| l.contains(&line));
    }
    let publisher = Program::publisher().arg("--config").arg(&path).run(SOON);
    publisher.expect_code(0);
    subscriber
        .finish(SOON)
        .expect_code(0)
        .expect_stdout("a by command\n");
}

#[test]
fn a_mistake_in_the_file_is_named_with_the_file_and_the_remedy() {
    for (text, code, parts) in [
        (
            "endpont = \"x\"",
            78,
            &["unknown key endpont", "did you mean endpoint?"][..],
        ),
        (
            "client_id = \"x\"",
            78,
            &["unknown key client_id", "did you mean client-id?"],
        ),
        ("zzzzzzzz = 1", 78, &["unknown key zzzzzzzz", "--help"]),
        (
            "[publisher]\nintervall = 1",
            78,
            &["unknown key intervall", "did you mean interval?"],
        ),
        ("endpoint = ", 78, &["is not TOML"]),
        (
            "endpoint = [1, 2]",
            78,
            &["endpoint", "must be a text or a number"],
        ),
        ("retain = \"yes\"", 78, &["retain", "must be true or false"]),
        ("exec = []", 78, &["exec must not be empty"]),
        ("publisher = 1", 78, &["must be a table"]),
    ] {
        let (_dir, path) = file(text);
        let outcome = Program::publisher().arg("--config").arg(&path).run(SOON);
        outcome.expect_fault(code, &[&["iot.toml"], parts].concat());
    }
    let (_dir, path) = file("qos = 7\nendpoint = \"localhost\"\ntopic = \"t\"");
    let outcome = Program::publisher().arg("--config").arg(&path).run(SOON);
    outcome.expect_fault(64, &["--qos", "comes from", "iot.toml"]);
    let outcome = Program::publisher()
        .args(["--config", "/nosuch.toml"])
        .run(SOON);
    outcome.expect_fault(66, &["/nosuch.toml: --config cannot be read"]);
}

#[test]
fn what_stands_under_the_other_program_s_name_is_an_error_if_it_was_meant_for_this_one() {
    let refused = |program: Program, text: &str, parts: &[&str]| {
        let (_dir, path) = file(&("endpoint = \"localhost\"\ntopic = \"t\"\n".to_owned() + text));
        let outcome = program.arg("--config").arg(&path).run(SOON);
        let outcome = outcome.expect_fault(78, &[&["iot.toml"], parts].concat());
        assert_eq!(outcome.stderr.count(), 1, "{outcome}");
    };
    // Without it the publisher would send what it made up.
    let exec = "[subscriber]\nexec = [\"cat\"]\n";
    let parts = [
        "exec stands under [subscriber]",
        "move it under [publisher]",
    ];
    refused(Program::publisher(), exec, &parts);
    refused(
        Program::publisher(),
        &format!("{exec}[publisher]\nqos = 1\n"),
        &parts,
    );
    for key in [
        "stdin-line = true",
        "queue = \"q\"",
        "interval = 9",
        "message = \"x\"",
    ] {
        let text = format!("[publisher]\nnull-message = true\n[subscriber]\n{key}\n");
        let name = key.split(' ').next().unwrap();
        let parts = [
            name,
            "stands under [subscriber]",
            "move it under [publisher]",
        ];
        refused(Program::publisher(), &text, &parts);
        refused(Program::publisher().arg("check"), &text, &parts);
    }
    for key in ["json = true", "output = \"o\"", "persistent = true"] {
        let text = format!("[publisher]\n{key}\n");
        let name = key.split(' ').next().unwrap();
        let parts = [
            name,
            "stands under [publisher]",
            "move it under [subscriber]",
        ];
        refused(Program::subscriber(), &text, &parts);
    }
}

#[test]
fn a_file_for_both_programs_may_give_each_its_own_command() {
    let broker = Broker::start();
    let text = broker_lines(&broker)
        + "topic = \"t\"\nqos = 1\n\
           [publisher]\nexec = [\"echo\", \"measured\"]\ncount = 1\nclient-id = \"one\"\n\
           [subscriber]\nexec = [\"cat\"]\ncount = 2\nclient-id = \"two\"\ndebug = true\n";
    let (_dir, path) = file(&text);
    let with = |program: Program| program.arg("--config").arg(&path);
    let subscriber = with(Program::subscriber()).start();
    subscriber.wait_subscribed();
    with(Program::publisher()).run(SOON).expect_code(0);
    // Another source takes the place of the command, in both tables.
    let message = with(Program::publisher()).args(["-m", "typed"]);
    message.run(SOON).expect_code(0);
    let outcome = subscriber.finish(SOON).expect_code(0);
    outcome.expect_stdout("measuredtyped");
    let source = "message = \"m\"\n[subscriber]\nexec = [\"cat\"]\n";
    let (_dir, path) = file(&(broker_lines(&broker) + "topic = \"t\"\n" + source));
    let program = Program::publisher().arg("--config").arg(&path);
    program.run(SOON).expect_code(0);
}

/// Whatever flags the two come to share: in the other's table they are the other's.
#[test]
fn every_flag_of_the_other_program_may_stand_in_its_table() {
    let commands = [
        publisher::args::Cli::command(),
        subscriber::args::Cli::command(),
    ];
    let [publisher, subscriber] = &commands;
    for (program, other) in [(publisher, subscriber), (subscriber, publisher)] {
        let keys = other.get_arguments().filter_map(|arg| arg.get_long());
        let keys: Vec<_> = keys
            .filter(|long| *long != "config")
            .map(|long| format!("{long} = 1\n"))
            .collect();
        assert!(keys.len() > 40, "{keys:?}");
        let text = format!("[{}]\n{}", other.get_name(), keys.concat());
        let (_dir, path) = file(&text);
        let start = match program.get_name() {
            "publisher" => Program::one_message(),
            _ => Program::subscriber().args(["-t", "t"]),
        };
        // Everything in it is passed over; only the port is wrong.
        let start = start.arg("--config").arg(&path);
        let outcome = start.args(["-e", "localhost", "--port", "x"]).run(SOON);
        outcome.expect_fault(64, &["--port", "'x'"]);
    }
}

#[test]
fn a_mistake_in_the_environment_is_named_with_the_variable() {
    let program = || Program::publisher().args(["-e", "localhost", "-t", "t", "-m", "x"]);
    let outcome = program().env("IOT_QOS", "7").run(SOON);
    outcome.expect_fault(64, &["--qos", "IOT_QOS"]);
    let outcome = program().env("IOT_RETAIN", "perhaps").run(SOON);
    outcome.expect_fault(64, &["IOT_RETAIN=perhaps", "true or false"]);
}

#[test]
fn the_other_commands_take_the_same_file() {
    let broker = Broker::start();
    let dir = temp_dir();
    let queue = dir.path().join("queue.db");
    let text = broker_lines(&broker)
        + &format!(
            "topic = \"t\"\n[publisher]\nqueue = '{}'\ninterval = \"10s\"\n",
            queue.display()
        );
    let (_dir, path) = file(&text);
    let check = Program::publisher().args(["check", "--config"]).arg(&path);
    let check = check.run(SOON).expect_code(0);
    assert!(
        check.stdout.text().contains("publish: t: acknowledged"),
        "{check}"
    );
    let publisher = Program::publisher().arg("--config").arg(&path);
    publisher.args(["-m", "x"]).run(SOON).expect_code(0);
    let status = Program::publisher().args(["queue", "status"]);
    status
        .env("IOT_QUEUE", queue.to_str().unwrap())
        .run(SOON)
        .expect_code(0);
}

#[test]
fn a_path_in_the_file_starts_where_the_file_is() {
    let broker = Broker::start();
    let dir = temp_dir();
    let device = &certs().device;
    for (from, name) in [
        (&certs().ca, "ca.pem"),
        (&device.cert, "device.pem.crt"),
        (&device.key, "private.pem.key"),
    ] {
        fs::copy(from, dir.path().join(name)).unwrap();
    }
    let path = dir.path().join("iot.toml");
    let endpoint = format!("localhost:{}", broker.port());
    let text = format!("endpoint = \"{endpoint}\"\ncerts = \".\"\ntopic = \"t\"\n");
    fs::write(&path, text + "[publisher]\nqueue = \"queue.db\"\n").unwrap();
    let program = Program::publisher().arg("--config").arg(&path);
    program.args(["-m", "x"]).run(SOON).expect_code(0);
    assert!(dir.path().join("queue.db").exists());
}

#[test]
fn a_variable_that_is_nearly_a_flag_is_pointed_out() {
    let program = Program::publisher().args(["-t", "t", "-m", "x"]);
    let outcome = program.env("IOT_ENDPONT", "localhost").run(SOON);
    let outcome = outcome.expect_code(64);
    outcome.expect_stderr("IOT_ENDPONT: no flag has this name; did you mean IOT_ENDPOINT?");
    let broker = Broker::start();
    let program = Program::one_message().to(&broker);
    let quiet = program
        .env("IOT_HUB_CONNECTION", "x")
        .run(SOON)
        .expect_code(0);
    assert_eq!(quiet.stderr.text(), "", "{quiet}");
}

#[test]
fn a_check_takes_every_topic_of_the_file_and_prints_for_people() {
    let broker = Broker::start();
    let text = broker_lines(&broker) + "[subscriber]\njson = true\ntopic = [\"a/+\", \"b\"]\n";
    let (_dir, path) = file(&text);
    let check = Program::subscriber().args(["check", "--config"]).arg(&path);
    let check = check.run(SOON).expect_code(0);
    let printed = check.stdout.text();
    for line in [
        "skipped publish: a/+: a filter is no topic name",
        "ok      subscribe: a/+: granted with QoS 1",
        "ok      publish: b: acknowledged",
        "ok      subscribe: b: granted with QoS 1",
    ] {
        assert!(printed.contains(line), "{line}\n{check}");
    }
}

#[test]
fn the_example_configuration_is_one() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/certs.example/iot-pubsub.toml");
    for program in [Program::publisher(), Program::subscriber()] {
        let device = &certs().device;
        let program = program.args(["--config", example, "--certs", "x", "--cafile"]);
        let program = program.arg(&certs().ca).identity(device);
        // Everything in it is understood; only the broker is missing.
        let outcome = program.args(["-e", "localhost", "--port", "x"]).run(SOON);
        outcome.expect_fault(64, &["--port", "'x'"]);
    }
}
