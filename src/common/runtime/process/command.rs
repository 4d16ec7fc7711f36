//! A command line, and one run of it.

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::children::{self, Ended, Group, Started};
use super::program;
use crate::common::fault::Fault;
use crate::common::runtime::clock::clock;

/// How long pipes are read and written after the command has ended, for what it has left running.
const GRACE: Duration = Duration::from_millis(500);

/// What is read at once, in bytes.
const CHUNK: usize = 16 << 10;

/// A command: its name, its arguments, and how long it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    argv: Vec<OsString>,
    timeout: Duration,
}

/// What a run is given, and what is wanted of it.
#[derive(Debug)]
pub struct Task<'a> {
    /// Variables of its environment that differ from ours; none for one that it is not to have.
    pub env: Vec<(&'static str, Option<String>)>,
    /// What it can read on standard input; none for `/dev/null`.
    pub input: Option<&'a [u8]>,
    /// The most that it may write to standard output, in bytes; none if it is to have ours.
    pub output: Option<usize>,
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended with success, and this is what it wrote.
    Succeeded(Vec<u8>),
    /// It did not, and why.
    Failed(String),
    /// It was ended with its group.
    Stopped,
}

/// Why a command has not been run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRun {
    /// Its group is closed.
    Stopping,
    /// It cannot be started, and why.
    CannotStart(String),
}

impl Command {
    /// A command whose program exists and can be executed. A run that takes longer than `timeout` is ended.
    ///
    /// # Errors
    ///
    /// A fault that names the program, and why it cannot be executed.
    pub fn new(argv: Vec<OsString>, timeout: Duration) -> Result<Self, Fault> {
        program::check(argv.first().map(OsString::as_os_str).unwrap_or_default())?;
        Ok(Self { argv, timeout })
    }

    /// Its name, for people.
    pub fn name(&self) -> String {
        let name = self.argv.first().map(|name| name.to_string_lossy());
        name.unwrap_or_default().into_owned()
    }

    /// Runs it to its end.
    ///
    /// # Errors
    ///
    /// Why it has not been run.
    pub fn run(&self, task: &Task<'_>, group: &Group) -> Result<Outcome, NotRun> {
        let (name, arguments) = self.argv.split_first().unzip();
        let mut command =
            std::process::Command::new(name.map(OsString::as_os_str).unwrap_or_default());
        command.args(arguments.unwrap_or_default()).process_group(0);
        command.stdin(match task.input {
            Some(_) => Stdio::piped(),
            None => Stdio::null(),
        });
        if task.output.is_some() {
            command.stdout(Stdio::piped());
        }
        for (name, value) in &task.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let started = children::start(&mut command, group)?;
        let until = clock().checked_add(self.timeout);
        let run = Run::new(started, task);
        Ok(run.finish(until, self.timeout))
    }
}

struct Run<'a> {
    id: u32,
    end: std::sync::Arc<children::End>,
    stdin: Option<ChildStdin>,
    /// What it has not been given yet.
    input: &'a [u8],
    stdout: Option<ChildStdout>,
    most: usize,
    output: Vec<u8>,
    /// Why it was ended before it had ended.
    ended_for: Option<String>,
}

impl<'a> Run<'a> {
    fn new(started: Started, task: &Task<'a>) -> Self {
        let Started {
            id,
            stdin,
            stdout,
            end,
        } = started;
        // Without that it could not be limited.
        let stdin = stdin.filter(|pipe| set_non_blocking(pipe).is_ok());
        let stdout = stdout.filter(|pipe| set_non_blocking(pipe).is_ok());
        Self {
            id,
            end,
            stdin,
            input: task.input.unwrap_or_default(),
            stdout,
            most: task.output.unwrap_or_default(),
            output: Vec::new(),
            ended_for: None,
        }
    }

    fn finish(mut self, until: Option<Instant>, timeout: Duration) -> Outcome {
        let mut until = until;
        let ended = loop {
            self.feed();
            self.collect();
            if let Some(ended) = self.end.get() {
                break ended;
            }
            if until.is_some_and(|until| clock() >= until) {
                until = None;
                self.kill(format!(
                    "ended: it took longer than --exec-timeout {timeout:?}"
                ));
            }
            self.wait(until, true);
        };
        let until = clock() + GRACE;
        while self.has_work() && self.ended_for.is_none() && !ended.stopped && clock() < until {
            self.wait(Some(until), false);
            self.feed();
            self.collect();
        }
        self.outcome(ended)
    }

    /// Ends it, if it has not ended, because of this.
    fn kill(&mut self, why: String) {
        if children::end(self.id) {
            self.ended_for = Some(why);
        }
        self.stdin = None;
        self.stdout = None;
    }

    fn has_work(&self) -> bool {
        self.stdin.is_some() || self.stdout.is_some()
    }

    /// Gives it as much of its input as it takes now. It need not read it.
    fn feed(&mut self) {
        let Some(pipe) = &mut self.stdin else { return };
        while !self.input.is_empty() {
            match pipe.write(self.input) {
                Ok(count) => self.input = self.input.get(count..).unwrap_or_default(),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        self.stdin = None;
    }

    /// Takes what it has written.
    fn collect(&mut self) {
        let mut chunk = [0; CHUNK];
        while let Some(pipe) = &mut self.stdout {
            match pipe.read(&mut chunk) {
                Ok(0) => self.stdout = None,
                Ok(count) => {
                    let room = self.output.try_reserve(count).is_ok();
                    // One newline at the end does not count.
                    if !room || self.output.len() + count > self.most.saturating_add(1) {
                        let most = self.most;
                        self.output = Vec::new();
                        self.kill(String::new());
                        self.ended_for = Some(format!("it prints more than {most} bytes"));
                        return;
                    }
                    self.output
                        .extend_from_slice(chunk.get(..count).unwrap_or_default());
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => {
                    self.kill(format!("ended: its output cannot be read: {e}"));
                }
            }
        }
    }

    /// Waits until a pipe is ready, it has ended, or it is time.
    fn wait(&self, until: Option<Instant>, for_end: bool) {
        let mut ready = Vec::with_capacity(3);
        if for_end {
            ready.push(PollFd::new(self.end.as_fd(), PollFlags::POLLIN));
        }
        if let Some(pipe) = &self.stdin {
            ready.push(PollFd::new(pipe.as_fd(), PollFlags::POLLOUT));
        }
        if let Some(pipe) = &self.stdout {
            ready.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        }
        let timeout = until.map_or(PollTimeout::NONE, |until| {
            let left = until.saturating_duration_since(clock());
            // Rounded up, so that it does not wake a moment too early again and again.
            let ms = left.as_millis().saturating_add(1);
            i32::try_from(ms).map_or(PollTimeout::MAX, |ms| {
                PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
            })
        });
        // Interrupted or not: whoever called looks again.
        let _ = poll(&mut ready, timeout);
    }

    fn outcome(mut self, ended: Ended) -> Outcome {
        if ended.stopped {
            return Outcome::Stopped;
        }
        if let Some(why) = self.ended_for {
            return Outcome::Failed(why);
        }
        match ended.status {
            Some(status) if status.success() => {
                if self.output.last() == Some(&b'\n') {
                    self.output.pop();
                }
                if self.output.len() > self.most {
                    return Outcome::Failed(format!("it prints more than {} bytes", self.most));
                }
                Outcome::Succeeded(self.output)
            }
            Some(status) => Outcome::Failed(format!("failed: {status}")),
            None => Outcome::Failed("ended, and the system does not know how".into()),
        }
    }
}

/// Our end of a pipe only: the other one is a file of its own.
fn set_non_blocking(pipe: &impl AsFd) -> Result<(), Errno> {
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Duration) -> Command {
        let argv = ["sh", "-c", script].map(OsString::from).into();
        Command::new(argv, timeout).unwrap()
    }

    /// What it makes of this input, if it may print `most` bytes.
    fn run(script: &str, timeout: Duration, input: &[u8], most: usize) -> Outcome {
        let task = Task {
            env: vec![("GIVEN", Some("value".into())), ("PATH_INFO", None)],
            input: Some(input),
            output: Some(most),
        };
        let group = Group::new().unwrap();
        shell(script, timeout).run(&task, &group).unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);
    const BRIEF: Duration = Duration::from_millis(200);

    fn printed(text: &str) -> Outcome {
        Outcome::Succeeded(text.into())
    }

    #[test]
    fn what_it_prints_is_taken_without_one_newline_up_to_the_limit() {
        assert_eq!(run("cat; echo; echo", LONG, b"x", 100), printed("x\n"));
        assert_eq!(run("echo $GIVEN", LONG, b"", 5), printed("value"));
        let over = run("echo value", LONG, b"", 4);
        assert_eq!(over, Outcome::Failed("it prints more than 4 bytes".into()));
        let Outcome::Failed(why) = run("yes", LONG, b"", 1 << 20) else {
            panic!("it has no end");
        };
        assert!(why.contains("prints more than 1048576 bytes"), "{why}");
        let large: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        assert!(run("cat", LONG, &large, 1 << 30) == Outcome::Succeeded(large.clone()));
        assert_eq!(run("true", LONG, &large, 0), printed(""));
    }

    #[test]
    fn the_time_limit_holds_whatever_it_does_with_its_descriptors() {
        let input = vec![b'x'; 1 << 20];
        for script in [
            "sleep 600",
            "exec >&- 2>&-; sleep 600",
            "exec <&-; sleep 600 & wait",
            "trap '' TERM INT HUP; while :; do sleep 600; done",
            "kill -STOP $$",
        ] {
            let Outcome::Failed(why) = run(script, BRIEF, &input, 100) else {
                panic!("{script}");
            };
            assert_eq!(why, "ended: it took longer than --exec-timeout 200ms");
        }
    }

    #[test]
    fn a_child_left_in_the_background_does_not_keep_the_run_going() {
        let begun = clock();
        let script = "sleep 20 & echo here";
        assert_eq!(run(script, LONG, b"", 100), printed("here"));
        assert!(clock() - begun < Duration::from_secs(10));
        let input = vec![b'x'; 1 << 20];
        let failed = run("exec 3<&0; sleep 20 <&3 & exit 3", LONG, &input, 100);
        assert_eq!(failed, Outcome::Failed("failed: exit status: 3".into()));
    }

    #[test]
    fn a_group_that_is_closed_starts_nothing_and_one_that_is_stopped_ends_what_runs() {
        let group = std::sync::Arc::new(Group::new().unwrap());
        let task = || Task {
            env: Vec::new(),
            input: None,
            output: Some(100),
        };
        let same = std::sync::Arc::clone(&group);
        let running = std::thread::spawn(move || shell("sleep 600", LONG).run(&task(), &same));
        // Stopped before it was started, it is not started.
        std::thread::park_timeout(BRIEF);
        group.stop();
        let ended = running.join().unwrap();
        assert!(matches!(
            ended,
            Ok(Outcome::Stopped) | Err(NotRun::Stopping)
        ));
        let next = shell("true", LONG).run(&task(), &group);
        assert_eq!(next, Err(NotRun::Stopping));
    }

    #[test]
    fn many_at_once_each_have_their_own_end() {
        let threads: Vec<_> = (0..20)
            .map(|n| std::thread::spawn(move || run(&format!("exit {n}"), LONG, b"", 0)))
            .collect();
        for (n, thread) in threads.into_iter().enumerate() {
            let expected = match n {
                0 => printed(""),
                n => Outcome::Failed(format!("failed: exit status: {n}")),
            };
            assert_eq!(thread.join().unwrap(), expected);
        }
    }
}
