//! Throughput against round-trip time.

use std::fs::File;
use std::process::Command;

use crate::contest::{Entry, contest};
use crate::measure::run;
use crate::plot::Curve;
use crate::report::Report;
use crate::stage::Stage;

use super::{Plan, publish};

/// How the programs differ here.
struct Style {
    name: &'static str,
    ours: bool,
    /// Messages unacknowledged at most, about.
    window: f64,
    /// Messages a second where distance does not matter, about.
    most: f64,
}

const STYLES: [Style; 4] = [
    Style {
        name: "publisher",
        ours: true,
        window: 100.0,
        most: 60_000.0,
    },
    Style {
        name: "publisher --max-inflight 1000",
        ours: true,
        window: 1000.0,
        most: 60_000.0,
    },
    Style {
        name: "mosquitto_pub -l",
        ours: false,
        window: 20.0,
        most: 50_000.0,
    },
    Style {
        name: "mosquitto_pub -l -M 100",
        ours: false,
        window: 100.0,
        most: 50_000.0,
    },
];
/// What Python does at most, about.
const PYTHON: f64 = 8000.0;

/// This many messages as take the planned time, at least some.
fn count(plan: &Plan, window: f64, most: f64, round_trip: u64) -> u32 {
    #[allow(clippy::cast_precision_loss)] // Milliseconds.
    let limit = window * 1000.0 / (round_trip as f64).max(0.01);
    let wanted = limit.min(most) * plan.run.as_secs_f64();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Between the two.
    let count = wanted.clamp(10.0, 60_000.0) as u32;
    count
}

pub(crate) fn trips(stage: &mut Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let mut curves: Vec<Curve> = Vec::new();
    for round_trip in plan.round_trips {
        let port = stage.far(*round_trip)?;
        let stage = &*stage;
        let mut entries = Vec::new();
        for style in &STYLES {
            let count = count(plan, style.window, style.most, *round_trip);
            entries.push(Entry::new(style.name, count, move || {
                let mut command = command(stage, style, port);
                command.stdin(File::open(stage.lines(count)?)?);
                run(&mut command)
            }));
        }
        for peer in publish::python(stage) {
            let count = count(plan, peer.window, PYTHON, *round_trip);
            let run = move || peer.run(stage, port, count);
            entries.push(Entry::new(peer.name, count, run));
        }
        let all = contest(plan.rounds.min(3), entries)?;
        let work = format!("lines, {round_trip} ms round trip");
        report.standings(&work, &all, vec![]);
        for (at, standing) in all.iter().enumerate() {
            if curves.len() == at {
                curves.push(Curve {
                    name: standing.name.to_owned(),
                    ours: STYLES.get(at).is_some_and(|style| style.ours),
                    points: Vec::new(),
                });
            }
            // Loopback itself takes some time, too.
            #[allow(clippy::cast_precision_loss)] // Milliseconds.
            let x = (*round_trip as f64).max(0.1);
            curves[at].points.push((x, standing.rate()));
        }
    }
    report.curves(curves);
    Ok(())
}

fn command(stage: &Stage, style: &Style, port: u16) -> Command {
    let mut words = style.name.split(' ');
    let program = words.next().unwrap_or_default();
    let flags: Vec<&str> = words.collect();
    let topic = stage.topic();
    if style.ours {
        stage.publisher(port, &topic, &[&flags[..], &["--stdin-line"]].concat())
    } else {
        stage.mosquitto(program, port, &topic, &[&flags[..], &["-q", "1"]].concat())
    }
}
