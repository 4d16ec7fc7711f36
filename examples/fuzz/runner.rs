//! One program that goes through many conversations, and who judges it.

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
use crate::server::{Door, Judge, Outcome, Session};
use crate::subscriber::Subscriber;
use crate::wire::{Item, Packet, Version};

/// What a program that is stopped has left.
const STOP: Duration = Duration::from_secs(6);

/// What is the same for all.
pub(crate) struct Setup {
    pub(crate) publisher: PathBuf,
    pub(crate) subscriber: PathBuf,
    /// They run under it.
    pub(crate) valgrind: bool,
    /// How many times as long everything may take.
    pub(crate) slowness: u32,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// What a server says.
    Scripted,
    /// What the program says, on its way to a real broker.
    Relayed,
    /// What the program is given to publish.
    Input,
}

/// Which program, and how it is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kind {
    pub(crate) way: Way,
    pub(crate) role: Role,
    pub(crate) version: Version,
    /// Of a publisher's messages; 3 for 1 and 2.
    pub(crate) qos: u8,
    pub(crate) seed: u64,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.way {
            Way::Scripted => {}
            Way::Relayed => f.write_str("relayed-")?,
            Way::Input => f.write_str("input-")?,
        }
        write!(f, "{}-{}", self.role.name(), self.version.flag())?;
        match (self.role, self.qos) {
            (Role::Publisher, qos @ 1..=2) => write!(f, "-qos{qos}"),
            _ => Ok(()),
        }
    }
}

/// Who judges it.
pub(crate) enum Referee {
    Publisher(Publisher),
    Subscriber(Subscriber),
    Inputs(Inputs),
}

impl Judge for Referee {
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

impl Referee {
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

/// A program at work, and its judge.
pub(crate) struct Runner<'a> {
    setup: &'a Setup,
    kind: Kind,
    door: Door,
    pub(crate) program: Program,
    pub(crate) referee: Referee,
}

impl<'a> Runner<'a> {
    pub(crate) fn start(setup: &'a Setup, kind: Kind) -> anyhow::Result<Self> {
        let door = Door::open()?;
        let endpoint = format!("mqtt://127.0.0.1:{}", door.port()?);
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
        let (path, input, referee) = match kind.role {
            Role::Subscriber => {
                add(&["--json", "--qos", "2"]);
                for filter in FILTERS {
                    add(&["--topic", filter]);
                }
                let referee = Referee::Subscriber(Subscriber::new(kind.version));
                (&setup.subscriber, None, referee)
            }
            Role::Publisher => {
                // The server here is never to blame a message for a lost connection.
                add(&[
                    "--stdin-line",
                    "--input",
                    "json",
                    "--receipts",
                    "--max-attempts",
                ]);
                add(&["4000000000", "--flush-timeout", "60", "--max-inflight", "6"]);
                let (input, referee) = if kind.way == Way::Input {
                    let inputs = Inputs::new(kind.version, kind.seed);
                    (inputs::lines(kind.seed), Referee::Inputs(inputs))
                } else {
                    let publisher = Publisher::new(kind.version, kind.seed, kind.qos);
                    let input = publisher::lines(kind.seed, kind.qos);
                    (input, Referee::Publisher(publisher))
                };
                (&setup.publisher, Some(input), referee)
            }
        };
        Ok(Self {
            setup,
            kind,
            door,
            program: Program::start(path, setup.valgrind, &args, input)?,
            referee,
        })
    }

    /// The next connection of the program, which has to come.
    pub(crate) fn accept(&mut self) -> Result<TcpStream, String> {
        let until = Instant::now() + Duration::from_secs(12) * self.setup.slowness;
        loop {
            self.check_alive()?;
            let stream = self.door.accept(Duration::from_millis(100));
            if let Some(stream) = stream.map_err(|error| error.to_string())? {
                return Ok(stream);
            }
            if Instant::now() > until {
                return Err("hangs: it does not connect again".into());
            }
        }
    }

    fn check_alive(&mut self) -> Result<(), String> {
        if let Some(alarm) = self.program.alarm() {
            return Err(alarm);
        }
        match self.program.ended() {
            None => Ok(()),
            Some(status) => Err(format!("ends by itself: {status}\n{}", self.program.log())),
        }
    }

    /// Plays the server's part in a conversation, and judges the program's.
    pub(crate) fn converse(&mut self, conversation: &Conversation) -> Result<Outcome, String> {
        let stream = self.accept()?;
        self.referee.begin();
        let subscriber = self.kind.role == Role::Subscriber;
        let session = Session::new(
            stream,
            self.kind.version,
            subscriber,
            self.setup.slowness,
            &mut self.referee,
        );
        let played = session.play(conversation);
        self.conclude(played, conversation.valid)
    }

    /// Carries a conversation with a broker, on which it is changed. What the broker says is written down.
    pub(crate) fn relay(
        &mut self,
        broker: &mut Broker,
        number: u64,
        script: &mut Conversation,
    ) -> Result<Outcome, String> {
        let stream = self.accept()?;
        self.referee.begin();
        let relay = Relay::new(
            stream,
            broker,
            &mut self.referee,
            number,
            script,
            self.kind.seed,
        );
        let relayed = relay
            .map_err(|error| format!("{error:#}"))?
            .carry(self.setup.slowness);
        self.conclude(relayed, false)
    }

    /// Serves a connection as it should be, for so long, and closes it.
    pub(crate) fn serve(&mut self, within: Duration) -> Result<Outcome, String> {
        let stream = self.accept()?;
        self.referee.begin();
        let session = Session::new(
            stream,
            self.kind.version,
            false,
            self.setup.slowness,
            &mut self.referee,
        );
        let served = session.serve(within);
        self.conclude(served, false)
    }

    /// An empty conversation of this kind.
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

    /// What is to be looked at after each conversation.
    fn conclude(
        &mut self,
        played: Result<Outcome, String>,
        valid: bool,
    ) -> Result<Outcome, String> {
        self.hear(valid && played.as_ref().is_ok_and(|outcome| outcome.complete))?;
        let outcome = played?;
        let log = |why| format!("{why}\n{}", self.program.log());
        self.referee.end(&outcome, valid).map_err(log)?;
        match self.program.alarm() {
            Some(alarm) => Err(alarm),
            None => Ok(outcome),
        }
    }

    /// Reads what it has printed, for a while if something is missing.
    fn hear(&mut self, valid: bool) -> Result<(), String> {
        let until = Instant::now() + Duration::from_secs(2) * self.setup.slowness;
        loop {
            while let Some(line) = self.program.line(Duration::ZERO) {
                self.referee.line(&line)?;
            }
            if !self.referee.is_short(valid) || Instant::now() > until {
                return Ok(());
            }
            if let Some(line) = self.program.line(Duration::from_millis(20)) {
                self.referee.line(&line)?;
            }
        }
    }

    /// A server that is as it should be: everything is delivered, and the program ends as told.
    pub(crate) fn finish(mut self) -> Result<Self, String> {
        if self.kind.role == Role::Subscriber {
            let stream = self.accept()?;
            self.referee.begin();
            // It reads nothing more, and has to stop all the same.
            let stopped = self.stop();
            drop(stream);
            stopped?;
            return Ok(self);
        }
        self.program.feed_no_more();
        let until = Instant::now() + Duration::from_secs(60) * self.setup.slowness;
        while self.program.ended().is_none() {
            if Instant::now() > until {
                return Err("hangs: its input is at its end, and it does not end".into());
            }
            let stream = self.door.accept(Duration::from_millis(100));
            let Some(stream) = stream.map_err(|error| error.to_string())? else {
                continue;
            };
            self.referee.begin();
            let session = Session::new(
                stream,
                self.kind.version,
                false,
                self.setup.slowness,
                &mut self.referee,
            );
            let served = session.serve(Duration::from_secs(60) * self.setup.slowness);
            self.hear(false)?;
            served?;
            self.program.wait(Duration::from_millis(200));
        }
        if let Some(alarm) = self.program.alarm() {
            return Err(alarm);
        }
        while let Some(line) = self.program.line(Duration::from_millis(50)) {
            self.referee.line(&line)?;
        }
        let status = self.program.ended();
        let code = status.and_then(|status| status.code());
        let fed = self.program.fed();
        let some_gone = match &self.referee {
            Referee::Publisher(publisher) => {
                publisher.check_all(fed)?;
                publisher.gone > 0
            }
            Referee::Inputs(inputs) => {
                inputs.check_all(fed)?;
                inputs.has_rejected()
            }
            Referee::Subscriber(_) => false,
        };
        // The second if the broker has refused a message for want of a right.
        let wanted: &[i32] = if some_gone { &[65, 77] } else { &[0] };
        if code.is_none_or(|code| !wanted.contains(&code)) {
            let log = self.program.log();
            return Err(format!(
                "ends with {code:?} where {wanted:?} is right\n{log}"
            ));
        }
        Ok(self)
    }

    /// Stops it, and looks at how long that takes.
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
