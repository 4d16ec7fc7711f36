//! A program at work, and what became of it: the expectations, each of which shows the
//! whole scene when it fails.

use std::{
    collections::BTreeMap, fmt, fs, fs::File, io::Write, process::ChildStdin, time::Duration,
};

use nix::sys::signal::Signal;
use nix::unistd::{SysconfVar, sysconf};
use tempfile::TempDir;

use super::{
    SOON,
    lines::{Line, Lines},
    process::Process,
    wait_until,
};

/// A program at work; killed when dropped.
pub(crate) struct Running {
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
    pub(super) process: Process,
    pub(super) stdin: Option<ChildStdin>,
    /// The other end of its terminal.
    pub(super) terminal: Option<File>,
    pub(super) broker_log: Option<Lines>,
    pub(super) command: String,
    pub(super) _files: Vec<TempDir>,
}

impl Running {
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Its resident memory now, in KiB.
    pub(crate) fn resident(&self) -> u64 {
        self.status("VmRSS:").expect("a live process")
    }

    /// A number from its `/proc/PID/status`; none once it has ended.
    pub(crate) fn status(&self, field: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with(field))?;
        line.split_whitespace().nth(1)?.parse().ok()
    }

    /// The processor time that it has used so far.
    pub(crate) fn processor_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        // Its name, in parentheses, may hold spaces.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        let fields = fields.split(' ').skip(11).take(2);
        let ticks: i64 = fields.map(|ticks| ticks.parse::<i64>().unwrap()).sum();
        let per_second = sysconf(SysconfVar::CLK_TCK).unwrap().unwrap();
        Duration::from_millis(u64::try_from(1_000 * ticks / per_second).unwrap())
    }

    /// How many bytes it has written so far, to files, pipes and sockets.
    pub(crate) fn written(&self) -> u64 {
        let io = fs::read_to_string(format!("/proc/{}/io", self.id())).unwrap();
        let line = io.lines().find_map(|line| line.strip_prefix("wchar: "));
        line.unwrap().parse().unwrap()
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.wait(Duration::ZERO).is_some()
    }

    /// How many file descriptors it has open; none once it has been waited for.
    pub(crate) fn descriptors(&self) -> Option<usize> {
        let open = fs::read_dir(format!("/proc/{}/fd", self.id())).ok()?;
        Some(open.count())
    }

    /// Writes to the standard input that [`Program::stdin_pipe`] kept open.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let stdin = self.stdin.as_mut().expect("an open standard input");
        let sent = stdin.write_all(bytes.as_ref());
        assert!(sent.is_ok(), "it closed its standard input\n{self}");
    }

    /// Writes to it, if it still reads.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        let stdin = self.stdin.as_mut().expect("an open standard input");
        stdin.write_all(bytes.as_ref())
    }

    /// Ends the standard input that [`Program::stdin_pipe`] kept open.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The first line of stdout, so far or from now on, that fits.
    pub(crate) fn stdout_line(&self, within: Duration, fits: impl Fn(&str) -> bool) -> Line {
        self.expect(self.stdout.wait(within, fits), "line on stdout", within)
    }

    /// The first line of stderr, so far or from now on, that fits.
    pub(crate) fn stderr_line(&self, within: Duration, fits: impl Fn(&str) -> bool) -> Line {
        self.expect(self.stderr.wait(within, fits), "line on stderr", within)
    }

    /// The first `count` lines of stdout.
    pub(crate) fn stdout_lines(&self, count: usize, within: Duration) -> Vec<Line> {
        let lines = self.stdout.wait_count(count, within).then(|| {
            let mut lines = self.stdout.all();
            lines.truncate(count);
            lines
        });
        self.expect(lines, "such number of lines on stdout", within)
    }

    /// How often each of its threads has waited so far, by their ids.
    pub(crate) fn waits(&self) -> BTreeMap<String, u64> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).unwrap();
        let threads = tasks.map_while(Result::ok).filter_map(|task| {
            // The thread may have ended meanwhile.
            let status = fs::read_to_string(task.path().join("status")).ok()?;
            let mut lines = status.lines();
            let count = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"))?;
            let id = task.file_name().to_string_lossy().into_owned();
            Some((id, count.trim().parse().unwrap()))
        });
        threads.collect()
    }

    /// How often those of its threads that are there now have waited since.
    pub(crate) fn waits_since(&self, before: &BTreeMap<String, u64>) -> u64 {
        let new = |(id, count): (String, u64)| count - before.get(&id).copied().unwrap_or(0);
        self.waits().into_iter().map(new).sum()
    }

    /// Until the kernel reports to it what happens to its queue file: shorter runs poll.
    pub(crate) fn wait_watching(&self) {
        let directory = format!("/proc/{}/fd", self.id());
        let is_watching = || {
            let mut open = fs::read_dir(&directory).into_iter().flatten().flatten();
            open.any(|descriptor| {
                fs::read_link(descriptor.path()).is_ok_and(|of| of.ends_with("anon_inode:inotify"))
            })
        };
        self.expect(wait_until(SOON, is_watching).then_some(()), "watch", SOON);
    }

    /// Until the broker has granted a filter to a subscriber that was started with `-d`.
    pub(crate) fn wait_subscribed(&self) {
        self.stderr_line(SOON, |line| line.contains(": subscribed with QoS"));
    }

    /// Expects it to end without a signal in time.
    pub(crate) fn finish(mut self, within: Duration) -> Outcome {
        let ended = self.process.wait(within);
        let (status, elapsed) = self.expect(ended, "end", within);
        // Only a program that left a child behind keeps its pipes open for longer.
        self.stdout.wait_end(within);
        self.stderr.wait_end(within);
        Outcome {
            code: status.code(),
            elapsed,
            scene: self.to_string(),
            stdout: self.stdout,
            stderr: self.stderr,
        }
    }

    /// Expects it to end in time after `signal`.
    pub(crate) fn finish_by(self, signal: Signal, within: Duration) -> Outcome {
        self.signal(signal);
        self.finish(within)
    }

    fn expect<T>(&self, found: Option<T>, what: &str, within: Duration) -> T {
        found.unwrap_or_else(|| panic!("no {what} within {within:?}, or before its end\n{self}"))
    }
}

impl fmt::Display for Running {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        writeln!(f, "$ {}\n{}", self.command, self.process.state())?;
        writeln!(f, "--- stdout\n{}", self.stdout.text())?;
        write!(f, "--- stderr\n{}", self.stderr.text())?;
        match &self.broker_log {
            Some(log) => write!(f, "\n--- broker\n{}", log.text()),
            None => Ok(()),
        }
    }
}

/// A program that has ended.
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) elapsed: Duration,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
    scene: String,
}

impl Outcome {
    pub(crate) fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "exit code\n{self}");
        self
    }

    /// Expects `part` somewhere in stderr.
    pub(crate) fn expect_stderr(self, part: &str) -> Self {
        let found = self.stderr.text().contains(part);
        assert!(found, "not on stderr: {part}\n{self}");
        self
    }

    /// Expects the end that a fault has which no retry cures: this exit code long before a run that retries would end
    /// (30 s), and these parts in the first line on stderr.
    pub(crate) fn expect_fault(self, code: i32, parts: &[&str]) -> Self {
        let outcome = self.expect_code(code);
        assert!(outcome.elapsed < Duration::from_secs(5), "late\n{outcome}");
        let lines = outcome.stderr.all();
        let first = lines.first().map_or("", |line| &line.text);
        for part in parts {
            let found = first.contains(part);
            assert!(found, "not in the first line: {part}\n{outcome}");
        }
        outcome
    }

    pub(crate) fn expect_stdout(self, exactly: &str) -> Self {
        assert_eq!(self.stdout.text(), exactly, "stdout\n{self}");
        self
    }
}

/// The whole scene, for the message of a failed expectation.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.scene)
    }
}
