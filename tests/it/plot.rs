//! `subscriber --plot`: what it goes together with, what it needs, and what it leaves on
//! the terminal.

use nix::sys::signal::Signal;

use crate::harness::screen::{drawing, publish, wait_subscribed};
use crate::harness::{Broker, Program, QUICKLY, SOON, wait_until};

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

#[test]
fn the_chart_shows_what_comes_and_its_last_frame_stays() {
    let broker = Broker::builder().plain().start();
    let program = drawing(&broker, "--plot").args(["--value", "/deep/0"]);
    let subscriber = program.start_on_terminal();
    subscriber.expect_shown(&["connected for"]);
    wait_subscribed(&broker);
    for payload in [r#"{"deep":[20.25]}"#, r#"{"deep":[22.75]}"#, "no number"] {
        publish(&broker, "site/\u{e9}", payload);
    }
    subscriber.expect_shown(&["1 without a value", "22.75  20.25  21.50  22.75"]);
    assert!(subscriber.screen().screen().alternate_screen());
    assert!(subscriber.screen().screen().hide_cursor());

    let ended = subscriber.finish_by(Signal::SIGTERM, SOON).expect_code(0);
    let rows = ended.last_frame();
    let is_shown = rows.iter().any(|row| row.contains("site/\u{e9}"));
    assert!(is_shown, "{rows:#?}");
}

#[test]
fn a_pressure_and_a_temperature_have_two_axes_until_a_key_hides_one() {
    let broker = Broker::builder().plain().start();
    let mut subscriber = drawing(&broker, "--plot").start_on_terminal();
    wait_subscribed(&broker);
    for (topic, value) in [("a", "20"), ("b", "101300"), ("a", "24"), ("b", "101340")] {
        publish(&broker, &format!("site/{topic}"), value);
    }
    subscriber.expect_shown(&[
        "  axis ",
        "site/a   left  ",
        "site/b  right  ",
        "\u{251c} 101320",
    ]);
    subscriber.press("2");
    let size = (80, 24);
    let is_single = |contents: &str| !contents.contains("axis") && contents.contains(" 2  site/b");
    subscriber.expect_screen(size, "one axis", is_single);
    subscriber.press("2");
    subscriber.expect_shown(&["site/b  right  "]);
}

#[test]
fn the_header_is_complete_in_narrow_terminals_and_a_resize_is_followed() {
    let mut broker = Broker::builder().plain().start();
    let program = drawing(&broker, "--plot").args(["--base-backoff", "15", "--jitter", "0"]);
    let subscriber = program.start_on_terminal_of(80, 24);
    wait_subscribed(&broker);
    publish(&broker, "site/a", "21");
    subscriber.expect_shown(&["1 received"]);
    broker.stop();
    subscriber.expect_shown(&["offline, trying again in ", "1 received"]);
    for size in [(40, 24), (60, 16), (200, 50), (40, 12)] {
        subscriber.resize(size.0, size.1);
        subscriber.expect_screen(size, &format!("{size:?}"), |contents| {
            let rows: Vec<_> = contents.lines().collect();
            let [state, .., keys] = &rows[..] else {
                return false;
            };
            let mut header = rows.iter().take(4);
            rows.len() == usize::from(size.1)
                && state.contains("offline, trying again in ")
                && header.any(|row| row.contains("1 received"))
                && keys.starts_with(" q end")
        });
    }
}

#[test]
fn with_a_kept_session_the_readings_of_an_outage_fill_the_hole() {
    let mut broker = Broker::builder().plain().persistent().start();
    let kept = ["--persistent", "--client-id", "plot"];
    let program = drawing(&broker, "--plot").args(kept).args(QUICKLY);
    let subscriber = program.start_on_terminal();
    wait_subscribed(&broker);
    let publisher = Program::publisher()
        .to(&broker)
        .args([
            "-t",
            "site/a",
            "--interval",
            "0.2",
            "--drain-rate",
            "max",
            "--receipts",
        ])
        .args(QUICKLY)
        .start();
    // The number of readings, of those in the window: all so far.
    let readings = |contents: &str| -> Option<u64> {
        let row = contents.lines().find(|row| row.contains("site/a"))?;
        row.split_whitespace().rev().nth(2)?.parse().ok()
    };
    let size = (80, 24);
    let at_least = |count| move |contents: &str| readings(contents).is_some_and(|n| n >= count);
    subscriber.expect_screen(size, "10 readings", at_least(10));
    broker.stop();
    subscriber.expect_shown(&["offline, trying again", "\u{2501}\u{2501}\u{2501}"]);
    publisher.stderr_line(SOON, |line| line.contains("trying again"));
    let taken = || publisher.stdout.text().matches("accepted ").count();
    let before = taken();
    assert!(wait_until(SOON, || taken() >= before + 15), "{publisher}");
    broker.start_again();
    subscriber.expect_screen(size, "the readings of the outage", at_least(30));
    subscriber.expect_shown(&["1 reconnect", "\u{2501}\u{2501}\u{2501}"]);
    let screen = subscriber.screen();
    let contents = screen.screen().contents();
    // The axis shows an outage, and above each of its columns there is a part of the line.
    let rows: Vec<Vec<char>> = contents.lines().map(|row| row.chars().collect()).collect();
    let axis = rows
        .iter()
        .position(|row| row.contains(&'\u{2514}'))
        .unwrap();
    let outage: Vec<_> = (0..rows[axis].len())
        .filter(|x| rows[axis][*x] == '\u{2501}')
        .collect();
    assert!(!contents.contains(" missing"), "{contents}");
    for column in outage {
        let is_drawn = |row: &Vec<char>| {
            row.get(column)
                .is_some_and(|c| ('\u{2801}'..'\u{2900}').contains(c))
        };
        assert!(rows[2..axis].iter().any(is_drawn), "{column}\n{contents}");
    }
}
