//! `publisher queue`: what is in a queue file, and mending it.

use std::{fs, io::Cursor};

use serde_json::Value;

use crate::harness::{Broker, Program, QueueFile, SOON, peer::Witness};

/// A queue with one dead letter, `bad`, in it, and a broker that now would take it.
fn with_a_dead_letter() -> (QueueFile, Broker) {
    let queue = QueueFile::new();
    let strict = Broker::builder()
        .acl("topic write good\ntopic read #\n")
        .start();
    Program::publisher()
        .to(&strict)
        .args(["-l", "--input", "json", "--queue"])
        .arg(queue.path())
        .stdin(Cursor::new(
            "{\"topic\":\"good\",\"payload\":\"1\"}\n{\"topic\":\"bad\",\"payload\":\"2\"}\n",
        ))
        .run(SOON)
        .expect_code(77)
        .expect_stderr("bad: message 2 cannot be delivered");
    (queue, Broker::start())
}

#[test]
fn status_counts_what_waits_and_how_long() {
    let queue = QueueFile::with("one\ntwo\n");
    let status = queue.status();
    assert_eq!(status["waiting"], 2);
    assert_eq!(status["bytes"], 2 * ("t".len() + 3));
    assert_eq!(status["dead"], 0);
    assert_eq!(status["draining"], false);
    assert!(status["oldest_age_s"].as_u64().unwrap() < 60, "{status}");
    let text = queue.command(&["status"]).expect_code(0).stdout.text();
    assert!(
        text.contains("2 waiting, 8 bytes, the oldest since 20"),
        "{text}"
    );

    let empty = QueueFile::with("x\n");
    empty
        .command(&["purge"])
        .expect_code(0)
        .expect_stdout("1 removed\n");
    assert_eq!(empty.status()["oldest"], Value::Null);
    assert_eq!(empty.status()["dropped_ever"], 1);
}

#[test]
fn list_shows_messages_in_order_and_as_many_as_asked_for() {
    let queue = QueueFile::with("one\ntwo\nthree\n");
    let text = queue
        .command(&["list", "--limit", "2"])
        .expect_code(0)
        .stdout
        .text();
    let lines: Vec<Vec<_>> = text.lines().map(|l| l.split(' ').collect()).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert_eq!(
        (lines[0][0], lines[0][1], &lines[0][3..]),
        ("1", "1", &["t", "3"][..])
    );
    let json = queue
        .command(&["list", "--json"])
        .expect_code(0)
        .stdout
        .text();
    let last: Value = serde_json::from_str(json.lines().last().unwrap()).unwrap();
    assert_eq!((&last["seq"], &last["payloadlen"]), (&3.into(), &5.into()));
    let dead = queue.command(&["list", "--dead"]).expect_code(0);
    dead.expect_stdout("");
}

#[test]
fn what_is_exported_can_be_published() {
    let queue = QueueFile::with("one\n\u{1f600}\n");
    let export = queue.command(&["export"]).expect_code(0).stdout.text();
    assert_eq!(queue.status()["waiting"], 2, "they stay");
    let broker = Broker::start();
    let witness = Witness::start(&broker, "t");
    Program::publisher()
        .to(&broker)
        .args(["-l", "--input", "json"])
        .stdin(Cursor::new(export))
        .run(SOON)
        .expect_code(0);
    let seen: Vec<_> = witness
        .messages(2, SOON)
        .into_iter()
        .map(|l| l.text)
        .collect();
    assert_eq!(seen, ["one", "\u{1f600}"]);
}

#[test]
fn a_dead_letter_is_shown_with_its_reason_and_retried() {
    let (queue, broker) = with_a_dead_letter();
    let status = queue.status();
    assert_eq!(
        (&status["waiting"], &status["dead"]),
        (&0.into(), &1.into()),
        "{status}"
    );
    let reasons = status["dead_reasons"].as_object().unwrap();
    assert!(
        reasons
            .keys()
            .all(|reason| reason.contains("not authorized")),
        "{status}"
    );
    let list = queue
        .command(&["list", "--dead"])
        .expect_code(0)
        .stdout
        .text();
    assert!(
        list.contains(" bad 1 ") && list.contains("not authorized"),
        "{list}"
    );

    queue
        .command(&["retry", "7"])
        .expect_code(65)
        .expect_stderr("has the number 7");
    let retried = queue.command(&["retry", "1"]).expect_code(0);
    retried.expect_stdout("1 back in the queue\n");
    let witness = Witness::with_format(&broker, "#", "%t %p %P");
    Program::one_message()
        .to(&broker)
        .arg("--queue")
        .arg(queue.path())
        .run(SOON)
        .expect_code(0);
    let seen: Vec<_> = witness
        .messages(2, SOON)
        .into_iter()
        .map(|l| l.text)
        .collect();
    assert!(
        seen[0].starts_with("bad 2 seq:") && seen[0].contains("/2/"),
        "{seen:?}"
    );
    assert!(
        seen[1].starts_with("t hello seq:") && seen[1].contains("/3/"),
        "{seen:?}"
    );
    assert_eq!(queue.status()["dead_ever"], 1);
}

#[test]
fn dead_letters_can_be_purged_alone() {
    let (queue, _broker) = with_a_dead_letter();
    queue
        .command(&["purge", "--dead"])
        .expect_code(0)
        .expect_stdout("1 removed\n");
    assert_eq!(queue.status()["dead"], 0);
    assert_eq!(queue.status()["dead_bytes"], 0);
}

#[test]
fn looking_at_it_holds_a_running_publisher_up_in_nothing() {
    let broker = Broker::start();
    let queue = QueueFile::with("old\n");
    let mut running = Program::publisher()
        .to(&broker)
        .args(["-t", "t", "-l", "--receipts", "--queue"])
        .arg(queue.path())
        .stdin_pipe()
        .start();
    running.stdout_line(SOON, |line| line == "delivered 1");
    for seq in 2..30 {
        assert_eq!(queue.status()["draining"], true);
        queue.command(&["list"]).expect_code(0);
        running.send("x\n");
        running.stdout_line(SOON, |line| line == format!("delivered {seq}"));
    }
    drop(running);
}

#[test]
fn a_damaged_file_is_saved_as_far_as_it_can_be_read_and_moved_aside() {
    let lines = "21.5".repeat(25) + "\n";
    let lines = lines.repeat(2_000);
    let queue = QueueFile::with(&lines);
    let bytes = fs::read(queue.path()).unwrap();
    fs::write(queue.path(), &bytes[..bytes.len() / 2]).unwrap();
    queue
        .command(&["status"])
        .expect_fault(73, &["queue.db", "damaged", "export", "purge"]);
    let saved = queue.command(&["export"]).expect_code(73).stdout.text();
    let saved: Vec<Value> = saved
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(saved.len() > 100, "{} saved", saved.len());
    assert!(saved.iter().all(|line| line["payloadlen"] == 100));
    let purged = queue.command(&["purge"]).expect_code(0).stdout.text();
    assert!(purged.contains("queue.db.damaged-20"), "{purged}");
    assert!(!queue.path().exists());
    let aside = purged.trim_end().rsplit(' ').next().unwrap();
    assert_eq!(fs::metadata(aside).unwrap().len(), (bytes.len() / 2) as u64);
}

#[test]
fn a_queue_that_is_not_there_is_not_made() {
    let queue = QueueFile::new();
    for action in ["status", "list", "export", "retry", "purge"] {
        queue
            .command(&[action])
            .expect_fault(73, &["queue.db", "cannot be opened"]);
    }
    assert_eq!(
        fs::read_dir(queue.path().parent().unwrap())
            .unwrap()
            .count(),
        0
    );
    Program::publisher()
        .arg("queue")
        .run(SOON)
        .expect_fault(64, &["status"]);
}
