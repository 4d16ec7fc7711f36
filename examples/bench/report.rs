//! The table: who did what, and how that stands to what it is to reach.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;

use crate::contest::Standing;
use crate::peer_programs::first_line;
use crate::plot::{self, Curve};
use crate::stage::Stage;
use crate::work::Plan;

/// Where it is recorded.
const FILE: &str = "performance.md";

/// What has been measured so far.
pub(crate) struct Report {
    /// Machine, versions, date.
    about: Vec<String>,
    rows: Vec<Row>,
    curves: Vec<Curve>,
    /// Memory that this program has taken itself, in megabytes: less is not seen in a child.
    floor: f64,
}

struct Row {
    work: String,
    who: String,
    figures: [String; 3],
    goals: Vec<Goal>,
}

/// A figure, and what it is to reach.
pub(crate) struct Goal {
    what: String,
    figure: f64,
    bound: Bound,
}

#[derive(Clone, Copy)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    /// `what` ends in the figure's unit: `× mosquitto_pub`.
    pub(crate) fn new(figure: f64, what: impl Into<String>, bound: Bound) -> Self {
        let what = what.into();
        Self {
            what,
            figure,
            bound,
        }
    }

    fn is_reached(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.figure >= bound,
            Bound::AtMost(bound) => self.figure <= bound,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, bound) = match self.bound {
            Bound::AtLeast(bound) => ('≥', bound),
            Bound::AtMost(bound) => ('≤', bound),
        };
        write!(
            f,
            "{} {} ({sign} {})",
            number(self.figure),
            self.what,
            number(bound)
        )?;
        if self.is_reached() {
            Ok(())
        } else {
            f.write_str(" **missed**")
        }
    }
}

/// With three digits that say something, and commas.
pub(crate) fn number(number: f64) -> String {
    if number >= 1000.0 {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Whole already.
        whole(number.round() as u64)
    } else if number >= 100.0 {
        format!("{number:.0}")
    } else if number >= 10.0 {
        format!("{number:.1}")
    } else {
        format!("{number:.2}")
    }
}

/// A count, with commas.
pub(crate) fn whole(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    first_line(Command::new(program).args(args))
}

/// Memory that was resident at most, in megabytes.
fn own_peak() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok());
    kib.map_or(0.0, |kib: f64| kib / 1024.0)
}

impl Report {
    /// Notes down what it is measured on.
    pub(crate) fn new(stage: &Stage, plan: &Plan) -> anyhow::Result<Self> {
        let root = env!("CARGO_MANIFEST_DIR");
        let cpu = fs::read_to_string("/proc/cpuinfo")?;
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name"));
        let cpu = cpu.map_or("unknown CPU", |rest| {
            rest.trim_start_matches(['\t', ' ', ':'])
        });
        let cores = std::thread::available_parallelism()?;
        let describe = output("git", &["-C", root, "describe", "--always", "--dirty"]);
        let mut about = vec![
            format!(
                "{}, version {} ({}), medians of {} rounds or more (the plot three at most; memory, idle and what is done to the large backlog once)",
                output("date", &["-u", "+%F"]).unwrap_or_default(),
                env!("CARGO_PKG_VERSION"),
                describe.unwrap_or_else(|| "no repository".into()),
                plan.rounds,
            ),
            format!(
                "{cpu}, {cores} cores, {}",
                output("uname", &["-sr"]).unwrap_or_default()
            ),
        ];
        let mut versions = vec![
            output("mosquitto", &["-h"]).context("mosquitto cannot be run")?,
            output("openssl", &["version"]).unwrap_or_default(),
        ];
        versions.extend(stage.peers.versions()?);
        about.push(versions.join(", "));
        about.extend(stage.peers.missing());
        Ok(Self {
            about,
            rows: Vec::new(),
            curves: Vec::new(),
            floor: 0.0,
        })
    }

    fn add(&mut self, work: &str, who: &str, figures: [String; 3], goals: Vec<Goal>) {
        // So long a run tells how far it is.
        self.floor = self.floor.max(own_peak());
        eprintln!("{work:44} {who:28} {}", figures.join("  "));
        self.rows.push(Row {
            work: work.to_owned(),
            who: who.to_owned(),
            figures,
            goals,
        });
    }

    /// Those who did the same work; the goals are for the first, and so on.
    pub(crate) fn standings(&mut self, work: &str, standings: &[Standing], goals: Vec<Vec<Goal>>) {
        let mut goals = goals.into_iter();
        for standing in standings {
            let speed = if standing.has_lost_some() {
                let [arrived, sent] = [standing.arrived, standing.count].map(|n| whole(n.into()));
                format!("{arrived} of {sent} arrived")
            } else {
                format!("{}/s", number(standing.rate()))
            };
            let cpu = format!("{} µs", number(standing.cpu()));
            let peak = format!("{:.1} MB", standing.peak());
            self.add(
                work,
                &standing.name,
                [speed, cpu, peak],
                goals.next().unwrap_or_default(),
            );
        }
    }

    /// The same, for work that is measured only once.
    pub(crate) fn single(&mut self, work: &str, standings: &[Standing], goals: Vec<Vec<Goal>>) {
        let mut goals = goals.into_iter();
        for standing in standings {
            let wall = format!("{} ms", number(standing.wall() * 1000.0));
            let cpu = format!("{} ms", number(standing.cpu() / 1000.0));
            let peak = format!("{:.1} MB", standing.peak());
            self.add(
                work,
                &standing.name,
                [wall, cpu, peak],
                goals.next().unwrap_or_default(),
            );
        }
    }

    /// Another kind of figure.
    pub(crate) fn figure(&mut self, work: &str, who: &str, figures: [String; 3], goals: Vec<Goal>) {
        self.add(work, who, figures, goals);
    }

    pub(crate) fn curves(&mut self, curves: Vec<Curve>) {
        self.curves = curves;
    }

    /// A line more above the table.
    pub(crate) fn about(&mut self, line: &str) {
        self.about.push(line.to_owned());
    }

    /// Replaces what is between the marks of `DIR/performance.md`, and draws the plot beside it.
    pub(crate) fn record(&self, dir: &Path) -> anyhow::Result<()> {
        let (before, after) = place(dir)?;
        let file = dir.join(FILE);
        let text = format!("{before}{self}{after}");
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        if !self.curves.is_empty() {
            plot::draw(&dir.join("performance.svg"), &self.curves)?;
        }
        Ok(())
    }
}

/// What stands before and after the table in `DIR/performance.md`.
pub(crate) fn place(dir: &Path) -> anyhow::Result<(String, String)> {
    const MARKS: [&str; 2] = ["<!-- measured -->\n", "<!-- end -->\n"];
    let file = dir.join(FILE);
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let ends = text.find(MARKS[0]).zip(text.find(MARKS[1]));
    let parts =
        ends.and_then(|(from, to)| Some((text.get(..from + MARKS[0].len())?, text.get(to..)?)));
    let (before, after) =
        parts.with_context(|| format!("{}: no place for the table: {MARKS:?}", file.display()))?;
    Ok((before.to_owned(), after.to_owned()))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.about {
            writeln!(f, "* {line}")?;
        }
        writeln!(
            f,
            "* QoS 1 if not said otherwise, lines of {} bytes, mutual TLS, MQTT 5 (peers: 3.1.1), loopback",
            crate::stage::LINE
        )?;
        writeln!(
            f,
            "\n| work | program | result | CPU each | resident | against |"
        )?;
        writeln!(f, "| --- | --- | ---: | ---: | ---: | --- |")?;
        let mut last = "";
        for row in &self.rows {
            let work = if row.work == last { "" } else { &row.work };
            last = &row.work;
            let [result, cpu, peak] = &row.figures;
            let goals: Vec<_> = row.goals.iter().map(Goal::to_string).collect();
            let goals = goals.join("; ");
            writeln!(
                f,
                "| {work} | {} | {result} | {cpu} | {peak} | {goals} |",
                row.who
            )?;
        }
        let goals = || self.rows.iter().flat_map(|row| &row.goals);
        let reached = goals().filter(|goal| goal.is_reached()).count();
        writeln!(
            f,
            "\n{reached} of {} figures reach their targets.",
            goals().count()
        )?;
        let floor = number(self.floor);
        writeln!(
            f,
            "Less than {floor} MB resident cannot be distinguished from the memory of this program."
        )
    }
}
