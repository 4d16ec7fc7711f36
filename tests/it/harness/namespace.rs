//! File systems and networks of the test's own, to be filled, shut down or made read-only: where
//! only the programs see them that are started there, and gone with the test process however
//! it ends.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use super::{
    SOON,
    lines::Lines,
    process::{Process, command},
};

/// A mount namespace, kept alive by a process that does nothing.
pub(crate) struct MountNamespace {
    holder: Process,
}

impl MountNamespace {
    /// None where this user or this kernel has no mounts to give.
    pub(crate) fn new() -> Option<Self> {
        let holder = hold(&["--mount", "--propagation", "private"])?;
        Some(Self { holder })
    }

    /// A small file system in memory at `dir`; none if it cannot be mounted.
    pub(crate) fn with_tmpfs(dir: &Path, options: &str) -> Option<Self> {
        let namespace = Self::new()?;
        let mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs"];
        namespace.run(&mount, &[dir]).ok()?;
        Some(namespace)
    }

    /// Runs a command there; what it said if it failed.
    pub(crate) fn run(&self, words: &[&str], paths: &[&Path]) -> Result<Output, String> {
        let mut there = command("nsenter");
        there.args(&self.enter()[1..]).args(words).args(paths);
        output(there)
    }

    /// The words that bring a command there.
    pub(crate) fn enter(&self) -> Vec<String> {
        let holder = self.holder.id().to_string();
        ["nsenter", "--target", &holder, "--mount", "--"]
            .map(String::from)
            .into()
    }

    /// A path there, as it is seen from here.
    pub(crate) fn seen_from_here(&self, path: &Path) -> PathBuf {
        let root = format!("/proc/{}/root", self.holder.id());
        Path::new(&root).join(path.strip_prefix("/").unwrap())
    }
}

/// A network namespace with nothing but loopback, kept alive by a process that does nothing.
pub(crate) struct NetworkNamespace {
    holder: Process,
}

impl NetworkNamespace {
    /// None where this user or this kernel has no networks to give.
    pub(crate) fn new() -> Option<Self> {
        let holder = hold(&["--net"])?;
        let namespace = Self { holder };
        namespace.run("ip link set lo up").ok()?;
        Some(namespace)
    }

    /// Connects two namespaces by a cable: an interface of this name at each end.
    pub(crate) fn connect(&self, other: &Self, interface: &str) -> Result<(), String> {
        let there = other.holder.id();
        self.run(&format!(
            "ip link add {interface} type veth peer name {interface} netns {there}"
        ))?;
        for end in [self, other] {
            end.run(&format!("ip link set {interface} up"))?;
        }
        Ok(())
    }

    /// Runs a command there, its words separated by spaces; what it said if it failed.
    pub(crate) fn run(&self, words: &str) -> Result<Output, String> {
        let mut there = command("nsenter");
        there.args(&self.enter()[1..]).args(words.split(' '));
        output(there)
    }

    /// The words that bring a command there.
    pub(crate) fn enter(&self) -> Vec<String> {
        let holder = self.holder.id().to_string();
        ["nsenter", "--target", &holder, "--net", "--"]
            .map(String::from)
            .into()
    }
}

/// A process in namespaces of its own.
fn hold(namespaces: &[&str]) -> Option<Process> {
    let mut hold = command("unshare");
    hold.args(namespaces).args(["--", "sh", "-c"]);
    hold.arg("echo ready; exec sleep infinity");
    hold.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut holder = Process::spawn(hold);
    let lines = Lines::default();
    lines.collect(holder.child().stdout.take().unwrap());
    lines.wait(SOON, |line| line == "ready")?;
    Some(holder)
}

fn output(mut command: Command) -> Result<Output, String> {
    let output = command.stdin(Stdio::null()).output().expect("nsenter");
    if output.status.success() {
        return Ok(output);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {said}"))
}

/// Says where everybody sees it that a test could not do what it is for.
pub(crate) fn skipped(test: &str, why: &str) {
    // Not eprintln, which the test runner keeps to itself.
    let _ = writeln!(io::stderr(), "SKIPPED {test}: {why}");
}
