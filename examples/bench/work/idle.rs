//! Doing next to nothing: who waits for messages, for readings, or gets one per second. All of them at the same time, since
//! each leaves the machine to the others.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;

use crate::measure::{Running, start, until};
use crate::report::Bound::AtMost;
use crate::report::{Goal, Report, number, whole};
use crate::stage::Stage;

use super::Plan;

/// What begins has something to do for that long.
const SETTLED: u64 = 5;
/// Bytes of a reading, without its newline.
const READING: usize = 77;

#[allow(clippy::disallowed_methods)] // That nothing happens can only be waited for.
fn pass_a_second() {
    thread::sleep(Duration::from_secs(1));
}

/// A program that has nothing to do.
struct Idle {
    work: &'static str,
    name: String,
    running: Running,
    /// Its pipe: open, so that there may be readings.
    _lines: Option<ChildStdin>,
    /// Wake-ups per minute, and CPU in per cent of a core, at most.
    bounds: [Option<f64>; 2],
    cpu: Duration,
    wake_ups: BTreeMap<OsString, u64>,
}

impl Idle {
    fn start(
        work: &'static str,
        name: impl Into<String>,
        command: &mut Command,
        bounds: [Option<f64>; 2],
    ) -> anyhow::Result<Self> {
        let mut running = start(command)?;
        Ok(Self {
            work,
            name: name.into(),
            _lines: running.stdin(),
            running,
            bounds,
            cpu: Duration::ZERO,
            wake_ups: BTreeMap::new(),
        })
    }

    /// Counts from now.
    fn begin(&mut self) -> anyhow::Result<()> {
        self.cpu = self.running.cpu()?;
        self.wake_ups = self.running.wake_ups()?;
        Ok(())
    }

    fn report(&self, seconds: u64, report: &mut Report) -> anyhow::Result<()> {
        let mut woken = 0;
        for (thread, count) in self.running.wake_ups()? {
            woken += count - self.wake_ups.get(&thread).copied().unwrap_or_default();
        }
        let per_minute = woken * 60 / seconds;
        #[allow(clippy::cast_precision_loss)] // A few.
        let woken = per_minute as f64;
        let share = share(self.running.cpu()?.saturating_sub(self.cpu), seconds);
        let goals = [(woken, "wake-ups per minute"), (share, "% of a core")];
        let goals = goals.into_iter().zip(self.bounds);
        let goals = goals.filter_map(|((figure, what), bound)| {
            bound.map(|bound| Goal::new(figure, what, AtMost(bound)))
        });
        let figures = [
            format!("{} wake-ups per minute", whole(per_minute)),
            format!("{} % of a core", number(share)),
            resident(&self.running)?,
        ];
        report.figure(self.work, &self.name, figures, goals.collect());
        Ok(())
    }
}

/// CPU time in per cent of a core.
fn share(spent: Duration, seconds: u64) -> f64 {
    #[allow(clippy::cast_precision_loss)] // Seconds.
    let seconds = seconds as f64;
    spent.as_secs_f64() / seconds * 100.0
}

fn resident(running: &Running) -> anyhow::Result<String> {
    #[allow(clippy::cast_precision_loss)] // Megabytes.
    let resident = running.memory("VmRSS")? as f64 / 1_048_576.0;
    Ok(format!("{resident:.1} MB"))
}

/// Those who wait for messages.
fn subscribers(stage: &Stage) -> anyhow::Result<Vec<Idle>> {
    let near = stage.near();
    let newest = stage.peers.mosquitto_sid_name("mosquitto_sub");
    let mut all = Vec::new();
    for who in 0..6 {
        let topic = stage.topic();
        let words = ["receive", "1", "1"];
        let (name, command) = match who {
            0 => ("subscriber".to_owned(), Some(stage.subscriber(&topic, &[]))),
            1 => (
                "mosquitto_sub".to_owned(),
                Some(stage.mosquitto("mosquitto_sub", near, &topic, &["-q", "1"])),
            ),
            2 => (
                newest.clone().unwrap_or_default(),
                stage.mosquitto_sid("mosquitto_sub", near, &topic, &["-q", "1"]),
            ),
            3 => ("rumqttc".to_owned(), stage.rumqttc(near, &topic, &words)),
            4 => (
                "paho-mqtt (Python)".to_owned(),
                stage.python("paho_client.py", near, &topic, &words),
            ),
            _ => (
                "AWS SDK v1".to_owned(),
                stage.python("sdk_client.py", near, &topic, &words),
            ),
        };
        let Some(mut command) = command else {
            continue;
        };
        let bounds = match who {
            0 => [Some(60.0), Some(0.01)],
            _ => [None, None],
        };
        all.push(Idle::start("idle subscriber", name, &mut command, bounds)?);
        stage.subscribed(&topic)?;
    }
    Ok(all)
}

/// Those who wait for readings.
fn publishers(stage: &Stage) -> anyhow::Result<Vec<Idle>> {
    let file = |name: &str| stage.file(name).to_string_lossy().into_owned();
    let (connected, offline) = (file("idle.db"), file("idle-offline.db"));
    let near = stage.near();
    // Port 1 has nobody.
    [
        ("publisher", near, None, 60.0),
        ("publisher --queue", near, Some(&connected), 60.0),
        ("publisher --queue, no broker", 1, Some(&offline), 30.0),
    ]
    .into_iter()
    .map(|(name, port, queue, bound)| {
        let mut command = stage.publisher(port, &stage.topic(), &["--stdin-line", "--quiet"]);
        if let Some(queue) = queue {
            command.args(["--queue", queue]);
        }
        command.stdin(Stdio::piped()).stderr(Stdio::null());
        Idle::start("idle publisher", name, &mut command, [Some(bound), None])
    })
    .collect()
}

/// A publisher without a broker, that takes a reading per second into its queue's file.
struct Offline {
    name: String,
    running: Running,
    lines: ChildStdin,
    bound: f64,
    written: u64,
}

impl Offline {
    fn start(stage: &Stage, flags: &[&str], bound: f64) -> anyhow::Result<Self> {
        let file = stage.file(&format!("flash-{}.db", flags.len()));
        let mut command = stage.publisher(1, &stage.topic(), &["--stdin-line", "--quiet"]);
        command.args(flags).arg("--queue").arg(file);
        command.stdin(Stdio::piped()).stderr(Stdio::null());
        let mut running = start(&mut command)?;
        Ok(Self {
            name: ["publisher --queue", &flags.join(" ")]
                .join(" ")
                .trim()
                .to_owned(),
            lines: running.stdin().context("no pipe")?,
            running,
            bound,
            written: 0,
        })
    }

    fn report(&self, readings: u64, report: &mut Report) -> anyhow::Result<()> {
        #[allow(clippy::cast_precision_loss)] // Far below 2^52.
        let each = (self.running.written()? - self.written) as f64 / readings as f64 / 1000.0;
        let figures = [
            format!("{} KB per reading", number(each)),
            String::new(),
            resident(&self.running)?,
        ];
        let work = format!("bytes written, a reading of {READING} bytes per second, no broker");
        let goal = Goal::new(each, "KB", AtMost(self.bound));
        report.figure(&work, &self.name, figures, vec![goal]);
        Ok(())
    }
}

/// A connected publisher with a queue's file, which it does not need: whether it is written to.
struct Healthy {
    running: Running,
    lines: ChildStdin,
    file: PathBuf,
    receipts: PathBuf,
    sent: usize,
    last: [Option<SystemTime>; 2],
    seconds_with_a_write: u32,
    cpu: Duration,
}

impl Healthy {
    fn start(stage: &Stage) -> anyhow::Result<Self> {
        let (file, receipts) = (stage.file("healthy.db"), stage.file("receipts"));
        let flags = ["--stdin-line", "--receipts", "--queue"];
        let mut command = stage.publisher(stage.near(), &stage.topic(), &flags);
        command.arg(&file).stdin(Stdio::piped());
        let mut running = start(command.stdout(File::create(&receipts)?))?;
        Ok(Self {
            lines: running.stdin().context("no pipe")?,
            running,
            file,
            receipts,
            sent: 0,
            last: [None; 2],
            seconds_with_a_write: 0,
            cpu: Duration::ZERO,
        })
    }

    /// A reading, and its PUBACK.
    fn take(&mut self, reading: &str) -> anyhow::Result<()> {
        writeln!(self.lines, "{reading}")?;
        self.sent += 1;
        until("a PUBACK", || {
            fs::read_to_string(&self.receipts).is_ok_and(|text| {
                let delivered = text.lines().filter(|line| line.starts_with("delivered"));
                delivered.count() == self.sent
            })
        })?;
        let now = last_write(&self.file);
        self.seconds_with_a_write += u32::from(now != self.last);
        self.last = now;
        Ok(())
    }

    /// Counts from now. The first readings are taken before there is a connection, and may have been written.
    fn begin(&mut self) -> anyhow::Result<()> {
        self.seconds_with_a_write = 0;
        self.cpu = self.running.cpu()?;
        Ok(())
    }

    fn report(self, seconds: u64, report: &mut Report) -> anyhow::Result<()> {
        let share = share(self.running.cpu()?.saturating_sub(self.cpu), seconds);
        let goal = Goal::new(
            f64::from(self.seconds_with_a_write),
            "seconds with a write to the disk",
            AtMost(0.0),
        );
        let figures = [
            format!(
                "{} seconds of {seconds} with a write",
                self.seconds_with_a_write
            ),
            format!("{} % of a core", number(share)),
            resident(&self.running)?,
        ];
        report.figure(
            "a reading per second, connected",
            "publisher --queue",
            figures,
            vec![goal],
        );
        drop(self.lines);
        self.running.end(&[0]).map(drop)
    }
}

/// When the database and its log were last written to.
fn last_write(file: &Path) -> [Option<SystemTime>; 2] {
    let log = file.with_extension("db-wal");
    [file, &log].map(|file| fs::metadata(file).and_then(|meta| meta.modified()).ok())
}

pub(crate) fn idle(stage: &Stage, plan: &Plan, report: &mut Report) -> anyhow::Result<()> {
    let mut idle = subscribers(stage)?;
    idle.extend(publishers(stage)?);
    let mut offline = vec![Offline::start(stage, &[], 9.0)?];
    let flags = ["--commit-interval", plan.commit_interval];
    offline.push(Offline::start(stage, &flags, 0.5)?);
    let mut healthy = Healthy::start(stage)?;
    for second in 0..SETTLED + plan.readings.max(plan.idle) {
        let elapsed = second.checked_sub(SETTLED);
        if elapsed == Some(0) {
            idle.iter_mut().try_for_each(Idle::begin)?;
            for publisher in &mut offline {
                publisher.written = publisher.running.written()?;
            }
            healthy.begin()?;
        }
        if elapsed == Some(plan.idle) {
            for program in idle.drain(..) {
                program.report(plan.idle, report)?;
            }
        }
        let reading = format!("{second:0READING$}");
        for publisher in &mut offline {
            writeln!(publisher.lines, "{reading}")?;
        }
        healthy.take(&reading)?;
        pass_a_second();
    }
    for program in idle {
        program.report(plan.idle, report)?;
    }
    for publisher in &offline {
        publisher.report(plan.readings, report)?;
    }
    healthy.report(plan.readings, report)
}
