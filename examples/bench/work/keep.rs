//! What is kept: memory while much passes through, a backlog in the queue's file.

use std::fs::File;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::contest::{Entry, contest, median};
use crate::line_peer::LinePeer;
use crate::measure::{Measure, run, start, until};
use crate::report::Bound::{AtLeast, AtMost};
use crate::report::{Goal, Report, number};
use crate::stage::Stage;

use super::{FAR, Plan};

/// As many in flight as make a commit the smaller part.
const WIDE: [&str; 2] = ["--max-inflight", "1000"];

const MB: f64 = 1_048_576.0;

#[allow(clippy::cast_precision_loss)] // Far below 2^52.
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / MB
}

/// A million lines: memory when a tenth of the time is over, and at most. The peers get fewer: their packet
/// identifiers wrap round.
pub(crate) fn memory(stage: &Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let near = stage.near();
    let topic = stage.topic();
    let queue = stage.file("memory.db").to_string_lossy().into_owned();
    let queued = ["--stdin-line", "--queue", &queue];
    let publisher = |flags: &[&str]| stage.publisher(near, &topic, flags);
    let mut commands = vec![
        (
            "publisher".to_owned(),
            plan.many,
            publisher(&["--stdin-line"]),
        ),
        ("publisher --queue".into(), plan.many, publisher(&queued)),
    ];
    let peers = [LinePeer::mosquitto()].into_iter();
    for peer in peers.chain(LinePeer::libraries(stage)) {
        // Who waits for each line keeps none.
        if peer.window > 1.0 {
            let name = format!("{}, {} lines", peer.name, number(f64::from(plan.lines)));
            commands.extend(
                peer.command(stage, near, &topic)
                    .map(|command| (name, plan.lines, command)),
            );
        }
    }
    for (name, lines, mut command) in commands {
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
        let goals = match name.as_str() {
            "publisher" => vec![Goal::new(most, "MB", AtMost(10.5)), grown],
            _ => vec![],
        };
        let each = measure.cpu.as_secs_f64() * 1e6 / f64::from(lines);
        let figures = [
            format!("{early:.1} MB at a tenth"),
            format!("{} µs", number(each)),
            format!("{most:.1} MB"),
        ];
        let work = format!("memory while {} lines pass", number(f64::from(plan.many)));
        report.figure(&work, &name, figures, goals);
    }
    Ok(())
}

/// A backlog that came while there was no broker: taken in, opened, drained.
pub(crate) fn backlog(stage: &mut Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let (close, far) = (stage.far(1)?, stage.far(FAR)?);
    let stage = &*stage;
    let name = |of: &str| stage.file(of).to_string_lossy().into_owned();
    let (file, empty) = (name("backlog.db"), name("empty.db"));
    let topic = stage.topic();
    // Port 1 has nobody. 75: what was accepted waits for another run.
    let offline = |file: &str, flags: &[&str]| {
        let common = ["--queue", file, "--queue-bytes", "16GiB", "--quiet"];
        let common = [&common[..], &["--flush-timeout", "0"]].concat();
        let mut command = stage.publisher(1, &topic, &[flags, &common].concat());
        command.stderr(Stdio::null());
        command
    };
    let ends = |command: &mut Command| start(command)?.end(&[75]);

    let all = number(f64::from(plan.backlog));
    let work = format!("a backlog of {all} messages");
    let mut command = offline(&file, &["--stdin-line"]);
    command.stdin(File::open(stage.lines(plan.backlog)?)?);
    let filled = ends(&mut command)?;
    std::fs::remove_file(stage.lines(plan.backlog)?)?;
    let rate = f64::from(plan.backlog) / filled.wall.as_secs_f64();
    // More than any broker takes here.
    let insert = Goal::new(rate, "a second", AtLeast(150_000.0));
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
    let memory = |measure: &Measure| Goal::new(megabytes(measure.peak), "MB", AtMost(17.0));
    let goals = vec![insert, memory(&filled)];
    report.figure(&work, "taken in, no broker", figures, goals);

    // One message more, into the full file and into an empty one: the difference is the opening.
    let one = |file: &str| ends(&mut offline(file, &["--message", "x"]));
    let mut opened = Vec::new();
    let mut last = Measure::default();
    for _ in 0..plan.rounds {
        last = one(&file)?;
        opened.push(last.wall.as_secs_f64() - one(&empty)?.wall.as_secs_f64());
    }
    let opening = median(opened).max(0.0) * 1000.0;
    let goal = Goal::new(opening, "ms", AtMost(5.0));
    let figures = row(&last, format!("{} ms", number(opening)), 1.0);
    report.figure(&work, "opened", figures, vec![goal]);

    // For a while, or to its end.
    let (delivered, seconds, measure) = drain(stage, plan, &file)?;
    let rate = format!("{}/s", number(delivered / seconds));
    let (figures, goals) = (row(&measure, rate, delivered), vec![memory(&measure)]);
    report.figure(&work, "drained", figures, goals);
    std::fs::remove_file(&file)?;
    in_turn(stage, plan, report, [close, far])
}

/// Smaller ones to their end, in turn with publishing as many lines as they come.
fn in_turn(
    stage: &Stage,
    plan: &Plan,
    report: &mut Report,
    [close, far]: [u16; 2],
) -> anyhow::Result<()> {
    let near = stage.near();
    let (original, copy) = (stage.file("backlog.db"), stage.file("copy.db"));
    let queue = copy.to_string_lossy().into_owned();
    let fill = |count| -> anyhow::Result<()> {
        let _ = std::fs::remove_file(&original);
        let flags = ["--stdin-line", "--quiet", "--flush-timeout", "0", "--queue"];
        let mut command = stage.publisher(1, "filled", &flags);
        command.arg(&original).stderr(Stdio::null());
        command.stdin(File::open(stage.lines(count)?)?);
        start(&mut command)?.end(&[75]).map(drop)
    };
    let drain = |port, flags: &[&str]| {
        std::fs::copy(&original, &copy)?;
        // What has waited is on the disk: its first checkpoint does not have to write it.
        File::open(&copy)?.sync_all()?;
        let flags = [&["--null-message", "--queue", &queue], flags].concat();
        run(&mut stage.publisher(port, &stage.topic(), &flags))
    };
    let live = |port, count, flags: &[&str]| {
        let flags = [&["--stdin-line"], flags].concat();
        let mut command = stage.publisher(port, &stage.topic(), &flags);
        command.stdin(File::open(stage.lines(count)?)?);
        run(&mut command)
    };
    for (work, port, count, flags, bound) in [
        ("drain a backlog, loopback", near, plan.lines, &[][..], 0.55),
        (
            "drain a backlog, loopback, 1,000 in flight",
            near,
            plan.lines,
            &WIDE,
            0.8,
        ),
        (
            "drain a backlog, 1 ms round trip",
            close,
            plan.lines,
            &[],
            0.95,
        ),
        (
            "drain a backlog, 50 ms round trip",
            far,
            plan.distant,
            &[],
            0.95,
        ),
    ] {
        fill(count)?;
        let entries = vec![
            Entry::new("publisher --queue", count, || drain(port, flags)),
            Entry::new("publisher, live", count, || live(port, count, flags)),
        ];
        let rounds = if port == near {
            plan.brief_rounds
        } else {
            plan.rounds
        };
        let all = contest(rounds, entries)?;
        let goal = Goal::new(
            all[0].rate() / all[1].rate(),
            "× publishing live",
            AtLeast(bound),
        );
        report.standings(work, &all, vec![vec![goal]]);
    }
    Ok(())
}

/// Drains a queue for a while: messages delivered, seconds, and what it took.
fn drain(stage: &Stage, plan: &Plan, queue: &str) -> anyhow::Result<(f64, f64, Measure)> {
    let deadline = format!("{}s", plan.span.as_secs());
    let flags = [
        "--null-message",
        "--quiet",
        "--summary",
        "--queue",
        queue,
        "--deadline",
        &deadline,
    ];
    let mut command = stage.publisher(stage.near(), &stage.topic(), &flags);
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
