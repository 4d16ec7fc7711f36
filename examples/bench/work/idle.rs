//! Doing next to nothing: a subscriber to which nobody writes, a reading a second.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;

use crate::measure::{Running, start, until};
use crate::report::Bound::AtMost;
use crate::report::{Goal, Report, number};
use crate::stage::Stage;

use super::Plan;

/// Its share of a core in per cent, over a while.
fn share(running: &Running, during: Duration) -> anyhow::Result<f64> {
    let before = running.cpu()?;
    pass(during);
    let spent = running.cpu()?.saturating_sub(before);
    Ok(spent.as_secs_f64() / during.as_secs_f64() * 100.0)
}

#[allow(clippy::disallowed_methods)] // That nothing happens can only be waited for.
fn pass(time: Duration) {
    thread::sleep(time);
}

fn row(running: &Running, share: f64) -> anyhow::Result<[String; 3]> {
    #[allow(clippy::cast_precision_loss)] // Megabytes.
    let resident = running.memory("VmRSS")? as f64 / 1_048_576.0;
    let share = format!("{} % of a core", number(share));
    Ok([share, String::new(), format!("{resident:.1} MB")])
}

pub(crate) fn idle(stage: &Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let near = stage.near();
    for who in [
        "subscriber",
        "mosquitto_sub",
        "paho-mqtt (Python)",
        "AWS SDK v1",
    ] {
        let topic = stage.topic();
        let python = |script| stage.python(script, near, &topic, &["receive", "1", "1"]);
        let command = match who {
            "subscriber" => Some(stage.subscriber(&topic, &[])),
            "mosquitto_sub" => Some(stage.mosquitto(who, near, &topic, &["-q", "1"])),
            "AWS SDK v1" => python("sdk_client.py"),
            _ => python("paho_client.py"),
        };
        let Some(mut command) = command else {
            continue;
        };
        let running = start(&mut command)?;
        stage.subscribed(&topic)?;
        // What begins has something to do.
        pass(Duration::from_secs(1));
        let share = share(&running, plan.span)?;
        let goals = match who {
            "subscriber" => vec![Goal::new(share, "%", AtMost(0.01))],
            _ => vec![],
        };
        report.figure("idle subscriber", who, row(&running, share)?, goals);
    }
    healthy(stage, plan, report)
}

/// A reading a second, with a queue's file that is not needed: when it was last written to.
fn healthy(stage: &Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let file = stage.file("healthy.db");
    let queue = file.to_string_lossy();
    let receipts = stage.file("receipts");
    let flags = ["--stdin-line", "--receipts", "--queue", &queue];
    let mut command = stage.publisher(stage.near(), &stage.topic(), &flags);
    command
        .stdin(Stdio::piped())
        .stdout(fs::File::create(&receipts)?);
    let mut running = start(&mut command)?;
    let mut lines = running.stdin().context("no pipe")?;
    let delivered = |count| {
        until("a PUBACK", || {
            fs::read_to_string(&receipts).is_ok_and(|text| {
                text.lines().filter(|l| l.starts_with("delivered")).count() == count
            })
        })
    };
    // The first is taken before there is a connection, and may have been written.
    writeln!(lines, "first")?;
    delivered(1)?;
    pass(Duration::from_secs(1));
    let (mut writes, mut last) = (0, written(&file));
    let seconds = plan.span.as_secs().max(1);
    let before = running.cpu()?;
    for second in 1..=seconds {
        pass(Duration::from_secs(1));
        writeln!(lines, "{second}")?;
        delivered(usize::try_from(second)? + 1)?;
        let now = written(&file);
        writes += u32::from(now != last);
        last = now;
    }
    let spent = running.cpu()?.saturating_sub(before).as_secs_f64() * 100.0;
    #[allow(clippy::cast_precision_loss)] // Seconds.
    let row = row(&running, spent / seconds as f64)?;
    drop(lines);
    running.end(&[0])?;
    let goal = Goal::new(
        f64::from(writes),
        "seconds with a write to the disk",
        AtMost(0.0),
    );
    report.figure("a reading a second, --queue", "publisher", row, vec![goal]);
    Ok(())
}

/// When the database and its log were last written to.
fn written(file: &std::path::Path) -> [Option<SystemTime>; 2] {
    let log = file.with_extension("db-wal");
    [file, &log].map(|file| fs::metadata(file).and_then(|meta| meta.modified()).ok())
}
