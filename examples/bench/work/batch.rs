//! Lines in on one side, out on the other, alone and in batches.

use std::fs::File;
use std::process::Command;

use crate::contest::{Entry, contest};
use crate::measure::{Measure, start};
use crate::report::Report;
use crate::stage::Stage;

use super::{Plan, speed};

/// Lines in on one side, out on the other; all of them have to be there.
fn through(
    stage: &Stage,
    lines: u32,
    publisher: impl Fn(&str) -> Command,
    subscriber: impl Fn(&str) -> Command,
) -> anyhow::Result<Measure> {
    const OUT: &str = "out";
    let topic = stage.topic();
    let mut command = subscriber(&topic);
    let receiving = start(command.stdout(File::create(stage.file(OUT))?))?;
    stage.subscribed(&topic)?;
    let sending = start(publisher(&topic).stdin(File::open(stage.lines(lines)?)?))?;
    let since = sending.since;
    let received = receiving.end(&[0])?.since(since);
    let sent = sending.end(&[0])?;
    let arrived = stage.count(OUT)?;
    if arrived != lines as usize {
        anyhow::bail!("{arrived} of {lines} lines arrived");
    }
    Ok(Measure {
        wall: received.wall,
        cpu: received.cpu + sent.cpu,
        peak: received.peak.max(sent.peak),
        arrived: None,
    })
}

/// Lines in to lines out, alone and in batches.
pub(crate) fn batch(stage: &Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let near = stage.near();
    let ours = |lines: u32, flags: &[&str]| {
        let flags = [&["--stdin-line"], flags].concat();
        let count = lines.to_string();
        through(
            stage,
            lines,
            |topic| stage.publisher(near, topic, &flags),
            |topic| stage.subscriber(topic, &["--count", &count]),
        )
    };
    let theirs = |lines: u32| {
        let count = lines.to_string();
        through(
            stage,
            lines,
            |topic| stage.mosquitto("mosquitto_pub", near, topic, &["-q", "1", "-l"]),
            |topic| stage.mosquitto("mosquitto_sub", near, topic, &["-q", "1", "-C", &count]),
        )
    };
    let many = plan.lines * 10;
    let entries = vec![
        Entry::new("ours, --batch 100", many, || {
            ours(many, &["--batch", "100"])
        }),
        Entry::new("ours", plan.lines, || ours(plan.lines, &[])),
        Entry::new("Mosquitto's", plan.lines, || theirs(plan.lines)),
    ];
    let all = contest(plan.rounds, entries)?;
    let goals = vec![vec![speed(&all[0], &all[2], 50.0)]];
    report.standings("lines in to lines out, both programs", &all, goals);
    Ok(())
}
