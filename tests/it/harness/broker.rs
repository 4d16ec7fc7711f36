//! A real Mosquitto on its own loopback port.

use std::{
    fmt::Write as _,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::{
    SOON,
    certs::{Pair, certs},
    free_port,
    lines::Lines,
    process::{Process, command},
    temp_dir, wait_until,
};

/// A broker; stopped and its files removed when dropped.
pub(crate) struct Broker {
    process: Option<Process>,
    setup: BrokerBuilder,
    port: u16,
    log: Lines,
    dir: TempDir,
}

/// How a broker differs from the usual one: TLS with client certificates required,
/// everybody welcome who has one, no limit on what waits, nothing kept on disk.
pub(crate) struct BrokerBuilder {
    port: Option<u16>,
    server: Option<Pair>,
    client_ca: Option<PathBuf>,
    acl: Option<String>,
    users: Vec<(String, String)>,
    lines: String,
    wrapper: Vec<String>,
}

impl Broker {
    /// The usual broker.
    pub(crate) fn start() -> Self {
        Self::builder().start()
    }

    pub(crate) fn builder() -> BrokerBuilder {
        BrokerBuilder {
            port: None,
            server: Some(certs().server.clone()),
            client_ca: None,
            acl: None,
            users: Vec::new(),
            lines: String::new(),
            wrapper: Vec::new(),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn has_tls(&self) -> bool {
        self.setup.server.is_some()
    }

    /// What it says: connections, disconnections, subscriptions (`CLIENT QOS FILTER`).
    pub(crate) fn log(&self) -> &Lines {
        &self.log
    }

    /// Gives a user another password, as from the next start.
    pub(crate) fn set_password(&mut self, name: &str, password: &str) {
        self.setup.users = vec![(name.to_owned(), password.to_owned())];
        self.setup.write_access_files(self.dir.path());
    }

    /// Stops it in order, as a service manager does.
    pub(crate) fn stop(&mut self) {
        self.end(Signal::SIGTERM);
    }

    /// Stops it without a DISCONNECT.
    pub(crate) fn kill(&mut self) {
        self.end(Signal::SIGKILL);
    }

    /// Starts it again after [`stop`](Self::stop) or [`kill`](Self::kill), on the same port.
    pub(crate) fn start_again(&mut self) {
        assert!(self.process.is_none(), "the broker still runs");
        assert!(self.try_start(), "the broker's log:\n{}", self.log.text());
    }

    pub(crate) fn restart(&mut self) {
        self.stop();
        self.start_again();
    }

    /// Freezes it: connections stay, the kernel accepts new ones, nothing is answered.
    pub(crate) fn pause(&self) {
        self.running().signal(Signal::SIGSTOP);
    }

    pub(crate) fn resume(&self) {
        self.running().signal(Signal::SIGCONT);
    }

    fn running(&self) -> &Process {
        self.process.as_ref().expect("a running broker")
    }

    fn end(&mut self, signal: Signal) {
        let mut process = self.process.take().expect("a running broker");
        // Mosquitto forgets a signal that comes just before its loop begins, after it has said that it runs.
        let ended = wait_until(SOON, || {
            process.signal(signal);
            process.wait(Duration::from_secs(1)).is_some()
        });
        assert!(ended, "the broker ignored {signal}:\n{}", self.log.text());
    }

    /// Whether it listens now.
    fn try_start(&mut self) -> bool {
        let config = self.dir.path().join("mosquitto.conf");
        fs::write(&config, self.setup.config(self.port, self.dir.path())).unwrap();
        let wrapper = self.setup.wrapper.iter().map(String::as_str);
        let mut words = wrapper.chain(["mosquitto"]);
        let mut command = command(words.next().expect("at least the broker"));
        command.args(words).arg("-c").arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped());

        let before = self.log.count();
        let mut process = Process::spawn(command);
        self.log.collect(process.child().stderr.take().unwrap());
        let running = |line: &str| line.ends_with(" running");
        let started = self.log.wait_from(before, SOON, running).is_some();
        self.process = started.then_some(process);
        started
    }
}

impl BrokerBuilder {
    /// No TLS, so no client certificates either.
    pub(crate) fn plain(mut self) -> Self {
        self.server = None;
        self
    }

    /// Another server certificate than the usual.
    pub(crate) fn server(mut self, server: Pair) -> Self {
        self.server = Some(server);
        self
    }

    /// Takes the clients of another CA than the usual.
    pub(crate) fn client_ca(mut self, ca: PathBuf) -> Self {
        self.client_ca = Some(ca);
        self
    }

    /// Only what this access control list allows.
    pub(crate) fn acl(mut self, acl: &str) -> Self {
        self.acl = Some(acl.to_owned());
        self
    }

    /// Only users with a password; may be repeated.
    pub(crate) fn user(mut self, name: &str, password: &str) -> Self {
        self.users.push((name.to_owned(), password.to_owned()));
        self
    }

    pub(crate) fn max_packet_size(self, bytes: usize) -> Self {
        self.line(&format!("max_packet_size {bytes}"))
    }

    /// Keeps sessions and their messages over [`Broker::restart`].
    pub(crate) fn persistent(self) -> Self {
        self.line("persistence true")
    }

    /// A line of configuration; it wins over the usual ones.
    pub(crate) fn line(mut self, line: &str) -> Self {
        self.lines.push_str(line);
        self.lines.push('\n');
        self
    }

    /// Started by another program, one that goes to another network first.
    pub(crate) fn under(mut self, words: Vec<String>) -> Self {
        self.wrapper = words;
        self
    }

    /// A port chosen before, where nobody listens yet.
    pub(crate) fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Returns once it listens.
    pub(crate) fn start(self) -> Broker {
        let mut broker = Broker {
            process: None,
            port: self.port.unwrap_or_else(free_port),
            setup: self,
            log: Lines::default(),
            dir: temp_dir(),
        };
        broker.setup.write_access_files(broker.dir.path());
        while !broker.try_start() {
            let log = broker.log.text();
            let taken = log.contains("Address already in use") && broker.setup.port.is_none();
            assert!(taken, "the broker does not start; its log:\n{log}");
            broker.port = free_port();
        }
        broker
    }

    fn config(&self, port: u16, dir: &Path) -> String {
        let mut config = format!(
            "listener {port} 127.0.0.1\n\
             allow_anonymous {}\n\
             set_tcp_nodelay true\n\
             max_queued_messages 0\n\
             max_inflight_messages 1000\n\
             persistence_location {}/\n\
             log_dest stderr\n",
            self.users.is_empty(),
            dir.display(),
        );
        for kind in "error warning notice information subscribe unsubscribe".split(' ') {
            writeln!(config, "log_type {kind}").unwrap();
        }
        if fs::metadata("/proc/self").unwrap().uid() == 0 {
            // Else it would give up root, and with it the right to read its key.
            config.push_str("user root\n");
        }
        let mut file = |option: &str, path: PathBuf| {
            writeln!(config, "{option} {}", path.display()).unwrap();
        };
        if let Some(server) = &self.server {
            let ca = self.client_ca.as_ref().unwrap_or(&certs().ca);
            file("cafile", ca.clone());
            file("certfile", server.cert.clone());
            file("keyfile", server.key.clone());
        }
        if self.acl.is_some() {
            file("acl_file", dir.join("acl"));
        }
        if !self.users.is_empty() {
            file("password_file", dir.join("passwords"));
        }
        if self.server.is_some() {
            config.push_str("require_certificate true\n");
        }
        config + &self.lines
    }

    fn write_access_files(&self, dir: &Path) {
        if let Some(acl) = &self.acl {
            fs::write(dir.join("acl"), acl).unwrap();
        }
        let passwords = dir.join("passwords");
        if !self.users.is_empty() {
            fs::write(&passwords, "").unwrap();
        }
        for (name, password) in &self.users {
            let status = Command::new("mosquitto_passwd")
                .arg("-b")
                .arg(&passwords)
                .args([name, password])
                .status();
            assert!(status.expect("mosquitto_passwd").success());
        }
    }
}
