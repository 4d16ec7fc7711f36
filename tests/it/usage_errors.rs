//! What is said of a command line that is wrong: one line, with what to type.

use std::fs;

use crate::harness::{Program, SOON, temp_dir};

/// Expects exit code 64 and one line with all of `parts`.
fn expect(program: &str, line: &str, parts: &[&str]) {
    let run = match program {
        "publisher" => Program::publisher(),
        _ => Program::subscriber(),
    };
    let outcome = run.args(line.split_whitespace()).run(SOON);
    let outcome = outcome.expect_fault(64, parts);
    assert_eq!(outcome.stderr.count(), 1, "{outcome}");
    assert_eq!(outcome.stdout.text(), "", "{outcome}");
}

#[test]
fn all_flags_that_are_missing_are_named_in_one_answer() {
    for program in ["publisher", "subscriber"] {
        expect(program, "", &["--endpoint HOST", "--topic ", "are missing"]);
        expect(program, "-e h", &["--topic ", " is missing"]);
        expect(
            program,
            "-t t",
            &["--endpoint HOST", "--certs DIR", " is missing"],
        );
        expect(
            program,
            "-t t --certs /",
            &["--endpoint is missing", "--certs"],
        );
    }
    expect("publisher", "queue list", &["--queue FILE is missing"]);
    expect(
        "publisher",
        "-e h -t t --cert x",
        &["--key FILE is missing"],
    );
}

#[test]
fn an_exec_that_swallowed_a_flag_is_the_cause_that_is_named() {
    for program in ["publisher", "subscriber"] {
        for line in ["--exec --topic x", "-e h --exec date --topic x"] {
            let parts = [
                "--topic",
                "--exec takes all that follows",
                "type --exec and its command last",
            ];
            expect(program, line, &parts);
        }
        expect(
            program,
            "-t t --exec date --endpoint h",
            &["--endpoint", "--exec takes all"],
        );
    }
}

#[test]
fn a_command_that_is_not_first_and_a_text_without_a_flag_get_what_to_type() {
    for (program, line, part) in [
        (
            "publisher",
            "--endpoint x check",
            "type publisher check, then the flags",
        ),
        (
            "subscriber",
            "--endpoint x check",
            "type subscriber check, then the flags",
        ),
        (
            "publisher",
            "-d queue status",
            "type publisher queue, then the flags",
        ),
        ("publisher", "hello", "type --message hello"),
        ("publisher", "-t t -e h hello", "type --message hello"),
        (
            "publisher",
            "-t t -e h -m hello world",
            "world: is neither a flag nor a command; put a text",
        ),
        ("subscriber", "hello", "type --topic hello"),
        ("publisher", "chekc", "did you mean publisher check?"),
        ("publisher", "list --queue q", "type publisher queue list"),
        (
            "publisher",
            "queue --queue q status",
            "type publisher queue status --queue",
        ),
        (
            "publisher",
            "queue",
            "needs a command: status, list, export, retry, purge",
        ),
        (
            "publisher",
            "queue foo",
            "type one of status, list, export, retry, purge",
        ),
        ("publisher", "check foo", "foo: is one argument too many"),
    ] {
        expect(program, line, &[part]);
    }
}

#[test]
fn a_value_that_cannot_be_read_is_answered_with_what_is_allowed() {
    for (line, parts) in [
        (
            "--batch x",
            ["--batch 'x'", "a whole number from 1 to 100000"],
        ),
        ("--count x", ["--count 'x'", "a whole number, at least 0"]),
        (
            "--queue-size x",
            ["--queue-size 'x'", "a whole number, at least -1"],
        ),
        (
            "--max-inflight 70000",
            ["--max-inflight '70000'", "from 1 to 65535"],
        ),
        ("--jitter x", ["--jitter 'x'", "is not a number"]),
        (
            "--input xml",
            ["--input 'xml'", "must be one of lines, json"],
        ),
        ("--endpoint x", ["--endpoint", "can be given once only"]),
        ("--retain=yes", ["--retain", "takes no value"]),
        ("-m x -f y", ["--message", "cannot be used with --file"]),
        ("--drop-behavior", ["--drop-behavior", "needs a value"]),
    ] {
        expect("publisher", &format!("-e h -t t {line}"), &parts);
    }
    expect(
        "publisher",
        "queue retry --queue q x",
        &["ID 'x'", "a whole number"],
    );
}

#[test]
fn only_a_near_name_is_suggested_and_flags_of_other_clients_are_answered() {
    for (program, line, part) in [
        ("publisher", "--tpoic x", "did you mean --topic?"),
        (
            "publisher",
            "--zzz x",
            "'--zzz': publisher has no such flag; see --help",
        ),
        (
            "publisher",
            "--repeat-delay 3",
            "use --repeat N --interval D",
        ),
        (
            "subscriber",
            "--repeat 3",
            "--repeat: is a flag of mosquitto_pub",
        ),
        ("publisher", "--capath /etc/ssl", "cat DIR/*.pem >ca.pem"),
        ("subscriber", "--capath /etc/ssl", "--cafile ca.pem"),
    ] {
        expect(program, line, &[part]);
    }
    let secret =
        Program::publisher().args(["--proxyy", "http://me:s3cret@h", "http://me:s3cret@h"]);
    let outcome = secret
        .run(SOON)
        .expect_fault(64, &["did you mean --proxy?"]);
    assert!(!outcome.stderr.text().contains("s3cret"), "{outcome}");
    let secret = Program::publisher().args(["http://me:s3cret@h", "-t", "t"]);
    let outcome = secret.run(SOON).expect_fault(64, &["--message"]);
    assert!(!outcome.stderr.text().contains("s3cret"), "{outcome}");
}

#[test]
fn a_file_that_is_not_toml_is_one_line_with_file_line_column_cause_and_remedy() {
    let dir = temp_dir();
    let path = dir.path().join("iot.toml");
    for (text, place) in [
        ("topic = \"x\"\nendpoint = \"abc\n", "line 2, column 16"),
        ("topic = \"x\"\nqos = = 3", "line 2, column 7"),
        ("topic \"x\"\n", "line 1, column 7"),
        (
            "topic = \"x\"\ntopic = \"y\"\n",
            "line 2, column 1: duplicate key",
        ),
    ] {
        fs::write(&path, text).unwrap();
        let outcome = Program::publisher().arg("--config").arg(&path).run(SOON);
        let outcome = outcome.expect_fault(
            78,
            &["iot.toml: --config is not TOML", place, "; write it as"],
        );
        assert_eq!(outcome.stderr.count(), 1, "{outcome}");
        assert!(!outcome.stderr.text().contains('^'), "{outcome}");
    }
}
