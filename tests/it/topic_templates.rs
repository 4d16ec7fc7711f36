//! Placeholders in topics and in the client identifier, from flags, file and environment.

use std::{fs, io::Cursor};

use crate::harness::{
    Broker, Program, SOON, hostname,
    namespace::{MountNamespace, skipped},
    peer::Witness,
    temp_dir,
};

#[test]
fn one_configuration_file_gives_each_device_its_own_names() {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "#", "%t %p");
    let dir = temp_dir();
    let file = dir.path().join("iot.toml");
    let text = "client-id = \"pump-{env:UNIT}\"\nstatus-topic = \"status/{client-id}\"\n\
                [publisher]\ntopic = \"{hostname}/{client-id}/{{x}}\"\n\
                [subscriber]\ntopic = [\"cmd/{client-id}/#\", \"cmd/all/{env:UNIT}\"]\n";
    fs::write(&file, text).unwrap();
    for unit in ["7", "8"] {
        let program = Program::publisher().to(&broker).arg("--config").arg(&file);
        let program = program.env("UNIT", unit).args(["-m", "hello"]);
        program.run(SOON).expect_code(0);
    }
    let expected = |unit| {
        let id = format!("pump-{unit}");
        let topic = format!("{}/{id}/{{x}} hello", hostname());
        let status = |text| format!("status/{id} {text}");
        [status("online"), topic, status("offline")]
    };
    let seen = witness.texts(6);
    assert_eq!(seen[..3], expected("7"));
    assert_eq!(seen[3..], expected("8"));
    let log = broker.log().text();
    assert!(
        log.contains("as pump-7 (") && log.contains("as pump-8 ("),
        "{log}"
    );

    let program = Program::subscriber().to(&broker).arg("--config").arg(&file);
    let running = program.env("UNIT", "9").start();
    for filter in ["cmd/pump-9/#", "cmd/all/9"] {
        let line = format!("pump-9 1 {filter}");
        let seen = broker.log().wait(SOON, |seen| seen.ends_with(&line));
        assert!(seen.is_some(), "{running}");
    }
    let check = Program::publisher().arg("check").to(&broker);
    let check = check.args(["--client-id", "c", "-t", "check/{client-id}/{hostname}"]);
    let outcome = check.run(SOON).expect_code(0);
    let line = format!("check/c/{}: acknowledged", hostname());
    assert!(outcome.stdout.text().contains(&line), "{outcome}");
}

#[test]
fn flags_and_variables_are_expanded_and_topics_in_json_lines_are_not() {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "#", "%t");
    let program = Program::publisher()
        .to(&broker)
        .args(["-l", "--input", "json"]);
    let program = program
        .env("IOT_TOPIC", "env/{env:SITE}")
        .env("SITE", "{hostname}");
    let lines = "{\"payload\":\"1\"}\n{\"topic\":\"line/{hostname}/{\",\"payload\":\"2\"}\n";
    program.stdin(Cursor::new(lines)).run(SOON).expect_code(0);
    assert_eq!(witness.texts(2), ["env/{hostname}", "line/{hostname}/{"]);
    if let Ok(id) = fs::read_to_string("/etc/machine-id") {
        let program = Program::publisher()
            .to(&broker)
            .args(["-t", "m/{machine-id}"]);
        program.args(["-m", "x"]).run(SOON).expect_code(0);
        assert_eq!(witness.texts(3)[2], format!("m/{}", id.trim()));
    }
    let will = [
        "--will-topic",
        "w/{client-id}",
        "--will-message",
        "{client-id}",
        "-i",
        "me",
    ];
    let program = Program::subscriber()
        .to(&broker)
        .args(["-t", "x", "-d"])
        .args(will);
    let running = program.start();
    running.stderr_line(SOON, |line| line.contains("will \"w/me\""));
}

#[test]
fn a_placeholder_without_a_value_is_a_usage_error_that_says_what_is_missing() {
    let names = ["{hostname}", "{client-id}", "{machine-id}", "{env:NAME}"];
    for program in [Program::publisher, Program::subscriber] {
        let run = |flags: &[&str], parts: &[&str]| {
            let program = program().args(["-e", "h"]).args(flags);
            let outcome = program.env("EMPTY", "").run(SOON).expect_fault(64, parts);
            assert_eq!(outcome.stderr.count(), 1, "{outcome}");
        };
        for text in ["a/{host}", "a/{", "}/a", "{env:}"] {
            for flag in ["--topic", "--will-topic", "--status-topic", "--client-id"] {
                let value = format!("{flag} {text:?}");
                let mut parts = vec![&*value];
                parts.extend(names);
                let mut flags = vec![flag, text];
                if flag != "--topic" {
                    flags.extend(["--topic", "t"]);
                }
                if flag == "--will-topic" {
                    flags.extend(["--will-message", "x"]);
                }
                run(&flags, &parts);
            }
        }
        run(
            &["-t", "{env:NOT_SET}"],
            &["--topic \"{env:NOT_SET}\"", "NOT_SET is not set"],
        );
        run(&["-t", "{env:EMPTY}"], &["EMPTY is empty"]);
        run(
            &["-t", "t", "-i", "{client-id}"],
            &["--client-id", "this identifier itself"],
        );
        // The limits are checked after that.
        let value = format!("{{env:LONG}}{}", "x".repeat(65_530));
        let program = program().args(["-e", "h", "-t", &value]);
        let outcome = program.env("LONG", "123456").run(SOON);
        outcome.expect_fault(64, &["is 65536 bytes long"]);
        let program = Program::publisher().args(["-e", "h", "-t", "a/{env:WILD}"]);
        let outcome = program.env("WILD", "+").run(SOON);
        outcome.expect_fault(64, &["--topic \"a/+\"", "wildcard"]);
    }
}

#[test]
fn a_machine_without_an_identifier_is_named_with_the_file() {
    let test = "a_machine_without_an_identifier_is_named_with_the_file";
    let Some(namespace) = MountNamespace::new() else {
        return skipped(test, "no mount namespace");
    };
    let dir = temp_dir();
    let file = dir.path().join("machine-id");
    for (content, cause) in [
        ("uninitialized\n", "32 hexadecimal digits"),
        ("", "32 hexadecimal digits"),
    ] {
        fs::write(&file, content).unwrap();
        let target = std::path::Path::new("/etc/machine-id");
        if let Err(why) = namespace.run(&["mount", "--bind"], &[&file, target]) {
            return skipped(test, &why);
        }
        let program = Program::one_message().under(namespace.enter());
        let outcome = program.args(["-e", "h", "-i", "{machine-id}"]).run(SOON);
        let outcome = outcome.expect_code(64).expect_stderr("--client-id");
        let outcome = outcome
            .expect_stderr("/etc/machine-id: ")
            .expect_stderr(cause);
        assert_eq!(outcome.stderr.count(), 1, "{outcome}");
        namespace.run(&["umount"], &[target]).unwrap();
    }
}
