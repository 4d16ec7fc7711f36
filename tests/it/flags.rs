//! The flags that both programs share: names, aliases, addresses, user and password.

use crate::harness::{
    Broker, Program, SOON, certs,
    certs::{Pair, Validity},
    free_port, odd_certs,
    scripted::{Event, ScriptedBroker},
    temp_dir,
};

const SECRET: &str = "xyzzy-0815";

#[test]
fn version_and_help_are_data_on_stdout() {
    for program in [Program::publisher, Program::subscriber] {
        let version = program().arg("--version").run(SOON).expect_code(0);
        let text = version.stdout.text();
        assert!(text.contains("Paho C 1."), "{version}");
        assert!(text.contains("OpenSSL 3."), "{version}");
        assert_eq!(version.stderr.text(), "", "{version}");

        let help = program().arg("--help").run(SOON).expect_code(0);
        assert!(help.stdout.text().contains("--endpoint"), "{help}");
        assert_eq!(help.stderr.text(), "", "{help}");
    }
}

#[test]
fn the_shell_is_told_of_the_flags_and_so_is_the_manual() {
    for (program, flag) in [
        (Program::publisher as fn() -> Program, "--batch-wait"),
        (Program::subscriber, "--session-expiry"),
    ] {
        for words in [
            &["completions", "bash"][..],
            &["completions", "zsh"],
            &["man"],
        ] {
            let outcome = program().args(words).run(SOON).expect_code(0);
            let text = outcome.stdout.text().replace('\\', "");
            assert!(text.contains(flag), "{words:?}");
        }
        let unknown = program().args(["completions", "csh"]).run(SOON);
        unknown.expect_fault(64, &["csh", "bash"]);
    }
}

#[test]
fn the_other_names_of_flags_work() {
    let broker = Broker::start();
    let port = broker.port().to_string();
    for (number, (ca, id)) in (0..).zip([
        ("--root-ca", "--id"),
        ("--rootCA", "--clientId"),
        ("--ca", "--thing-name"),
        ("--ca_file", "--client-id"),
    ]) {
        let id_given = format!("client-{number}");
        Program::one_message()
            .args(["--host", "localhost", "-p", &port, id, &id_given])
            .arg(ca)
            .arg(&certs().ca)
            .identity(&certs().device)
            .run(SOON)
            .expect_code(0);
        let named = format!(" as {id_given} ");
        let connected = broker.log().wait(SOON, |line| line.contains(&named));
        assert!(connected.is_some(), "{id}");
    }
}

#[test]
fn letters_of_mosquitto_that_mean_something_else_or_nothing_are_answered_with_the_right_flag() {
    let broker = Broker::builder().plain().start();
    let port = broker.port().to_string();
    for program in [Program::publisher, Program::subscriber] {
        for (words, part) in [
            (
                &["-h", "localhost", "-p", &port, "-t", "t"][..],
                "-h is help; for the broker type --endpoint mqtt://HOST",
            ),
            (
                &["-t", "t", "-p", &port, "-h", "localhost"],
                "-h is help; for the broker type --endpoint mqtt://HOST",
            ),
            (
                &["-V", "mqttv5", "-e", "localhost", "-t", "t"],
                "use --mqtt-version 5",
            ),
            (
                &["-e", "localhost", "-t", "t", "-V", "mqttv311"],
                "--mqtt-version 3.1.1",
            ),
            (
                &["-e", "localhost", "-t", "t", "-k", "60"],
                "-k: use --keep-alive",
            ),
            (
                &["-e", "localhost", "-t", "t", "-u", "me", "-P", "s3cret"],
                "-P: every user",
            ),
            (
                &["-e", "localhost", "-t", "t", "--pw=s3cret"],
                "use --password-file",
            ),
            (
                &["-e", "localhost", "-t", "t", "--insecure"],
                "--insecure: does not exist",
            ),
            (
                &["-L", "mqtt://me:s3cret@localhost/t"],
                "--endpoint mqtts://HOST:PORT",
            ),
            (
                &["check", "-h", "localhost"],
                "-h is help; for the broker type --endpoint mqtt://HOST",
            ),
        ] {
            let outcome = program().args(words).run(SOON).expect_fault(64, &[part]);
            assert_eq!(outcome.stderr.count(), 1, "{outcome}");
            assert_eq!(outcome.stdout.text(), "", "{outcome}");
            assert!(!outcome.stderr.text().contains("s3cret"), "{outcome}");
        }
        for alone in [&["-h"][..], &["check", "-h"], &["-t", "t", "--help"]] {
            let help = program().args(alone).run(SOON).expect_code(0);
            assert!(help.stdout.text().contains("--endpoint"), "{help}");
        }
        let version = program().arg("-V").run(SOON).expect_code(0);
        assert!(version.stdout.text().contains("OpenSSL 3."), "{version}");
    }
    let values = Program::publisher()
        .to(&broker)
        .args(["-t", "t", "-m", "-h"]);
    values.run(SOON).expect_code(0);
    let nobodys = Program::publisher().args(["-e", "localhost", "-t", "t", "--zzz"]);
    nobodys
        .run(SOON)
        .expect_fault(64, &["'--zzz'", "see --help"]);
}

#[test]
fn names_with_control_characters_are_refused_before_the_broker_closes_for_them() {
    let nobody = free_port();
    for c in ['\u{1}', '\t', '\n', '\u{1b}', '\u{7f}', '\u{85}', '\u{9f}'] {
        let name = format!("a/{c}/b");
        let code = format!("U+{:04X}", u32::from(c));
        for program in [Program::publisher, Program::subscriber] {
            let program = || program().at_plain_port(nobody);
            let topic = program().args(["-t", &name]);
            topic.run(SOON).expect_fault(64, &["--topic", &code]);
            for flag in ["--client-id", "--username"] {
                let program = program().args(["-t", "t", flag, &name]);
                program.run(SOON).expect_fault(64, &[flag, &code]);
            }
        }
    }
    // What is odd, and allowed.
    let broker = Broker::builder().plain().start();
    for name in ["a b", "//", "\u{e9}\u{202e}\u{feff}", "$other/x"] {
        let program = Program::publisher()
            .to(&broker)
            .args(["-m", "x", "-t", name]);
        program.run(SOON).expect_code(0);
    }
}

#[test]
fn addresses_of_version_6_work() {
    let port = free_port();
    let second = format!("listener {port} ::1");
    let _broker = Broker::builder().plain().line(&second).start();
    let at = |endpoint: String| Program::one_message().args(["--endpoint", &endpoint]);
    at(format!("mqtt://[::1]:{port}")).run(SOON).expect_code(0);
}

#[test]
fn an_address_of_version_6_is_verified_like_any_other() {
    let port = free_port();
    let second = format!("listener {port} ::1");
    let files = |pair: &Pair| {
        let (cert, key) = (pair.cert.display(), pair.key.display());
        format!(
            "certfile {cert}\nkeyfile {key}\ncafile {}",
            certs().ca.display()
        )
    };
    let at = || {
        let program = Program::one_message().args(["--endpoint", &format!("[::1]:{port}")]);
        program.ca(&certs().ca).identity(&certs().device)
    };
    let right = Broker::builder()
        .line(&second)
        .line(&files(&certs().server));
    let broker = right.start();
    at().run(SOON).expect_code(0);
    drop(broker);
    let dir = temp_dir();
    let authority = &certs().authority;
    let other = authority.server(dir.path(), "localhost", Validity::Now);
    let wrong = Broker::builder().line(&second).line(&files(&other));
    let _broker = wrong.start();
    at().run(SOON)
        .expect_fault(78, &["for localhost", "not for ::1"]);
}

#[test]
fn user_and_password_are_checked_by_the_broker() {
    let dir = temp_dir();
    let file = |name: &str, text: &str| odd_certs::file(dir.path(), name, text);
    let right = file("right", &format!("{SECRET}\n"));
    let wrong = file("wrong", "open sesame");
    let broker = Broker::builder().plain().user("ann", SECRET).start();
    for version in ["5", "3.1.1"] {
        let ann = || {
            let program = Program::one_message().to(&broker);
            program.args(["--mqtt-version", version, "-u", "ann"])
        };
        let publisher = ann().arg("--password-file").arg(&right);
        publisher.run(SOON).expect_code(0);
        let publisher = ann().arg("--password-file").arg(&wrong);
        let outcome = publisher.run(SOON).expect_code(77);
        outcome.expect_stderr("refused").expect_stderr("user");
        ann().run(SOON).expect_code(77);
        let missing = ann().arg("--password-file").arg(dir.path().join("missing"));
        missing.run(SOON).expect_code(66).expect_stderr("missing");
    }
    let empty = file("empty", "\n");
    let program = Program::one_message().to(&broker).args(["-u", "ann"]);
    program
        .arg("--password-file")
        .arg(&empty)
        .run(SOON)
        .expect_code(78);
}

#[test]
fn no_log_level_shows_a_password() {
    let dir = temp_dir();
    let file = odd_certs::file(dir.path(), "password", SECRET);
    let broker = Broker::builder().user("ann", SECRET).start();
    for version in ["5", "3.1.1"] {
        for level in ["trace", "paho_mqtt=trace,paho_mqtt_c=trace,trace"] {
            let outcome = Program::one_message()
                .to(&broker)
                .args(["-d", "--mqtt-version", version, "-u", "ann"])
                .arg("--password-file")
                .arg(&file)
                .env("RUST_LOG", level)
                .env("MQTT_C_CLIENT_TRACE", "ON")
                .env("MQTT_C_CLIENT_TRACE_LEVEL", "PROTOCOL")
                .run(SOON)
                .expect_code(0)
                .expect_stderr("connected");
            let said = outcome.stdout.text() + &outcome.stderr.text();
            assert!(!said.contains(SECRET), "{outcome}");
            // Nor as the list of bytes that a derived Debug shows.
            assert!(!said.contains("120, 121, 122, 122"), "{outcome}");
        }
    }
}

#[test]
fn a_run_introduces_itself_with_the_defaults_and_says_goodbye() {
    let broker = ScriptedBroker::script().plain();
    let run = |flags: &[&str]| {
        let program = Program::one_message().at_plain_port(broker.port());
        program.args(flags).run(SOON).expect_code(0);
    };
    run(&[]);
    run(&["--keep-alive", "90", "--client-id", "cellar"]);
    let events = broker.wait(SOON, |events| {
        let ends = events.iter().filter(|event| matches!(event, Event::End));
        ends.count() == 2
    });
    let goodbyes = events
        .iter()
        .filter(|event| matches!(event, Event::Disconnect(0)));
    assert_eq!(goodbyes.count(), 2);
    let [first, second] = &broker.connects()[..] else {
        panic!("two runs, two connections");
    };
    assert!(
        first.client_id.starts_with("publisher-"),
        "{}",
        first.client_id
    );
    assert_eq!((first.keep_alive, second.keep_alive), (30, 90));
    assert_eq!(second.client_id, "cellar");
}
