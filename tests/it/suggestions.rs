//! The answers to flags of other clients, and what they advise.

use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::{Arg, Command};
use iot_pubsub::common::cli::{self, foreign_flags};
use iot_pubsub::{publisher, subscriber};

fn program(name: &str) -> Command {
    let mut command = match name {
        "publisher" => cli::command::<publisher::args::Cli>(),
        _ => cli::command::<subscriber::args::Cli>(),
    };
    command.build();
    command
}

fn answers(name: &str, line: &str) -> Option<String> {
    let words = std::iter::once(name).chain(line.split_whitespace());
    let words: Vec<OsString> = words.map(OsString::from).collect();
    foreign_flags::find_answer_for_command_line(&program(name), &words)
}

fn has(command: &Command, flag: &str) -> bool {
    command
        .get_arguments()
        .any(|arg| match flag.strip_prefix("--") {
            Some(long) => {
                let aliases = arg.get_all_aliases().unwrap_or_default();
                arg.get_long() == Some(long) || aliases.contains(&long)
            }
            None => arg.get_short().map(|short| format!("-{short}")).as_deref() == Some(flag),
        })
}

#[test]
fn each_name_has_one_answer_for_each_program_and_no_flag_of_ours_has_any() {
    for name in ["publisher", "subscriber"] {
        let command = program(name);
        let mut seen = BTreeSet::new();
        for (flags, text) in foreign_flags::foreign_flag_table(name) {
            for flag in flags {
                assert!(seen.insert(flag), "{name} {flag} twice");
                assert!(flag.len() == 2 || flag.starts_with("--"), "{flag}");
                let ours = has(&command, flag);
                assert!(!ours || ["-h", "-V"].contains(&flag), "{name} has {flag}");
                assert!(!text.contains('\n') && !text.ends_with('.'), "{text}");
            }
        }
        assert!(seen.len() > 80, "{seen:?}");
    }
}

#[test]
fn every_flag_of_an_answer_exists() {
    let programs = ["publisher", "subscriber"].map(program);
    let longs = programs.iter().flat_map(Command::get_arguments);
    let longs: BTreeSet<String> = longs
        .filter_map(Arg::get_long)
        .map(|long| format!("--{long}"))
        .collect();
    for name in ["publisher", "subscriber"] {
        for (_, text) in foreign_flags::foreign_flag_table(name) {
            let words = text.split(|c: char| c.is_whitespace() || ",;()".contains(c));
            for flag in words.filter(|word| word.starts_with("--")) {
                assert!(longs.contains(flag), "{flag}: {text}");
            }
        }
    }
}

#[test]
fn the_letters_of_mosquitto_are_answered_with_ours() {
    for (line, expected) in [
        ("-h localhost -t t -m x", "--endpoint"),
        ("-t t -h localhost", "--endpoint"),
        ("-hlocalhost", "--endpoint"),
        ("-t t -dh", "--endpoint"),
        ("check -h localhost", "--endpoint"),
        ("-V mqttv5 -t t", "--mqtt-version 5"),
        ("-t t -Vmqttv311", "--mqtt-version 3.1.1"),
        ("-t t -V", "--mqtt-version 5"),
        ("check -V 5", "--mqtt-version 5"),
        ("-e x -k 60", "--keep-alive"),
        ("-dk60", "--keep-alive"),
        ("-t t -P secret", "--password-file"),
        ("--pw=secret", "--password-file"),
        ("-Psecret", "--password-file"),
        ("--insecure", "always verified"),
        ("-L mqtt://me:secret@h/t", "--endpoint"),
        ("-q 1 -I abc", "--client-id"),
        ("-m -h --unix /run/x", "unix:///path/to/socket"),
        ("-t t --ciphersuites x", "--ciphers"),
        ("--tls-version tlsv1.3", "--tls-min 1.3"),
    ] {
        let text = answers("publisher", line).unwrap_or_default();
        assert!(text.contains(expected), "{line}: {text}");
        assert!(!text.contains("secret"), "{text}");
    }
    let subscriber = |line| answers("subscriber", line).unwrap_or_default();
    assert!(subscriber("-c -i x").contains("--persistent"));
    assert!(subscriber("-F -k -x 5").contains("--session-expiry"));
    assert!(subscriber("-t t -m x").contains("publisher"));
    assert!(answers("publisher", "-c").is_some_and(|text| text.contains("--queue")));
}

#[test]
fn what_is_ours_or_nobody_s_and_what_is_a_value_has_no_answer() {
    for line in [
        "-h",
        "-V",
        "--help",
        "check -h",
        "queue -h",
        "queue status -h",
        "queue status --queue q -h",
        "-t t --help",
        "-t -h",
        "-m -h -t t",
        "-m-h",
        "--message -k",
        "--message=-k",
        "-t t --exec cmd -h -k 1",
        "-t t -- -h",
        "-z",
        "--zzz",
        "-",
        "-t t x",
        "--host x --id y --ca z",
    ] {
        assert_eq!(answers("publisher", line), None, "{line}");
    }
}
