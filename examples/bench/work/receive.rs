//! Receiving into a file.

use std::fs::File;
use std::process::Command;

use anyhow::Context as _;

use crate::contest::{Entry, Standing, contest};
use crate::measure::{Measure, run, start};
use crate::report::{Goal, Report};
use crate::separate_cores::SeparateCores;
use crate::stage::Stage;

use super::{Plan, cost, speed};

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

/// Everybody who receives what is sent meanwhile. The first two have targets.
fn live_entries<'a>(stage: &'a Stage, qos: &'static str, count: u32) -> [Vec<Entry<'a>>; 2] {
    let near = stage.near();
    let few = count / 4;
    let entry =
        |name: &str, count: u32, command: fn(&Stage, u16, &str, &str, &str) -> Option<Command>| {
            let words = [qos.to_owned(), count.to_string()];
            let is_there = command(stage, near, "", qos, "1").is_some();
            let entry = Entry::new(name, count, move || {
                let topic = stage.topic();
                let command = command(stage, near, &topic, &words[0], &words[1]);
                live(stage, command.context("not there")?, &topic, qos, count)
            });
            is_there.then_some(entry)
        };
    let ours = entry("subscriber", count, |stage, _, topic, qos, count| {
        Some(stage.subscriber(topic, &["--qos", qos, "--count", count]))
    });
    let theirs = entry("mosquitto_sub", count, |stage, port, topic, qos, count| {
        Some(stage.mosquitto("mosquitto_sub", port, topic, &["-q", qos, "-C", count]))
    });
    let newest = stage.peers.mosquitto_sid_name("mosquitto_sub");
    let newest = entry(
        &newest.unwrap_or_default(),
        few,
        |stage, port, topic, qos, count| {
            stage.mosquitto_sid("mosquitto_sub", port, topic, &["-q", qos, "-C", count])
        },
    );
    let rumqttc = entry("rumqttc", few, |stage, port, topic, qos, count| {
        stage.rumqttc(port, topic, &["receive", qos, count])
    });
    let paho = entry(
        "paho-mqtt (Python)",
        few,
        |stage, port, topic, qos, count| {
            stage.python("paho_client.py", port, topic, &["receive", qos, count])
        },
    );
    let sdk = entry("AWS SDK v1", few, |stage, port, topic, qos, count| {
        stage.python("sdk_client.py", port, topic, &["receive", qos, count])
    });
    [
        [ours, theirs].into_iter().flatten().collect(),
        [newest, rumqttc, paho, sdk].into_iter().flatten().collect(),
    ]
}

/// As they come, and all at once.
pub(crate) fn receive(stage: &Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    for (qos, least, most) in [("0", 1.0, 0.45), ("1", 1.4, 0.5)] {
        let mut work = format!("receive into a file, QoS {qos}");
        let mut cores = None;
        if qos == "0" {
            // Otherwise it is chance with whom the broker, which is the limit, shares a core.
            let broker = stage.broker_process().pid().context("no broker")?;
            cores = SeparateCores::new(broker)?;
        }
        if cores.is_some() {
            work += ", the broker on a separate core";
        }
        let [first, others] = live_entries(stage, qos, plan.received);
        let mut all = contest(plan.rounds * 3, first)?;
        all.extend(contest(plan.rounds, others)?);
        report.standings(&work, &all, vec![goals(&all, least, most)]);
        drop(cores);
    }

    let (near, count) = (stage.near(), plan.lines);
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
    let goals = goals(&all, 1.9, 1.0);
    report.standings("receive what waits in a session", &all, vec![goals]);
    Ok(())
}

fn goals(all: &[Standing], least: f64, most: f64) -> Vec<Goal> {
    let (ours, theirs) = (&all[0], &all[1]);
    vec![speed(ours, theirs, least), cost(ours, theirs, most)]
}
