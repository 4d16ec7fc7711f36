//! The programs of others that publish the lines of standard input.

use std::fs::File;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::measure::{Measure, run, start, until};
use crate::stage::{LINE, Stage};

/// One of them.
#[derive(Clone)]
pub(crate) struct LinePeer {
    pub(crate) name: String,
    /// Messages unacknowledged at most.
    pub(crate) window: f64,
    /// Messages per second where distance does not matter, about.
    pub(crate) most: f64,
    program: Program,
}

#[derive(Clone, Copy)]
enum Program {
    Mosquitto {
        flags: &'static [&'static str],
    },
    MosquittoSid,
    Rumqttc,
    Python {
        script: &'static str,
        waits: &'static str,
    },
}

impl LinePeer {
    /// `mosquitto_pub -l`, as it is installed.
    pub(crate) fn mosquitto() -> Self {
        Self {
            name: "mosquitto_pub -l".into(),
            window: 20.0,
            most: 50_000.0,
            program: Program::Mosquitto { flags: &[] },
        }
    }

    /// The same with a window as large as ours.
    pub(crate) fn mosquitto_wide() -> Self {
        Self {
            name: "mosquitto_pub -l -M 100".into(),
            window: 100.0,
            most: 50_000.0,
            program: Program::Mosquitto {
                flags: &["-M", "100"],
            },
        }
    }

    /// The newest `mosquitto_pub -l`, if it is there.
    pub(crate) fn mosquitto_sid(stage: &Stage) -> Option<Self> {
        let name = stage.peers.mosquitto_sid_name("mosquitto_pub")?;
        Some(Self {
            name: format!("{name} -l"),
            window: 20.0,
            most: 50_000.0,
            program: Program::MosquittoSid,
        })
    }

    /// Programs that use a library, as far as they are there.
    pub(crate) fn libraries(stage: &Stage) -> Vec<Self> {
        let python = |name: &str, script, waits, window| Self {
            name: name.into(),
            window,
            most: 8000.0,
            program: Program::Python { script, waits },
        };
        let rumqttc = Self {
            name: "rumqttc".into(),
            window: 100.0,
            most: 50_000.0,
            program: Program::Rumqttc,
        };
        let all = [
            rumqttc,
            python("paho-mqtt (Python)", "paho_client.py", "all", 20.0),
            python("AWS SDK v1", "sdk_client.py", "all", 20.0),
            python("AWS SDK v1, waiting", "sdk_client.py", "each", 1.0),
        ];
        let is_there = |peer: &Self| peer.command(stage, 0, "").is_some();
        all.into_iter().filter(is_there).collect()
    }

    pub(crate) fn command(&self, stage: &Stage, port: u16, topic: &str) -> Option<Command> {
        match self.program {
            Program::Mosquitto { flags } => {
                let flags = [&["-q", "1", "-l"], flags].concat();
                Some(stage.mosquitto("mosquitto_pub", port, topic, &flags))
            }
            Program::MosquittoSid => {
                stage.mosquitto_sid("mosquitto_pub", port, topic, &["-q", "1", "-l"])
            }
            Program::Rumqttc => stage.rumqttc(port, topic, &["publish"]),
            Program::Python { script, waits } => {
                stage.python(script, port, topic, &["publish", waits])
            }
        }
    }

    fn with_lines(
        &self,
        stage: &Stage,
        port: u16,
        topic: &str,
        lines: u32,
    ) -> anyhow::Result<Command> {
        let command = self.command(stage, port, topic);
        let mut command = command.with_context(|| format!("no {}", self.name))?;
        command.stdin(File::open(stage.lines(lines)?)?);
        Ok(command)
    }

    /// Publishes this many lines, to nobody.
    pub(crate) fn run(&self, stage: &Stage, port: u16, lines: u32) -> anyhow::Result<Measure> {
        run(&mut self.with_lines(stage, port, &stage.topic(), lines)?)
    }

    /// Publishes this many lines, and counts those that a subscriber receives.
    pub(crate) fn run_counted(
        &self,
        stage: &Stage,
        port: u16,
        lines: u32,
    ) -> anyhow::Result<Measure> {
        const OUT: &str = "counted";
        let topic = stage.topic();
        let mut subscriber = stage.subscriber(&topic, &["--qos", "1"]);
        let file = File::create(stage.file(OUT))?;
        let _receiving = start(subscriber.stdout(file.try_clone()?))?;
        stage.subscribed(&topic)?;
        let measure = run(&mut self.with_lines(stage, port, &topic, lines)?)?;
        let wanted = u64::from(lines) * (LINE as u64 + 1);
        until_still(Duration::from_secs(1), || {
            let length = file.metadata().map_or(0, |meta| meta.len());
            (length, length >= wanted)
        })?;
        Ok(Measure {
            arrived: Some(u32::try_from(stage.count(OUT)?)?),
            ..measure
        })
    }
}

/// Waits until a number has not changed for a while, or is final.
#[allow(clippy::disallowed_methods)] // The clock is what it is about.
fn until_still(still: Duration, mut look: impl FnMut() -> (u64, bool)) -> anyhow::Result<()> {
    let mut last = (0, Instant::now());
    until("the last of the lines", || {
        let (number, is_final) = look();
        if number != last.0 {
            last = (number, Instant::now());
        }
        is_final || last.1.elapsed() > still
    })
}
