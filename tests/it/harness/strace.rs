//! Faults at a chosen system call, by strace: killed before the nth write or sync, or made
//! to fail. Strace counts each call separately on each thread, so one call on one thread
//! is named.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use tempfile::TempDir;

use super::{
    SOON,
    lines::Lines,
    process::{Process, command},
    running::Running,
    temp_dir, wait_until,
};

/// The calls that change a file or its name, or make that last.
pub(crate) const CHANGES: [&str; 6] = [
    "pwrite64",
    "fsync",
    "fdatasync",
    "ftruncate",
    "rename",
    "unlink",
];

/// A fault for the nth call of its kind.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) call: &'static str,
    /// In strace's words: `signal=KILL`, `error=EIO`.
    pub(crate) what: &'static str,
    pub(crate) nth: usize,
}

/// What strace has seen.
pub(crate) struct Strace {
    dir: TempDir,
    /// If it was attached to a thread.
    tracer: Option<Process>,
}

impl Strace {
    fn new() -> Self {
        Self {
            dir: temp_dir(),
            tracer: None,
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("strace")
    }

    fn options(&self, calls: &str, fault: Option<Fault>) -> Vec<String> {
        let log = self.log().display().to_string();
        let mut options = ["-y", "-e", "signal=none", "-o", &log, "-e"]
            .map(String::from)
            .to_vec();
        options.push(format!("trace={calls}"));
        if let Some(Fault { call, what, nth }) = fault {
            options.extend(["-e".to_owned(), format!("inject={call}:{what}:when={nth}")]);
        }
        options
    }

    /// Watches all threads of a program; the words that start it so.
    pub(crate) fn watch(calls: &str) -> (Self, Vec<String>) {
        let strace = Self::new();
        let mut words = vec!["strace".to_owned(), "-f".to_owned(), "-qq".to_owned()];
        words.extend(strace.options(calls, None));
        words.push("--".into());
        (strace, words)
    }

    /// A fault on a program's main thread; the words that start it so.
    pub(crate) fn on_main_thread(fault: Fault) -> (Self, Vec<String>) {
        let strace = Self::new();
        let mut words = vec!["strace".to_owned(), "-qq".to_owned()];
        words.extend(strace.options(&CHANGES.join(","), Some(fault)));
        words.push("--".into());
        (strace, words)
    }

    /// A fault on the thread of this name of a running program.
    pub(crate) fn on_thread(running: &Running, name: &str, fault: Fault) -> Self {
        let thread = || thread(running.id(), name);
        assert!(
            wait_until(SOON, || thread().is_some()),
            "no thread {name}\n{running}"
        );
        let mut strace = Self::new();
        let mut tracer = command("strace");
        tracer.args(strace.options(&CHANGES.join(","), Some(fault)));
        tracer.arg("-p").arg(thread().unwrap());
        tracer
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut tracer = Process::spawn(tracer);
        let said = Lines::default();
        said.collect(tracer.child().stderr.take().unwrap());
        let attached = said.wait(SOON, |line| line.contains(" attached"));
        assert!(attached.is_some(), "{}\n{running}", said.text());
        strace.tracer = Some(tracer);
        strace
    }

    /// The calls, in order; all of them if the program has ended.
    pub(crate) fn calls(&mut self) -> Vec<String> {
        if let Some(tracer) = &mut self.tracer {
            tracer.wait(SOON);
        }
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }
}

/// The id of a process's thread of this name.
fn thread(process: u32, name: &str) -> Option<String> {
    let tasks = Path::new("/proc").join(process.to_string()).join("task");
    let mut tasks = fs::read_dir(tasks).ok()?.flatten();
    let named = |path: &Path| fs::read_to_string(path.join("comm")).is_ok_and(|n| n.trim() == name);
    let task = tasks.find(|task| named(&task.path()))?;
    Some(task.file_name().to_string_lossy().into_owned())
}
