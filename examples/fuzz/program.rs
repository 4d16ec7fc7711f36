//! A process of the program under test: input, output, log, memory, exit.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Number of log lines to keep.
const KEPT: usize = 60;

/// Texts in the log that report damaged memory or a panic.
const ALARMS: [&str; 12] = [
    "Sanitizer",
    "runtime error:",
    "panicked at",
    "double free",
    "corrupt",
    "free():",
    "malloc():",
    "stack smashing",
    "== Invalid ",
    "uninitialised",
    "== Mismatched ",
    "== Process terminating",
];

/// Returns the input line with a given number, without the newline.
pub(crate) type Lines = Arc<dyn Fn(u64) -> Vec<u8> + Send + Sync>;

/// A running process; killed when dropped.
pub(crate) struct Program {
    child: Child,
    lines: Receiver<Vec<u8>>,
    log: Arc<Mutex<Log>>,
    status: Option<ExitStatus>,
    fed: Arc<AtomicU64>,
    stop_feeding: Arc<AtomicBool>,
}

#[derive(Default)]
struct Log {
    last: VecDeque<String>,
    /// The first line that reports an error, and the lines after it.
    alarm: Vec<String>,
    /// The log has ended.
    complete: bool,
}

impl Program {
    /// Starts the process. A thread writes the input lines until the end of the input is requested.
    pub(crate) fn start(
        path: &Path,
        valgrind: bool,
        args: &[String],
        input: Option<Lines>,
    ) -> anyhow::Result<Self> {
        // The kernel kills it when this process ends.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if valgrind {
            command.args(["valgrind", "--quiet", "--fair-sched=yes"]);
        }
        command
            .arg(path)
            .args(args)
            .env("NO_COLOR", "1")
            .env_remove("RUST_LOG");
        command.env(
            "ASAN_OPTIONS",
            "abort_on_error=1:detect_leaks=1:quarantine_size_mb=16:detect_stack_use_after_return=1",
        );
        command.env(
            "LSAN_OPTIONS",
            concat!(
                "print_suppressions=0:suppressions=",
                env!("CARGO_MANIFEST_DIR"),
                "/examples/fuzz/lsan-suppressions.txt"
            ),
        );
        command.stdin(match input {
            Some(_) => Stdio::piped(),
            None => Stdio::null(),
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let (send, lines) = channel();
        let out = child.stdout.take().context("its output")?;
        thread::spawn(move || each_line(out, |line| drop(send.send(line))));
        let log = Arc::<Mutex<Log>>::default();
        let err = child.stderr.take().context("its log")?;
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            each_line(err, |line| {
                let line = String::from_utf8_lossy(&line).into_owned();
                let mut log = kept.lock().unwrap_or_else(PoisonError::into_inner);
                log.push(line);
            });
            let mut log = kept.lock().unwrap_or_else(PoisonError::into_inner);
            log.complete = true;
        });
        let (fed, stop_feeding) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        if let (Some(input), Some(stdin)) = (input, child.stdin.take()) {
            let (fed, stop_feeding) = (Arc::clone(&fed), Arc::clone(&stop_feeding));
            thread::spawn(move || feed(stdin, &input, &fed, &stop_feeding));
        }
        Ok(Self {
            child,
            lines,
            log,
            status: None,
            fed,
            stop_feeding,
        })
    }

    /// Number of input lines written.
    pub(crate) fn fed(&self) -> u64 {
        self.fed.load(Ordering::Acquire)
    }

    /// Closes the input after the current line.
    pub(crate) fn end_input(&self) {
        self.stop_feeding.store(true, Ordering::Release);
    }

    /// The next line of output, or none after this time.
    pub(crate) fn line(&self, within: Duration) -> Option<Vec<u8>> {
        self.lines.recv_timeout(within).ok()
    }

    /// The exit status, if the process has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + within;
        while self.ended().is_none() && Instant::now() < until {
            thread::park_timeout(Duration::from_millis(2));
        }
        self.status
    }

    /// An end by a signal, or an error report in the log.
    pub(crate) fn alarm(&mut self) -> Option<String> {
        let ended = self.ended();
        let signal = ended.and_then(|status| status.signal());
        let until = Instant::now() + Duration::from_secs(2);
        let log = loop {
            let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
            if ended.is_none() || log.complete || Instant::now() > until {
                break log;
            }
            drop(log);
            // Wait for the rest of the log.
            thread::park_timeout(Duration::from_millis(5));
        };
        let shown = log.alarm.join("\n");
        match signal {
            Some(signal) => Some(format!("ended by signal {signal}\n{shown}")),
            None if !log.alarm.is_empty() => Some(format!("reports an error in its log:\n{shown}")),
            None => None,
        }
    }

    /// The last lines of the log.
    pub(crate) fn log(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<_> = log.last.iter().map(String::as_str).collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    pub(crate) fn signal(&mut self, signal: Signal) -> anyhow::Result<()> {
        if self.ended().is_none() {
            kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?;
        }
        Ok(())
    }

    /// The resident memory, in bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<u64> {
        let file = format!("/proc/{}/status", self.child.id());
        let status = fs::read_to_string(&file).context(file)?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        let kib: u64 = number.context("no VmRSS")?.parse()?;
        Ok(kib * 1024)
    }

    /// Checks that the program exists.
    pub(crate) fn check(path: &Path) -> anyhow::Result<()> {
        if !path.is_file() {
            bail!("{}: not there; build it first", path.display());
        }
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end_input();
        // The process may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Log {
    fn push(&mut self, line: String) {
        let alarming = ALARMS.iter().any(|alarm| line.contains(alarm));
        if (alarming || !self.alarm.is_empty()) && self.alarm.len() < KEPT {
            self.alarm.push(line.clone());
        }
        self.last.push_back(line);
        if self.last.len() > KEPT {
            self.last.pop_front();
        }
    }
}

fn each_line(source: impl Read, mut tell: impl FnMut(Vec<u8>)) {
    let mut source = BufReader::new(source);
    loop {
        let mut line = Vec::new();
        match source.read_until(b'\n', &mut line) {
            Ok(1..) => {
                if line.last() == Some(&b'\n') {
                    line.pop();
                }
                tell(line);
            }
            Ok(0) | Err(_) => return,
        }
    }
}

fn feed(mut stdin: ChildStdin, lines: &Lines, fed: &AtomicU64, stop_feeding: &AtomicBool) {
    while !stop_feeding.load(Ordering::Acquire) {
        let number = fed.load(Ordering::Acquire) + 1;
        let mut line = lines(number);
        line.push(b'\n');
        // Before the write, because the message may be published at once.
        fed.store(number, Ordering::Release);
        if stdin.write_all(&line).is_err() {
            return;
        }
    }
}
