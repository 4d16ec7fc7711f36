//! Sources that can block: standard input and commands, each on a thread.
//!
//! The thread reads only on request: the event loop requests as many readings as the outbox has space for, so that no
//! more than one buffer of standard input is read ahead. Payloads are not looked at here.

mod event;
mod lines;

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use event::Demand;
pub use event::{Emit, InputChunk, InputError, SourceEvent};

use crate::common::runtime::process::{
    CommandGroup, CommandOutcome, ExecCommand, NotStarted, RunOptions,
};
use crate::common::runtime::stdio;

/// A handle to the thread. Dropping it requests nothing more.
#[derive(Debug)]
pub struct SourceThread {
    demand: Sender<Demand>,
    outstanding: Demand,
    commands: Option<Arc<CommandGroup>>,
}

impl SourceThread {
    /// With `together`, lines that are available at the same time come as one chunk. `max` is in bytes.
    pub fn stdin_lines(max: usize, together: bool, emit: impl Emit) -> io::Result<Self> {
        Self::spawn(None, move |demand| {
            lines::read(stdio::stdin(), max, together, demand, emit);
        })
    }

    pub fn whole_stdin(max: usize, mut emit: impl Emit) -> io::Result<Self> {
        Self::spawn(None, move |demand| {
            if demand.recv().is_ok() {
                emit(vec![read_whole(stdio::stdin(), max), SourceEvent::End]);
            }
        })
    }

    pub fn command(command: ExecCommand, max: usize, mut emit: impl Emit) -> io::Result<Self> {
        let group = Arc::new(CommandGroup::new()?);
        let commands = Some(Arc::clone(&group));
        Self::spawn(commands, move |demand| {
            let mut line = 0;
            while demand.recv().is_ok() {
                line += 1;
                let event = match read_command_output(&command, max, &group) {
                    Ok(payload) => SourceEvent::InputChunk(InputChunk::Message { line, payload }),
                    Err(why) => {
                        let why = format!("--exec {}: {why}; skipped", command.name());
                        SourceEvent::Failed(InputError::CommandFailed(why))
                    }
                };
                if !emit(vec![event]) {
                    return;
                }
            }
        })
    }

    fn spawn(
        commands: Option<Arc<CommandGroup>>,
        work: impl FnOnce(&Receiver<Demand>) + Send + 'static,
    ) -> io::Result<Self> {
        let (demand, requests) = mpsc::channel();
        std::thread::Builder::new()
            .name("source".into())
            .spawn(move || {
                crate::common::runtime::affinity::unpin();
                work(&requests);
            })?;
        Ok(Self {
            demand,
            outstanding: Demand::default(),
            commands,
        })
    }

    pub fn request(&mut self, readings: usize, bytes: u64) {
        let more = Demand {
            readings: readings.saturating_sub(self.outstanding.readings),
            bytes: bytes.saturating_sub(self.outstanding.bytes),
        };
        // More bytes are of use only while there are readings left to read.
        let useful = more.readings > 0 || (self.has_outstanding_demand() && more.bytes > 0);
        if useful && self.demand.send(more).is_ok() {
            self.outstanding.add(more);
        }
    }

    pub fn has_outstanding_demand(&self) -> bool {
        self.outstanding.readings > 0
    }

    pub fn deduct_received(&mut self, event: &SourceEvent) {
        let (readings, bytes) = match event {
            SourceEvent::InputChunk(chunk) => (chunk.reading_count(), chunk.bytes()),
            _ => (1, 0),
        };
        self.outstanding.subtract(readings, bytes);
    }

    pub fn stop_commands(&mut self) {
        if let Some(commands) = &self.commands {
            commands.kill_all();
        }
    }
}

fn read_whole(input: impl Read, max: usize) -> SourceEvent {
    let mut payload = Vec::new();
    match input.take(max as u64 + 1).read_to_end(&mut payload) {
        Ok(_) if payload.len() > max => SourceEvent::Failed(InputError::LineTooLong { line: 1 }),
        Ok(_) => SourceEvent::InputChunk(InputChunk::Message { line: 1, payload }),
        Err(error) => SourceEvent::Failed(InputError::ReadFailed(error)),
    }
}

fn read_command_output(
    command: &ExecCommand,
    max: usize,
    group: &CommandGroup,
) -> Result<Vec<u8>, String> {
    let task = RunOptions {
        env: Vec::new(),
        input: None,
        output: Some(max),
    };
    match command.run(&task, group) {
        Ok(CommandOutcome::Succeeded(payload)) => Ok(payload),
        Ok(CommandOutcome::Failed(why)) => Err(why),
        Ok(CommandOutcome::Stopped) | Err(NotStarted::Stopping) => Err("the run is ending".into()),
        Err(NotStarted::CannotStart(why)) => Err(format!("cannot be run: {why}")),
    }
}
