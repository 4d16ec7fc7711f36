//! What the publisher tells its user: receipts, delivered messages and the summary on
//! standard output, warnings about messages in the log; and the counters behind them.

pub mod exit_status;
pub mod progress;

use std::io::{self, IsTerminal as _, Stdout, Write as _};
use std::time::{Duration, Instant};

use log::{error, warn};

use super::outbox::ledger::Receipt;
use super::report::exit_status::Counters;
use crate::common::escape::{escape, one_line};
use crate::common::mqtt::message::Message;
use crate::common::runtime::process::tally::Tally;
use crate::common::runtime::stdio::{self, Blocking};
use crate::publisher::outbox::pacing::Growing;
use crate::publisher::queue::requests::Outcome;

/// Which lines to print.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    /// A line per event.
    pub receipts: bool,
    /// Topic and payload of what is delivered.
    pub verbose: bool,
    /// The last line.
    pub summary: bool,
    /// How many readings were accepted: in receipts and in the summary.
    pub readings: bool,
    /// How many commands failed: in the summary.
    pub commands: bool,
}

/// Counts, and prints what was asked for.
#[derive(Debug)]
pub struct Report {
    /// What has happened so far.
    pub counters: Counters,
    /// Why the first message was rejected or died.
    pub first_reason: Option<String>,
    lines: Lines,
    /// A word about this outage has been said.
    warned: bool,
    /// Commands that failed.
    failures: Tally,
    terminal: bool,
    out: Blocking<Stdout>,
    /// Written at once by `flush`, the only call that can block.
    buffer: Vec<u8>,
    error: Option<io::Error>,
}

impl Report {
    /// Nothing has happened yet.
    pub fn new(lines: Lines) -> Self {
        Self {
            counters: Counters {
                readings: lines.readings.then_some(0),
                failed: lines.commands.then_some(0),
                ..Counters::default()
            },
            first_reason: None,
            lines,
            warned: false,
            failures: Tally::default(),
            terminal: io::stdout().is_terminal(),
            out: stdio::stdout(),
            buffer: Vec::new(),
            error: None,
        }
    }

    /// Something has become of a message.
    pub fn record(&mut self, receipt: &Receipt) {
        match receipt {
            Receipt::Accepted { seq, readings } => {
                self.counters.accepted += 1;
                if let Some(all) = &mut self.counters.readings {
                    *all += u64::from(*readings);
                    self.receipt(format_args!("accepted {seq} {readings}"));
                } else {
                    self.receipt(format_args!("accepted {seq}"));
                }
            }
            Receipt::Ended {
                seq,
                outcome,
                message,
            } => self.ended(*seq, outcome, message.as_deref()),
        }
    }

    fn ended(&mut self, seq: u64, outcome: &Outcome, message: Option<&Message>) {
        match outcome {
            Outcome::Delivered => self.delivered(seq, message),
            Outcome::Dropped(reason) => self.dropped(seq, reason),
            Outcome::Expired => {
                self.counters.expired += 1;
                self.receipt(format_args!("expired {seq}"));
                self.warn_once("readings are too old to be sent: see --expiry");
            }
            Outcome::Dead(reason) => {
                let topic = message.map(|message| &*message.draft.topic);
                self.dead(seq, topic, reason);
            }
        }
    }

    fn delivered(&mut self, seq: u64, message: Option<&Message>) {
        self.counters.delivered += 1;
        self.receipt(format_args!("delivered {seq}"));
        if let Some(message) = message.filter(|_| self.lines.verbose) {
            for reading in message.draft.each_reading() {
                self.show(&message.draft.topic, reading);
            }
        }
    }

    fn show(&mut self, topic: &str, reading: &[u8]) {
        if self.terminal {
            let (topic, reading) = (
                escape(topic.as_bytes(), &[]),
                escape(reading, &['\t', '\n']),
            );
            self.write(format!("{topic} {reading}\n").as_bytes());
        } else {
            for part in [topic.as_bytes(), b" ", reading, b"\n"] {
                self.write(part);
            }
        }
    }

    fn dropped(&mut self, seq: u64, reason: &str) {
        self.counters.dropped += 1;
        self.receipt(format_args!("dropped {seq} {reason}"));
        self.warn_once("readings are being dropped: the queue is full; see --queue-size");
    }

    /// A command of the source has failed: there is no reading this time.
    pub fn command_failed(&mut self, why: &str, now: Instant) {
        *self.counters.failed.get_or_insert_default() += 1;
        if let Some(line) = self.failures.note(why, now) {
            warn!("{line}");
        }
    }

    /// A message can neither go out now nor wait.
    pub fn refused_offline(&mut self, line: u64) {
        self.count_rejected(line, "cannot be sent now and the queue is disabled");
        self.warn_once(
            "readings are being refused: they cannot be sent now, and --queue-size is 0",
        );
    }

    /// The queue grows while it drains: worth a word each time the rate changes for it.
    pub fn growing(&mut self, growing: &Growing) {
        if growing.raised {
            warn!("{growing}");
        } else {
            self.warn_once(&growing.to_string());
        }
    }

    /// Connected again: the next outage may be warned of anew.
    pub fn outage_over(&mut self) {
        self.warned = false;
    }

    fn warn_once(&mut self, what: &str) {
        if !std::mem::replace(&mut self.warned, true) {
            warn!("{what}");
        }
    }

    /// A message is not as it should be.
    pub fn rejected(&mut self, line: u64, reason: &str) {
        warn!("message {line} is rejected: {reason}");
        self.count_rejected(line, reason);
    }

    fn count_rejected(&mut self, line: u64, reason: &str) {
        let first = || format!("message {line} {reason}");
        self.first_reason.get_or_insert_with(first);
        self.counters.rejected += 1;
        self.receipt(format_args!("rejected {line} {reason}"));
    }

    /// Messages in the queue are not what was written.
    pub fn damaged(&mut self, count: usize) {
        error!(
            "{count} messages in the queue are damaged: they are with the dead letters, not sent"
        );
        self.counters.dead += count as u64;
    }

    fn dead(&mut self, seq: u64, topic: Option<&str>, reason: &str) {
        let topic = topic.map(|topic| format!("{topic}: ")).unwrap_or_default();
        let why = format!("{topic}message {seq} cannot be delivered: {reason}");
        warn!("{why}");
        self.first_reason.get_or_insert(one_line(&why));
        self.counters.dead += 1;
        self.receipt(format_args!("dead {seq} {reason}"));
    }

    /// Writes what there is to say. Blocks for as long as the reader does.
    pub fn flush(&mut self) {
        if self.error.is_none() && !self.buffer.is_empty() {
            self.error = self.out.write_all(&self.buffer).err();
            if let Some(cause) = &self.error {
                error!("standard output cannot be written: {cause}; nothing more is printed");
            }
        }
        self.buffer.clear();
    }

    /// Prints the summary, and says whether all that was printed was taken.
    ///
    /// `false` if not.
    pub fn finish(mut self, reconnects: u64, queued: u64, elapsed: Duration) -> bool {
        self.counters.reconnects = reconnects;
        self.counters.queued = queued;
        self.counters.elapsed_s = (elapsed.as_secs_f64() * 1e3).round() / 1e3;
        if self.lines.summary {
            // Numbers have no way to fail.
            let json = serde_json::to_string(&self.counters).unwrap_or_default();
            self.write(format!("{json}\n").as_bytes());
        }
        self.flush();
        self.error.is_none()
    }

    fn receipt(&mut self, line: std::fmt::Arguments<'_>) {
        if self.lines.receipts {
            // A reason may be the broker's own words.
            let line = one_line(&line.to_string());
            self.write(format!("{line}\n").as_bytes());
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }
}
