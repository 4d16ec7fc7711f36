//! A metrics file (`--metrics`), and what Prometheus reads in it.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;

use super::{
    Program, SOON,
    process::command,
    running::{Outcome, Running},
    temp_dir, wait_until,
};

/// Longer than the time between two writes.
pub(crate) const NEXT_WRITE: Duration = Duration::from_secs(25);

/// A metrics file in its own directory.
pub(crate) struct MetricsFile {
    dir: TempDir,
}

/// Values by name and labels, without the label that all have.
pub(crate) type Values = BTreeMap<String, f64>;

impl MetricsFile {
    pub(crate) fn new() -> Self {
        Self { dir: temp_dir() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("iot.prom")
    }

    pub(crate) fn given_to(&self, program: Program) -> Program {
        program.arg("--metrics").arg(self.path())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    /// None while there is no file.
    pub(crate) fn values(&self) -> Option<Values> {
        values(&fs::read_to_string(self.path()).ok()?)
    }

    /// Waits until a scrape of the running program has this.
    pub(crate) fn wait(&self, running: &Running, has: impl Fn(&Values) -> bool) -> Values {
        let found = wait_until(NEXT_WRITE, || self.values().is_some_and(|v| has(&v)));
        assert!(found, "{:#?}\n{running}", self.values());
        expect_promtool(&self.path());
        self.values().unwrap()
    }

    pub(crate) fn status(&self, program: Program) -> Outcome {
        self.given_to(program.arg("status")).run(SOON)
    }
}

fn values(text: &str) -> Option<Values> {
    let mut values = Values::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.strip_prefix("iot_")?.split_once("{client_id=\"")?;
        let (_, rest) = rest.split_once('"')?;
        let (labels, value) = rest.rsplit_once("} ")?;
        let labels = labels.trim_start_matches(',');
        let name = name.split_once('_')?.1;
        let name = match labels {
            "" => name.to_owned(),
            labels => format!("{name}{{{labels}}}"),
        };
        values.insert(name, value.parse().ok()?);
    }
    Some(values)
}

pub(crate) fn at_least(values: &Values, name: &str, least: f64) -> bool {
    values.get(name).is_some_and(|value| *value >= least)
}

pub(crate) fn is(values: &Values, name: &str, value: f64) -> bool {
    values
        .get(name)
        .is_some_and(|found| (found - value).abs() < 1e-9)
}

/// Expects the file to follow the format and the conventions of Prometheus.
pub(crate) fn expect_promtool(path: &Path) {
    let text = fs::read(path).unwrap();
    let mut promtool = command("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool (scripts/setup installs it)");
    promtool.stdin.take().unwrap().write_all(&text).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let text = String::from_utf8_lossy(&text);
    assert!(output.status.success() && said.is_empty(), "{said}\n{text}");
}
