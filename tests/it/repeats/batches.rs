//! Batches, split into readings.

use super::*;

fn lines(count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("line {n}")).collect()
}

/// What a subscriber with these flags prints of 25 lines in batches of 10.
fn of_batches(flags: &[&str]) -> Outcome {
    let broker = Broker::start();
    let program = Program::subscriber().to(&broker).args(["-t", "t", "-d"]);
    let running = start(program.args(flags));
    publish_batches(&broker);
    running.finish(SOON).expect_code(0)
}

fn publish_batches(broker: &Broker) {
    Program::publisher()
        .to(broker)
        .args(["-t", "t", "-l", "--batch", "10", "--batch-wait", "1h"])
        .stdin(Cursor::new(lines(25).join("\n") + "\n"))
        .run(SOON)
        .expect_code(0);
}

#[test]
fn a_batch_is_taken_apart_in_every_way_of_output() {
    let all = lines(25);
    of_batches(&["-C", "25"]).expect_stdout(&(all.join("\n") + "\n"));
    let with_topic: Vec<_> = all.iter().map(|line| format!("t {line}\n")).collect();
    of_batches(&["-C", "25", "-v"]).expect_stdout(&with_topic.concat());
    let outcome = of_batches(&["-C", "25", "-J"]);
    for (line, object) in all.iter().zip(outcome.stdout.texts()) {
        let object: Value = serde_json::from_str(&object).unwrap();
        assert_eq!(object["payload"], **line, "{outcome}");
        assert_eq!(object["payloadlen"], line.len(), "{outcome}");
    }
    let format = of_batches(&["-C", "25", "-F", "%l %p"]);
    let lengths: Vec<String> = all.iter().map(|l| format!("{} {l}", l.len())).collect();
    format.expect_stdout(&(lengths.join("\n") + "\n"));
    let each = ["--exec", "sh", "-c", "cat; echo \" $MQTT_SEQ\""];
    let outcome = of_batches(&[&["-C", "25"][..], &each].concat());
    let numbered = all
        .iter()
        .zip(0..)
        .map(|(l, n)| format!("{l} {}\n", n / 10 + 1));
    outcome.expect_stdout(&numbered.collect::<String>());
}

#[test]
fn a_count_counts_readings_and_what_was_not_taken_whole_comes_again() {
    let broker = Broker::start();
    let session = |count| {
        let program = Program::subscriber().to(&broker).args(["-t", "t", "-d"]);
        let program = program.args(["--persistent", "--client-id", "keeper"]);
        program.args(["-C", count, "--summary"])
    };
    let running = start(session("13"));
    publish_batches(&broker);
    let outcome = running.finish(SOON).expect_code(0);
    let all = lines(25);
    assert_eq!(outcome.stdout.texts()[..13], all[..13], "{outcome}");
    assert_eq!(outcome.stdout.count(), 14, "{outcome}");
    assert_eq!(summary(&outcome)["received"], 13, "{outcome}");
    let outcome = session("15").run(SOON).expect_code(0);
    assert_eq!(outcome.stdout.texts()[..15], all[10..], "{outcome}");
}

#[test]
fn nothing_of_a_message_that_is_not_wanted_is_acknowledged() {
    let broker = ScriptedBroker::script()
        .after_subscribe("t", "t", b"1")
        .after_subscribe("t", "t", b"2")
        .after_subscribe("t", "t", b"3")
        .tls();
    let program = Program::subscriber().at_port(broker.port());
    let outcome = program
        .args(["-t", "t", "-C", "2"])
        .run(SOON)
        .expect_code(0);
    assert!(outcome.elapsed < Duration::from_secs(3), "{outcome}");
    broker.wait(SOON, |events| {
        matches!(events.last(), Some(crate::harness::scripted::Event::End))
    });
    assert_eq!(acknowledged(&broker.events()), [1, 2], "{outcome}");
}
