//! The file itself. `tests/data/queue-N.db` were written by the first program that had schema
//! N: three messages (one retained at QoS 2, one of bytes that are no text, one that expires),
//! a dead letter, a message dropped. Schema 7: that of schema 6, converted, with other totals.
//! Schema 8: a new file, with the rows of schema 7, and 11 as the last row number.

use std::fs::{self, File};
use std::path::Path;

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::harness::peer::Witness;
use crate::harness::{Broker, Program, QueueFile, SOON, free_port};

const SCHEMA: i32 = 8;

/// From this one on a file knows that it was copied here.
const KNOWS_ITS_PLACE: i32 = 4;

/// From this one on it counts what was written to it.
const HAS_TOTALS: i32 = 7;

/// From this one on the counters have the last row number, and the golden file has small pages.
const HAS_LAST_ROW: i32 = 8;

fn golden(schema: i32) -> QueueFile {
    let queue = QueueFile::new();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    fs::copy(data.join(format!("queue-{schema}.db")), queue.path()).unwrap();
    queue
}

fn lines(queue: &QueueFile, command: &[&str]) -> Vec<Value> {
    let text = queue.command(command).expect_code(0).stdout.text();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn files_of_every_schema_are_read_and_brought_to_the_present_one() {
    for schema in 1..=SCHEMA {
        let queue = golden(schema);
        let status = queue.status();
        for (name, value) in [
            ("waiting", 3),
            ("bytes", 18),
            ("dead", 1),
            ("dead_bytes", 7),
            ("dropped_ever", 1),
            ("dead_ever", 1),
        ] {
            assert_eq!(status[name], value, "schema {schema}: {name} in {status}");
        }
        let before = status["totals"].clone();
        if schema >= HAS_TOTALS {
            let totals = json!({
                "since": "2026-05-28T20:26:40.000Z",
                "accepted": 9,
                "accepted_bytes": 60,
                "delivered": 2,
                "delivered_bytes": 14,
                "dropped": 1,
                "expired": 1,
                "purged": 1,
                "retried": 2,
            });
            assert_eq!(before, totals);
        } else {
            assert_eq!(before, Value::Null, "schema {schema}");
            let text = queue.command(&["status"]).expect_code(0).stdout.text();
            assert!(!text.contains("written to the file"), "{text}");
        }
        let waiting = lines(&queue, &["list", "--json"]);
        let seqs: Vec<_> = waiting.iter().map(|m| m["seq"].as_u64().unwrap()).collect();
        assert_eq!(seqs, [3, 4, 5]);
        let of = |index: usize, name: &str| &waiting[index][name];
        assert_eq!((of(0, "qos"), of(0, "retain")), (&2.into(), &1.into()));
        assert_eq!(of(2, "expires"), "2036-10-27T14:19:59.813Z");
        let dead = lines(&queue, &["list", "--dead", "--json"]);
        assert_eq!(dead[0]["reason"], "not authorized (0x87)");
        let exported = lines(&queue, &["export"]);
        assert_eq!(exported[1]["payload_base64"], "/wA=");

        // A stream that goes on, 6 having been dropped at the door; or a new one.
        let broker = Broker::start();
        let witness = Witness::with_format(&broker, "#", "%t %x %q %r %P");
        Program::publisher()
            .to(&broker)
            .args(["-t", "new", "-m", "new", "--queue"])
            .arg(queue.path())
            .run(SOON)
            .expect_code(0);
        let mut seen = witness.texts(4);
        // QoS 2 takes a round trip longer than QoS 1.
        seen.sort_unstable();
        let stream = "5b7d025ce9bc0b91";
        for (seen, begin) in seen.iter().zip([
            format!("a/b 32312e35 1 0 seq:{stream}/3/"),
            format!("a/b ff00 1 0 seq:{stream}/4/"),
            format!("c 6c61746572 1 0 seq:{stream}/5/"),
            "new 6e6577 1 0 seq:".to_owned(),
        ]) {
            assert!(seen.starts_with(&begin), "schema {schema}: {seen}");
        }
        let goes_on = seen[3].contains(&format!("seq:{stream}/7/"));
        let begins = !seen[3].contains(stream) && seen[3].contains("/1/");
        let moved = schema >= KNOWS_ITS_PLACE;
        assert_eq!(
            (goes_on, begins),
            (!moved, moved),
            "schema {schema}: {}",
            seen[3]
        );
        let totals = queue.totals();
        let count = |of: &Value, name: &str| of[name].as_u64().unwrap_or(0);
        let delivered = count(&totals, "delivered") - count(&before, "delivered");
        assert!((3..=4).contains(&delivered), "schema {schema}: {totals}");
        // What an older file has in it counts from the day of its conversion.
        let there = if schema >= HAS_TOTALS { 0 } else { 4 };
        let accepted = count(&totals, "accepted") - count(&before, "accepted") - there;
        assert!(accepted <= 1, "schema {schema}: {totals}");
        let goes_on = totals["since"] == before["since"];
        assert_eq!(goes_on, schema >= HAS_TOTALS, "schema {schema}: {totals}");
        let connection = Connection::open(queue.path()).unwrap();
        let version = connection.pragma_query_value(None, "user_version", |row| row.get(0));
        assert_eq!(version, Ok(SCHEMA));
        // The new message may have been acknowledged before it was due on disk.
        let last_row = connection.query_row("SELECT last_row FROM books", [], |row| row.get(0));
        let before: i64 = if schema >= HAS_LAST_ROW { 11 } else { 3 };
        let range = before..=before + 1;
        assert!(range.contains(&last_row.unwrap()), "schema {schema}");
    }
}

#[test]
fn the_properties_in_a_golden_file_are_read_and_delivered() {
    let queue = QueueFile::new();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    fs::copy(data.join("queue-6-properties.db"), queue.path()).unwrap();
    let status = queue.status();
    let counts = (&status["bytes"], &status["dead_bytes"]);
    assert_eq!(counts, (&118.into(), &60.into()));
    queue.command(&["retry"]).expect_code(0);
    let broker = Broker::start();
    let witness = Witness::with_format(&broker, "#", "%t|%F|%C|%R|%D|%P|%x");
    let publisher = Program::publisher().to(&broker).arg("--queue");
    let publisher = publisher.arg(queue.path());
    let publisher = publisher.args(["-l", "-t", "t", "--no-sequence"]);
    publisher.run(SOON).expect_code(0);
    let mut lines = witness.messages(5, SOON);
    // mosquitto_sub writes the second byte, a NUL, and goes on.
    let binary = lines.remove(0).text;
    assert!(binary.starts_with("ok/1|1|text/plain|answers|"), "{binary}");
    assert!(binary.ends_with("|b:1 a:2 b:3|32312e35"), "{binary}");
    let rest: Vec<_> = lines.into_iter().map(|line| line.text).collect();
    assert_eq!(
        rest,
        [
            "ok/2||||||706c61696e".to_owned(),
            "ok/3|||||site:7|6c61746572".into(),
            "ok/4||application/x-ndjson|||site:7|6f6e650a74776f0a74687265650a".into(),
            "denied|1|text/plain|answers|r-1|b:1 a:2 b:3|78".into(),
        ]
    );
}

#[test]
fn a_flipped_bit_in_the_properties_of_a_message_is_noticed() {
    let queue = QueueFile::new();
    let publisher = queue.publisher().at_port(free_port());
    let publisher = publisher.args(["-m", "x", "--flush-timeout", "0.1"]);
    publisher
        .args(["--user-property", "a=b"])
        .run(SOON)
        .expect_code(75);
    for damage in ["x'0726000161000163'", "NULL", "x'00'", "'text'"] {
        let copy = QueueFile::new();
        fs::copy(queue.path(), copy.path()).unwrap();
        let connection = Connection::open(copy.path()).unwrap();
        // STRICT refuses the last one, which is then no damage.
        let update = format!("UPDATE queue SET properties = {damage}");
        if connection.execute(&update, []).is_err() {
            continue;
        }
        connection.close().unwrap();
        copy.command(&["list"])
            .expect_code(65)
            .expect_stderr("damaged");
    }
}

/// What a file says of its form.
fn form(queue: &QueueFile) -> Vec<String> {
    let connection = Connection::open(queue.path()).unwrap();
    let tables = "SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name";
    let mut statement = connection.prepare(tables).unwrap();
    let sql = statement
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap();
    let mut form: Vec<_> = sql.map(Result::unwrap).collect();
    let columns = "SELECT name || ' ' || type || ' ' || \"notnull\" || ' ' || coalesce(dflt_value, '') || ' ' || pk
                   FROM pragma_table_info('queue')";
    let mut statement = connection.prepare(columns).unwrap();
    let columns = statement
        .query_map([], |row| row.get::<_, String>(0))
        .unwrap();
    form.extend(columns.map(Result::unwrap));
    for pragma in ["application_id", "user_version", "auto_vacuum"] {
        let read = connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        form.push(format!("{pragma} {}", read.unwrap()));
    }
    form
}

#[test]
fn a_new_file_has_the_form_of_the_golden_one() {
    // A change that is no migration would show here.
    assert_eq!(form(&QueueFile::with("x\n")), form(&golden(SCHEMA)));
    let migrated = golden(1);
    migrated.command(&["purge"]).expect_code(0);
    // A queue with messages keeps its table.
    let (table, rest) = split_form(&migrated);
    assert!(table.contains("PRIMARY KEY AUTOINCREMENT,"), "{table}");
    let (new_table, new_rest) = split_form(&golden(SCHEMA));
    assert!(!new_table.contains("AUTOINCREMENT"), "{new_table}");
    assert_eq!(rest, new_rest);
}

/// The statement that made the table of the queue, and the rest of the form.
fn split_form(queue: &QueueFile) -> (String, Vec<String>) {
    let is_table = |sql: &String| sql.starts_with("CREATE TABLE queue ");
    let (mut table, rest): (Vec<_>, Vec<_>) = form(queue).into_iter().partition(is_table);
    (table.remove(0), rest)
}

#[test]
fn a_new_file_has_small_pages_and_an_older_one_keeps_its_own() {
    let page_size = |queue: &QueueFile| -> i64 {
        let connection = Connection::open(queue.path()).unwrap();
        let size = connection.pragma_query_value(None, "page_size", |row| row.get(0));
        size.unwrap()
    };
    assert_eq!(page_size(&QueueFile::with("x\n")), 1_024);
    let older = golden(HAS_LAST_ROW - 1);
    older.add("x\n");
    assert_eq!(page_size(&older), 4_096);
}

#[test]
fn a_damaged_file_of_any_schema_gives_what_can_be_read() {
    for schema in 1..=SCHEMA {
        let queue = golden(schema);
        // Small pages at the end may hold the schema: something is put behind them, to be cut off.
        let connection = Connection::open(queue.path()).unwrap();
        let outcome = "INSERT INTO fate VALUES (1, 'owner', 1, 3, hex(zeroblob(8192)), 0)";
        connection.execute(outcome, []).unwrap();
        connection.close().unwrap();
        let length = if schema < HAS_LAST_ROW {
            7 * 4_096
        } else {
            15 * 1_024
        };
        let file = fs::OpenOptions::new().write(true).open(queue.path());
        file.unwrap().set_len(length).unwrap();
        for (which, count) in [(&["export"][..], 3), (&["export", "--dead"], 1)] {
            let export = queue.command(which).expect_code(73);
            assert_eq!(export.stdout.count(), count, "schema {schema}: {export}");
        }
    }
}

#[test]
fn a_newer_file_is_refused_and_left_as_it_is() {
    let queue = golden(SCHEMA);
    let newer = Connection::open(queue.path()).unwrap();
    newer
        .pragma_update(None, "user_version", SCHEMA + 1)
        .unwrap();
    newer.close().unwrap();
    let before = fs::read(queue.path()).unwrap();
    let newer = format!("schema {}", SCHEMA + 1);
    let refused = ["queue.db", &newer, "use the newer program"];
    queue
        .publisher()
        .at_port(1)
        .args(["-m", "x"])
        .run(SOON)
        .expect_fault(73, &refused)
        .expect_stdout("");
    for action in ["status", "list", "export", "retry", "purge"] {
        queue.command(&[action]).expect_fault(73, &refused);
    }
    assert_eq!(fs::read(queue.path()).unwrap(), before);
}

#[test]
fn an_older_file_that_an_older_publisher_drains_is_refused_and_left_as_it_is() {
    let older = SCHEMA - 1;
    let queue = golden(older);
    let before = fs::read(queue.path()).unwrap();
    // The older publisher holds the lock, and never migrates the file.
    let lock = File::create(queue.beside("-lock")).unwrap();
    lock.lock().unwrap();
    let publisher = queue.publisher().at_port(free_port()).args(["-m", "x"]);
    let refused = [
        "queue.db",
        "a publisher of an older version is using it",
        "end that one first",
    ];
    publisher.run(SOON).expect_fault(73, &refused);
    assert_eq!(fs::read(queue.path()).unwrap(), before);
    // Once it has ended, the next publisher migrates the file and drains it.
    drop(lock);
    let broker = Broker::start();
    queue.drain(&broker);
    let connection = Connection::open(queue.path()).unwrap();
    let version = connection.pragma_query_value(None, "user_version", |row| row.get::<_, i32>(0));
    assert_eq!(version.unwrap(), SCHEMA);
}
