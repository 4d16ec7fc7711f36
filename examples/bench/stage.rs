//! Where it happens: a Mosquitto on loopback, with mutual TLS, lines that delay, and the
//! programs' command lines.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use tempfile::TempDir;

use crate::measure::{Running, start, until};
use crate::peer_programs::PeerPrograms;

/// Bytes of a line, without its newline.
pub(crate) const LINE: usize = 100;

/// The certificates that most of the work is done with.
const CERTS: &str = "certs";

/// The broker, the lines to it, the files.
pub(crate) struct Stage {
    // In this order they are dropped: the directory last.
    far: BTreeMap<u64, (Running, u16)>,
    broker: Running,
    port: u16,
    /// Where our programs are.
    bin: PathBuf,
    pub(crate) peers: PeerPrograms,
    topics: Cell<u32>,
    dir: TempDir,
}

fn free_port() -> anyhow::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

impl Stage {
    pub(crate) fn set(peers: PeerPrograms, dir: Option<&Path>) -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let bin = own.parent().and_then(Path::parent);
        let bin = bin.context("no directory above")?.to_owned();
        let dir = tempfile::Builder::new()
            .prefix("bench-")
            .tempdir_in(dir.unwrap_or(&bin))?;
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let made = Command::new(root.join("scripts/make-certs"))
            .arg(dir.path().join(CERTS))
            .status()?;
        if !made.success() {
            bail!("scripts/make-certs: {made}");
        }
        let (broker, port) = broker(dir.path(), "broker", CERTS)?;
        Ok(Self {
            far: BTreeMap::new(),
            broker,
            port,
            bin,
            peers,
            topics: Cell::new(0),
            dir,
        })
    }

    /// A file of ours.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The port of the broker at loopback.
    pub(crate) fn near(&self) -> u16 {
        self.port
    }

    /// The port of the broker this many milliseconds away, there and back.
    pub(crate) fn far(&mut self, round_trip: u64) -> anyhow::Result<u16> {
        if round_trip == 0 {
            return Ok(self.port);
        }
        if let Some((_, port)) = self.far.get(&round_trip) {
            return Ok(*port);
        }
        let mut command = Command::new(self.bin.join("examples/delay-proxy"));
        let one_way = format!("{}us", round_trip * 500);
        command.args(["0", &self.port.to_string(), &one_way]);
        let file = self.file(&format!("proxy.{round_trip}"));
        let running = start(command.stdout(File::create(&file)?))?;
        let mut port = None;
        until("the delay proxy's port", || {
            let text = fs::read_to_string(&file).unwrap_or_default();
            port = text.strip_suffix('\n').and_then(|text| text.parse().ok());
            port.is_some()
        })?;
        let port: u16 = port.context("no port")?;
        self.far.insert(round_trip, (running, port));
        Ok(port)
    }

    /// A topic that nobody has used before.
    pub(crate) fn topic(&self) -> String {
        self.topics.set(self.topics.get() + 1);
        format!("bench/{}", self.topics.get())
    }

    /// Waits until somebody has subscribed to it.
    pub(crate) fn subscribed(&self, topic: &str) -> anyhow::Result<()> {
        let end = format!(" {topic}");
        until("a subscription", || {
            fs::read_to_string(self.file("broker.log"))
                .is_ok_and(|log| log.lines().any(|line| line.ends_with(&end)))
        })
    }

    /// A file of this many lines.
    pub(crate) fn lines(&self, count: u32) -> anyhow::Result<PathBuf> {
        let file = self.file(&format!("lines.{count}"));
        if !file.exists() {
            let mut out = BufWriter::new(File::create(&file)?);
            for number in 1..=count {
                writeln!(out, "{number:0LINE$}")?;
            }
            out.flush()?;
        }
        Ok(file)
    }

    /// How many whole lines are in it.
    pub(crate) fn count(&self, name: &str) -> anyhow::Result<usize> {
        let mut lines = BufReader::new(File::open(self.file(name))?);
        let mut line = Vec::new();
        let mut count = 0;
        while lines.read_until(b'\n', &mut line)? > 0 {
            count += usize::from(line.len() == LINE + 1);
            line.clear();
        }
        Ok(count)
    }

    /// The process of the broker at loopback.
    pub(crate) fn broker_process(&self) -> &Running {
        &self.broker
    }

    /// Another broker, with certificates of this directory, and its port.
    pub(crate) fn broker(&self, certs: &str) -> anyhow::Result<(Running, u16)> {
        broker(self.dir.path(), &format!("broker-{certs}"), certs)
    }

    /// Makes the certificates with keys of RSA, in the directories `single` (one CA) and `chain` (a chain as AWS IoT
    /// Core's), and gives the size of that chain in bytes.
    pub(crate) fn make_rsa_certificates(&self) -> anyhow::Result<f64> {
        let output = self
            .program("examples/rsa-certs")
            .arg(self.file(""))
            .output()?;
        let size = String::from_utf8_lossy(&output.stdout).trim().parse();
        size.with_context(|| format!("rsa-certs: {output:?}"))
    }

    /// One of our programs.
    pub(crate) fn program(&self, program: &str) -> Command {
        Command::new(self.bin.join(program))
    }

    fn ours(&self, certs: &str, program: &str, port: u16, topic: &str, flags: &[&str]) -> Command {
        let mut command = self.program(program);
        let endpoint = format!("mqtts://localhost:{port}");
        command.args(["--endpoint", &endpoint, "--topic", topic]);
        self.with_files(&mut command, certs);
        command.args(flags);
        command
    }

    fn with_files(&self, command: &mut Command, certs: &str) {
        for (flag, file) in [
            ("--cafile", "ca.pem"),
            ("--cert", "device.pem.crt"),
            ("--key", "private.pem.key"),
        ] {
            command.arg(flag).arg(self.file(certs).join(file));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
    }

    pub(crate) fn publisher(&self, port: u16, topic: &str, flags: &[&str]) -> Command {
        self.publisher_with(CERTS, port, topic, flags)
    }

    pub(crate) fn publisher_with(
        &self,
        certs: &str,
        port: u16,
        topic: &str,
        flags: &[&str],
    ) -> Command {
        self.ours(certs, "publisher", port, topic, flags)
    }

    pub(crate) fn subscriber(&self, topic: &str, flags: &[&str]) -> Command {
        self.ours(CERTS, "subscriber", self.port, topic, flags)
    }

    /// `mosquitto_pub` or `mosquitto_sub`.
    pub(crate) fn mosquitto(
        &self,
        program: &str,
        port: u16,
        topic: &str,
        flags: &[&str],
    ) -> Command {
        self.mosquitto_with(CERTS, program, port, topic, flags)
    }

    pub(crate) fn mosquitto_with(
        &self,
        certs: &str,
        program: &str,
        port: u16,
        topic: &str,
        flags: &[&str],
    ) -> Command {
        self.mosquitto_flags(Command::new(program), certs, port, topic, flags)
    }

    /// The same programs of Debian sid, if they are there.
    pub(crate) fn mosquitto_sid(
        &self,
        program: &str,
        port: u16,
        topic: &str,
        flags: &[&str],
    ) -> Option<Command> {
        self.mosquitto_sid_with(CERTS, program, port, topic, flags)
    }

    pub(crate) fn mosquitto_sid_with(
        &self,
        certs: &str,
        program: &str,
        port: u16,
        topic: &str,
        flags: &[&str],
    ) -> Option<Command> {
        let command = self.peers.mosquitto_sid(program)?;
        Some(self.mosquitto_flags(command, certs, port, topic, flags))
    }

    fn mosquitto_flags(
        &self,
        mut command: Command,
        certs: &str,
        port: u16,
        topic: &str,
        flags: &[&str],
    ) -> Command {
        command.args(["-h", "localhost", "-p", &port.to_string(), "-t", topic]);
        self.with_files(&mut command, certs);
        command.args(flags);
        command
    }

    /// One of the Python peers, if they are there.
    pub(crate) fn python(
        &self,
        script: &str,
        port: u16,
        topic: &str,
        words: &[&str],
    ) -> Option<Command> {
        let command = self.peers.python(script)?;
        Some(self.with_peer_arguments(command, port, topic, words))
    }

    /// The program that uses rumqttc, if it is there.
    pub(crate) fn rumqttc(&self, port: u16, topic: &str, words: &[&str]) -> Option<Command> {
        let command = self.peers.rumqttc()?;
        Some(self.with_peer_arguments(command, port, topic, words))
    }

    /// These take the same arguments.
    fn with_peer_arguments(
        &self,
        mut command: Command,
        port: u16,
        topic: &str,
        words: &[&str],
    ) -> Command {
        command.arg(port.to_string()).arg(self.file(CERTS));
        command.arg(topic).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command
    }
}

/// A Mosquitto that takes everything and writes its log into the directory.
fn broker(dir: &Path, name: &str, certs: &str) -> anyhow::Result<(Running, u16)> {
    let port = free_port()?;
    let certs = dir.join(certs);
    let mut conf = format!("listener {port} 127.0.0.1\n");
    // Devices may have another CA.
    let of_devices = "client-ca.pem";
    let is_there = certs.join(of_devices).exists();
    for (key, file) in [
        ("cafile", if is_there { of_devices } else { "ca.pem" }),
        ("certfile", "server.pem.crt"),
        ("keyfile", "server.pem.key"),
    ] {
        writeln!(conf, "{key} {}", certs.join(file).display())?;
    }
    // Without nodelay it holds PUBACKs back for 40 ms. 0 is no limit.
    conf.push_str(
        "require_certificate true\nallow_anonymous true\nset_tcp_nodelay true\n\
         max_inflight_messages 0\nmax_queued_messages 0\n\
         log_type error\nlog_type notice\nlog_type information\nlog_type subscribe\n",
    );
    // As root it would become somebody who may not read the key.
    let user = fs::metadata(dir)?.uid();
    if user == 0 {
        conf.push_str("user root\n");
    }
    let file = dir.join(format!("{name}.conf"));
    fs::write(&file, conf)?;
    let log = dir.join(format!("{name}.log"));
    let mut command = Command::new("mosquitto");
    command.arg("-c").arg(&file).stderr(File::create(&log)?);
    let mut running = start(command.stdout(Stdio::null()))?;
    let mut ended = false;
    until("the broker's start", || {
        ended = !running.runs();
        ended || fs::read_to_string(&log).is_ok_and(|text| text.contains(" running\n"))
    })?;
    if ended {
        bail!(
            "the broker does not start:\n{}",
            fs::read_to_string(&log).unwrap_or_default()
        );
    }
    Ok((running, port))
}
