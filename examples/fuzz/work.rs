//! The list of targets, how long each runs, and how a failure is reduced and reported.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::conversation::{Conversation, Role};
use crate::relay::Broker;
use crate::runner::{Kind, Mode, ProgramOracle, Runner, Setup};
use crate::server::Outcome;
use crate::wire::{Fields, Version, kind, read_connack, take_packet};

/// Number of conversations before a failure that may have caused it.
const HISTORY: usize = 16;

/// Allowed growth of the resident memory between the first fifth and the end.
const GROWTH: u64 = 4 << 20;

/// Exit codes after a refusal by the broker.
const REFUSED: [i32; 4] = [69, 76, 77, 78];

/// One target of a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    kind: Kind,
}

/// Limits of a run, and where failures are saved.
pub(crate) struct Bounds {
    pub(crate) time: Duration,
    pub(crate) conversations: Option<u64>,
    pub(crate) jobs: usize,
    pub(crate) failures: usize,
    pub(crate) save: PathBuf,
}

impl Plan {
    pub(crate) fn all(seed: u64, only: Option<&str>) -> Vec<Self> {
        use Role::{Publisher, Subscriber};
        use Version::{V5, V311};
        let kinds = [
            (Mode::Scripted, Subscriber, V5, 0),
            (Mode::Scripted, Subscriber, V311, 0),
            (Mode::Scripted, Publisher, V5, 1),
            (Mode::Scripted, Publisher, V5, 2),
            (Mode::Scripted, Publisher, V311, 1),
            (Mode::Scripted, Publisher, V311, 2),
            (Mode::Relayed, Subscriber, V5, 0),
            (Mode::Relayed, Subscriber, V311, 0),
            (Mode::Relayed, Publisher, V5, 3),
            (Mode::Relayed, Publisher, V311, 3),
            (Mode::Input, Publisher, V5, 0),
            (Mode::Input, Publisher, V311, 0),
        ];
        let plans = (1..)
            .zip(kinds)
            .map(|(number, (mode, role, version, qos))| Self {
                kind: Kind {
                    mode,
                    role,
                    version,
                    qos,
                    seed: fastrand::Rng::with_seed(seed ^ (number << 32)).u64(..),
                },
            });
        plans
            .filter(|plan| only.is_none_or(|only| plan.name().contains(only)))
            .collect()
    }

    fn name(&self) -> String {
        self.kind.to_string()
    }

    fn conversation(&self, number: u64) -> Conversation {
        let Kind {
            role,
            version,
            qos,
            seed,
            ..
        } = self.kind;
        Conversation::draw(role, version, qos, seed, number)
    }
}

/// Results of a target.
#[derive(Default)]
struct Statistics {
    conversations: u64,
    late: u64,
    complete: u64,
    closed: u64,
    refused: u64,
    /// Reason codes of the program's DISCONNECT packets.
    codes: BTreeMap<u8, u64>,
    memory: Option<(u64, u64)>,
    /// Number of input lines.
    lines: u64,
    failures: usize,
}

impl Statistics {
    fn count(&mut self, outcome: &Outcome) {
        self.conversations += 1;
        self.late += u64::from(outcome.late > 0);
        self.complete += u64::from(outcome.complete);
        self.closed += u64::from(outcome.closed);
        if let Some(code) = outcome.code {
            *self.codes.entry(code).or_default() += 1;
        }
    }

    fn line(&self, name: &str, time: Duration) -> String {
        let rate = u128::from(self.conversations) * 1000 / time.as_millis().max(1);
        let mut line = format!(
            "{name}: {} conversations, {rate}/s; {} complete, {} late, {} ended by the program",
            self.conversations, self.complete, self.late, self.closed
        );
        for (code, count) in &self.codes {
            let _ = write!(line, ", {count} with 0x{code:02x}");
        }
        if self.refused > 0 {
            let _ = write!(line, "; {} refused", self.refused);
        }
        if self.lines > 0 {
            let _ = write!(line, "; {} lines of input", self.lines);
        }
        if let Some((before, after)) = self.memory {
            let mb = |bytes: u64| format!("{}.{}", bytes / 1_000_000, bytes / 100_000 % 10);
            let _ = write!(line, "; memory {} to {} MB", mb(before), mb(after));
        }
        if self.failures > 0 {
            let _ = write!(line, "; {} FAILED", self.failures);
        }
        line
    }
}

/// Runs all targets. Returns the number of failures.
pub(crate) fn run(setup: &Setup, plans: &[Plan], bounds: &Bounds) -> anyhow::Result<usize> {
    let next = AtomicUsize::new(0);
    let failures = AtomicUsize::new(0);
    let rounds = plans.len().div_ceil(bounds.jobs.max(1)).max(1);
    let share = bounds.time / u32::try_from(rounds)?;
    thread::scope(|scope| {
        let jobs: Vec<_> = (0..bounds.jobs.max(1))
            .map(|_| {
                scope.spawn(|| -> anyhow::Result<()> {
                    while let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed)) {
                        Job {
                            setup,
                            plan: *plan,
                            bounds,
                            failures: &failures,
                            statistics: Statistics::default(),
                        }
                        .run(share)?;
                    }
                    Ok(())
                })
            })
            .collect();
        for job in jobs {
            job.join()
                .map_err(|_| anyhow::anyhow!("a bug of the fuzzer"))??;
        }
        Ok::<_, anyhow::Error>(())
    })?;
    Ok(failures.into_inner())
}

/// A running target.
struct Job<'a> {
    setup: &'a Setup,
    plan: Plan,
    bounds: &'a Bounds,
    failures: &'a AtomicUsize,
    statistics: Statistics,
}

impl Job<'_> {
    fn start(&self) -> anyhow::Result<Runner<'_>> {
        Runner::start(self.setup, self.plan.kind)
    }

    fn run(mut self, share: Duration) -> anyhow::Result<()> {
        let began = Instant::now();
        let mut number = 0;
        // After a failure a new process continues.
        while !self.is_over(began, share, number) {
            self.one_program(began, share, &mut number)?;
        }
        println!(
            "{}",
            self.statistics.line(&self.plan.name(), began.elapsed())
        );
        Ok(())
    }

    fn is_over(&self, began: Instant, share: Duration, number: u64) -> bool {
        began.elapsed() >= share
            || self.bounds.conversations.is_some_and(|most| number >= most)
            || self.failures.load(Ordering::Relaxed) >= self.bounds.failures
    }

    fn one_program(
        &mut self,
        began: Instant,
        share: Duration,
        number: &mut u64,
    ) -> anyhow::Result<()> {
        let (setup, kind) = (self.setup, self.plan.kind);
        let mut runner = Runner::start(setup, kind)?;
        let first = *number;
        let mut before = None;
        let mut history = VecDeque::new();
        let mut broker = match kind.mode {
            Mode::Relayed => Some(Broker::start()?),
            Mode::Scripted | Mode::Input => None,
        };
        while !self.is_over(began, share, *number) {
            *number += 1;
            let mut conversation = match kind.mode {
                Mode::Scripted => self.plan.conversation(*number - 1),
                Mode::Relayed | Mode::Input => runner.blank(),
            };
            if kind.role == Role::Publisher && ends_a_run(&conversation) {
                self.refuse(&conversation, *number)?;
                continue;
            }
            let done = match (kind.mode, &mut broker) {
                (Mode::Relayed, Some(broker)) => runner.relay(broker, *number, &mut conversation),
                (Mode::Input, _) => runner.serve(Duration::from_millis(1 + *number * 7 % 40)),
                _ => runner.play(&conversation),
            };
            if kind.mode != Mode::Input {
                history.push_back(conversation);
            }
            if history.len() > HISTORY {
                history.pop_front();
            }
            match done {
                Ok(outcome) => self.statistics.count(&outcome),
                Err(why) => {
                    drop(runner);
                    return self.failed(&why, &history, *number - 1);
                }
            }
            let warm = *number - first >= 300 && began.elapsed() > share / 5;
            if warm && before.is_none() {
                before = Some(runner.program.resident()?);
            }
        }
        let after = runner.program.resident();
        if let (Some(before), Ok(after)) = (before, after) {
            self.statistics.memory = Some((before, after));
            if self.setup.slowness == 1 && after > before + GROWTH {
                let why = format!("its memory grows from {before} to {after} bytes");
                self.failed(&why, &VecDeque::new(), *number)?;
            }
        }
        self.statistics.lines += runner.program.fed();
        if let Err(why) = runner.finish() {
            return self.failed(&format!("in the end: {why}"), &history, *number);
        }
        if kind.mode != Mode::Scripted {
            return Ok(());
        }
        let mut runner = Runner::start(setup, kind)?;
        let conversations = (*number..*number + 5).map(|number| self.plan.conversation(number));
        let stopped = conversations
            .filter(|conversation| !ends_a_run(conversation))
            .try_for_each(|conversation| runner.play(&conversation).map(drop))
            .and_then(|()| runner.stop());
        if let Err(why) = stopped {
            self.failed(&format!("stopped: {why}"), &history, *number)?;
        }
        Ok(())
    }

    /// A refusal ends a publisher's run, so it is played to a separate process.
    fn refuse(&mut self, conversation: &Conversation, number: u64) -> anyhow::Result<()> {
        if !number.is_multiple_of(8) {
            return Ok(());
        }
        let mut runner = self.start()?;
        let result = runner
            .play(conversation)
            .and_then(|_| runner.accept().map(drop));
        let refused = runner.program.ended().and_then(|status| status.code());
        let alarm = runner.program.alarm();
        drop(runner);
        self.statistics.conversations += 1;
        self.statistics.refused += 1;
        match (result, alarm) {
            (Err(why), None) if refused.is_none_or(|code| !REFUSED.contains(&code)) => {
                self.failed(&why, &VecDeque::from([conversation.clone()]), number)
            }
            (_, Some(alarm)) => {
                self.failed(&alarm, &VecDeque::from([conversation.clone()]), number)
            }
            _ => Ok(()),
        }
    }

    /// Reports a failure: finds the shortest history that reproduces it, and saves that.
    fn failed(
        &mut self,
        why: &str,
        history: &VecDeque<Conversation>,
        number: u64,
    ) -> anyhow::Result<()> {
        self.statistics.failures += 1;
        let count = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let name = self.plan.name();
        println!("{name}: conversation {number}: {why}");
        if history.is_empty() {
            return Ok(());
        }
        let mut found = None;
        for length in [1, 2, 4, 8, HISTORY] {
            let from = history.len().saturating_sub(length);
            let part: Vec<_> = history.iter().skip(from).cloned().collect();
            if let Err(again) = play(self.setup, self.plan.kind, &part)
                && class(&again) == class(why)
            {
                found = Some((self.smaller(part, why), again));
                break;
            }
        }
        let again = found.is_some();
        let (part, why) = found.unwrap_or_else(|| (history.iter().cloned().collect(), why.into()));
        let file = self
            .bounds
            .save
            .join(format!("{name}-{number}-{count}.txt"));
        let mut text = String::new();
        for line in why.lines().take(40) {
            let _ = writeln!(text, "# {line}");
        }
        if !again {
            text.push_str("# It did not happen again when this was played.\n");
        }
        for conversation in &part {
            let _ = write!(text, "{conversation}");
        }
        fs::create_dir_all(&self.bounds.save)?;
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        println!("{name}: written to {}", file.display());
        Ok(())
    }

    /// Removes conversations and steps that are not needed for the failure.
    fn smaller(&self, mut part: Vec<Conversation>, why: &str) -> Vec<Conversation> {
        let until = Instant::now() + Duration::from_secs(20);
        let fails = |part: &[Conversation]| {
            let again = play(self.setup, self.plan.kind, part);
            again.is_err_and(|again| class(&again) == class(why))
        };
        let mut at = part.len();
        while at > 0 && part.len() > 1 && Instant::now() < until {
            at -= 1;
            let mut without = part.clone();
            without.remove(at);
            if fails(&without) {
                part = without;
            }
        }
        for at in 0..part.len() {
            let mut step = part[at].steps.len();
            while step > 0 && Instant::now() < until {
                step -= 1;
                let mut without = part.clone();
                without[at].steps.remove(step);
                without[at].valid = false;
                if fails(&without) {
                    part = without;
                }
            }
        }
        part
    }
}

/// The part of a failure's description that does not depend on numbers.
fn class(why: &str) -> &str {
    let why = why.strip_prefix("in the end: ").unwrap_or(why);
    why.split(|c: char| c.is_ascii_digit() || c == ':')
        .next()
        .unwrap_or(why)
}

/// Whether a conversation begins with a refusal that ends a publisher's run.
fn ends_a_run(conversation: &Conversation) -> bool {
    let all: Vec<u8> = conversation
        .steps
        .iter()
        .flat_map(|step| &step.bytes)
        .copied()
        .collect();
    // Anything but CONNACK may be taken for another protocol.
    if all.first().is_some_and(|first| first >> 4 != kind::CONNACK) {
        return true;
    }
    let Ok(Some(packet)) = take_packet(&mut &all[..]) else {
        return false;
    };
    let mut fields = Fields(packet.body);
    let refused = fields.take(1).is_ok() && fields.byte().is_ok_and(|code| code != 0);
    let limited = read_connack(&packet, conversation.version)
        .is_ok_and(|(_, properties)| properties.iter().any(|property| property.id == 0x24));
    refused || limited
}

/// Plays conversations to a new process, and a valid one after them.
fn play(setup: &Setup, kind: Kind, conversations: &[Conversation]) -> Result<(), String> {
    let mut runner = Runner::start(setup, kind).map_err(|error| error.to_string())?;
    let may_end = kind.role == Role::Publisher && conversations.iter().any(ends_a_run);
    let last = Conversation::draw(kind.role, kind.version, kind.qos, kind.seed, 0);
    for conversation in conversations.iter().chain([&last]) {
        let played = runner.play(conversation).and_then(|outcome| {
            let expect = conversation.expect;
            if expect.is_none_or(|expect| expect.is_met(&outcome)) {
                Ok(())
            } else {
                Err(format!("{expect:?} is not met: {outcome:?}"))
            }
        });
        if let Err(why) = played {
            let code = runner.program.ended().and_then(|status| status.code());
            if may_end && code.is_some_and(|code| REFUSED.contains(&code)) {
                return Ok(());
            }
            return Err(why);
        }
    }
    if let ProgramOracle::Publisher(_) = runner.oracle {
        return runner.finish().map(drop);
    }
    runner.stop()
}

/// Replays files. Returns the number of failures.
pub(crate) fn replay(setup: &Setup, files: &[PathBuf]) -> anyhow::Result<usize> {
    let mut failures = 0;
    for file in files {
        let shown = file.display();
        let text = fs::read_to_string(file).with_context(|| shown.to_string())?;
        let all = Conversation::read_all(&text).with_context(|| shown.to_string())?;
        let first = all.first().with_context(|| format!("{shown}: empty"))?;
        let kind = Kind {
            mode: Mode::Scripted,
            role: first.role,
            version: first.version,
            qos: first.qos,
            seed: 1,
        };
        match play(setup, kind, &all) {
            Ok(()) => println!("{shown}: ok"),
            Err(why) => {
                failures += 1;
                println!("{shown}: FAILED: {why}");
            }
        }
    }
    Ok(failures)
}
