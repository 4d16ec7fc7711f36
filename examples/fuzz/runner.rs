//! One process that goes through many conversations, and its oracle.

use std::fmt;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::conversation::{Conversation, End, FILTERS, Role};
use crate::inputs::{self, Inputs};
use crate::program::Program;
use crate::publisher::{self, Publisher};
use crate::relay::{Broker, Relay};
use crate::server::{Listener, Oracle, Outcome, Session};
use crate::subscriber::Subscriber;
use crate::wire::{Item, Packet, Version};

/// How long a program may take to end after SIGTERM.
const STOP: Duration = Duration::from_secs(6);

/// Settings of all targets.
pub(crate) struct Setup {
    pub(crate) publisher: PathBuf,
    pub(crate) subscriber: PathBuf,
    /// Run the programs under valgrind.
    pub(crate) valgrind: bool,
    /// Factor for all timeouts.
    pub(crate) slowness: u32,
}

/// What is mutated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The packets of a server.
    Scripted,
    /// The packets of the program, on the way to a real broker.
    Relayed,
    /// The input lines.
    Input,
}

/// A program with its flags, and what is mutated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) mode: Mode,
    pub(crate) role: Role,
    pub(crate) version: Version,
    /// QoS of a publisher's messages; 3 for 1 and 2.
    pub(crate) qos: u8,
    pub(crate) seed: u64,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode {
            Mode::Scripted => {}
            Mode::Relayed => f.write_str("relayed-")?,
            Mode::Input => f.write_str("input-")?,
        }
        write!(f, "{}-{}", self.role.name(), self.version.flag())?;
        match (self.role, self.qos) {
            (Role::Publisher, qos @ 1..=2) => write!(f, "-qos{qos}"),
            _ => Ok(()),
        }
    }
}

/// The oracle of the target.
pub(crate) enum ProgramOracle {
    Publisher(Publisher),
    Subscriber(Subscriber),
    Inputs(Inputs),
}

impl Oracle for ProgramOracle {
    fn packet(&mut self, packet: &Packet<'_>) -> Result<(), String> {
        match self {
            Self::Publisher(publisher) => publisher.packet(packet),
            Self::Subscriber(subscriber) => subscriber.packet(packet),
            Self::Inputs(inputs) => inputs.packet(packet),
        }
    }

    fn item(&mut self, item: Item<'_>) {
        match self {
            Self::Publisher(publisher) => publisher.item(item),
            Self::Subscriber(subscriber) => subscriber.item(item),
            Self::Inputs(inputs) => inputs.item(item),
        }
    }
}

impl ProgramOracle {
    fn begin(&mut self) {
        match self {
            Self::Publisher(publisher) => publisher.begin(),
            Self::Subscriber(subscriber) => subscriber.begin(),
            Self::Inputs(_) => {}
        }
    }

    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        match self {
            Self::Publisher(publisher) => publisher.line(line),
            Self::Subscriber(subscriber) => subscriber.line(line),
            Self::Inputs(inputs) => inputs.line(line),
        }
    }

    fn is_short(&self, valid: bool) -> bool {
        match self {
            Self::Publisher(_) | Self::Inputs(_) => false,
            Self::Subscriber(subscriber) => subscriber.is_short(valid),
        }
    }

    fn end(&mut self, outcome: &Outcome, valid: bool) -> Result<(), String> {
        match self {
            Self::Publisher(publisher) => publisher.end(outcome, valid),
            Self::Subscriber(subscriber) => subscriber.end(outcome, valid),
            Self::Inputs(_) => Ok(()),
        }
    }
}

/// A running program and its oracle.
pub(crate) struct Runner<'a> {
    setup: &'a Setup,
    kind: Kind,
    listener: Listener,
    pub(crate) program: Program,
    pub(crate) oracle: ProgramOracle,
}

impl<'a> Runner<'a> {
    pub(crate) fn start(setup: &'a Setup, kind: Kind) -> anyhow::Result<Self> {
        let listener = Listener::open()?;
        let endpoint = format!("mqtt://127.0.0.1:{}", listener.port()?);
        let mut args: Vec<String> = [
            "--endpoint",
            &endpoint,
            "--client-id",
            "fuzz",
            "--mqtt-version",
            kind.version.flag(),
            "--base-backoff",
            "1ms",
            "--max-backoff",
            "1ms",
            "--jitter",
            "0",
            "--proxy",
            "",
        ]
        .map(str::to_owned)
        .to_vec();
        let mut add = |flags: &[&str]| args.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let (path, input, oracle) = match kind.role {
            Role::Subscriber => {
                add(&["--json", "--qos", "2"]);
                for filter in FILTERS {
                    add(&["--topic", filter]);
                }
                let oracle = ProgramOracle::Subscriber(Subscriber::new(kind.version));
                (&setup.subscriber, None, oracle)
            }
            Role::Publisher => {
                // Lost connections must not move messages to the dead letters.
                add(&[
                    "--stdin-line",
                    "--input",
                    "json",
                    "--receipts",
                    "--max-attempts",
                ]);
                add(&["4000000000", "--flush-timeout", "60", "--max-inflight", "6"]);
                let (input, oracle) = if kind.mode == Mode::Input {
                    let inputs = Inputs::new(kind.version, kind.seed);
                    (inputs::lines(kind.seed), ProgramOracle::Inputs(inputs))
                } else {
                    let publisher = Publisher::new(kind.version, kind.seed, kind.qos);
                    let input = publisher::lines(kind.seed, kind.qos);
                    (input, ProgramOracle::Publisher(publisher))
                };
                (&setup.publisher, Some(input), oracle)
            }
        };
        Ok(Self {
            setup,
            kind,
            listener,
            program: Program::start(path, setup.valgrind, &args, input)?,
            oracle,
        })
    }

    /// Waits for the next connection of the program. A missing one is a failure.
    pub(crate) fn accept(&mut self) -> Result<TcpStream, String> {
        let until = Instant::now() + Duration::from_secs(12) * self.setup.slowness;
        loop {
            self.check_running()?;
            let stream = self.listener.accept(Duration::from_millis(100));
            if let Some(stream) = stream.map_err(|error| error.to_string())? {
                return Ok(stream);
            }
            if Instant::now() > until {
                return Err("hangs: it does not connect again".into());
            }
        }
    }

    fn check_running(&mut self) -> Result<(), String> {
        if let Some(alarm) = self.program.alarm() {
            return Err(alarm);
        }
        match self.program.ended() {
            None => Ok(()),
            Some(status) => Err(format!(
                "ends without a signal: {status}\n{}",
                self.program.log()
            )),
        }
    }

    /// Plays a conversation as the server, and checks the program.
    pub(crate) fn play(&mut self, conversation: &Conversation) -> Result<Outcome, String> {
        let stream = self.accept()?;
        self.oracle.begin();
        let subscriber = self.kind.role == Role::Subscriber;
        let session = Session::new(
            stream,
            self.kind.version,
            subscriber,
            self.setup.slowness,
            &mut self.oracle,
        );
        let played = session.play(conversation);
        self.conclude(played, conversation.valid)
    }

    /// Relays a conversation with a broker, and records the broker's packets.
    pub(crate) fn relay(
        &mut self,
        broker: &mut Broker,
        number: u64,
        script: &mut Conversation,
    ) -> Result<Outcome, String> {
        let stream = self.accept()?;
        self.oracle.begin();
        let relay = Relay::new(
            stream,
            broker,
            &mut self.oracle,
            number,
            script,
            self.kind.seed,
        );
        let relayed = relay
            .map_err(|error| format!("{error:#}"))?
            .carry(self.setup.slowness);
        self.conclude(relayed, false)
    }

    /// Serves a connection correctly for this time, then closes it.
    pub(crate) fn serve(&mut self, within: Duration) -> Result<Outcome, String> {
        let stream = self.accept()?;
        self.oracle.begin();
        let session = Session::new(
            stream,
            self.kind.version,
            false,
            self.setup.slowness,
            &mut self.oracle,
        );
        let served = session.serve(within);
        self.conclude(served, false)
    }

    /// An empty conversation for this target.
    pub(crate) fn blank(&self) -> Conversation {
        Conversation {
            role: self.kind.role,
            version: self.kind.version,
            qos: self.kind.qos,
            steps: Vec::new(),
            end: End::Cut,
            valid: false,
            expect: None,
        }
    }

    /// The checks after each conversation.
    fn conclude(
        &mut self,
        played: Result<Outcome, String>,
        valid: bool,
    ) -> Result<Outcome, String> {
        self.read_output(valid && played.as_ref().is_ok_and(|outcome| outcome.complete))?;
        let outcome = played?;
        let log = |why| format!("{why}\n{}", self.program.log());
        self.oracle.end(&outcome, valid).map_err(log)?;
        match self.program.alarm() {
            Some(alarm) => Err(alarm),
            None => Ok(outcome),
        }
    }

    /// Reads the output; waits for a while if expected lines are missing.
    fn read_output(&mut self, valid: bool) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(5) * self.setup.slowness;
        loop {
            while let Some(line) = self.program.line(Duration::ZERO) {
                self.oracle.line(&line)?;
            }
            if !self.oracle.is_short(valid) || Instant::now() > until {
                return Ok(());
            }
            if let Some(line) = self.program.line(Duration::from_millis(20)) {
                self.oracle.line(&line)?;
            }
        }
    }

    /// Serves correctly until the end: everything must be delivered, and the program must exit.
    pub(crate) fn finish(mut self) -> Result<Self, String> {
        if self.kind.role == Role::Subscriber {
            let stream = self.accept()?;
            self.oracle.begin();
            // The program must stop even while it waits for CONNACK.
            let stopped = self.stop();
            drop(stream);
            stopped?;
            return Ok(self);
        }
        self.program.end_input();
        let until = Instant::now() + Duration::from_secs(60) * self.setup.slowness;
        while self.program.ended().is_none() {
            if Instant::now() > until {
                return Err("hangs: its input is at its end, and it does not end".into());
            }
            let stream = self.listener.accept(Duration::from_millis(100));
            let Some(stream) = stream.map_err(|error| error.to_string())? else {
                continue;
            };
            self.oracle.begin();
            let session = Session::new(
                stream,
                self.kind.version,
                false,
                self.setup.slowness,
                &mut self.oracle,
            );
            let served = session.serve(Duration::from_secs(60) * self.setup.slowness);
            self.read_output(false)?;
            served?;
            self.program.wait(Duration::from_millis(200));
        }
        if let Some(alarm) = self.program.alarm() {
            return Err(alarm);
        }
        while let Some(line) = self.program.line(Duration::from_millis(50)) {
            self.oracle.line(&line)?;
        }
        let status = self.program.ended();
        let code = status.and_then(|status| status.code());
        let fed = self.program.fed();
        let some_undelivered = match &self.oracle {
            ProgramOracle::Publisher(publisher) => {
                publisher.check_all(fed)?;
                publisher.undelivered > 0
            }
            ProgramOracle::Inputs(inputs) => {
                inputs.check_all(fed)?;
                inputs.has_rejected()
            }
            ProgramOracle::Subscriber(_) => false,
        };
        // 77 if a server refused a message as not authorized.
        let wanted: &[i32] = if some_undelivered { &[65, 77] } else { &[0] };
        if code.is_none_or(|code| !wanted.contains(&code)) {
            let log = self.program.log();
            return Err(format!(
                "ends with {code:?} where {wanted:?} is right\n{log}"
            ));
        }
        Ok(self)
    }

    /// Sends SIGTERM, and checks that the program ends in time.
    pub(crate) fn stop(&mut self) -> Result<(), String> {
        let failed = |error: anyhow::Error| error.to_string();
        self.program.signal(Signal::SIGTERM).map_err(failed)?;
        let ended = self.program.wait(STOP * self.setup.slowness);
        if ended.is_none() {
            return Err(format!(
                "hangs: SIGTERM has not ended it\n{}",
                self.program.log()
            ));
        }
        match self.program.alarm() {
            Some(alarm) => Err(alarm),
            None => Ok(()),
        }
    }
}
