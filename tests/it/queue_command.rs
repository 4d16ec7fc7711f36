//! `publisher queue`: what is in a queue file, and mending it.

use std::{
    fs,
    io::Cursor,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::SystemTime,
};

use nix::{
    sys::{signal::Signal, stat::Mode},
    unistd::mkfifo,
};
use serde_json::Value;

use crate::harness::peer::Witness;
use crate::harness::strace::Strace;
use crate::harness::{Broker, Program, QueueFile, Reply, SOON, ScriptedBroker, free_port};

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
fn the_totals_say_what_has_become_of_every_message_that_was_in_the_file() {
    let (queue, broker) = with_a_dead_letter();
    let totals = queue.totals();
    let retry = queue.command(&["retry"]).expect_code(0);
    retry.expect_stdout("1 back in the queue\n");
    assert_eq!(queue.totals()["retried"], 1);
    assert_eq!(queue.totals()["accepted"], totals["accepted"], "no new one");
    queue.add("one\ntwo\n");
    queue.drain(&broker);
    let drained = queue.totals();
    assert_eq!(drained["accepted"], drained["delivered"], "{drained}");
    assert_eq!(drained["accepted_bytes"], drained["delivered_bytes"]);
    queue.add("three\n");
    queue.command(&["purge"]).expect_code(0);
    let purged = queue.totals();
    let counts = ["purged", "dropped", "expired"].map(|name| &purged[name]);
    assert_eq!(counts, [1, 0, 0], "{purged}");
    assert_eq!(purged["since"], totals["since"]);
    let text = queue.command(&["status"]).expect_code(0).stdout.text();
    let since = totals["since"].as_str().unwrap();
    let delivered = drained["delivered"].as_u64().unwrap();
    let begin = format!(
        "written to the file since {since}: {} messages",
        delivered + 1
    );
    let end = "0 dropped, 0 expired, 1 purged; 1 dead letters retried\n";
    assert!(text.contains(&begin) && text.contains(end), "{text}");
}

#[test]
fn a_dead_letter_that_is_purged_is_accounted_for() {
    let (queue, _broker) = with_a_dead_letter();
    queue.command(&["purge", "--dead"]).expect_code(0);
    assert_eq!(queue.totals()["purged"], 1);
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
    let seen = witness.texts(2);
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
    let seen = witness.texts(2);
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

/// What there is in a directory: names, contents, and when they were written.
fn directory(queue: &QueueFile) -> Vec<(PathBuf, Vec<u8>, SystemTime)> {
    let entries = fs::read_dir(queue.path().parent().unwrap()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = paths
        .map(|path| {
            let written = fs::metadata(&path).unwrap().modified().unwrap();
            (path.clone(), fs::read(&path).unwrap(), written)
        })
        .collect();
    found.sort();
    found
}

const LOOKS: [&[&str]; 7] = [
    &["status"],
    &["status", "--json"],
    &["list"],
    &["list", "--dead"],
    &["list", "--json", "--limit", "1"],
    &["export"],
    &["export", "--dead"],
];

#[test]
fn looking_changes_no_byte_of_the_file_and_leaves_nothing_beside_it() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let golden = fs::read_dir(data)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let golden = golden.filter(|path| path.extension().is_some_and(|e| e == "db"));
    let mut files: Vec<_> = golden
        .map(|path| {
            let queue = QueueFile::new();
            fs::copy(path, queue.path()).unwrap();
            queue
        })
        .collect();
    assert!(files.len() > 3);
    files.push(QueueFile::with("one\ntwo\n"));
    // Damaged, and as a crash leaves it: with a log, with and without its index.
    let damaged = QueueFile::with("one\ntwo\n");
    let bytes = fs::read(damaged.path()).unwrap();
    fs::write(damaged.path(), &bytes[..bytes.len() / 2]).unwrap();
    files.push(damaged);
    for index in [true, false] {
        let crashed = QueueFile::new();
        let publisher = crashed.publisher().at_port(free_port());
        let mut running = publisher.arg("-l").stdin_pipe().start();
        running.send("one\ntwo\n");
        running.stdout_line(SOON, |line| line == "accepted 2");
        running.finish_by(Signal::SIGKILL, SOON);
        if !index {
            fs::remove_file(crashed.beside("-shm")).unwrap();
        }
        files.push(crashed);
    }
    for queue in &files {
        let before = directory(queue);
        for look in LOOKS {
            let outcome = queue.command(look);
            assert!(directory(queue) == before, "{look:?}\n{outcome}");
        }
    }
    for crashed in &files[files.len() - 2..] {
        let export = crashed.command(&["export"]).expect_code(0);
        let count = export.stdout.count();
        assert_eq!(count, 2, "what is in the log counts\n{export}");
    }
}

#[test]
fn a_file_is_looked_at_while_publishers_come_and_go() {
    let queue = QueueFile::with(&"a line\n".repeat(2_000));
    let more = || {
        let publisher = queue.publisher().at_port(free_port());
        let publisher = publisher.args(["-m", "more", "--flush-timeout", "0"]);
        publisher.run(SOON).expect_code(75)
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut looks = 0;
            while !stop.load(Ordering::SeqCst) {
                let export = queue.command(&["export"]).expect_code(0).expect_stderr("");
                assert!(export.stdout.count() >= 2_000, "{export}");
                queue.command(&["status"]).expect_code(0);
                looks += 1;
            }
            looks
        });
        for _ in 0..20 {
            more();
        }
        stop.store(true, Ordering::SeqCst);
        assert!(looks.join().unwrap() > 1);
    });
    assert_eq!(queue.status()["waiting"], 2_020);
    let left = directory(&queue).len();
    assert_eq!(left, 2, "the queue and its lock");
}

#[test]
fn the_way_to_an_older_program_is_a_form_that_both_know() {
    let queue = QueueFile::new();
    Program::publisher()
        .at_port(free_port())
        .args(["-l", "--input", "json", "--flush-timeout", "0.1", "--queue"])
        .arg(queue.path())
        .args(["--batch", "2", "--expiry", "1h"])
        .stdin(Cursor::new(
            r#"{"topic":"a/b","payload":"one","qos":2,"retain":1}
{"topic":"c","payload":"two","qos":0}
{"topic":"c","payload":"three","qos":0}
{"topic":"c","payload_base64":"/wA="}
"#,
        ))
        .run(SOON)
        .expect_code(75);
    let export = queue.command(&["export"]).expect_code(0).stdout.text();
    // What the first program with `--input json` reads, and properties, which it ignores.
    let known = [
        "properties",
        "tst",
        "topic",
        "qos",
        "retain",
        "payloadlen",
        "payload",
        "payload_base64",
        "stream",
        "seq",
        "taken",
        "latency_ms",
    ];
    for line in export.lines() {
        let line: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
        let other = line.keys().find(|name| !known.contains(&name.as_str()));
        assert_eq!(other, None, "{line:?}");
    }
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "#", "%t %x %r");
    let publisher = Program::publisher().to(&broker);
    let publisher = publisher
        .args(["-l", "--input", "json"])
        .stdin(Cursor::new(export));
    publisher.run(SOON).expect_code(0);
    let mut seen = witness.texts(4);
    seen.sort_unstable();
    assert_eq!(
        seen,
        ["a/b 6f6e65 0", "c 7468726565 0", "c 74776f 0", "c ff00 0"]
    );
}

/// Puts something at the name of a queue.
type Make<'a> = &'a dyn Fn(&QueueFile);

#[test]
fn only_what_is_or_was_a_queue_is_purged() {
    let text = "no database at all\n".repeat(100);
    let other = |queue: &QueueFile| {
        let other = rusqlite::Connection::open(queue.path()).unwrap();
        other.execute_batch("CREATE TABLE queue (x)").unwrap();
        other.close().unwrap();
    };
    let make: [(&str, Make); 5] = [
        ("not a queue", &|queue| {
            fs::write(queue.path(), &text).unwrap();
        }),
        ("something else", &other),
        ("a FIFO", &|queue| {
            mkfifo(&queue.path(), Mode::S_IRWXU).unwrap();
        }),
        ("a socket", &|queue| {
            drop(UnixListener::bind(queue.path()).unwrap());
        }),
        ("is a directory", &|queue| {
            fs::create_dir(queue.path()).unwrap();
        }),
    ];
    for (what, make) in make {
        let queue = QueueFile::new();
        make(&queue);
        let kind = fs::symlink_metadata(queue.path()).unwrap().file_type();
        let before = kind.is_file().then(|| fs::read(queue.path()).unwrap());
        for action in ["purge", "retry", "status", "list", "export"] {
            let outcome = queue
                .command(&[action])
                .expect_fault(73, &["queue.db", what]);
            assert!(!outcome.stderr.text().contains("queue purge"), "{outcome}");
        }
        let outcome = queue.publisher().at_port(free_port()).args(["-m", "x"]);
        let outcome = outcome.run(SOON).expect_fault(73, &["queue.db", what]);
        assert!(!outcome.stderr.text().contains("queue purge"), "{outcome}");
        let names = fs::read_dir(queue.path().parent().unwrap())
            .unwrap()
            .count();
        assert_eq!(names, 1, "{what}: nothing beside it");
        let after = kind.is_file().then(|| fs::read(queue.path()).unwrap());
        assert!(before == after, "{what}");
    }
    for device in ["/dev/null", "/dev/zero"] {
        for command in [
            &["-t", "t", "-m", "x", "--endpoint", "h"][..],
            &["queue", "purge"],
        ] {
            let outcome = Program::publisher().args(command).args(["--queue", device]);
            let outcome = outcome
                .run(SOON)
                .expect_fault(73, &[device, "it is a device"]);
            assert!(!outcome.stderr.text().contains("purge"), "{outcome}");
        }
    }
    // What was one, and has lost its beginning.
    let queue = QueueFile::with("one\n");
    let mut bytes = fs::read(queue.path()).unwrap();
    bytes[..4_096].fill(0);
    fs::write(queue.path(), bytes).unwrap();
    let purged = queue.command(&["purge"]).expect_code(0).stdout.text();
    assert!(purged.contains("queue.db.damaged-20"), "{purged}");
}

#[test]
fn many_dead_letters_are_put_back_page_by_page() {
    const COUNT: usize = 3_000;
    let queue = QueueFile::new();
    let broker = ScriptedBroker::script()
        .on_publish(|_| Reply::Refuse(0x80))
        .plain();
    let lines: Vec<_> = (1..=COUNT).map(|n| n.to_string()).collect();
    queue
        .publisher()
        .at_plain_port(broker.port())
        .arg("-l")
        .stdin(Cursor::new(lines.join("\n")))
        .run(SOON * 3)
        .expect_code(65);
    assert_eq!(queue.status()["dead"], COUNT);
    let some = ["retry", "7", "2999", "9999"];
    queue
        .command(&some)
        .expect_code(65)
        .expect_stdout("2 back in the queue\n")
        .expect_stderr("has the number 9999");
    let rest = format!("{} back in the queue\n", COUNT - 2);
    let (mut strace, words) = Strace::watch("openat");
    let retry = Program::publisher().args(["queue", "retry", "--queue"]);
    let retry = retry.arg(queue.path()).under(words).run(SOON * 3);
    retry.expect_code(0).expect_stdout(&rest);
    // Each page is announced to a running publisher.
    let opened = strace.calls();
    let is_announcement = |call: &&String| call.contains("queue.db-lock\", O_RDWR");
    let announced = opened.iter().filter(is_announcement).count();
    // Besides it keeps the lock file open.
    assert!(announced > COUNT.div_ceil(256), "{announced}: {opened:#?}");
    let status = queue.status();
    assert_eq!(
        (&status["waiting"], &status["dead"], &status["dead_bytes"]),
        (&COUNT.into(), &0.into(), &0.into())
    );
    let list = queue.command(&["list"]).expect_code(0).stdout.texts();
    let numbers: Vec<usize> = list
        .iter()
        .map(|l| l.split(' ').nth(1).unwrap().parse().unwrap())
        .collect();
    let named = [7, 2_999];
    let rest = (1..=COUNT).filter(|n| !named.contains(n));
    assert_eq!(numbers, named.into_iter().chain(rest).collect::<Vec<_>>());
}
