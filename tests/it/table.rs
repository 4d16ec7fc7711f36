//! `subscriber --table`: what it goes together with, what it shows, and what it leaves on the terminal.

use std::fs;

use nix::sys::signal::Signal;

use crate::harness::screen::{drawing, publish, screen, wait_subscribed};
use crate::harness::{Broker, Program, SOON, peer, temp_dir};

fn table(broker: &Broker) -> Program {
    drawing(broker, "--table")
}

#[test]
fn a_table_needs_a_terminal_and_is_instead_of_text_and_chart() {
    let unreached = |args: &[&str]| {
        let program = Program::subscriber().at_plain_port(1);
        program.args(["-t", "t", "--table"]).args(args)
    };
    let run = unreached(&[]).run(SOON).expect_code(64);
    let said = run.stderr.text();
    assert!(said.contains("--table draws on a terminal"), "{run}");
    assert_eq!(said.lines().count(), 1, "{run}");
    for other in ["-v", "-J", "-N", "--plot"] {
        let run = unreached(&[other]).run(SOON).expect_code(64);
        let said = run.stderr.text();
        assert!(said.contains("cannot be used with"), "{other}: {run}");
    }
    let dumb = unreached(&[]).env("TERM", "dumb").start_on_terminal();
    let ended = dumb.finish(SOON).expect_code(64);
    let said = ended.stdout.text();
    assert!(said.contains("--table needs a terminal"), "{ended}");
}

#[test]
fn the_table_has_a_line_for_each_topic_and_its_last_frame_stays() {
    let broker = Broker::builder().plain().start();
    let subscriber = table(&broker).start_on_terminal();
    subscriber.expect_shown(&["connected for", "no message yet"]);
    wait_subscribed(&broker);
    publish(&broker, "site/b", "20.25");
    publish(&broker, "site/a", "\u{1b}[31m\u{e9}\n");
    publish(&broker, "site/b", "22.75");
    let binary = "\\x1b[31m\u{e9}\\x0a";
    subscriber.expect_shown(&["+2.50  22.75", binary, "3 received"]);
    assert!(subscriber.screen().screen().alternate_screen());

    let ended = subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let rows = ended.last_frame();
    let columns: Vec<_> = rows[2].split_whitespace().collect();
    let expected = ["topic", "age", "rate", "readings", "change", "value"];
    assert_eq!(columns, expected);
    assert!(rows[3].starts_with(" site/a "), "{rows:#?}");
    assert!(rows[4].starts_with(" site/b "), "{rows:#?}");
}

#[test]
fn values_at_pointers_are_columns_and_the_run_ends_after_its_messages() {
    let broker = Broker::builder().plain().start();
    let program = table(&broker).args(["--value", "/t", "--value", "/unit", "-C", "2"]);
    let subscriber = program.start_on_terminal();
    wait_subscribed(&broker);
    publish(&broker, "site/a", r#"{"t":21.5,"unit":"celsius"}"#);
    publish(&broker, "site/b", "no JSON");
    let ended = subscriber.finish(SOON).expect_code(0);
    let left = screen(&ended.stdout).screen().contents();
    for part in ["/unit", "celsius", "1 without a value", "2 received"] {
        assert!(left.contains(part), "{part}: {left}");
    }
}

#[test]
fn the_file_and_the_environment_choose_the_table_too() {
    let broker = Broker::builder().plain().start();
    let text = "topic = \"site/#\"\ntable = true\ncount = 1\n";
    let by_file = Program::subscriber().config(text);
    let by_variable = Program::subscriber().args(["-t", "site/#", "-C", "1"]);
    let mut seen = 0;
    for program in [by_file, by_variable.env("IOT_TABLE", "1")] {
        let program = program.to(&broker).env("TERM", "xterm-256color");
        let subscriber = program.start_on_terminal();
        let granted = broker
            .log()
            .wait_from(seen, SOON, |line| line.contains("site/#"));
        assert!(granted.is_some());
        seen = broker.log().count();
        publish(&broker, "site/a", "20.25");
        let ended = subscriber.finish(SOON).expect_code(0);
        let left = screen(&ended.stdout).screen().contents();
        for part in ["readings", "20.25"] {
            assert!(left.contains(part), "{part}: {left}");
        }
    }
}

#[test]
fn the_run_ends_when_its_time_is_over() {
    let broker = Broker::builder().plain().start();
    let subscriber = table(&broker).args(["-W", "1"]).start_on_terminal();
    let ended = subscriber.finish(SOON).expect_code(27);
    let left = screen(&ended.stdout).screen().contents();
    assert!(left.contains("no message yet"), "{left}");
}

#[test]
fn a_kept_session_brings_what_was_published_while_away() {
    let broker = Broker::builder().plain().start();
    let kept = || {
        let kept = ["--persistent", "--client-id", "table", "-C", "1"];
        table(&broker).args(kept).start_on_terminal()
    };
    let first = kept();
    wait_subscribed(&broker);
    publish(&broker, "site/a", "first");
    first.finish(SOON).expect_code(0);
    publish(&broker, "site/a", "second");
    let ended = kept().finish(SOON).expect_code(0);
    let left = screen(&ended.stdout).screen().contents();
    assert!(left.contains("second"), "{left}");
}

#[test]
fn the_console_and_other_locales_get_ascii_and_without_colours_no_colour_is_sent() {
    for (name, value) in [("TERM", "linux"), ("LC_ALL", "C")] {
        let broker = Broker::builder().plain().start();
        let program = table(&broker).env(name, value).env("NO_COLOR", "1");
        let subscriber = program.args(["-C", "1"]).start_on_terminal();
        subscriber.expect_shown(&["* localhost", "no message yet"]);
        wait_subscribed(&broker);
        let message = ["-t", "site/\u{e9}", "-m", "1"];
        let mut client = peer::client("mosquitto_pub", &broker);
        assert!(client.args(message).status().unwrap().success());
        let ended = subscriber.finish(SOON).expect_code(0);
        let sent = ended.stdout.text();
        assert!(sent.is_ascii(), "{ended}");
        let left = screen(&ended.stdout).screen().contents();
        assert!(left.starts_with(" # localhost"), "{left}");
        assert!(left.contains("site/?"), "{left}");
        assert!(!sent.contains("\u{1b}[38;"), "{ended}");
    }
}

#[test]
fn a_binary_payload_of_many_megabytes_is_shown_by_its_beginning() {
    let broker = Broker::builder().plain().start();
    let dir = temp_dir();
    let payload = dir.path().join("payload");
    fs::write(&payload, vec![0xff; 15_000_000]).unwrap();
    let subscriber = table(&broker).args(["-C", "1"]).start_on_terminal();
    wait_subscribed(&broker);
    let mut client = peer::client("mosquitto_pub", &broker);
    let sent = client.args(["-t", "site/a", "-f"]).arg(&payload).status();
    assert!(sent.unwrap().success());
    let ended = subscriber.finish(SOON * 3).expect_code(0);
    let left = screen(&ended.stdout).screen().contents();
    assert!(left.contains("\\xff\\xff"), "{left}");
}
