//! File systems of the test's own, to be filled, shut down or made read-only: mounted where
//! only the programs see them that are started there, and gone with the test process however
//! it ends.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Output, Stdio},
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
        let mut hold = command("unshare");
        hold.args(["--mount", "--propagation", "private", "--", "sh", "-c"]);
        hold.arg("echo ready; exec sleep infinity");
        hold.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut holder = Process::spawn(hold);
        let lines = Lines::default();
        lines.collect(holder.child().stdout.take().unwrap());
        lines.wait(SOON, |line| line == "ready")?;
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
        let output = there.stdin(Stdio::null()).output().expect("nsenter");
        let said = || String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            Ok(output)
        } else {
            Err(format!("{words:?}: {}", said()))
        }
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

/// Says where everybody sees it that a test could not do what it is for.
pub(crate) fn skipped(test: &str, why: &str) {
    // Not eprintln, which the test runner keeps to itself.
    let _ = writeln!(io::stderr(), "SKIPPED {test}: {why}");
}
