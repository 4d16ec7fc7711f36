//! A child process that never outlives its owner, nor this test process.

use std::{
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Command, ExitStatus},
    sync::{
        OnceLock,
        mpsc::{self, Receiver, Sender, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::{
        signal::{Signal, kill},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};

/// A command that the kernel kills when this test process ends, however it ends. Signals have their defaults in
/// it, though `nohup` may have started the tests and have SIGHUP ignored.
pub(crate) fn command(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "env", "--default-signal"])
        .arg(program.as_ref());
    // Debian keeps brokers where only root looks.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin"));
    command
}

/// A running child; killed and waited for when dropped.
pub(crate) struct Process {
    child: Child,
    ended: Receiver<Instant>,
    started: Instant,
    result: Option<(ExitStatus, Duration)>,
}

impl Process {
    pub(crate) fn spawn(command: Command) -> Self {
        let name = format!("{command:?}");
        let started = Instant::now();
        let child = spawn_for_good(command).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (send, ended) = mpsc::sync_channel(1);
        let pid = pid(&child);
        thread::spawn(move || {
            // The child stays a zombie, so its process id cannot become another's while
            // the owner may still signal it.
            while waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).is_err() {}
            let _ = send.send(Instant::now());
        });
        Self {
            child,
            ended,
            started,
            result: None,
        }
    }

    /// The child's end of its pipes, for the owner to take.
    pub(crate) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if self.result.is_none() {
            kill(pid(&self.child), signal).expect("the child is not reaped yet");
        }
    }

    /// How it ended and how long it ran; none if it still runs after `within`.
    pub(crate) fn wait(&mut self, within: Duration) -> Option<(ExitStatus, Duration)> {
        if self.result.is_none() {
            let ended = self.ended.recv_timeout(within).ok()?;
            let status = self.child.wait().expect("our own child");
            self.result = Some((status, ended - self.started));
        }
        self.result
    }

    /// How it stands, in words.
    pub(crate) fn state(&self) -> String {
        match self.result {
            None => "still running".to_owned(),
            Some((status, elapsed)) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("exit code {code} after {elapsed:?}"),
                (None, signal) => format!("ended by signal {signal:?} after {elapsed:?}"),
            },
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        self.wait(Duration::from_secs(5));
    }
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(i32::try_from(child.id()).expect("process ids are small"))
}

/// Spawns from one thread that lasts as long as this process, because the kernel takes
/// the end of the parent *thread* for the parent's death, and each test has its own.
fn spawn_for_good(command: Command) -> std::io::Result<Child> {
    type Job = (Command, SyncSender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Job>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::spawn(move || {
            for (mut command, reply) in queue {
                let _ = reply.send(command.spawn());
            }
        });
        jobs
    });
    let (reply, answer) = mpsc::sync_channel(1);
    spawner.send((command, reply)).expect("it never ends");
    answer.recv().expect("it always answers")
}
