//! Throughput against round-trip time.

use std::fs::File;

use crate::contest::{Entry, contest};
use crate::line_peer::LinePeer;
use crate::measure::run;
use crate::plot::Curve;
use crate::report::Report;
use crate::stage::Stage;

use super::Plan;

/// One of ours.
struct Style {
    name: &'static str,
    flags: &'static [&'static str],
    /// Messages unacknowledged at most, about.
    window: f64,
}

const STYLES: [Style; 2] = [
    Style {
        name: "publisher",
        flags: &["--stdin-line"],
        window: 100.0,
    },
    Style {
        name: "publisher --max-inflight 1000",
        flags: &["--stdin-line", "--max-inflight", "1000"],
        window: 1000.0,
    },
];
/// What ours send per second where distance does not matter, about.
const MOST: f64 = 60_000.0;
/// From this round trip on, in milliseconds, a subscriber that counts does not disturb.
const DISTANT: u64 = 10;

/// This many messages as take the planned time, and longer over a distance; at least some.
fn count(plan: &Plan, window: f64, most: f64, round_trip: u64) -> u32 {
    #[allow(clippy::cast_precision_loss)] // Milliseconds.
    let round_trip = round_trip as f64 / 1000.0;
    let limit = window / round_trip.max(0.000_01);
    // Connecting takes three to five round trips.
    let wanted = limit.min(most) * (plan.run.as_secs_f64() + 5.0 * round_trip);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Between the two.
    let count = wanted.clamp(10.0, 60_000.0) as u32;
    count
}

pub(crate) fn trips(stage: &mut Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let mut curves: Vec<Curve> = Vec::new();
    for round_trip in plan.round_trips {
        let port = stage.far(*round_trip)?;
        let stage = &*stage;
        let mut peers = vec![LinePeer::mosquitto(), LinePeer::mosquitto_wide()];
        peers.extend(LinePeer::libraries(stage));
        let mut entries = Vec::new();
        for style in &STYLES {
            let count = count(plan, style.window, MOST, *round_trip);
            entries.push(Entry::new(style.name, count, move || {
                let mut command = stage.publisher(port, &stage.topic(), style.flags);
                run(command.stdin(File::open(stage.lines(count)?)?))
            }));
        }
        for peer in &peers {
            let count = count(plan, peer.window, peer.most, *round_trip);
            entries.push(Entry::new(&peer.name, count, move || {
                if *round_trip < DISTANT {
                    peer.run(stage, port, count)
                } else {
                    peer.run_counted(stage, port, count)
                }
            }));
        }
        let mut all = contest(plan.rounds.min(3), entries)?;
        if *round_trip < DISTANT {
            for (peer, standing) in peers.iter().zip(&mut all[STYLES.len()..]) {
                standing.count_arrived(&peer.run_counted(stage, port, standing.count)?);
            }
        }
        let work = format!("lines, {round_trip} ms round trip");
        report.standings(&work, &all, vec![]);
        for (at, standing) in all.iter().enumerate() {
            if curves.len() == at {
                curves.push(Curve {
                    name: standing.name.clone(),
                    ours: at < STYLES.len(),
                    points: Vec::new(),
                });
            }
            if standing.has_lost_some() {
                continue;
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
