//! Publishing: one message, lines, batches.

use std::fs::File;
use std::process::Command;

use anyhow::Context as _;

use crate::contest::{Entry, Standing, contest};
use crate::measure::{Measure, run, start};
use crate::report::Bound::{AtLeast, AtMost};
use crate::report::{Goal, Report};
use crate::stage::Stage;

use super::Plan;

/// The distance at which windows show, there and back.
const FAR: u64 = 50;

fn with_lines(stage: &Stage, mut command: Command, lines: u32) -> anyhow::Result<Command> {
    command.stdin(File::open(stage.lines(lines)?)?);
    Ok(command)
}

/// Publishes this many lines, to nobody.
fn publish(stage: &Stage, port: u16, lines: u32, flags: &[&str]) -> anyhow::Result<Measure> {
    let flags = [&["--stdin-line"], flags].concat();
    let command = stage.publisher(port, &stage.topic(), &flags);
    run(&mut with_lines(stage, command, lines)?)
}

fn mosquitto(stage: &Stage, port: u16, lines: u32, flags: &[&str]) -> anyhow::Result<Measure> {
    let flags = [&["-q", "1", "-l"], flags].concat();
    let command = stage.mosquitto("mosquitto_pub", port, &stage.topic(), &flags);
    run(&mut with_lines(stage, command, lines)?)
}

/// A Python peer that publishes lines.
#[derive(Clone, Copy)]
pub(crate) struct Python {
    pub(crate) name: &'static str,
    script: &'static str,
    /// What it waits for.
    waits: &'static str,
    /// Messages unacknowledged at most.
    pub(crate) window: f64,
}

/// All of them, or none if there is no Python.
pub(crate) fn python(stage: &Stage) -> Vec<Python> {
    let each = |name, script, waits, window| Python {
        name,
        script,
        waits,
        window,
    };
    let all = [
        each("paho-mqtt (Python)", "paho_client.py", "all", 20.0),
        each("AWS SDK v1", "sdk_client.py", "all", 20.0),
        each("AWS SDK v1, waiting", "sdk_client.py", "each", 1.0),
    ];
    all.into_iter().filter(|_| stage.python.is_some()).collect()
}

impl Python {
    /// Publishes this many lines.
    pub(crate) fn run(self, stage: &Stage, port: u16, lines: u32) -> anyhow::Result<Measure> {
        let words = ["publish", self.waits];
        let command = stage.peer(self.script, port, &stage.topic(), &words);
        let command = command.context("no Python")?;
        run(&mut with_lines(stage, command, lines)?)
    }
}

/// What they do, with fewer lines for who waits for each. Among themselves: who comes after one of them
/// finds the caches cold, which tells more of it than of who comes.
fn python_contest(
    stage: &Stage,
    plan: &Plan,
    port: u16,
    many: u32,
    few: u32,
) -> anyhow::Result<Vec<Standing>> {
    let entry = |peer: Python| {
        let lines = if peer.window > 1.0 { many } else { few };
        Entry::new(peer.name, lines, move || peer.run(stage, port, lines))
    };
    contest(plan.rounds, python(stage).into_iter().map(entry).collect())
}

/// One message, start to exit.
pub(crate) fn single(stage: &mut Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    for (distance, bound) in [(0, 1.2), (FAR, 1.05)] {
        let port = stage.far(distance)?;
        let stage = &*stage;
        let topic = stage.topic();
        let queue = stage.file("single.db").to_string_lossy().into_owned();
        let entries = vec![
            Entry::new("publisher", 1, || {
                run(&mut stage.publisher(port, &topic, &["--message", "x"]))
            }),
            Entry::new("mosquitto_pub", 1, || {
                let flags = ["-q", "1", "-m", "x"];
                run(&mut stage.mosquitto("mosquitto_pub", port, &topic, &flags))
            }),
            Entry::new("publisher --queue", 1, || {
                let flags = ["--message", "x", "--queue", &queue];
                run(&mut stage.publisher(port, &topic, &flags))
            }),
        ];
        let mut standings = contest(plan.brief_rounds, entries)?;
        standings.extend(python_contest(stage, plan, port, 1, 1)?);
        let slowness = standings[0].wall() / standings[1].wall();
        let goal = Goal::new(slowness, "× the time of mosquitto_pub", AtMost(bound));
        let work = format!("one message, start to exit{}", over(distance));
        report.single(&work, &standings, vec![vec![goal]]);
    }
    Ok(())
}

fn over(distance: u64) -> String {
    match distance {
        0 => String::new(),
        ms => format!(", {ms} ms round trip"),
    }
}

fn speed(ours: &Standing, theirs: &Standing, bound: f64) -> Goal {
    let what = format!("× {}", theirs.name);
    Goal::new(ours.rate() / theirs.rate(), what, AtLeast(bound))
}

fn cost(ours: &Standing, theirs: &Standing, bound: f64) -> Goal {
    Goal::new(ours.cpu() / theirs.cpu(), "× its CPU", AtMost(bound))
}

/// Lines from standard input, near and far, with the queue's file and without.
pub(crate) fn lines(stage: &mut Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let far = stage.far(FAR)?;
    let stage = &*stage;
    let (near, lines) = (stage.near(), plan.lines);
    let queue = stage.file("lines.db").to_string_lossy().into_owned();
    let queue = ["--queue", &queue];
    let entries = vec![
        Entry::new("publisher", lines, || publish(stage, near, lines, &[])),
        Entry::new("publisher --no-sequence", lines, || {
            publish(stage, near, lines, &["--no-sequence"])
        }),
        Entry::new("publisher --queue", lines, || {
            publish(stage, near, lines, &queue)
        }),
        Entry::new("mosquitto_pub -l", lines, || {
            mosquitto(stage, near, lines, &[])
        }),
    ];
    let mut all = contest(plan.brief_rounds, entries)?;
    all.extend(python_contest(stage, plan, near, lines, plan.few)?);
    let theirs = &all[3];
    let goals = vec![
        vec![speed(&all[0], theirs, 1.0), cost(&all[0], theirs, 1.1)],
        vec![speed(&all[1], theirs, 1.1), cost(&all[1], theirs, 1.1)],
        vec![speed(&all[2], &all[0], 0.8)],
    ];
    report.standings("lines from standard input", &all, goals);

    // As many as fill the larger window some ten times, as few as bear a small one.
    let (many, few) = (plan.lines, plan.distant);
    let wide = ["--max-inflight", "1000"];
    let entries = vec![
        Entry::new("publisher", few, || publish(stage, far, few, &[])),
        Entry::new("publisher --max-inflight 1000", many, || {
            publish(stage, far, many, &wide)
        }),
        Entry::new("publisher --queue", few, || {
            publish(stage, far, few, &queue)
        }),
        Entry::new("mosquitto_pub -l", few / 5, || {
            mosquitto(stage, far, few / 5, &[])
        }),
        Entry::new("mosquitto_pub -l -M 100", few, || {
            mosquitto(stage, far, few, &["-M", "100"])
        }),
    ];
    let mut all = contest(plan.rounds, entries)?;
    all.extend(python_contest(stage, plan, far, few / 5, few / 100)?);
    let rate = |at: usize, bound| Goal::new(all[at].rate(), "a second", AtLeast(bound));
    let goals = vec![
        vec![rate(0, 1800.0)],
        vec![rate(1, 13_000.0)],
        vec![speed(&all[2], &all[0], 0.8)],
    ];
    let work = format!("lines from standard input{}", over(FAR));
    report.standings(&work, &all, goals);
    Ok(())
}

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
    let sending = start(&mut with_lines(stage, publisher(&topic), lines)?)?;
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
    let goals = vec![vec![speed(&all[0], &all[2], 10.0)]];
    report.standings("lines in to lines out, both programs", &all, goals);
    Ok(())
}
