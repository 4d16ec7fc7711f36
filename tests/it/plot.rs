//! `subscriber --plot`: what it goes together with, what it needs, and what it leaves on
//! the terminal.

use std::num::NonZeroU16;

use nix::sys::signal::Signal;
use vt100::Parser;

use crate::harness::lines::Lines;
use crate::harness::{Broker, Program, SOON, peer, wait_until};

fn plot(args: &[&str]) -> Program {
    Program::subscriber()
        .args(["--endpoint", "mqtt://127.0.0.1:1", "--topic", "t"])
        .args(args)
}

#[test]
fn a_chart_needs_a_terminal() {
    let run = plot(&["--plot"]).run(SOON).expect_code(64);
    let said = run.stderr.text();
    assert!(said.contains("--plot draws on a terminal"), "{run}");
    assert_eq!(said.lines().count(), 1, "{run}");
}

#[test]
fn a_chart_is_instead_of_text() {
    for text in ["-v", "-J", "-N"] {
        let run = plot(&["--plot", text]).run(SOON).expect_code(64);
        let said = run.stderr.text();
        assert!(said.contains("cannot be used with"), "{text}: {run}");
    }
}

#[test]
fn a_pointer_is_checked_and_is_for_a_chart() {
    for (pointer, why) in [("temperature", "starts with /"), ("/a~b", "~0")] {
        let args = ["--plot", "--value", pointer];
        let run = plot(&args).run(SOON).expect_code(64);
        assert!(run.stderr.text().contains(why), "{pointer}: {run}");
    }
    let run = plot(&["--value", "/a"]).run(SOON).expect_code(64);
    let said = run.stderr.text();
    assert!(said.contains("is for --plot and --table: add"), "{run}");
    assert_eq!(said.lines().count(), 1, "{run}");
}

/// What stands on the terminal. One that does not know its size is taken for 80x24.
pub(crate) fn screen(output: &Lines) -> Parser {
    let size = |cells| NonZeroU16::new(cells).unwrap();
    let mut parser = Parser::new(size(24), size(80), 0);
    parser.process(&output.bytes());
    parser
}

#[test]
fn the_chart_shows_what_comes_and_its_last_frame_stays() {
    let broker = Broker::builder().plain().start();
    let subscriber = Program::subscriber()
        .to(&broker)
        .args(["-t", "site/#", "--plot", "--value", "/deep/0"])
        .env("TERM", "xterm-256color")
        .env("LC_ALL", "C.UTF-8")
        .start_on_terminal();
    let shows = |part: &str| {
        let found = wait_until(SOON, || {
            screen(&subscriber.stdout)
                .screen()
                .contents()
                .contains(part)
        });
        assert!(
            found,
            "not shown: {part}\n{}",
            screen(&subscriber.stdout).screen().contents()
        );
    };
    shows("connected for");
    let printed = broker.log().wait(SOON, |line| line.contains("site/#"));
    assert!(printed.is_some());
    for payload in [r#"{"deep":[20.25]}"#, r#"{"deep":[22.75]}"#, "no number"] {
        assert!(
            peer::publish(&broker, "site/\u{e9}", payload)
                .status
                .success()
        );
    }
    shows("1 without a value");
    shows("22.75  20.25  21.50  22.75");
    assert!(screen(&subscriber.stdout).screen().alternate_screen());
    assert!(screen(&subscriber.stdout).screen().hide_cursor());

    let ended = subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let left = screen(&ended.stdout);
    let left = left.screen();
    assert!(!left.alternate_screen() && !left.hide_cursor(), "{ended}");
    let rows: Vec<_> = left.rows(0, 80).collect();
    assert!(rows[0].starts_with(" \u{25a0} "), "{rows:#?}");
    assert!(
        rows.iter().any(|row| row.contains("site/\u{e9}")),
        "{rows:#?}"
    );
    assert!(rows[22].starts_with(" ended 20"), "{rows:#?}");
    assert_eq!(left.cursor_position(), (23, 0), "{rows:#?}");
}
