//! `--exec`: gives each reading to a command, so many at a time. A message may be acknowledged
//! once the commands of its readings, and of all messages before it, have ended.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use log::warn;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::command::{Command, Envelope, Job, Outcome};
use super::sink::{Done, Finish};
use crate::common::acks::Backlog;
use crate::common::event_loop::clock;

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

/// A command that runs.
#[derive(Debug)]
struct Running {
    group: Pid,
    until: Option<Instant>,
    killed: bool,
}

/// How long to wait, in the end, for somebody who looks at the books.
const GLANCES: u32 = 50;
const GLANCE: Duration = Duration::from_millis(1);

#[derive(Default)]
struct State {
    jobs: VecDeque<Waiting>,
    entries: VecDeque<Entry>,
    /// The number of the first of them.
    first: u64,
    running: BTreeMap<usize, Running>,
    /// Jobs that have left the queue and are not in the books yet.
    in_hand: usize,
    /// Jobs that were taken and not started, because the run ends.
    given_back: usize,
    failed: u64,
    /// No further job is started.
    closed: bool,
    /// None once that has failed.
    finish: Option<Finish>,
}

struct Shared {
    state: Mutex<State>,
    /// There is a job, or none is to come.
    work: Condvar,
    /// A command has been started or has ended, or none is to be started any more.
    change: Condvar,
    command: Command,
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
        command: Command,
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
            backlog,
        });
        for slot in 0..jobs {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name(format!("exec-{slot}"))
                .spawn(move || shared.work(slot))?;
        }
        let timekeeper = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("exec-timeout".into())
            .spawn(move || timekeeper.keep_time())?;
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
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.0.lock().failed
    }

    /// Starts no further command, and waits for those that run; after `patience` they are ended.
    pub fn close(&self, patience: Duration) {
        let mut state = self.0.lock();
        state.closed = true;
        self.0.work.notify_all();
        self.0.change.notify_all();
        // Until the last is in the books: what has ended is to be acknowledged.
        let (mut state, _) = self
            .0
            .change
            .wait_timeout_while(state, patience, |state| state.in_hand > 0)
            .unwrap_or_else(PoisonError::into_inner);
        state.kill_all();
        let left = state.jobs.iter().map(|waiting| waiting.left).sum::<usize>() + state.given_back;
        if left > 0 {
            warn!("--exec: {left} messages were not given to the command");
        }
    }

    /// Ends the commands that run, because the process ends now. Waits for nobody who is stuck.
    pub fn abandon(&self) {
        for _ in 0..GLANCES {
            if let Ok(mut state) = self.0.state.try_lock() {
                state.closed = true;
                state.kill_all();
                return;
            }
            std::thread::park_timeout(GLANCE);
        }
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

    fn kill_all(&mut self) {
        for running in self.running.values_mut() {
            running.kill();
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

impl Running {
    /// Ends the command and what it has started: it leads a process group, and has not been
    /// waited for.
    fn kill(&mut self) {
        self.killed = true;
        // It may have ended by itself.
        let _ = killpg(self.group, Signal::SIGKILL);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One thread: runs one command after the other.
    fn work(&self, slot: usize) {
        while let Some((number, job)) = self.next() {
            let outcome = self.run(slot, &job);
            let mut state = self.lock();
            state.in_hand -= 1;
            // Without an end of its own it stays unacknowledged: the run is ending.
            let Some(outcome) = outcome else {
                drop(state);
                self.change.notify_all();
                return;
            };
            if let Outcome::Failed(why) = outcome {
                state.failed += 1;
                warn!("{}", self.command.failure(&job, &why));
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
    fn run(&self, slot: usize, job: &Job) -> Option<Outcome> {
        let mut warned = false;
        let mut child = loop {
            let mut state = self.lock();
            if state.closed {
                state.given_back += 1;
                return None;
            }
            match self.command.spawn(job) {
                Ok(child) => {
                    let until = self.command.timeout.map(|timeout| clock() + timeout);
                    let running = Running {
                        group: child.group(),
                        until,
                        killed: false,
                    };
                    state.running.insert(slot, running);
                    self.change.notify_all();
                    break child;
                }
                Err(why) if !std::mem::replace(&mut warned, true) => {
                    warn!(
                        "{}; trying again every second",
                        self.command.failure(job, &why)
                    );
                }
                Err(_) => {}
            }
            // It has not been dealt with: nothing is acknowledged before it has.
            let _ = self
                .change
                .wait_timeout_while(state, AGAIN, |state| !state.closed)
                .unwrap_or_else(PoisonError::into_inner);
        };
        child.feed(job);
        child.await_end();
        // From here on nobody may send it a signal: its number can be another's.
        let mut state = self.lock();
        let running = state.running.remove(&slot);
        let stopped = state.closed;
        drop(state);
        self.change.notify_all();
        let outcome = child.reap();
        match running {
            Some(Running { killed: true, .. }) if stopped => None,
            Some(Running {
                killed: true,
                until: Some(_),
                ..
            }) => Some(Outcome::Failed(self.command.took_too_long())),
            _ => Some(outcome),
        }
    }

    /// Ends commands that take too long.
    fn keep_time(&self) {
        let mut state = self.lock();
        loop {
            let now = clock();
            let due = state.running.values().filter(|running| !running.killed);
            let next = due.filter_map(|running| running.until).min();
            state = match next {
                Some(until) if until > now => {
                    let waited = self.change.wait_timeout(state, until - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                Some(_) => {
                    for running in state.running.values_mut() {
                        if !running.killed && running.until.is_some_and(|until| until <= now) {
                            running.kill();
                        }
                    }
                    state
                }
                None => self
                    .change
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }
}
