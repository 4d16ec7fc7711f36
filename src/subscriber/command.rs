//! One run of the command of `--exec`: no shell, the payload on standard input, the rest of the
//! message in the environment.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::common::json::rfc3339;
use crate::common::message::{Qos, Received, SeqProperty};

/// What an empty pipe takes at once on any system; more could wait for a reader.
const PIPE: usize = 4096;

/// The command, and how long it may take.
#[derive(Clone, Debug)]
pub struct Command {
    /// Its name and its arguments.
    pub argv: Vec<OsString>,
    /// After this it is ended.
    pub timeout: Option<Duration>,
}

/// A reading that waits for its command.
#[derive(Clone, Debug)]
pub struct Job {
    topic: String,
    payload: Vec<u8>,
    qos: Qos,
    retained: bool,
    seq: Option<SeqProperty>,
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended with success.
    Fine,
    /// It did not, and why.
    Failed(String),
}

impl Job {
    /// A reading, to be kept.
    #[must_use]
    pub fn of(reading: &Received<'_>) -> Self {
        Self {
            topic: reading.topic.to_owned(),
            payload: reading.payload.to_vec(),
            qos: reading.qos,
            retained: reading.retained,
            seq: reading.seq.clone(),
        }
    }

    /// Bytes of payload and topic.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.payload.len() + self.topic.len()) as u64
    }
}

impl Command {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// Why it cannot be.
    pub fn spawn(&self, job: &Job) -> Result<Process, String> {
        let (program, arguments) = self.argv.split_first().ok_or("no command is given")?;
        let mut command = std::process::Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .process_group(0)
            .env("MQTT_TOPIC", &job.topic)
            .env("MQTT_QOS", job.qos.level().to_string())
            .env("MQTT_RETAIN", u8::from(job.retained).to_string());
        for name in ["MQTT_STREAM", "MQTT_SEQ", "MQTT_TAKEN"] {
            command.env_remove(name);
        }
        if let Some(seq) = &job.seq {
            let taken = rfc3339(Duration::from_millis(seq.accepted_ms));
            // Other than a topic it may hold anything.
            command.env("MQTT_STREAM", seq.stream.replace('\0', "\u{fffd}"));
            command.env("MQTT_SEQ", seq.seq.to_string());
            command.env("MQTT_TAKEN", taken);
        }
        let mut child = command.spawn().map_err(|e| {
            format!("cannot be run: {e} (there is no shell: one word, one argument)")
        })?;
        let stdin = child.stdin.take();
        Ok(Process { child, stdin })
    }

    /// The line that tells of a failure.
    #[must_use]
    pub fn failure(&self, job: &Job, why: &str) -> String {
        let program = self.argv.first().map(|program| program.to_string_lossy());
        let program = program.unwrap_or_default();
        let number = job
            .seq
            .as_ref()
            .map(|seq| format!(" {}/{}", seq.stream, seq.seq));
        let number = number.unwrap_or_default();
        format!(
            "--exec {program}: message{number} on {:?}: {why}",
            job.topic
        )
    }

    /// Why it was ended.
    #[must_use]
    pub fn took_too_long(&self) -> String {
        let timeout = self.timeout.unwrap_or_default();
        format!("ended: it took longer than --exec-timeout {timeout:?}")
    }
}

/// A command that runs.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Process {
    /// Its process group.
    #[must_use]
    pub fn group(&self) -> Pid {
        // Process identifiers are positive.
        Pid::from_raw(i32::try_from(self.child.id()).unwrap_or(i32::MAX))
    }

    /// Gives it the payload. It need not read it.
    pub fn feed(&mut self, job: &Job) {
        let Some(mut stdin) = self.stdin.take() else {
            return;
        };
        if job.payload.len() <= PIPE {
            let _ = stdin.write_all(&job.payload);
            return;
        }
        let payload = job.payload.clone();
        // Without a thread it gets what the pipe takes: it sees the end too early, and so fails
        // rather than hangs.
        let _ = std::thread::Builder::new()
            .name("exec-stdin".into())
            .spawn(move || stdin.write_all(&payload));
    }

    /// Waits until it has ended. Its number stays its own until [`reap`](Self::reap).
    pub fn await_end(&self) {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        while waitid(Id::Pid(self.group()), flags) == Err(Errno::EINTR) {}
    }

    /// How it has ended.
    #[must_use]
    pub fn reap(mut self) -> Outcome {
        match self.child.wait() {
            Ok(status) if ExitStatus::success(&status) => Outcome::Fine,
            Ok(status) => Outcome::Failed(format!("failed: {status}")),
            Err(e) => Outcome::Failed(format!("cannot be waited for: {e}")),
        }
    }
}
