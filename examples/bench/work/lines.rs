//! Lines from standard input, near and far, with the queue's file and without.

use std::fs::File;

use crate::contest::{Entry, Standing, contest};
use crate::line_peer::LinePeer;
use crate::measure::{Measure, run};
use crate::report::Bound::AtLeast;
use crate::report::{Goal, Report};
use crate::stage::Stage;

use super::{FAR, Plan, cost, over, speed};

/// Publishes this many lines, to nobody.
fn publish(stage: &Stage, port: u16, lines: u32, flags: &[&str]) -> anyhow::Result<Measure> {
    let flags = [&["--stdin-line"], flags].concat();
    let mut command = stage.publisher(port, &stage.topic(), &flags);
    run(command.stdin(File::open(stage.lines(lines)?)?))
}

pub(crate) fn lines(stage: &mut Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let far = stage.far(FAR)?;
    let stage = &*stage;
    let queue = stage.file("lines.db").to_string_lossy().into_owned();
    let queue = ["--queue", &queue];
    near(stage, plan, report, &queue)?;
    distant(stage, plan, report, far, &queue)
}

fn near(stage: &Stage, plan: &Plan, report: &mut Report, queue: &[&str]) -> anyhow::Result<()> {
    let (port, lines) = (stage.near(), plan.lines);
    let mosquitto = LinePeer::mosquitto();
    let entries = vec![
        Entry::new("publisher", lines, || publish(stage, port, lines, &[])),
        Entry::new("publisher --no-sequence", lines, || {
            publish(stage, port, lines, &["--no-sequence"])
        }),
        Entry::new("publisher --queue", lines, || {
            publish(stage, port, lines, queue)
        }),
        Entry::new(&mosquitto.name, lines, || mosquitto.run(stage, port, lines)),
    ];
    let mut all = contest(plan.brief_rounds, entries)?;
    all[3].count_arrived(&mosquitto.run_counted(stage, port, lines)?);

    // Among themselves: who comes after a Python program finds the caches cold, which tells more of it
    // than of who comes.
    let mut peers: Vec<_> = LinePeer::mosquitto_sid(stage).into_iter().collect();
    peers.extend(LinePeer::libraries(stage));
    let count = |peer: &LinePeer| if peer.window > 1.0 { lines } else { plan.few };
    let entries = peers.iter().map(|peer| {
        Entry::new(&peer.name, count(peer), || {
            peer.run(stage, port, count(peer))
        })
    });
    let mut others = contest(plan.rounds, entries.collect())?;
    // A subscriber takes part of the machine, so it is not there when time is measured.
    for (peer, standing) in peers.iter().zip(&mut others) {
        standing.count_arrived(&peer.run_counted(stage, port, count(peer))?);
    }
    all.extend(others);
    let theirs = &all[3];
    let both = |ours| vec![speed(ours, theirs, 1.5), cost(ours, theirs, 0.85)];
    let goals = vec![
        both(&all[0]),
        both(&all[1]),
        vec![speed(&all[2], &all[0], 0.9)],
    ];
    report.standings("lines from standard input", &all, goals);
    Ok(())
}

/// Where a distance is the limit, a subscriber does not disturb, and counts in every run.
fn distant(
    stage: &Stage,
    plan: &Plan,
    report: &mut Report,
    port: u16,
    queue: &[&str],
) -> anyhow::Result<()> {
    // As many as fill the larger window some ten times, as few as bear a small one.
    let (many, few) = (plan.lines, plan.distant);
    let counted = |peer: LinePeer, lines| {
        Entry::new(peer.name.clone(), lines, move || {
            peer.run_counted(stage, port, lines)
        })
    };
    let entries = vec![
        Entry::new("publisher", few, || publish(stage, port, few, &[])),
        Entry::new("publisher --max-inflight 1000", many, || {
            publish(stage, port, many, &["--max-inflight", "1000"])
        }),
        Entry::new("publisher --queue", few, || {
            publish(stage, port, few, queue)
        }),
        counted(LinePeer::mosquitto(), few / 10),
        counted(LinePeer::mosquitto_wide(), few),
    ];
    let mut all = contest(plan.rounds, entries)?;
    let newest = LinePeer::mosquitto_sid(stage).map(|peer| (peer, few / 10));
    let libraries = LinePeer::libraries(stage).into_iter().map(|peer| {
        let lines = match peer.window {
            window if window > 20.0 => few,
            window if window > 1.0 => few / 10,
            _ => few / 100,
        };
        (peer, lines)
    });
    let entries = newest.into_iter().chain(libraries);
    let entries = entries.map(|(peer, lines)| counted(peer, lines)).collect();
    all.extend(contest(plan.rounds, entries)?);
    report.standings(
        &format!("lines from standard input{}", over(FAR)),
        &all,
        distant_goals(&all),
    );
    Ok(())
}

fn distant_goals(all: &[Standing]) -> Vec<Vec<Goal>> {
    #[allow(clippy::cast_precision_loss)] // Milliseconds.
    let ideal = 100.0 * 1000.0 / FAR as f64;
    let window = Goal::new(
        all[0].rate() / ideal,
        "× window ÷ round trip",
        AtLeast(0.92),
    );
    let wide = Goal::new(all[1].rate(), "a second", AtLeast(17_000.0));
    vec![vec![window], vec![wide], vec![speed(&all[2], &all[0], 0.9)]]
}
