//! Where messages come from: standard input, a command, a thermometer, or one that is at
//! hand.
//!
//! What can block (reading, running a command) does so on a thread of its own, and only on
//! demand: the event loop asks for as many messages as the outbox has room for, so nothing
//! is read ahead of that but one buffer of standard input. What to do with a message is
//! not decided here.

mod lines;

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use crate::common::runtime::process::{Command, Group, NotRun, Outcome, Task};
use crate::common::runtime::stdio;

/// One message, or several that travel together.
#[derive(Debug)]
pub enum Piece {
    Message {
        /// The line of standard input, or the run of the command, from 1.
        line: u64,
        /// Its bytes.
        payload: Vec<u8>,
    },
    /// Lines of standard input.
    Lines {
        /// The first of them, from 1; no line is missing between them.
        first: u64,
        count: usize,
        /// Their bytes, each with a newline at its end, the last one too.
        bytes: Vec<u8>,
    },
}

impl Piece {
    pub fn messages(&self) -> usize {
        match self {
            Piece::Message { .. } => 1,
            Piece::Lines { count, .. } => *count,
        }
    }

    pub fn bytes(&self) -> u64 {
        match self {
            Piece::Message { payload, .. } => payload.len() as u64,
            Piece::Lines { bytes, .. } => bytes.len() as u64,
        }
    }
}

/// Something from a source.
#[derive(Debug)]
pub enum Input {
    /// What was asked for.
    Piece(Piece),
    /// A message longer than allowed; it was skipped over.
    TooLong {
        /// The line of standard input.
        line: u64,
    },
    /// The command failed; there is no message this time.
    Failed(String),
    /// There is nothing more.
    End,
    /// There may be more, but it cannot be read.
    Broken(io::Error),
}

impl Input {
    /// What was asked for by it.
    fn demanded(&self) -> Demand {
        match self {
            Input::Piece(piece) => Demand {
                messages: piece.messages(),
                bytes: piece.bytes(),
            },
            _ => Demand {
                messages: 1,
                bytes: 0,
            },
        }
    }
}

/// What may be read: so many messages, and none that begins after so many bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Demand {
    messages: usize,
    bytes: u64,
}

/// A source on a thread of its own. Dropping it asks for nothing more.
#[derive(Debug)]
pub struct Feed {
    demand: Sender<Demand>,
    outstanding: Demand,
    /// The command that may be running.
    commands: Option<Arc<Group>>,
}

/// Gives inputs to the event loop; `false` once nobody listens any more.
pub trait Emit: FnMut(Vec<Input>) -> bool + Send + 'static {}
impl<F: FnMut(Vec<Input>) -> bool + Send + 'static> Emit for F {}

impl Feed {
    /// Each line of standard input; at most `max` bytes. `together` lets those travel in one
    /// piece that are at hand at the same time.
    ///
    /// # Errors
    ///
    /// The operating system's, if there are no more threads to be had.
    pub fn lines(max: usize, together: bool, emit: impl Emit) -> io::Result<Self> {
        Self::spawn(None, move |demand| {
            lines::read(stdio::stdin(), max, together, demand, emit);
        })
    }

    /// All of standard input as one message; at most `max` bytes.
    ///
    /// # Errors
    ///
    /// The operating system's, if there are no more threads to be had.
    pub fn whole(max: usize, mut emit: impl Emit) -> io::Result<Self> {
        Self::spawn(None, move |demand| {
            if demand.recv().is_ok() {
                emit(vec![read_whole(stdio::stdin(), max), Input::End]);
            }
        })
    }

    /// What a command prints, one run a demand; at most `max` bytes.
    ///
    /// # Errors
    ///
    /// The operating system's, if there are no more threads to be had.
    pub fn command(command: Command, max: usize, mut emit: impl Emit) -> io::Result<Self> {
        let group = Arc::new(Group::new()?);
        let commands = Some(Arc::clone(&group));
        Self::spawn(commands, move |demand| {
            let mut line = 0;
            while demand.recv().is_ok() {
                line += 1;
                let input = match run_command(&command, max, &group) {
                    Ok(payload) => Input::Piece(Piece::Message { line, payload }),
                    Err(why) => Input::Failed(format!("--exec {}: {why}; skipped", command.name())),
                };
                if !emit(vec![input]) {
                    return;
                }
            }
        })
    }

    fn spawn(
        commands: Option<Arc<Group>>,
        work: impl FnOnce(&Receiver<Demand>) + Send + 'static,
    ) -> io::Result<Self> {
        let (demand, wanted) = mpsc::channel();
        std::thread::Builder::new()
            .name("source".into())
            .spawn(move || {
                crate::common::runtime::affinity::spread();
                work(&wanted);
            })?;
        Ok(Self {
            demand,
            outstanding: Demand::default(),
            commands,
        })
    }

    /// Asks until so many messages and bytes are on their way.
    pub fn want(&mut self, messages: usize, bytes: u64) {
        let more = Demand {
            messages: messages.saturating_sub(self.outstanding.messages),
            bytes: bytes.saturating_sub(self.outstanding.bytes),
        };
        // Bytes alone matter only to one that has messages left to read.
        let useful = more.messages > 0 || (self.is_busy() && more.bytes > 0);
        if useful && self.demand.send(more).is_ok() {
            self.outstanding.messages += more.messages;
            self.outstanding.bytes += more.bytes;
        }
    }

    /// Whether something asked for has not come yet.
    pub fn is_busy(&self) -> bool {
        self.outstanding.messages > 0
    }

    /// Some of what was asked for has come.
    pub fn received(&mut self, input: &Input) {
        self.outstanding.take(input.demanded());
    }

    /// Ends a running command; no other is started.
    pub fn stop(&mut self) {
        if let Some(commands) = &self.commands {
            commands.stop();
        }
    }
}

impl Demand {
    fn take(&mut self, less: Demand) {
        self.messages = self.messages.saturating_sub(less.messages);
        self.bytes = self.bytes.saturating_sub(less.bytes);
    }

    fn is_spent(&self) -> bool {
        self.messages == 0 || self.bytes == 0
    }

    fn add(&mut self, more: Demand) {
        self.messages = self.messages.saturating_add(more.messages);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

fn read_whole(input: impl Read, max: usize) -> Input {
    let mut payload = Vec::new();
    match input.take(max as u64 + 1).read_to_end(&mut payload) {
        Ok(_) if payload.len() > max => Input::TooLong { line: 1 },
        Ok(_) => Input::Piece(Piece::Message { line: 1, payload }),
        Err(error) => Input::Broken(error),
    }
}

/// Runs a command to its end; its output, without one final newline, is the message.
fn run_command(command: &Command, max: usize, group: &Group) -> Result<Vec<u8>, String> {
    let task = Task {
        env: Vec::new(),
        input: None,
        output: Some(max),
    };
    match command.run(&task, group) {
        Ok(Outcome::Succeeded(payload)) => Ok(payload),
        Ok(Outcome::Failed(why)) => Err(why),
        Ok(Outcome::Stopped) | Err(NotRun::Stopping) => Err("the run is ending".into()),
        Err(NotRun::CannotStart(why)) => Err(format!("cannot be run: {why}")),
    }
}
