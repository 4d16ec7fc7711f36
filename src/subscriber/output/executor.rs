//! `--exec`: gives each reading to a command, so many at a time. A message may be acknowledged
//! once the commands of its readings, and of all messages before it, have ended.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use log::warn;

use super::command::{Envelope, Job};
use crate::common::acks::Backlog;
use crate::common::runtime::clock::clock;
use crate::common::runtime::process::{CommandGroup, CommandOutcome, ExecCommand, NotStarted};
use crate::common::runtime::repeat_filter::RepeatFilter;
use crate::subscriber::inbox::sink::{Done, Finish};

/// Bytes that a waiting job takes beside its payload and topic, about.
const OVERHEAD: u64 = 256;

/// How long to wait before a command that could not be started is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// A message whose readings have not all been given to a command. They are taken out one by one.
#[derive(Debug)]
struct Waiting {
    /// The number of its entry.
    number: u64,
    envelope: Arc<Envelope>,
    /// It is a batch, whose readings end with newlines.
    is_batch: bool,
    /// Where the next reading begins.
    begin: usize,
    /// Readings that are left.
    left: usize,
}

/// A message whose readings are jobs.
#[derive(Debug, Default)]
struct Entry {
    /// Jobs that have not ended.
    left: usize,
    /// What it counts in the backlog.
    counted: u64,
    /// What is to be said once they have; none until it is complete.
    done: Option<Done>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Waiting>,
    entries: VecDeque<Entry>,
    /// The number of the first of them.
    first: u64,
    /// Jobs that have left the queue and are not in the books yet.
    in_hand: usize,
    /// Jobs that were taken and not started, because the run ends.
    given_back: usize,
    failed: u64,
    /// The command could not be started.
    not_started: RepeatFilter,
    /// No further job is started.
    closed: bool,
    /// None once that has failed.
    finish: Option<Finish>,
}

struct Shared {
    state: Mutex<State>,
    /// There is a job, or none is to come.
    work: Condvar,
    /// A command has ended, or none is to be started any more.
    change: Condvar,
    command: ExecCommand,
    group: CommandGroup,
    backlog: Arc<Backlog>,
}

/// The commands.
pub struct Executor(Arc<Shared>);

impl std::fmt::Debug for Executor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").finish_non_exhaustive()
    }
}

impl Executor {
    /// Starts the threads, one for each of `jobs` commands at a time.
    ///
    /// # Errors
    ///
    /// The operating system's, if there are no more threads to be had.
    pub fn start(
        command: ExecCommand,
        jobs: usize,
        backlog: Arc<Backlog>,
        finish: Finish,
    ) -> io::Result<Self> {
        let state = State {
            finish: Some(finish),
            ..State::default()
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            change: Condvar::new(),
            command,
            group: CommandGroup::new()?,
            backlog,
        });
        for slot in 0..jobs {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("exec-{slot}"))
                .spawn(move || shared.work())?;
        }
        Ok(Self(shared))
    }

    /// The first `wanted` readings of a message; in a batch they end with newlines.
    pub fn put(&self, envelope: Envelope, is_batch: bool, wanted: usize) {
        if wanted == 0 {
            return;
        }
        let counted = envelope.bytes() + OVERHEAD;
        self.0.backlog.add(counted);
        let mut state = self.0.lock();
        state.with_last(|entry| {
            entry.left = wanted;
            entry.counted = counted;
        });
        let number = state.first + state.entries.len() as u64 - 1;
        state.jobs.push_back(Waiting {
            number,
            envelope: Arc::new(envelope),
            is_batch,
            begin: 0,
            left: wanted,
        });
        drop(state);
        // One that waits to try again would not pass it on.
        self.0.work.notify_all();
    }

    /// The message that the last readings belong to is complete.
    pub fn end(&self, done: Done) {
        let mut state = self.0.lock();
        state.with_last(|entry| entry.done = Some(done));
        // What it waits for may have ended already.
        let last = state.entries.len() - 1;
        state.remember(last);
        state.settle();
    }

    /// Commands that failed.
    pub fn failed(&self) -> u64 {
        self.0.lock().failed
    }

    /// Starts no further command, and waits for those that run; after `patience` they are ended.
    pub fn close(&self, patience: Duration) {
        self.0.group.close();
        let mut state = self.0.lock();
        state.closed = true;
        self.0.work.notify_all();
        self.0.change.notify_all();
        // Until the last is in the books: what has ended is to be acknowledged.
        let (state, _) = self
            .0
            .change
            .wait_timeout_while(state, patience, |state| state.in_hand > 0)
            .unwrap_or_else(PoisonError::into_inner);
        self.0.group.stop();
        let left = state.jobs.iter().map(|waiting| waiting.left).sum::<usize>() + state.given_back;
        if left > 0 {
            warn!("--exec: {left} messages were not given to the command");
        }
    }

    /// Ends the commands that run, because the process ends now. Waits for nobody who is stuck.
    pub fn abandon(&self) {
        self.0.group.abandon();
    }
}

impl State {
    /// Does something to the message that is coming in; a new one begins when the last is complete.
    fn with_last(&mut self, act: impl FnOnce(&mut Entry)) {
        if self.entries.back().is_none_or(|entry| entry.done.is_some()) {
            self.entries.push_back(Entry::default());
        }
        if let Some(entry) = self.entries.back_mut() {
            act(entry);
        }
    }

    /// A command has ended. If all of its message have, that is remembered, though others may have to be
    /// acknowledged before it: the next run shall not run them again.
    fn remember(&mut self, index: usize) {
        // The first one's turn has come.
        if index > 0
            && let Some(entry) = self.entries.get_mut(index)
            && entry.left == 0
            && let Some(done) = &mut entry.done
            && let Some(finish) = &mut self.finish
            && !finish.remember(done)
        {
            self.finish = None;
        }
    }

    /// Finishes the messages whose turn it is.
    fn settle(&mut self) {
        while let Some(entry) = self.entries.front_mut()
            && entry.left == 0
            && let Some(done) = entry.done.take()
        {
            self.entries.pop_front();
            self.first += 1;
            if !self
                .finish
                .as_mut()
                .is_some_and(|finish| finish.finish(done))
            {
                self.finish = None;
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One thread: runs one command after the other.
    fn work(&self) {
        while let Some((number, job)) = self.next() {
            let outcome = self.run(&job);
            let mut state = self.lock();
            state.in_hand -= 1;
            match outcome {
                Some(CommandOutcome::Succeeded(_)) => {}
                Some(CommandOutcome::Failed(why)) => {
                    state.failed += 1;
                    warn!("--exec {}: {}: {why}", self.command.name(), job.name());
                }
                // Without an end of its own it stays unacknowledged: the run is ending.
                Some(CommandOutcome::Stopped) | None => {
                    drop(state);
                    self.change.notify_all();
                    return;
                }
            }
            let index = usize::try_from(number.saturating_sub(state.first)).unwrap_or(usize::MAX);
            let mut counted = 0;
            if let Some(entry) = state.entries.get_mut(index) {
                entry.left = entry.left.saturating_sub(1);
                if entry.left == 0 {
                    counted = std::mem::take(&mut entry.counted);
                }
            }
            state.remember(index);
            state.settle();
            drop(state);
            self.backlog.remove(counted);
            self.change.notify_all();
        }
    }

    fn next(&self) -> Option<(u64, Job)> {
        let state = self.lock();
        let mut state = self
            .work
            .wait_while(state, |state| state.jobs.is_empty() && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return None;
        }
        let waiting = state.jobs.front_mut()?;
        let job = waiting.envelope.job(waiting.begin, waiting.is_batch);
        let number = waiting.number;
        waiting.begin = job.next();
        waiting.left = waiting.left.saturating_sub(1);
        if waiting.left == 0 {
            state.jobs.pop_front();
        }
        state.in_hand += 1;
        Some((number, job))
    }

    /// Runs the command on a reading, in the end; none if the run ends before.
    fn run(&self, job: &Job) -> Option<CommandOutcome> {
        loop {
            // Not under the lock: this takes as long as the command does.
            let why = match self.command.run(&job.task(), &self.group) {
                Ok(outcome) => return Some(outcome),
                Err(NotStarted::Stopping) => None,
                Err(NotStarted::CannotStart(why)) => Some(why),
            };
            let mut state = self.lock();
            if state.closed || why.is_none() {
                state.given_back += 1;
                return None;
            }
            let why = why.unwrap_or_default();
            let name = self.command.name();
            let line = format!("--exec {name}: cannot be run: {why}; trying again every second");
            if let Some(line) = state.not_started.filter(&line, clock()) {
                warn!("{line}");
            }
            // It has not been dealt with: nothing is acknowledged before it has.
            let _ = self
                .change
                .wait_timeout_while(state, AGAIN, |state| !state.closed)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}
