//! Runs `publisher` and `subscriber` as their users do: as programs, seen from outside.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::Read,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
    thread,
    time::Duration,
};

use nix::pty::{Winsize, openpty};
use tempfile::TempDir;

use super::{
    broker::Broker,
    certs::{Pair, certs},
    lines::Lines,
    process::{Process, command},
    running::{Outcome, Running},
    screen::window,
    temp_dir,
};

/// A program and its command line, to be started.
pub(crate) struct Program {
    path: &'static str,
    wrapper: Vec<OsString>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    stdin: Stdin,
    stdout: Option<Stdio>,
    stderr: Option<Stdio>,
    broker_log: Option<Lines>,
    files: Vec<TempDir>,
}

/// The program as cargo has built it, or another build of it in the directory that `IOT_TEST_PROGRAMS` names
/// (`scripts/sanitizer-test`).
fn executable(name: &str, built: &'static str) -> &'static str {
    static DIRECTORY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| std::env::var_os("IOT_TEST_PROGRAMS").map(Into::into));
    let Some(directory) = directory else {
        return built;
    };
    let path = directory.join(name);
    // A handful in the whole run.
    path.into_os_string().into_string().unwrap().leak()
}

/// Where publisher and subscriber are, for what finds them by PATH.
pub(crate) fn directory() -> PathBuf {
    let publisher: PathBuf = executable("publisher", env!("CARGO_BIN_EXE_publisher")).into();
    publisher.parent().unwrap().to_owned()
}

enum Stdin {
    Null,
    Pipe,
    From(Box<dyn Read + Send>),
    Given(Stdio),
}

impl Program {
    pub(crate) fn publisher() -> Self {
        Self::new(executable("publisher", env!("CARGO_BIN_EXE_publisher")))
    }

    pub(crate) fn subscriber() -> Self {
        Self::new(executable("subscriber", env!("CARGO_BIN_EXE_subscriber")))
    }

    pub(crate) fn path(&self) -> &Path {
        Path::new(self.path)
    }

    /// A publisher with one message for the topic `t`.
    pub(crate) fn one_message() -> Self {
        Self::publisher().args(["-t", "t", "-m", "hello"])
    }

    /// Any program, by its path.
    pub(crate) fn new(path: &'static str) -> Self {
        Self {
            path,
            wrapper: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            stdin: Stdin::Null,
            stdout: None,
            stderr: None,
            broker_log: None,
            files: Vec::new(),
        }
    }

    /// Every flag needed to connect to this broker; its log becomes part of the scene.
    pub(crate) fn to(mut self, broker: &Broker) -> Self {
        self.broker_log = Some(broker.log().clone());
        if broker.has_tls() {
            self.at_port(broker.port())
        } else {
            self.at_plain_port(broker.port())
        }
    }

    /// Mutual TLS on a loopback port, with the usual certificates.
    pub(crate) fn at_port(self, port: u16) -> Self {
        self.endpoint(port)
            .ca(&certs().ca)
            .identity(&certs().device)
    }

    /// MQTT without TLS on a loopback port.
    pub(crate) fn at_plain_port(self, port: u16) -> Self {
        self.args(["--endpoint", &format!("mqtt://localhost:{port}")])
    }

    pub(crate) fn endpoint(self, port: u16) -> Self {
        self.args(["--endpoint", "localhost", "--port", &port.to_string()])
    }

    pub(crate) fn ca(self, ca: &Path) -> Self {
        self.arg("--cafile").arg(ca)
    }

    pub(crate) fn identity(self, pair: &Pair) -> Self {
        let Pair { cert, key } = pair;
        self.arg("--cert").arg(cert).arg("--key").arg(key)
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(self, args: impl IntoIterator<Item = A>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Logs each attempt to connect, also one that fails for the same cause as the one before.
    pub(crate) fn log_each_attempt(self) -> Self {
        self.env("RUST_LOG", "warn,iot_pubsub::common::connection=debug")
    }

    /// A configuration file with this text, which stays as long as the program runs.
    pub(crate) fn config(mut self, text: &str) -> Self {
        let dir = temp_dir();
        let file = dir.path().join("iot.toml");
        fs::write(&file, text).unwrap();
        self.files.push(dir);
        self.arg("--config").arg(file)
    }

    /// As [`env`](Self::env), with a value that need not be text.
    pub(crate) fn env_bytes(mut self, name: &str, value: &[u8]) -> Self {
        let value = OsStr::from_bytes(value).to_owned();
        self.env.push((name.into(), value));
        self
    }

    /// Feeds standard input to its end; without this it is `/dev/null`.
    pub(crate) fn stdin(mut self, source: impl Read + Send + 'static) -> Self {
        self.stdin = Stdin::From(Box::new(source));
        self
    }

    /// Keeps standard input open for [`Running::send`].
    pub(crate) fn stdin_pipe(mut self) -> Self {
        self.stdin = Stdin::Pipe;
        self
    }

    /// Standard input is this, without anybody in between: another program's end of a pipe.
    pub(crate) fn stdin_given(mut self, from: impl Into<Stdio>) -> Self {
        self.stdin = Stdin::Given(from.into());
        self
    }

    /// Standard output goes there instead of to the test.
    pub(crate) fn stdout(mut self, to: impl Into<Stdio>) -> Self {
        self.stdout = Some(to.into());
        self
    }

    /// Standard error goes there instead of to the test.
    pub(crate) fn stderr(mut self, to: impl Into<Stdio>) -> Self {
        self.stderr = Some(to.into());
        self
    }

    /// Started by another program: a tracer, or one that goes somewhere else first.
    pub(crate) fn under<W: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = W>) -> Self {
        let words = words.into_iter().map(|word| word.as_ref().to_owned());
        self.wrapper.extend(words);
        self
    }

    pub(crate) fn start(mut self) -> Running {
        let mut command = self.command(self.launcher());
        command.stdin(match &mut self.stdin {
            Stdin::Null => Stdio::null(),
            Stdin::Pipe | Stdin::From(_) => Stdio::piped(),
            Stdin::Given(given) => std::mem::replace(given, Stdio::null()),
        });
        command.stdout(self.stdout.take().unwrap_or_else(Stdio::piped));
        command.stderr(self.stderr.take().unwrap_or_else(Stdio::piped));
        let mut running = self.spawn(command);
        let child = running.process.child();
        let pipes = (child.stdout.take(), child.stderr.take(), child.stdin.take());
        if let Some(stdout) = pipes.0 {
            running.stdout.collect(stdout);
        }
        if let Some(stderr) = pipes.1 {
            running.stderr.collect(stderr);
        }
        match (self.stdin, pipes.2) {
            (Stdin::From(mut source), Some(mut stdin)) => {
                // A program may rightly end without reading all of it.
                thread::spawn(move || std::io::copy(&mut source, &mut stdin));
            }
            (_, stdin) => running.stdin = stdin,
        }
        running
    }

    /// Starts it on its own terminal, its controlling one, so that a prompt would
    /// find it. What appears there is its `stdout`; nothing is typed. A program takes
    /// it for 80x24, because it does not know its size.
    pub(crate) fn start_on_terminal(self) -> Running {
        self.start_on(None)
    }

    /// As [`start_on_terminal`](Self::start_on_terminal), on one that knows its size.
    pub(crate) fn start_on_terminal_of(self, columns: u16, rows: u16) -> Running {
        self.start_on(Some(&window(columns, rows)))
    }

    fn start_on(mut self, window: Option<&Winsize>) -> Running {
        let terminal = openpty(window, None).expect("a pseudo-terminal");
        let mut command = command("setsid");
        command.arg("--ctty").arg(self.path);
        let mut command = self.command(command);
        let end = || Stdio::from(terminal.slave.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end());
        let mut running = self.spawn(command);
        let master = File::from(terminal.master);
        running.terminal = Some(master.try_clone().unwrap());
        running.stdout.collect(master);
        running
    }

    /// Started by a shell that does this to its descriptors first.
    pub(crate) fn with_descriptors(self, redirections: &str) -> Self {
        let script = format!("exec \"$0\" \"$@\" {redirections}");
        self.under(["sh", "-c", &script])
    }

    /// Starts it and expects it to end in time.
    pub(crate) fn run(self, within: Duration) -> Outcome {
        self.start().finish(within)
    }

    fn launcher(&self) -> Command {
        let mut words = self
            .wrapper
            .iter()
            .map(OsString::as_os_str)
            .chain([self.path.as_ref()]);
        let mut launcher = command(words.next().expect("at least the program"));
        launcher.args(words);
        launcher
    }

    fn command(&self, mut command: Command) -> Command {
        command.args(&self.args);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"IOT_") {
                command.env_remove(name);
            }
        }
        for name in [
            "RUST_LOG",
            "JOURNAL_STREAM",
            "NO_COLOR",
            "HTTPS_PROXY",
            "https_proxy",
            "ALL_PROXY",
            "all_proxy",
            "NO_PROXY",
            "no_proxy",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
            "WATCHDOG_PID",
        ] {
            command.env_remove(name);
        }
        command.env("RUST_BACKTRACE", "0");
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    fn spawn(&mut self, command: Command) -> Running {
        let name = Path::new(self.path).file_name().unwrap();
        let line = [name]
            .into_iter()
            .chain(self.args.iter().map(AsRef::as_ref));
        let line: Vec<_> = line.map(|arg| arg.to_string_lossy()).collect();
        Running {
            process: Process::spawn(command),
            stdin: None,
            terminal: None,
            stdout: Lines::default(),
            stderr: Lines::default(),
            broker_log: self.broker_log.clone(),
            _files: std::mem::take(&mut self.files),
            command: line.join(" "),
        }
    }
}
