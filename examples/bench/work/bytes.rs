//! Bytes on the wire, in both directions, for one message: CONNECT to DISCONNECT, with TLS, without TCP's headers.

use std::process::Command;

use crate::contest::median;
use crate::counting_relay::CountingRelay;
use crate::measure::run;
use crate::report::Bound::AtMost;
use crate::report::{Goal, Report, number};
use crate::stage::Stage;

use super::Plan;

const KB: f64 = 1000.0;

/// With a server that has one certificate, and with a chain as AWS IoT Core's.
pub(crate) fn bytes(stage: &Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let size = number(stage.make_rsa_certificates()? / KB);
    // Absolute targets are for the shorter one.
    for (dir, what, bounds) in [
        ("single", "one CA".to_owned(), Some([6.7, 3.0])),
        (
            "chain",
            format!("server's chain of 4 certificates ({size} KB)"),
            None,
        ),
    ] {
        let (_broker, port) = stage.broker(dir)?;
        let relay = CountingRelay::start(port)?;
        let port = relay.port();
        let topic = stage.topic();
        let session = stage.file(&format!("{dir}.session"));
        let session = session.to_string_lossy();
        let ours = ["--message", "x"];
        let resumed = ["--message", "x", "--tls-session", &session];
        let theirs = ["-q", "1", "-m", "x"];
        let publisher = |flags| stage.publisher_with(dir, port, &topic, flags);
        let mut commands = vec![
            ("publisher".to_owned(), publisher(&ours)),
            ("publisher --tls-session".to_owned(), publisher(&resumed)),
            (
                "mosquitto_pub".to_owned(),
                stage.mosquitto_with(dir, "mosquitto_pub", port, &topic, &theirs),
            ),
        ];
        let name = stage.peers.mosquitto_sid_name("mosquitto_pub");
        let command = stage.mosquitto_sid_with(dir, "mosquitto_pub", port, &topic, &theirs);
        commands.extend(name.zip(command));

        let mut sizes = Vec::new();
        for (_, command) in &mut commands {
            sizes.push(count(&relay, command, plan.rounds)?);
        }
        let of_mosquitto = sizes[2];
        for (at, ((name, _), size)) in commands.iter().zip(&sizes).enumerate() {
            let ratio = |bound| Goal::new(size / of_mosquitto, "× mosquitto_pub", AtMost(bound));
            let absolute = bounds.as_ref().and_then(|bounds| bounds.get(at));
            let absolute = absolute.map(|bound| Goal::new(size / KB, "KB", AtMost(*bound)));
            let ratio = [1.0, 0.45].get(at).map(|bound| ratio(*bound));
            let figures = [
                format!("{} KB", number(size / KB)),
                String::new(),
                String::new(),
            ];
            let work = format!("bytes in both directions for one message, TLS 1.3, RSA, {what}");
            report.figure(
                &work,
                name,
                figures,
                absolute.into_iter().chain(ratio).collect(),
            );
        }
    }
    Ok(())
}

/// The median, after a run that is not counted: a session has to be there before it can be resumed.
fn count(relay: &CountingRelay, command: &mut Command, rounds: u32) -> anyhow::Result<f64> {
    run(command)?;
    relay.take()?;
    let mut sizes = Vec::new();
    for _ in 0..rounds {
        run(command)?;
        #[allow(clippy::cast_precision_loss)] // Kilobytes.
        sizes.push(relay.take()? as f64);
    }
    Ok(median(sizes))
}
