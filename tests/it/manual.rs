//! The manual pages, the reference and the help: complete, well-formed, and made from one description.

use std::process::{Command, Stdio};
use std::{env, fs, io::Write as _};

use iot_pubsub::common::cli::{self, manual};
use iot_pubsub::{publisher, subscriber};

use crate::harness::{Program, SOON};

const REFERENCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference.md");

/// Programs, and their commands that have a manual page.
const PAGES: [(&str, &[&str]); 2] = [
    (
        "publisher",
        &["", "check", "queue", "status", "completions", "man"],
    ),
    ("subscriber", &["", "check", "status", "completions", "man"]),
];

pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let program = match program {
        "publisher" => Program::publisher(),
        _ => Program::subscriber(),
    };
    let args = args.iter().filter(|arg| !arg.is_empty());
    program.args(args).run(SOON).expect_code(0).stdout.text()
}

pub(crate) fn commands() -> [clap::Command; 2] {
    [
        cli::command::<publisher::args::Cli>(),
        cli::command::<subscriber::args::Cli>(),
    ]
}

/// What mandoc prints of a manual page: its warnings, or the text for a terminal.
fn mandoc(roff: &str, args: &[&str]) -> String {
    let mut mandoc = Command::new("mandoc")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("mandoc (scripts/setup installs it)");
    let mut stdin = mandoc.stdin.take().unwrap();
    stdin.write_all(roff.as_bytes()).unwrap();
    drop(stdin);
    let output = mandoc.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A manual page as text, each paragraph on one line.
pub(crate) fn plain_manual_page(program: &str, command: &[&str]) -> String {
    let page = run(program, &[&["man"], command].concat());
    let mut text = String::new();
    // Bold is a letter, a backspace and the letter again.
    for c in mandoc(&page, &["-T", "ascii", "-O", "width=500"]).chars() {
        if c == '\u{8}' {
            text.pop();
        } else {
            text.push(c);
        }
    }
    text
}

#[test]
fn every_manual_page_is_well_formed_and_has_its_sections() {
    for (program, commands) in PAGES {
        for command in commands {
            let roff = run(program, &["man", command]);
            assert_eq!(mandoc(&roff, &["-T", "lint"]), "", "{program} {command}");
            let sections = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "SEE ALSO"];
            for section in sections {
                assert!(roff.contains(&format!(".SH {section}\n")), "{section}");
            }
            if ["completions", "man"].contains(command) {
                continue;
            }
            for section in ["EXIT STATUS", "ENVIRONMENT", "FILES", "EXAMPLES"] {
                assert!(roff.contains(&format!(".SH {section}\n")), "{section}");
            }
        }
    }
}

#[test]
fn the_manual_page_has_defaults_and_says_how_flags_are_configured() {
    for command in commands() {
        let name = command.get_name();
        let text = plain_manual_page(name, &[]);
        for part in [
            "Default: 16MiB.",
            "One of aws, generic.",
            "IOT_CLIENT_ID",
            "client-id = \"pump-7\"",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

#[test]
fn the_reference_is_what_the_description_of_the_flags_makes() {
    let made = manual::reference(&commands());
    if env::var_os("UPDATE_REFERENCE").is_some() {
        fs::write(REFERENCE, &made).unwrap();
    }
    let written = fs::read_to_string(REFERENCE).unwrap_or_default();
    assert!(
        made == written,
        "docs/reference.md has drifted; UPDATE_REFERENCE=1 cargo test --test it reference writes it"
    );
}

#[test]
fn the_help_is_plain_text_says_what_is_required_and_ends_with_exit_codes_and_examples() {
    for (program, commands) in PAGES {
        for command in commands {
            let (short, long) = (
                run(program, &[command, "-h"]),
                run(program, &[command, "--help"]),
            );
            for text in [&short, &long] {
                assert!(!text.contains('`') && !text.contains("**"), "{text}");
                let mut headings: Vec<&str> = text
                    .lines()
                    .filter(|line| line.ends_with(':') && !line.starts_with(' '))
                    .collect();
                headings.sort_unstable();
                let count = headings.len();
                headings.dedup();
                assert_eq!(headings.len(), count, "a heading twice: {text}");
            }
            if ["completions", "man"].contains(command) {
                continue;
            }
            assert!(!short.contains("Exit status:"), "{short}");
            assert!(
                short.len() < long.len() / 2 || *command == "queue",
                "{short}"
            );
            for part in ["\nExit status:\n  0", "\nExamples:\n"] {
                assert!(long.contains(part), "{part}: {long}");
            }
        }
        let usage = run(program, &["-h"]);
        for part in ["--endpoint <HOST>", "--topic <"] {
            let lines = usage.lines().filter(|line| line.contains("Usage:"));
            assert!(lines.into_iter().any(|line| line.contains(part)), "{usage}");
        }
    }
}
