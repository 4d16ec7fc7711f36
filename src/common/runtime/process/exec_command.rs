//! A command line, and one run of it.

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::children::{self, ChildExit, ChildHandle, CommandGroup, ExitNotice, NotStarted};
use super::program;
use crate::common::fault::Fault;
use crate::common::runtime::clock::instant_now;
use crate::common::runtime::service_manager;

/// How long pipes are read and written after the command has ended, for children that it has left running.
const PIPE_TIMEOUT: Duration = Duration::from_millis(500);

/// What is read at once, in bytes.
const CHUNK: usize = 16 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecCommand {
    argv: Vec<OsString>,
    timeout: Duration,
}

#[derive(Debug)]
pub struct RunOptions<'a> {
    /// Environment variables that differ from ours; none for one that is removed.
    pub env: Vec<(&'static str, Option<String>)>,
    /// What it can read on standard input; none for `/dev/null`.
    pub input: Option<&'a [u8]>,
    /// The most that it may write to standard output, in bytes; none if it writes to ours.
    pub output: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandOutcome {
    Succeeded(Vec<u8>),
    Failed(String),
    Stopped,
}

impl ExecCommand {
    pub fn new(argv: Vec<OsString>, timeout: Duration) -> Result<Self, Fault> {
        program::check(argv.first().map(OsString::as_os_str).unwrap_or_default())?;
        Ok(Self { argv, timeout })
    }

    pub fn name(&self) -> String {
        let name = self.argv.first().map(|name| name.to_string_lossy());
        name.unwrap_or_default().into_owned()
    }

    pub fn run(
        &self,
        options: &RunOptions<'_>,
        group: &CommandGroup,
    ) -> Result<CommandOutcome, NotStarted> {
        let mut argv = self.argv.iter().map(OsString::as_os_str);
        let mut command = Command::new(argv.next().unwrap_or(OsStr::new("")));
        command.args(argv).process_group(0);
        command.stdin(match options.input {
            Some(_) => Stdio::piped(),
            None => Stdio::null(),
        });
        if options.output.is_some() {
            command.stdout(Stdio::piped());
        }
        for name in service_manager::VARIABLES {
            command.env_remove(name);
        }
        for (name, value) in &options.env {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let started = children::start(&mut command, group)?;
        let deadline = instant_now().checked_add(self.timeout);
        Ok(RunningCommand::new(started, options).finish(deadline, self.timeout))
    }
}

struct RunningCommand<'a> {
    id: u32,
    notice: Arc<ExitNotice>,
    stdin: Option<ChildStdin>,
    input: &'a [u8],
    stdout: Option<ChildStdout>,
    max_output: usize,
    output: Vec<u8>,
    killed_for: Option<String>,
}

impl<'a> RunningCommand<'a> {
    fn new(started: ChildHandle, options: &RunOptions<'a>) -> Self {
        Self {
            id: started.id,
            notice: started.notice,
            // A pipe that blocks would defeat the time limit.
            stdin: started.stdin.filter(|pipe| set_non_blocking(pipe).is_ok()),
            input: options.input.unwrap_or_default(),
            stdout: started.stdout.filter(|pipe| set_non_blocking(pipe).is_ok()),
            max_output: options.output.unwrap_or_default(),
            output: Vec::new(),
            killed_for: None,
        }
    }

    fn finish(mut self, mut deadline: Option<Instant>, timeout: Duration) -> CommandOutcome {
        let exit = loop {
            self.write_input();
            self.read_output();
            if let Some(exit) = self.notice.get() {
                break exit;
            }
            if deadline.is_some_and(|deadline| instant_now() >= deadline) {
                deadline = None;
                self.kill(format!(
                    "ended: it took longer than --exec-timeout {timeout:?}"
                ));
            }
            self.wait_for_events(deadline, true);
        };
        let until = instant_now() + PIPE_TIMEOUT;
        while self.has_pipes()
            && self.killed_for.is_none()
            && !exit.stopped
            && instant_now() < until
        {
            self.wait_for_events(Some(until), false);
            self.write_input();
            self.read_output();
        }
        self.into_outcome(exit)
    }

    fn kill(&mut self, cause: String) {
        if children::kill_child(self.id) {
            self.killed_for = Some(cause);
        }
        self.stdin = None;
        self.stdout = None;
    }

    fn has_pipes(&self) -> bool {
        self.stdin.is_some() || self.stdout.is_some()
    }

    fn write_input(&mut self) {
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

    fn read_output(&mut self) {
        let mut chunk = [0; CHUNK];
        while let Some(pipe) = &mut self.stdout {
            match pipe.read(&mut chunk) {
                Ok(0) => self.stdout = None,
                Ok(count) => {
                    let has_memory = self.output.try_reserve(count).is_ok();
                    let length = self.output.len() + count;
                    // One newline at the end does not count.
                    if !has_memory || length > self.max_output.saturating_add(1) {
                        self.output = Vec::new();
                        self.kill(String::new());
                        self.killed_for = Some(self.output_limit_cause());
                        return;
                    }
                    let read = chunk.get(..count).unwrap_or_default();
                    self.output.extend_from_slice(read);
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => return,
                Err(e) => self.kill(format!("ended: its output cannot be read: {e}")),
            }
        }
    }

    fn output_limit_cause(&self) -> String {
        format!("it prints more than {} bytes", self.max_output)
    }

    fn wait_for_events(&self, deadline: Option<Instant>, for_exit: bool) {
        let mut fds = Vec::with_capacity(3);
        if for_exit {
            fds.push(PollFd::new(self.notice.as_fd(), PollFlags::POLLIN));
        }
        if let Some(pipe) = &self.stdin {
            fds.push(PollFd::new(pipe.as_fd(), PollFlags::POLLOUT));
        }
        if let Some(pipe) = &self.stdout {
            fds.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
        }
        let timeout = deadline.map_or(PollTimeout::NONE, |deadline| {
            // Rounded up: it must not wake just before the deadline again and again.
            let left = deadline.saturating_duration_since(instant_now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        // Interrupted or not: the caller looks again.
        let _ = poll(&mut fds, timeout);
    }

    fn into_outcome(mut self, exit: ChildExit) -> CommandOutcome {
        if exit.stopped {
            return CommandOutcome::Stopped;
        }
        self.output.pop_if(|last| *last == b'\n');
        CommandOutcome::Failed(match (self.killed_for.take(), exit.status) {
            (Some(cause), _) => cause,
            (None, Some(status)) if !status.success() => format!("failed: {status}"),
            (None, Some(_)) if self.output.len() > self.max_output => self.output_limit_cause(),
            (None, Some(_)) => return CommandOutcome::Succeeded(self.output),
            (None, None) => "ended; the system does not know its status".into(),
        })
    }
}

/// The other end of a pipe is another open file, which stays as it is.
fn set_non_blocking(pipe: &impl AsFd) -> Result<(), Errno> {
    let flags = OFlag::from_bits_retain(fcntl(pipe, FcntlArg::F_GETFL)?);
    fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout: Duration) -> ExecCommand {
        let argv = ["sh", "-c", script].map(OsString::from).into();
        ExecCommand::new(argv, timeout).unwrap()
    }

    fn run(script: &str, timeout: Duration, input: &[u8], most: usize) -> CommandOutcome {
        let options = RunOptions {
            env: vec![("GIVEN", Some("value".into())), ("PATH_INFO", None)],
            input: Some(input),
            output: Some(most),
        };
        let group = CommandGroup::new().unwrap();
        shell(script, timeout).run(&options, &group).unwrap()
    }

    const LONG: Duration = Duration::from_secs(60);
    const BRIEF: Duration = Duration::from_millis(200);

    fn printed(text: &str) -> CommandOutcome {
        CommandOutcome::Succeeded(text.into())
    }

    fn failed(why: &str) -> CommandOutcome {
        CommandOutcome::Failed(why.into())
    }

    #[test]
    fn output_is_read_up_to_the_limit_without_one_final_newline() {
        assert_eq!(run("cat; echo; echo", LONG, b"x", 100), printed("x\n"));
        assert_eq!(run("echo $GIVEN", LONG, b"", 5), printed("value"));
        let over = run("echo value", LONG, b"", 4);
        assert_eq!(over, failed("it prints more than 4 bytes"));
        let endless = run("yes", LONG, b"", 1 << 20);
        assert_eq!(endless, failed("it prints more than 1048576 bytes"));
        let large: Vec<u8> = (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect();
        assert!(run("cat", LONG, &large, 1 << 30) == CommandOutcome::Succeeded(large.clone()));
        assert_eq!(run("true", LONG, &large, 0), printed(""));
    }

    #[test]
    fn the_time_limit_holds_whatever_the_command_does_with_its_descriptors() {
        let input = vec![b'x'; 1 << 20];
        for script in [
            "sleep 600",
            "exec >&- 2>&-; sleep 600",
            "exec <&-; sleep 600 & wait",
            "trap '' TERM INT HUP; while :; do sleep 600; done",
            "kill -STOP $$",
        ] {
            let why = "ended: it took longer than --exec-timeout 200ms";
            let outcome = run(script, BRIEF, &input, 100);
            assert_eq!(outcome, failed(why), "{script}");
        }
    }

    #[test]
    fn a_run_does_not_wait_for_a_background_child() {
        let begun = instant_now();
        let script = "sleep 20 & echo here";
        assert_eq!(run(script, LONG, b"", 100), printed("here"));
        assert!(instant_now() - begun < Duration::from_secs(10));
        let input = vec![b'x'; 1 << 20];
        let outcome = run("exec 3<&0; sleep 20 <&3 & exit 3", LONG, &input, 100);
        assert_eq!(outcome, failed("failed: exit status: 3"));
    }

    #[test]
    fn a_stopped_group_starts_nothing_and_kills_what_runs() {
        let group = Arc::new(CommandGroup::new().unwrap());
        let options = || RunOptions {
            env: Vec::new(),
            input: None,
            output: Some(100),
        };
        let same = Arc::clone(&group);
        let running = std::thread::spawn(move || shell("sleep 600", LONG).run(&options(), &same));
        // Stopped before it was started, it is not started.
        std::thread::park_timeout(BRIEF);
        group.kill_all();
        let ended = running.join().unwrap();
        let is_stopped = matches!(
            ended,
            Ok(CommandOutcome::Stopped) | Err(NotStarted::Stopping)
        );
        assert!(is_stopped);
        let next = shell("true", LONG).run(&options(), &group);
        assert_eq!(next, Err(NotStarted::Stopping));
    }

    #[test]
    fn each_of_many_commands_has_its_own_exit_status() {
        let threads: Vec<_> = (0..20)
            .map(|n| std::thread::spawn(move || run(&format!("exit {n}"), LONG, b"", 0)))
            .collect();
        for (n, thread) in threads.into_iter().enumerate() {
            let expected = match n {
                0 => printed(""),
                n => failed(&format!("failed: exit status: {n}")),
            };
            assert_eq!(thread.join().unwrap(), expected);
        }
    }
}
