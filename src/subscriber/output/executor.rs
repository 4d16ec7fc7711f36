//! `--exec`: runs a command for each reading, a limited number at a time. A message may be
//! acknowledged once the commands of its readings, and of all messages before it, have ended.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use log::{log, warn};
use parking_lot::{Condvar, Mutex};

use super::completion::{Acknowledger, FinishedMessages};
use super::exec_job::{ExecJob, ExecMessage};
use crate::common::acks::SessionAcks;
use crate::common::runtime::clock::instant_now;
use crate::common::runtime::logging::level_of;
use crate::common::runtime::process::{CommandGroup, CommandOutcome, ExecCommand, NotStarted};
use crate::common::runtime::repeat_filter::RepeatFilter;

/// Bytes that a waiting message takes beside payload and topic, about.
const OVERHEAD: u64 = 256;

/// How long to wait before a command that could not be started is tried again.
const RETRY_DELAY: Duration = Duration::from_secs(1);

struct WaitingMessage {
    number: u64,
    message: Arc<ExecMessage>,
    is_batch: bool,
    begin: usize,
    jobs_left: usize,
}

#[derive(Default)]
struct MessageProgress {
    jobs_left: usize,
    counted: u64,
    completion: Option<FinishedMessages>,
}

#[derive(Default)]
struct ExecutorState {
    waiting: VecDeque<WaitingMessage>,
    unfinished: VecDeque<MessageProgress>,
    first: u64,
    /// Jobs that have left `waiting` and whose end has not been accounted for.
    running: usize,
    not_started: usize,
    failed: u64,
    failures: RepeatFilter,
    is_closed: bool,
    acknowledger: Option<Acknowledger>,
}

impl ExecutorState {
    fn update_open_message(&mut self, update: impl FnOnce(&mut MessageProgress)) {
        let last = self.unfinished.back();
        if last.is_none_or(|last| last.completion.is_some()) {
            self.unfinished.push_back(MessageProgress::default());
        }
        if let Some(last) = self.unfinished.back_mut() {
            update(last);
        }
    }

    fn finish_job(&mut self, number: u64) -> u64 {
        let index = usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let Some(message) = self.unfinished.get_mut(index) else {
            return 0;
        };
        message.jobs_left = message.jobs_left.saturating_sub(1);
        if message.jobs_left > 0 {
            return 0;
        }
        let counted = std::mem::take(&mut message.counted);
        self.record_and_acknowledge(index);
        counted
    }

    /// A message may have to wait until earlier ones are acknowledged, but the next run must not run
    /// its commands again.
    fn record_and_acknowledge(&mut self, index: usize) {
        if index > 0
            && let Some(message) = self.unfinished.get_mut(index)
            && message.jobs_left == 0
            && let Some(completion) = &mut message.completion
        {
            self.acknowledger
                .take_if(|acknowledger| !acknowledger.save_records(completion));
        }
        while let Some(message) = self.unfinished.front_mut()
            && message.jobs_left == 0
            && let Some(completion) = message.completion.take()
        {
            self.unfinished.pop_front();
            self.first += 1;
            self.acknowledger
                .take_if(|acknowledger| !acknowledger.record_and_acknowledge(completion));
        }
    }
}

struct ExecutorShared {
    state: Mutex<ExecutorState>,
    work: Condvar,
    change: Condvar,
    command: ExecCommand,
    group: CommandGroup,
    session_acks: Arc<SessionAcks>,
}

pub struct Executor(Arc<ExecutorShared>);

impl Executor {
    pub fn start(
        command: ExecCommand,
        jobs: usize,
        session_acks: Arc<SessionAcks>,
        acknowledger: Acknowledger,
    ) -> io::Result<Self> {
        let state = ExecutorState {
            acknowledger: Some(acknowledger),
            ..ExecutorState::default()
        };
        let shared = Arc::new(ExecutorShared {
            state: Mutex::new(state),
            work: Condvar::new(),
            change: Condvar::new(),
            command,
            group: CommandGroup::new()?,
            session_acks,
        });
        for slot in 0..jobs {
            let shared = Arc::clone(&shared);
            let builder = std::thread::Builder::new().name(format!("exec-{slot}"));
            builder.spawn(move || shared.run_jobs())?;
        }
        Ok(Self(shared))
    }

    pub fn push(&self, message: ExecMessage, is_batch: bool, count: usize) {
        if count == 0 {
            return;
        }
        let counted = message.size_in_bytes() + OVERHEAD;
        self.0.session_acks.add_bytes(counted);
        let mut state = self.0.state.lock();
        state.update_open_message(|last| {
            last.jobs_left = count;
            last.counted = counted;
        });
        let number = state.first + state.unfinished.len() as u64 - 1;
        state.waiting.push_back(WaitingMessage {
            number,
            message: Arc::new(message),
            is_batch,
            begin: 0,
            jobs_left: count,
        });
        drop(state);
        // Not only one: it may be waiting to try again.
        self.0.work.notify_all();
    }

    pub fn close_message(&self, completion: FinishedMessages) {
        let mut state = self.0.state.lock();
        state.update_open_message(|last| last.completion = Some(completion));
        // Its commands may have ended already.
        let index = state.unfinished.len().saturating_sub(1);
        state.record_and_acknowledge(index);
    }

    pub fn failed_commands(&self) -> u64 {
        self.0.state.lock().failed
    }

    pub fn close(&self, grace_period: Duration) {
        self.0.group.forbid_starts();
        let mut state = self.0.state.lock();
        state.is_closed = true;
        self.0.work.notify_all();
        self.0.change.notify_all();
        // Until the end of the last is accounted for, so that its message is acknowledged.
        let is_running = |state: &mut ExecutorState| state.running > 0;
        let change = &self.0.change;
        change.wait_while_for(&mut state, is_running, grace_period);
        self.0.group.kill_all();
        let left: usize = state.waiting.iter().map(|waiting| waiting.jobs_left).sum();
        let left = left + state.not_started;
        if left > 0 {
            warn!("--exec: {left} messages were not given to the command");
        }
    }

    pub fn abort(&self) {
        self.0.group.try_kill_all();
    }
}

impl ExecutorShared {
    fn run_jobs(&self) {
        while let Some((number, job)) = self.next_job() {
            let outcome = self.run_job(&job);
            let mut state = self.state.lock();
            state.running -= 1;
            match outcome {
                Some(CommandOutcome::Succeeded(_)) => {}
                Some(CommandOutcome::Failed(why)) => {
                    state.failed += 1;
                    let repetition = state.failures.filter(&why, instant_now());
                    log!(
                        level_of(repetition),
                        "--exec {}: {}: {why}{repetition}",
                        self.command.name(),
                        job.describe_message()
                    );
                }
                // The run is ending. A reading whose command was killed stays unacknowledged.
                Some(CommandOutcome::Stopped) | None => {
                    drop(state);
                    self.change.notify_all();
                    return;
                }
            }
            let counted = state.finish_job(number);
            drop(state);
            self.session_acks.remove_bytes(counted);
            self.change.notify_all();
        }
    }

    fn next_job(&self) -> Option<(u64, ExecJob)> {
        let mut state = self.state.lock();
        let has_none = |state: &mut ExecutorState| state.waiting.is_empty() && !state.is_closed;
        self.work.wait_while(&mut state, has_none);
        if state.is_closed {
            return None;
        }
        let waiting = state.waiting.front_mut()?;
        let job = waiting.message.job_at_byte(waiting.begin, waiting.is_batch);
        let number = waiting.number;
        waiting.begin = job.end + 1;
        waiting.jobs_left = waiting.jobs_left.saturating_sub(1);
        if waiting.jobs_left == 0 {
            state.waiting.pop_front();
        }
        state.running += 1;
        Some((number, job))
    }

    /// Runs the command, and tries again while it cannot be started. None if the run ends before.
    fn run_job(&self, job: &ExecJob) -> Option<CommandOutcome> {
        loop {
            // Without the lock: this takes as long as the command does.
            let why = match self.command.run(&job.run_options(), &self.group) {
                Ok(outcome) => return Some(outcome),
                Err(NotStarted::Stopping) => None,
                Err(NotStarted::CannotStart(why)) => Some(why),
            };
            let mut state = self.state.lock();
            let Some(why) = why.filter(|_| !state.is_closed) else {
                state.not_started += 1;
                return None;
            };
            let name = self.command.name();
            let line = format!("--exec {name}: cannot be run: {why}; trying again every second");
            let repetition = state.failures.filter(&line, instant_now());
            log!(level_of(repetition), "{line}{repetition}");
            let is_open = |state: &mut ExecutorState| !state.is_closed;
            self.change.wait_while_for(&mut state, is_open, RETRY_DELAY);
        }
    }
}
