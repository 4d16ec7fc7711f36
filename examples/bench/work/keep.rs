//! What is kept: memory while much passes through, a backlog in the queue's file.

use std::fs::File;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::contest::{Entry, contest, median};
use crate::measure::{Measure, run, start, until};
use crate::report::Bound::{AtLeast, AtMost};
use crate::report::{Goal, Report, number};
use crate::stage::Stage;

use super::Plan;

/// As many in flight as make a commit the smaller part.
const WIDE: [&str; 2] = ["--max-inflight", "1000"];

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

/// A backlog that came while there was no broker: taken in, opened, drained.
pub(crate) fn backlog(stage: &mut Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let far = stage.far(50)?;
    let stage = &*stage;
    let near = stage.near();
    let name = |of: &str| stage.file(of).to_string_lossy().into_owned();
    let (file, empty) = (name("backlog.db"), name("empty.db"));
    let topic = stage.topic();
    // Port 1 has nobody. 75: what was accepted waits for another run.
    let offline = |file: &str, flags: &[&str]| {
        let common = ["--queue", file, "--quiet", "--flush-timeout", "0"];
        let mut command = stage.publisher(1, &topic, &[flags, &common].concat());
        command.stderr(Stdio::null());
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
    let live = |flags: &'static [&str]| {
        move || {
            let flags = [&["--stdin-line"], flags].concat();
            let mut command = stage.publisher(near, &stage.topic(), &flags);
            command.stdin(File::open(stage.lines(plan.lines)?)?);
            run(&mut command)
        }
    };
    let entries = vec![
        Entry::new("publisher, live", plan.lines, live(&[])),
        Entry::new(
            "publisher --max-inflight 1000, live",
            plan.lines,
            live(&WIDE),
        ),
    ];
    let live = contest(plan.rounds, entries)?;
    let rate = f64::from(plan.backlog) / filled.wall.as_secs_f64();
    let insert = Goal::new(rate / live[0].rate(), "× publishing live", AtLeast(1.0));
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
    let against = |at: usize| (live[at].rate(), "× publishing live", 0.8);
    for (name, port, flags, (unit, what, bound)) in [
        ("drained", near, &[][..], against(0)),
        ("drained, --max-inflight 1000", near, &WIDE, against(1)),
        (
            "drained, 50 ms round trip",
            far,
            &[],
            (1.0, "a second", 1800.0),
        ),
    ] {
        let (delivered, seconds, measure) = drain(stage, plan, port, &file, flags)?;
        let goals = vec![
            Goal::new(delivered / seconds / unit, what, AtLeast(bound)),
            Goal::new(megabytes(measure.peak), "MB", AtMost(20.0)),
        ];
        let rate = format!("{}/s", number(delivered / seconds));
        report.figure(&work, name, row(&measure, rate, delivered), goals);
    }
    report.standings(&work, &live, vec![]);
    Ok(())
}

/// Drains a queue for a while: messages delivered, seconds, and what it took.
fn drain(
    stage: &Stage,
    plan: &Plan,
    port: u16,
    queue: &str,
    flags: &[&str],
) -> anyhow::Result<(f64, f64, Measure)> {
    let deadline = format!("{}s", plan.while_.as_secs());
    let common = [
        "--null-message",
        "--quiet",
        "--queue",
        queue,
        "--deadline",
        &deadline,
        "--summary",
    ];
    let mut command = stage.publisher(port, &stage.topic(), &[&common, flags].concat());
    let summary = stage.file("summary");
    let output = File::create(&summary)?;
    command.stdout(output).stderr(Stdio::null());
    let measure = start(&mut command)?.end(&[0, 75])?;
    let summary: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&summary)?)?;
    let said = |what: &str| {
        let figure = summary[what].as_f64();
        figure.with_context(|| format!("no {what}: {summary}"))
    };
    Ok((said("delivered")?, said("elapsed_s")?, measure))
}
