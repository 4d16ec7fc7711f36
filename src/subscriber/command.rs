//! One run of the command of `--exec`: no shell, the payload on standard input, the rest of the
//! message in the environment.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use memchr::memchr;
use nix::errno::Errno;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;

use crate::common::json::rfc3339;
use crate::common::message::{Qos, Received, SeqProperty};
use crate::common::transport::bridge::OutOfMemory;

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

/// A message whose readings wait for their commands.
#[derive(Debug)]
pub struct Envelope {
    topic: String,
    payload: Vec<u8>,
    qos: Qos,
    retained: bool,
    seq: Option<SeqProperty>,
}

/// A reading that waits for its command: a part of the payload.
#[derive(Clone, Debug)]
pub struct Job {
    envelope: Arc<Envelope>,
    begin: usize,
    end: usize,
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended with success.
    Fine,
    /// It did not, and why.
    Failed(String),
}

impl Envelope {
    /// A message, to be kept.
    ///
    /// # Errors
    ///
    /// There is no memory for it.
    pub fn of(message: &Received<'_>) -> Result<Self, OutOfMemory> {
        let mut payload = Vec::new();
        payload
            .try_reserve_exact(message.payload.len())
            .map_err(|_| OutOfMemory)?;
        payload.extend_from_slice(message.payload);
        Ok(Self {
            topic: message.topic.to_owned(),
            payload,
            qos: message.qos,
            retained: message.retained,
            seq: message.seq.clone(),
        })
    }

    /// Bytes of payload and topic.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.payload.len() + self.topic.len()) as u64
    }

    /// The reading that begins there: the whole payload, or in a batch up to the next newline.
    #[must_use]
    pub fn job(self: &Arc<Self>, begin: usize, is_batch: bool) -> Job {
        let rest = self.payload.get(begin..).unwrap_or_default();
        let length = memchr(b'\n', rest).filter(|_| is_batch);
        Job {
            envelope: Arc::clone(self),
            begin,
            end: begin + length.unwrap_or(rest.len()),
        }
    }
}

impl Job {
    fn payload(&self) -> &[u8] {
        let payload = &self.envelope.payload;
        payload.get(self.begin..self.end).unwrap_or_default()
    }

    /// Where the reading behind it begins.
    #[must_use]
    pub fn next(&self) -> usize {
        self.end + 1
    }
}

impl Command {
    /// Starts it.
    ///
    /// # Errors
    ///
    /// Why it cannot be.
    pub fn spawn(&self, job: &Job) -> Result<Process, String> {
        let message = &job.envelope;
        let (program, arguments) = self.argv.split_first().ok_or("no command is given")?;
        let mut command = std::process::Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .process_group(0)
            .env("MQTT_TOPIC", &message.topic)
            .env("MQTT_QOS", message.qos.level().to_string())
            .env("MQTT_RETAIN", u8::from(message.retained).to_string());
        for name in ["MQTT_STREAM", "MQTT_SEQ", "MQTT_TAKEN"] {
            command.env_remove(name);
        }
        if let Some(seq) = &message.seq {
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
        let seq = job.envelope.seq.as_ref();
        let number = seq.map(|seq| format!(" {}/{}", seq.stream, seq.seq));
        let number = number.unwrap_or_default();
        format!(
            "--exec {program}: message{number} on {:?}: {why}",
            job.envelope.topic
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
        if job.payload().len() <= PIPE {
            let _ = stdin.write_all(job.payload());
            return;
        }
        let job = job.clone();
        // Without a thread it gets what the pipe takes: it sees the end too early, and so fails
        // rather than hangs.
        let _ = std::thread::Builder::new()
            .name("exec-stdin".into())
            .spawn(move || stdin.write_all(job.payload()));
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
