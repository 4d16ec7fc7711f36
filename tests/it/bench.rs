//! `examples/bench`, in short: that it measures ours and the peers, counts what arrives, and writes
//! its table where the flag says. Speed is not checked here.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use crate::harness::temp_dir;

fn bench() -> Command {
    let programs = Path::new(env!("CARGO_BIN_EXE_publisher"));
    Command::new(programs.with_file_name("examples").join("bench"))
}

#[test]
fn it_measures_in_turn_and_records_a_table_and_a_plot() {
    let dir = temp_dir();
    let file = dir.path().join("performance.md");
    fs::write(
        &file,
        "before\n<!-- measured -->\nold\n<!-- end -->\nafter\n",
    )
    .unwrap();
    let output = bench()
        .args(["--quick", "--backlog", "20000", "--record"])
        .arg(dir.path())
        .args(["batch", "receive", "backlog", "trips"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");

    let text = fs::read_to_string(&file).unwrap();
    let table = text.strip_prefix("before\n<!-- measured -->\n").unwrap();
    let table = table.strip_suffix("<!-- end -->\nafter\n").unwrap();
    assert_eq!(table, String::from_utf8_lossy(&output.stdout));
    let rows = |start: &str| {
        table
            .lines()
            .filter(|line| line.contains(start))
            .map(|line| line.split('|').map(str::trim).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    };
    for (who, times) in [
        ("| ours, --batch 100 |", 1),
        ("| Mosquitto's |", 1),
        ("| mosquitto_sub |", 2),
        ("| drained |", 1),
        ("| mosquitto_pub -l |", 3),
    ] {
        let rows = rows(who);
        assert_eq!(rows.len(), times, "{who}\n{table}");
        for row in rows {
            let [_, _, _, speed, cpu, resident, _, _] = row[..] else {
                panic!("{row:?}");
            };
            let number = |text: &str, unit: &str| {
                let digits = text.strip_suffix(unit).unwrap().replace(',', "");
                digits.parse::<f64>().unwrap()
            };
            assert!(number(speed, "/s") > 1.0, "{row:?}");
            assert!(number(cpu, " µs") > 0.0, "{row:?}");
            assert!(number(resident, " MB") > 1.0, "{row:?}");
        }
    }
    let plot = fs::read_to_string(dir.path().join("performance.svg")).unwrap();
    for part in ["<svg", "publisher --max-inflight 1000", "mosquitto_pub -l"] {
        assert!(plot.contains(part), "no {part:?}");
    }
}

/// The columns of the rows of a program: work, program, result, CPU, resident, targets.
fn rows<'a>(table: &'a str, program: &str) -> Vec<[&'a str; 6]> {
    let columns = |line: &'a str| {
        let columns: Vec<_> = line.split('|').map(str::trim).collect();
        <[&str; 6]>::try_from(columns.get(1..7)?).ok()
    };
    let all = table.lines().filter_map(columns);
    all.filter(|row| row[1] == program).collect()
}

fn number(text: &str) -> f64 {
    let first = text.split(' ').next().unwrap();
    first.replace(',', "").parse().unwrap_or(f64::NAN)
}

#[test]
fn it_counts_the_bytes_of_a_message_the_wake_ups_of_idle_programs_and_what_they_write() {
    let output = bench().args(["--quick", "bytes", "idle"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let table = String::from_utf8_lossy(&output.stdout);

    // The second row of each: with a chain of four certificates.
    let bytes = |program| {
        let rows = rows(&table, program);
        rows.iter()
            .filter(|row| row[2].ends_with(" KB"))
            .map(|row| number(row[2]))
            .collect::<Vec<_>>()
    };
    let [full, resumed, theirs] =
        ["publisher", "publisher --tls-session", "mosquitto_pub"].map(bytes);
    assert_eq!([full.len(), resumed.len(), theirs.len()], [2; 3], "{table}");
    assert!(full[1] > full[0] + 2.0, "{table}");
    assert!(resumed[0] < full[0] && resumed[1] < full[1], "{table}");
    // A resumed session needs no certificates.
    assert!((resumed[1] - resumed[0]).abs() < 0.5, "{table}");
    assert!(theirs[0] > 1.0, "{table}");

    for program in [
        "subscriber",
        "mosquitto_sub",
        "publisher --queue, no broker",
    ] {
        let row = rows(&table, program)[0];
        assert!(row[2].ends_with(" wake-ups per minute"), "{row:?}");
        assert!(number(row[2]) >= 0.0, "{row:?}");
    }
    let queued = rows(&table, "publisher --queue");
    let written = queued
        .iter()
        .find(|row| row[2].ends_with(" KB per reading"));
    assert!(number(written.expect(&table)[2]) > 0.0, "{table}");
}

#[test]
fn a_peer_that_loses_lines_gets_no_speed_but_the_number_that_arrived() {
    let dir = temp_dir();
    // In place of a C library's loader: it is called with two flags, the program, and its arguments.
    let loader = dir.path().join("ld.so");
    let script = "#!/bin/sh\nshift 3\n\
         [ \"$*\" != --version ] || exec echo mosquitto_pub version 9.8.7 running\n\
         head -n 15 | mosquitto_pub \"$@\"\n";
    fs::write(&loader, script).unwrap();
    fs::set_permissions(&loader, fs::Permissions::from_mode(0o755)).unwrap();
    let output = bench()
        .args(["--quick", "publish", "--mosquitto-sid"])
        .arg(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let table = String::from_utf8_lossy(&output.stdout);
    let rows = |program| rows(&table, program);
    let results: Vec<_> = rows("mosquitto_pub 9.8.7 -l")
        .iter()
        .map(|row| row[2])
        .collect();
    assert_eq!(results, ["15 of 20,000 arrived", "15 of 200 arrived"]);
    let complete = rows("mosquitto_pub -l");
    assert_eq!(complete.len(), 2, "{table}");
    assert!(complete.iter().all(|row| row[2].ends_with("/s")), "{table}");
}

#[test]
fn a_file_without_a_place_for_the_table_is_left_alone() {
    let dir = temp_dir();
    let file = dir.path().join("performance.md");
    fs::write(&file, "nothing").unwrap();
    let output = bench()
        .args(["--quick", "--record"])
        .arg(dir.path())
        .arg("single")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("performance.md"), "{said}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "nothing");
}
