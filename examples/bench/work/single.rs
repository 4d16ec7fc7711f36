//! One message, start to exit.

use crate::contest::{Entry, Standing, contest};
use crate::line_peer::LinePeer;
use crate::measure::run;
use crate::report::Bound::{AtLeast, AtMost};
use crate::report::{Goal, Report};
use crate::stage::Stage;

use super::{FAR, Plan, over};

const ONE: [&str; 2] = ["--message", "x"];
/// Nothing newer is offered.
const TLS_1_2: [&str; 2] = ["--ciphers", "ECDHE-ECDSA-AES256-GCM-SHA384"];

pub(crate) fn single(stage: &mut Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    for distance in [0, FAR] {
        let port = stage.far(distance)?;
        let stage = &*stage;
        let all = contestants(stage, plan, port, distance)?;
        report.single(
            &format!("one message, start to exit{}", over(distance)),
            &all,
            goals(&all, distance),
        );
    }
    with_rsa(stage, plan, report)
}

/// On loopback, with keys whose signatures take longer.
fn with_rsa(stage: &Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    stage.make_rsa_certificates()?;
    let certs = "single";
    let (_broker, port) = stage.broker(certs)?;
    let topic = stage.topic();
    let session = stage.file("session.rsa");
    let session = session.to_string_lossy();
    let resumed = [&ONE[..], &["--tls-session", &session]].concat();
    let theirs = ["-q", "1", "-m", "x"];
    let commands = [
        ("publisher", stage.publisher_with(certs, port, &topic, &ONE)),
        (
            "publisher --tls-session",
            stage.publisher_with(certs, port, &topic, &resumed),
        ),
        (
            "mosquitto_pub",
            stage.mosquitto_with(certs, "mosquitto_pub", port, &topic, &theirs),
        ),
    ];
    let mut entries = Vec::new();
    for (name, mut command) in commands {
        // A session has to be there before it can be resumed.
        run(&mut command)?;
        entries.push(Entry::new(name, 1, move || run(&mut command)));
    }
    let all = contest(plan.brief_rounds, entries)?;
    let figure = all[1].wall() / all[2].wall();
    let goal = Goal::new(figure, "× the time of mosquitto_pub", AtMost(1.0));
    let work = "one message, start to exit, RSA keys of 2,048 bits";
    report.single(work, &all, vec![vec![], vec![goal]]);
    Ok(())
}

/// Those with a target first, among themselves: who comes after a larger program finds the caches cold.
fn contestants(
    stage: &Stage,
    plan: &Plan,
    port: u16,
    distance: u64,
) -> anyhow::Result<Vec<Standing>> {
    let topic = &stage.topic();
    let publisher = |name: &str, flags: &[&str]| {
        let flags = [&ONE[..], flags].concat();
        let mut command = stage.publisher(port, topic, &flags);
        Entry::new(name, 1, move || run(&mut command))
    };
    let name = |of: &str| {
        let file = stage.file(&format!("{of}.{distance}"));
        file.to_string_lossy().into_owned()
    };
    let (session, older, queue) = (name("session"), name("older"), name("queue"));
    let theirs = ["-q", "1", "-m", "x"];
    let mut mosquitto = stage.mosquitto("mosquitto_pub", port, topic, &theirs);
    let mut entries = vec![
        publisher("publisher", &[]),
        publisher("publisher --tls-session", &["--tls-session", &session]),
        Entry::new("mosquitto_pub", 1, move || run(&mut mosquitto)),
    ];
    if distance > 0 {
        entries.push(publisher("publisher, TLS 1.2", &TLS_1_2));
        let flags = [&["--tls-session", &older], &TLS_1_2[..]].concat();
        entries.push(publisher("publisher --tls-session, TLS 1.2", &flags));
    }
    // A session has to be there before it can be resumed.
    for entry in &mut entries {
        (entry.run)()?;
    }
    let rounds = if distance > 0 {
        plan.rounds * 2
    } else {
        plan.brief_rounds
    };
    let mut all = contest(rounds, entries)?;

    let mut entries = vec![publisher("publisher --queue", &["--queue", &queue])];
    let newest = stage.peers.mosquitto_sid_name("mosquitto_pub");
    let command = stage.mosquitto_sid("mosquitto_pub", port, topic, &theirs);
    if let Some((name, mut command)) = newest.zip(command) {
        entries.push(Entry::new(name, 1, move || run(&mut command)));
    }
    all.extend(contest(plan.rounds, entries)?);
    let libraries = LinePeer::libraries(stage).into_iter();
    let entries = libraries.map(|peer| {
        let name = peer.name.clone();
        Entry::new(name, 1, move || peer.run(stage, port, 1))
    });
    all.extend(contest(plan.rounds, entries.collect())?);
    Ok(all)
}

fn goals(all: &[Standing], distance: u64) -> Vec<Vec<Goal>> {
    let slowness = |at: usize, bound| {
        let figure = all[at].wall() / all[2].wall();
        Goal::new(figure, "× the time of mosquitto_pub", AtMost(bound))
    };
    if distance == 0 {
        let memory = Goal::new(all[0].peak(), "MB", AtMost(9.0));
        return vec![vec![slowness(0, 1.1), memory], vec![slowness(1, 1.0)]];
    }
    #[allow(clippy::cast_precision_loss)] // Milliseconds.
    let round_trip = distance as f64 / 1000.0;
    let saved = (all[3].wall() - all[4].wall()) / round_trip;
    let saved = Goal::new(saved, "round trips less than without", AtLeast(1.0));
    vec![vec![slowness(0, 1.02)], vec![], vec![], vec![], vec![saved]]
}
