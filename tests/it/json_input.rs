//! `--input json`: each line is a message of its own, as `subscriber --json` writes it.

use std::io::Cursor;

use crate::harness::{Broker, Program, SOON, peer::Witness};

fn lines(text: &str) -> Cursor<String> {
    Cursor::new(text.to_owned())
}

#[test]
fn what_a_subscriber_writes_as_json_a_publisher_reads_whatever_the_bytes() {
    let (from, to) = (Broker::start(), Broker::start());
    let subscriber = Program::subscriber()
        .to(&from)
        .args(["-t", "#", "-J", "-q", "2", "-C", "4"])
        .start();
    assert!(from.log().wait(SOON, |line| line.ends_with(" #")).is_some());
    let publish = |args: &[&str], payload: &'static [u8]| {
        let program = Program::publisher().to(&from).args(args);
        let program = program.stdin(Cursor::new(payload));
        program.arg("-s").run(SOON).expect_code(0);
    };
    publish(&["-t", "plain"], b"21.5");
    publish(&["-t", "bytes", "-q", "2"], b"\xff\x00\n\"\\");
    publish(&["-t", "empty"], b"");
    publish(&["-t", "kept", "-r"], "\u{1f600} \u{1b}[2J".as_bytes());
    let json = subscriber.finish(SOON).expect_code(0).stdout.text();

    let witness = Witness::with_format(&to, "#", "%t %q %x");
    Program::publisher()
        .to(&to)
        .args(["-l", "--input", "json", "-q", "0"])
        .stdin(Cursor::new(json))
        .run(SOON)
        .expect_code(0);
    let mut seen: Vec<_> = witness
        .messages(4, SOON)
        .into_iter()
        .map(|l| l.text)
        .collect();
    seen.sort();
    let smiley = "f09f9880201b5b324a";
    let kept = format!("kept 1 {smiley}");
    assert_eq!(
        seen,
        ["bytes 1 ff000a225c", "empty 1 ", &kept, "plain 1 32312e35"]
    );
    // The retain flag came along only if the subscriber saw it: it does not on a live message.
}

#[test]
fn a_line_that_is_no_message_is_rejected_and_the_others_go_on() {
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "#", "%t %r %p");
    let outcome = Program::publisher()
        .to(&broker)
        .args(["-l", "--input", "json", "-t", "usual", "--receipts"])
        .stdin(lines(
            "{\"payload\":\"1\"}\nnonsense\n{\"topic\":\"a/+\",\"payload\":\"x\"}\n\
             {\"topic\":\"own\",\"payload\":{\"t\":2},\"retain\":true}\n{\"qos\":3}\n",
        ))
        .run(SOON)
        .expect_code(65)
        .expect_stderr("message 2 is rejected: not a JSON object")
        .expect_stderr("message 5 is rejected: \"qos\" must be 0, 1 or 2");
    let receipts = outcome.stdout.text();
    for part in [
        "rejected 2 ",
        "rejected 3 its topic",
        "rejected 5 ",
        "delivered 2",
    ] {
        assert!(receipts.contains(part), "{part}\n{outcome}");
    }
    let seen: Vec<_> = witness
        .messages(2, SOON)
        .into_iter()
        .map(|l| l.text)
        .collect();
    assert_eq!(seen, ["usual 0 1", "own 0 {\"t\":2}"]);
    // Retained it was all the same: who comes later gets it so.
    let late = Witness::with_format(&broker, "own", "%r %p");
    assert_eq!(late.messages(1, SOON)[0].text, "1 {\"t\":2}");
}

#[test]
fn json_needs_lines_and_lines_need_a_topic() {
    let publisher = || Program::publisher().endpoint(1);
    publisher()
        .args(["-t", "t", "-m", "x", "--input", "json"])
        .run(SOON)
        .expect_fault(64, &["--stdin-line"]);
    publisher()
        .args(["-l", "--input", "lines"])
        .run(SOON)
        .expect_fault(64, &["--topic"]);
    publisher()
        .arg("-l")
        .run(SOON)
        .expect_fault(64, &["--topic"]);
}
