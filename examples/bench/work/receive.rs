//! Receiving into a file.

use std::fs::File;
use std::process::Command;

use crate::contest::{Entry, Standing, contest};
use crate::measure::{Measure, run, start};
use crate::report::Bound::{AtLeast, AtMost};
use crate::report::{Goal, Report};
use crate::stage::Stage;

use super::Plan;

/// Our publisher feeds whoever receives.
fn feed(stage: &Stage, topic: &str, qos: &str, count: u32) -> anyhow::Result<Command> {
    let flags = ["--stdin-line", "--qos", qos, "--no-sequence"];
    let mut command = stage.publisher(stage.near(), topic, &flags);
    command.stdin(File::open(stage.lines(count)?)?);
    Ok(command)
}

/// From the first message sent to the exit of who received them all.
fn live(
    stage: &Stage,
    mut command: Command,
    topic: &str,
    qos: &str,
    count: u32,
) -> anyhow::Result<Measure> {
    const OUT: &str = "received";
    let receiving = start(command.stdout(File::create(stage.file(OUT))?))?;
    stage.subscribed(topic)?;
    let feeding = start(&mut feed(stage, topic, qos, count)?)?;
    let measure = receiving.end(&[0])?.since(feeding.since);
    feeding.end(&[0])?;
    checked(stage, OUT, count, measure)
}

fn checked(stage: &Stage, out: &str, count: u32, measure: Measure) -> anyhow::Result<Measure> {
    let arrived = stage.count(out)?;
    if arrived != count as usize {
        anyhow::bail!("{arrived} of {count} messages were written");
    }
    Ok(measure)
}

/// What waits in a session: the broker and the receiver have the machine to themselves.
fn fetch(
    stage: &Stage,
    subscribe: impl Fn(&str, &str, &str) -> Command,
    count: u32,
) -> anyhow::Result<Measure> {
    const OUT: &str = "fetched";
    let topic = stage.topic();
    let id = topic.replace('/', "-");
    // The session begins with a run that has received one message.
    let first = start(&mut subscribe(&topic, &id, "1"))?;
    stage.subscribed(&topic)?;
    let one = ["--message", "x", "--no-sequence"];
    run(&mut stage.publisher(stage.near(), &topic, &one))?;
    first.end(&[0])?;
    run(&mut feed(stage, &topic, "1", count)?)?;
    let mut command = subscribe(&topic, &id, &count.to_string());
    let measure = run(command.stdout(File::create(stage.file(OUT))?))?;
    checked(stage, OUT, count, measure)
}

/// As they come, and all at once.
pub(crate) fn receive(stage: &Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let near = stage.near();
    let count = plan.received;
    let number = count.to_string();
    let words = |qos| ["--qos", qos, "--count", &number];
    for qos in ["0", "1"] {
        let entries = vec![
            Entry::new("subscriber", count, || {
                let topic = stage.topic();
                let command = stage.subscriber(&topic, &words(qos));
                live(stage, command, &topic, qos, count)
            }),
            Entry::new("mosquitto_sub", count, || {
                let topic = stage.topic();
                let flags = ["-q", qos, "-C", &number];
                let command = stage.mosquitto("mosquitto_sub", near, &topic, &flags);
                live(stage, command, &topic, qos, count)
            }),
        ];
        let mut python = Vec::new();
        let few = count / 4;
        for (name, script) in [
            ("paho-mqtt (Python)", "paho_client.py"),
            ("AWS SDK v1", "sdk_client.py"),
        ] {
            if stage.python.is_none() {
                continue;
            }
            python.push(Entry::new(name, few, move || {
                let topic = stage.topic();
                let number = few.to_string();
                let words = ["receive", qos, &number];
                let command = stage.peer(script, near, &topic, &words);
                let command = command.ok_or_else(|| anyhow::anyhow!("no Python"))?;
                live(stage, command, &topic, qos, few)
            }));
        }
        let mut all = contest(plan.rounds * 3, entries)?;
        all.extend(contest(plan.rounds, python)?);
        report.standings(
            &format!("receive into a file, QoS {qos}"),
            &all,
            vec![goals(&all)],
        );
    }

    let count = plan.lines;
    let entries = vec![
        Entry::new("subscriber --persistent", count, || {
            let subscribe = |topic: &str, id: &str, count: &str| {
                let flags = ["--persistent", "--client-id", id, "--count", count];
                stage.subscriber(topic, &flags)
            };
            fetch(stage, subscribe, count)
        }),
        Entry::new("mosquitto_sub -c", count, || {
            let subscribe = |topic: &str, id: &str, count: &str| {
                let flags = ["-q", "1", "-c", "-i", id, "-C", count];
                stage.mosquitto("mosquitto_sub", near, topic, &flags)
            };
            fetch(stage, subscribe, count)
        }),
    ];
    let all = contest(plan.rounds, entries)?;
    report.standings("receive what waits in a session", &all, vec![goals(&all)]);
    Ok(())
}

fn goals(all: &[Standing]) -> Vec<Goal> {
    let (ours, theirs) = (&all[0], &all[1]);
    vec![
        Goal::new(
            ours.rate() / theirs.rate(),
            format!("× {}", theirs.name),
            AtLeast(1.0),
        ),
        Goal::new(ours.cpu() / theirs.cpu(), "× its CPU", AtMost(1.0)),
    ]
}
