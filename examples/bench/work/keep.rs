//! What is kept: memory while much passes through, a backlog in the queue's file.

use std::fs::File;
use std::process::Command;

use anyhow::Context as _;

use crate::contest::{Entry, contest, median};
use crate::measure::{Measure, Running, run, start, until};
use crate::report::Bound::{AtLeast, AtMost};
use crate::report::{Goal, Report, number};
use crate::stage::Stage;

use super::Plan;

const MB: f64 = 1_048_576.0;

#[allow(clippy::cast_precision_loss)] // Far below 2^52.
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / MB
}

/// A million lines: memory at the start, which is when the first tenth of the CPU time is over, and
/// at most.
pub(crate) fn memory(stage: &Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let near = stage.near();
    let topic = stage.topic();
    let queue = stage.file("memory.db").to_string_lossy().into_owned();
    let queued = ["--stdin-line", "--queue", &queue];
    let publisher = |flags: &[&str]| stage.publisher(near, &topic, flags);
    let python = |script| stage.peer(script, near, &topic, &["publish", "all"]);
    let mosquitto = ["-q", "1", "-l"];
    let mosquitto = stage.mosquitto("mosquitto_pub", near, &topic, &mosquitto);
    // What mosquitto_pub loses, when its packet identifiers wrap round, does not matter here. The SDK
    // hangs then.
    let commands = [
        ("publisher", plan.many, Some(publisher(&["--stdin-line"]))),
        ("publisher --queue", plan.many, Some(publisher(&queued))),
        ("mosquitto_pub -l", plan.many, Some(mosquitto)),
        ("paho-mqtt (Python)", plan.many, python("paho_client.py")),
        (
            "AWS SDK v1, fewer lines",
            plan.lines,
            python("sdk_client.py"),
        ),
    ];
    for (name, lines, command) in commands {
        let Some(mut command) = command else {
            continue;
        };
        command.stdin(File::open(stage.lines(lines)?)?);
        let mut running = start(&mut command)?;
        let mut sizes = Vec::new();
        until("its end", || {
            sizes.extend(running.memory("VmRSS"));
            !running.runs()
        })?;
        let measure = running.end(&[0])?;
        // A tenth of the way.
        let early = sizes.get(sizes.len() / 10).copied().unwrap_or_default();
        let (early, most) = (megabytes(early), megabytes(measure.peak));
        let grown = Goal::new(most / early, "× what it was at a tenth", AtMost(1.1));
        let goals = match name {
            "publisher" => vec![Goal::new(most, "MB", AtMost(12.0)), grown],
            _ => vec![],
        };
        let each = measure.cpu.as_secs_f64() * 1e6 / f64::from(lines);
        let figures = [
            format!("{early:.1} MB at a tenth"),
            format!("{} µs", number(each)),
            format!("{most:.1} MB"),
        ];
        let work = format!("memory while {} lines pass", number(f64::from(plan.many)));
        report.figure(&work, name, figures, goals);
    }
    Ok(())
}

/// Memory at most so far, of one that runs on.
fn peak(running: &Running) -> f64 {
    running.memory("VmHWM").map_or(0.0, megabytes)
}

/// A backlog that came while there was no broker: taken in, opened, drained.
pub(crate) fn backlog(stage: &Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let name = |of: &str| stage.file(of).to_string_lossy().into_owned();
    let (file, empty) = (name("backlog.db"), name("empty.db"));
    let topic = stage.topic();
    // Port 1 has nobody. 75: what was accepted waits for another run.
    let offline = |file: &str, flags: &[&str]| {
        let common = ["--queue", file, "--quiet", "--flush-timeout", "0"];
        let mut command = stage.publisher(1, &topic, &[flags, &common].concat());
        command.stderr(std::process::Stdio::null());
        command
    };
    let ends = |command: &mut Command| start(command)?.end(&[75]);

    let all = number(f64::from(plan.backlog));
    let work = format!("a backlog of {all} messages");
    let mut command = offline(&file, &["--stdin-line", "--queue-bytes", "16GiB"]);
    command.stdin(File::open(stage.lines(plan.backlog)?)?);
    let filled = ends(&mut command)?;
    std::fs::remove_file(stage.lines(plan.backlog)?)?;
    // What the queue must not hold up.
    let live = contest(
        plan.rounds,
        vec![Entry::new("publisher", plan.lines, || {
            let mut command = stage.publisher(stage.near(), &stage.topic(), &["--stdin-line"]);
            command.stdin(File::open(stage.lines(plan.lines)?)?);
            run(&mut command)
        })],
    )?;
    let rate = f64::from(plan.backlog) / filled.wall.as_secs_f64();
    let insert = Goal::new(rate / live[0].rate(), "× publishing without", AtLeast(1.0));
    let row = |measure: &Measure, result: String, count: f64| {
        [
            result,
            format!("{} µs", number(measure.cpu.as_secs_f64() * 1e6 / count)),
            format!("{:.1} MB", megabytes(measure.peak)),
        ]
    };
    let figures = row(
        &filled,
        format!("{}/s", number(rate)),
        f64::from(plan.backlog),
    );
    report.figure(&work, "taken in, no broker", figures, vec![insert]);

    // One message more, into the full file and into an empty one: the difference is the opening.
    let one = |file: &str| ends(&mut offline(file, &["--message", "x"]));
    let mut opened = Vec::new();
    let mut last = Measure::default();
    for _ in 0..plan.rounds {
        last = one(&file)?;
        opened.push(last.wall.as_secs_f64() - one(&empty)?.wall.as_secs_f64());
    }
    let opening = median(opened).max(0.0) * 1000.0;
    let goal = Goal::new(opening, "ms", AtMost(100.0));
    let figures = row(&last, format!("{} ms", number(opening)), 1.0);
    report.figure(&work, "opened", figures, vec![goal]);

    // Drained for a while, or to its end; 75 again, or 0.
    let deadline = format!("{}s", plan.while_.as_secs());
    let flags = [
        "--null-message",
        "--quiet",
        "--queue",
        &file,
        "--deadline",
        &deadline,
        "--summary",
    ];
    let mut command = stage.publisher(stage.near(), &stage.topic(), &flags);
    let summary = stage.file("summary");
    command
        .stdout(File::create(&summary)?)
        .stderr(std::process::Stdio::null());
    let mut draining = start(&mut command)?;
    let mut most = 0.0;
    until("the backlog to drain", || {
        most = peak(&draining).max(most);
        !draining.runs()
    })?;
    let measure = draining.end(&[0, 75])?;
    let summary: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&summary)?)?;
    let said = |what: &str| {
        summary[what]
            .as_f64()
            .with_context(|| format!("no {what}: {summary}"))
    };
    let (delivered, elapsed) = (said("delivered")?, said("elapsed_s")?);
    let drained = delivered / elapsed;
    let goals = vec![
        Goal::new(
            drained / live[0].rate(),
            "× publishing without",
            AtLeast(0.8),
        ),
        Goal::new(megabytes(measure.peak).max(most), "MB", AtMost(20.0)),
    ];
    let figures = row(&measure, format!("{}/s", number(drained)), delivered);
    report.figure(&work, "drained", figures, goals);
    report.standings(&work, &live, vec![]);
    Ok(())
}
