//! What came over the network, from a file or from the command line reaches a terminal as text that can only
//! appear. In a pipe every byte stays as it is.

use std::{fs, io::Cursor, path::PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Program, Reply, SOON, ScriptedBroker, free_port, temp_dir};

/// Reorders, ends a line, cannot be seen; what a topic may have.
const FORMAT: &str = "\u{202e}\u{2066}\u{200f}\u{61c}\u{2028}\u{2029}\u{feff}\u{ad}\u{e0041}";

/// Controls: C0, DEL, C1.
const CONTROL: &str = "\u{7}\u{1b}[2J\u{1b}]0;title\u{7}\u{7f}\u{9b}2J\u{85}";

fn is_harmless(c: char) -> bool {
    matches!(c, '\r' | '\n') || !c.is_control() && !FORMAT.contains(c)
}

/// What a program prints on a terminal, on either output.
fn on_terminal(program: Program) -> String {
    let program = program.env("NO_COLOR", "1");
    let outcome = program.start_on_terminal().finish(SOON * 2);
    let shown = String::from_utf8(outcome.stdout.bytes()).expect("UTF-8");
    let raw: Vec<_> = shown.chars().filter(|c| !is_harmless(*c)).collect();
    assert!(raw.is_empty(), "{raw:?}\n{shown:?}");
    assert!(!shown.is_empty());
    shown
}

/// A queue with a message that waits and a dead letter, all in a directory whose name is hostile as well.
fn queue() -> (TempDir, PathBuf) {
    let dir = temp_dir();
    let inner = dir
        .path()
        .join(format!("d{CONTROL}{FORMAT}").replace('/', ""));
    fs::create_dir(&inner).unwrap();
    let path = inner.join("queue.db");
    let topic = format!("t/{FORMAT}");
    let line = |topic: &str| {
        let line = serde_json::json!({"topic": topic, "payload": format!("{CONTROL}{FORMAT}")});
        line.to_string() + "\n"
    };
    let refusing = ScriptedBroker::script()
        .on_publish(|_| Reply::Refuse(0x90))
        .plain();
    for (port, topic, code) in [
        (refusing.port(), format!("dead/{FORMAT}"), 65),
        (free_port(), topic, 75),
    ] {
        Program::publisher()
            .at_plain_port(port)
            .args(["-l", "--input", "json", "--flush-timeout", "0.5", "--queue"])
            .arg(&path)
            .stdin(Cursor::new(line(&topic)))
            .run(SOON)
            .expect_code(code);
    }
    (dir, path)
}

#[test]
fn no_command_that_looks_at_a_queue_lets_anything_through() {
    let (_dir, path) = queue();
    let queue = |words: &[&str]| {
        let program = Program::publisher().arg("queue").args(words);
        program.arg("--queue").arg(&path)
    };
    for words in [
        &["status"][..],
        &["status", "--json"],
        &["list"],
        &["list", "--json"],
        &["list", "--dead"],
        &["list", "--dead", "--json"],
        &["export"],
        &["export", "--dead"],
    ] {
        let shown = on_terminal(queue(words));
        let piped = queue(words).run(SOON).expect_code(0).stdout.text();
        if words.contains(&"--json") || words[0] == "export" {
            let parsed = |text: &str| serde_json::from_str::<Value>(text.trim()).expect(text);
            let (mut shown, mut piped) = (parsed(&shown), parsed(&piped));
            for value in [&mut shown, &mut piped] {
                value["oldest_age_s"].take();
            }
            assert_eq!(shown, piped, "{words:?}");
        }
        if words[0] == "export" {
            // What JSON allows raw is raw in a pipe.
            let raw = [FORMAT, "\u{7f}\u{9b}2J\u{85}"];
            assert!(raw.iter().all(|raw| piped.contains(raw)), "{piped:?}");
        }
    }
    on_terminal(queue(&["retry", "99"]));
    on_terminal(queue(&["purge", "--dead"]));
    let broken = path.with_file_name(format!("q{CONTROL}"));
    fs::write(&broken, "no queue").unwrap();
    for words in ["status", "list", "export"] {
        let program = Program::publisher().args(["queue", words, "--queue"]);
        on_terminal(program.arg(&broken));
    }
}

#[test]
fn nor_does_a_check() {
    let broker = ScriptedBroker::script().plain();
    let topic = format!("t/{FORMAT}");
    for json in [&[][..], &["--json"]] {
        let check = || {
            let check = Program::publisher()
                .arg("check")
                .at_plain_port(broker.port());
            check.args(["-t", &topic]).args(json)
        };
        let shown = on_terminal(check());
        let piped = check().run(SOON).expect_code(0).stdout.text();
        if !json.is_empty() {
            let parsed = |text: &str| {
                let value: Value = serde_json::from_str(text.trim()).expect(text);
                value["steps"].as_array().unwrap().last().unwrap().clone()
            };
            assert_eq!(parsed(&shown), parsed(&piped));
            assert!(piped.contains(&topic), "{piped}");
        }
    }
}

#[test]
fn nor_does_a_publisher_that_shows_what_it_publishes() {
    let script = ScriptedBroker::script();
    let broker = script
        .on_publish(|publish| {
            if publish.text().contains("refuse") {
                Reply::Refuse(0x99)
            } else {
                Reply::Ack
            }
        })
        .plain();
    let dir = temp_dir();
    let file = dir.path().join("message");
    let topic = format!("t/{FORMAT}");
    for payload in [format!("{CONTROL}{FORMAT}"), "refuse".into()] {
        fs::write(&file, payload).unwrap();
        let program = Program::publisher().at_plain_port(broker.port());
        let program = program.args(["-d", "-v", "--receipts", "--summary", "-t", &topic]);
        let shown = on_terminal(program.arg("-f").arg(&file));
        assert!(shown.contains(r"\u{202e}"), "{shown}");
    }
}

#[test]
fn nor_does_a_subscriber_whose_output_is_a_terminal_by_another_name() {
    let payload = format!("{CONTROL}{FORMAT}end");
    for flags in [
        &[][..],
        &["-v"],
        &["-J"],
        &["-F", "%t %p %j"],
        &["--output", "/dev/tty"],
    ] {
        let broker = ScriptedBroker::script();
        let broker =
            broker.after_subscribe("#", &format!("a/{CONTROL}{FORMAT}"), payload.as_bytes());
        let broker = broker.plain();
        let program = Program::subscriber().at_plain_port(broker.port());
        let program = program.args(["-d", "-t", "#", "-C", "1"]).args(flags);
        let shown = on_terminal(program);
        assert!(shown.contains("end"), "{flags:?}: {shown}");
    }
}

#[test]
fn nor_does_any_mistake_on_the_command_line() {
    let bad = format!("x{CONTROL}{FORMAT}");
    let config = temp_dir();
    let named = config.path().join(&bad);
    fs::write(&named, format!("\"k{FORMAT}\" = 1")).unwrap();
    let named = named.to_str().unwrap();
    let missing = format!("/nosuch/{bad}");
    let long = format!("--{bad}");
    for words in [
        &["-t", &bad, "-e", "localhost"][..],
        &["-t", "t", "-e", &bad],
        &["-t", "t", "-e", "localhost", "-q", &bad],
        &["-t", "t", "-e", "localhost", "-i", &bad],
        &["-t", "t", "-e", "localhost", "-u", &bad],
        &["-t", "t", "-e", "localhost", &bad],
        &["-t", "t", "-e", "localhost", &long],
        &["-t", "t", "-e", "localhost", "--cafile", &missing],
        &["-t", "t", "-e", "localhost", "--certs", &missing],
        &["-t", "t", "-e", "localhost", "--proxy", &bad],
        &["-t", "t", "-e", "localhost", "--interval", &bad],
        &["-t", "t", "--config", &missing],
        &["-t", "t", "--config", named],
        &["check", "-t", &bad, "-e", "localhost"],
        &["queue", &bad],
    ] {
        let shown = on_terminal(Program::publisher().args(words));
        assert_eq!(shown.lines().count(), 1, "{words:?}: {shown}");
    }
    for words in [
        &["-t", &bad, "-e", "localhost"][..],
        &["-t", "t", "-e", "localhost", "-F", "%\u{9b}"],
        &["-t", "t", "-e", "localhost", "--state", &missing],
        &["-t", "t", "-e", "localhost", "--output", &missing],
    ] {
        on_terminal(Program::subscriber().args(words));
    }
    let program = Program::publisher().args(["-t", "t", "-e", "localhost"]);
    on_terminal(program.env("IOT_QOS", &bad));
    let program = Program::publisher().args(["-t", "t", "-e", "localhost"]);
    on_terminal(program.env("IOT_RETAIN", &bad));
}
