//! What the user is shown: receipts, delivered messages and the summary on standard output, warnings
//! about messages in the log, and the counters behind them.

pub mod drain_reporter;
pub mod exit_status;
mod losses;

use std::fmt::Arguments;
use std::io::{self, IsTerminal as _, Stdout, Write as _};
use std::time::{Duration, Instant};

use log::{Level, error, log};

use self::exit_status::Summary;
use self::losses::Losses;
use crate::common::connection::outage::OutageEnd;
use crate::common::escape::{escape, one_line};
use crate::common::fault::Exit;
use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::common::runtime::clock::instant_now;
use crate::common::runtime::logging::level_of;
use crate::common::runtime::repeat_filter::{RepeatFilter, Repetition, without_numbers};
use crate::common::runtime::service_manager::ServiceManager;
use crate::common::runtime::stdio::{self, Blocking};
use crate::publisher::outbox::drain_pacer::BacklogGrowth;
use crate::publisher::outbox::user_receipts::UserReceipt;
use crate::publisher::queue::store_requests::MessageOutcome;

/// The exit code of a run in which messages were lost.
const DATA: u8 = Exit::Data.code();

#[derive(Clone, Copy, Debug)]
pub struct ReportOptions {
    pub receipts: bool,
    pub verbose: bool,
    pub summary: bool,
    pub readings: bool,
    pub commands: bool,
}

#[derive(Debug)]
pub struct Reporter {
    pub summary: Summary,
    pub first_reason: Option<String>,
    options: ReportOptions,
    command_failures: RepeatFilter,
    /// Messages that are rejected or cannot be delivered.
    message_failures: RepeatFilter,
    queue_warnings: RepeatFilter,
    /// That the disk is full has been logged, and not yet that there is space again.
    disk_full_logged: bool,
    /// Queue warnings of this outage, each given once.
    warned: Vec<&'static str>,
    /// The losses before the outages whose end has not been logged.
    losses_before: Option<Losses>,
    terminal: bool,
    out: Blocking<Stdout>,
    /// Written by `flush_stdout`, the only call that can block.
    buffer: Vec<u8>,
    error: Option<io::Error>,
}

impl Reporter {
    pub fn new(options: ReportOptions) -> Self {
        Self {
            summary: Summary {
                readings: options.readings.then_some(0),
                failed: options.commands.then_some(0),
                ..Summary::default()
            },
            first_reason: None,
            options,
            command_failures: RepeatFilter::default(),
            message_failures: RepeatFilter::default(),
            queue_warnings: RepeatFilter::default(),
            disk_full_logged: false,
            warned: Vec::new(),
            losses_before: Some(Losses::default()),
            terminal: io::stdout().is_terminal(),
            out: stdio::stdout(),
            buffer: Vec::new(),
            error: None,
        }
    }

    pub fn report_receipt(&mut self, receipt: &UserReceipt, now: Instant) {
        match receipt {
            UserReceipt::Accepted { seq, readings } => {
                self.summary.accepted += 1;
                if let Some(all) = &mut self.summary.readings {
                    *all += u64::from(*readings);
                    self.push_receipt_line(format_args!("accepted {seq} {readings}"));
                } else {
                    self.push_receipt_line(format_args!("accepted {seq}"));
                }
            }
            UserReceipt::Ended {
                seq,
                outcome,
                message,
            } => self.record_outcome(*seq, outcome, message.as_deref(), now),
        }
    }

    fn record_outcome(
        &mut self,
        seq: u64,
        outcome: &MessageOutcome,
        message: Option<&OutgoingMessage>,
        now: Instant,
    ) {
        match outcome {
            MessageOutcome::Delivered => {
                self.summary.delivered += 1;
                self.push_receipt_line(format_args!("delivered {seq}"));
                if let Some(message) = message.filter(|_| self.options.verbose) {
                    self.push_reading_lines(message);
                }
            }
            MessageOutcome::Dropped(reason) => {
                self.summary.dropped += 1;
                self.push_receipt_line(format_args!("dropped {seq} {reason}"));
                self.warn_per_outage(
                    "readings are being dropped: the queue is full; see --queue-size",
                    now,
                );
            }
            MessageOutcome::Expired => {
                self.summary.expired += 1;
                self.push_receipt_line(format_args!("expired {seq}"));
                self.warn_per_outage("readings are too old to be sent: see --expiry", now);
            }
            MessageOutcome::Dead(reason) => {
                let topic = message.map(|message| format!("{}: ", message.draft.topic));
                let topic = topic.unwrap_or_default();
                let why = format!("{topic}message {seq} cannot be delivered: {reason}");
                let cause = format!("{topic}{}", without_numbers(reason));
                let repetition = self.message_failures.filter(&cause, now);
                log!(level_of(repetition), code = DATA; "{why}{repetition}");
                self.first_reason.get_or_insert(one_line(&why));
                self.summary.dead += 1;
                self.push_receipt_line(format_args!("dead {seq} {reason}"));
            }
        }
    }

    fn push_reading_lines(&mut self, message: &OutgoingMessage) {
        let topic = &message.draft.topic;
        for reading in message.draft.reading_payloads() {
            let line = if self.terminal {
                let topic = escape(topic.as_bytes(), &[]);
                format!("{topic} {}\n", escape(reading, &['\t', '\n'])).into()
            } else {
                [topic.as_bytes(), b" ", reading, b"\n"].concat()
            };
            self.buffer.extend(line);
        }
    }

    pub fn command_failed(&mut self, why: &str, now: Instant) {
        *self.summary.failed.get_or_insert_default() += 1;
        let repetition = self.command_failures.filter(why, now);
        log!(level_of(repetition), "{why}{repetition}");
    }

    pub fn refused_offline(&mut self, line: u64, now: Instant) {
        self.record_rejected(line, "cannot be sent now and the queue is disabled");
        self.warn_per_outage(
            "readings are being refused: they cannot be sent now, and --queue-size is 0",
            now,
        );
    }

    /// The queue grows while it drains.
    pub fn growing(&mut self, growing: &BacklogGrowth, now: Instant) {
        let cause = if growing.raised {
            "the queue grows, and drains faster"
        } else {
            "the queue grows"
        };
        let repetition = self.queue_warnings.filter(cause, now);
        log!(level_of(repetition), "{growing}{repetition}");
    }

    pub fn disk_full(&mut self, why: &str, now: Instant) {
        let line = format!("{why}; nothing can be stored until there is space");
        let repetition = self.queue_warnings.filter("the disk is full", now);
        log!(level_of(repetition), "{line}{repetition}");
        self.disk_full_logged |= repetition != Repetition::Suppressed;
    }

    /// Logged whenever the last line said that the disk is full.
    pub fn disk_recovered(&mut self) {
        let level = if std::mem::take(&mut self.disk_full_logged) {
            Level::Warn
        } else {
            Level::Debug
        };
        log!(level, "there is space on the disk again");
    }

    /// There is no connection any more.
    pub fn begin_outage(&mut self) {
        let losses = Losses::of(&self.summary);
        self.losses_before.get_or_insert(losses);
    }

    /// There is a connection, and `waiting` messages are still to be sent.
    pub fn end_outage(&mut self, end: Option<&OutageEnd>, waiting: usize) {
        self.warned.clear();
        let Some(end) = end else {
            self.losses_before = None;
            return;
        };
        let before = self.losses_before.unwrap_or_default();
        let losses = Losses::of(&self.summary).since(before);
        let repetition = end.repetition;
        let level = level_of(repetition);
        log!(level, "{end}{}{repetition}", losses.describe(waiting));
        if repetition != Repetition::Suppressed {
            self.losses_before = None;
        }
    }

    fn warn_per_outage(&mut self, what: &'static str, now: Instant) {
        if !self.warned.contains(&what) {
            let repetition = self.queue_warnings.filter(what, now);
            log!(level_of(repetition), code = DATA; "{what}{repetition}");
            if repetition != Repetition::Suppressed {
                self.warned.push(what);
            }
        }
    }

    pub fn report_rejected_line(&mut self, line: u64, reason: &str, now: Instant) {
        let cause = without_numbers(reason);
        let repetition = self.message_failures.filter(&cause, now);
        log!(level_of(repetition), code = DATA; "message {line} is rejected: {reason}{repetition}");
        self.record_rejected(line, reason);
    }

    fn record_rejected(&mut self, line: u64, reason: &str) {
        let first = || format!("message {line}: {reason}");
        self.first_reason.get_or_insert_with(first);
        self.summary.rejected += 1;
        self.push_receipt_line(format_args!("rejected {line} {reason}"));
    }

    pub fn damaged_messages(&mut self, count: usize) {
        error!(
            code = DATA;
            "{count} messages in the queue are damaged: they were moved to the dead letters and \
             are not sent"
        );
        self.summary.dead += count as u64;
    }

    /// Writes the buffer to standard output. Blocks for as long as its reader does; a loop that waits for that is not
    /// stuck.
    pub fn flush_stdout(&mut self, service: &mut ServiceManager) {
        if self.error.is_none() && !self.buffer.is_empty() {
            let written = match service.watchdog_interval() {
                Some(interval) => {
                    let feed = || service.feed_watchdog(instant_now());
                    self.out.write_all_and_call(&self.buffer, interval, feed)
                }
                None => self.out.write_all(&self.buffer),
            };
            self.error = written.err();
            if let Some(cause) = &self.error {
                let code = Exit::Io.code();
                error!(code; "standard output cannot be written: {cause}; nothing more is printed");
            }
        }
        self.buffer.clear();
    }

    /// Prints the summary; `false` if standard output could not be written at some time.
    pub fn finish(
        mut self,
        reconnects: u64,
        queued: u64,
        elapsed: Duration,
        service: &mut ServiceManager,
    ) -> bool {
        self.summary.reconnects = reconnects;
        self.summary.queued = queued;
        self.summary.elapsed_s = (elapsed.as_secs_f64() * 1e3).round() / 1e3;
        if self.options.summary {
            // Cannot fail for numbers.
            self.buffer
                .extend(serde_json::to_vec(&self.summary).unwrap_or_default());
            self.buffer.push(b'\n');
        }
        self.flush_stdout(service);
        self.error.is_none()
    }

    fn push_receipt_line(&mut self, line: Arguments<'_>) {
        if self.options.receipts {
            // A reason may be the broker's text and may contain newlines.
            self.buffer.extend(one_line(&line.to_string()).bytes());
            self.buffer.push(b'\n');
        }
    }
}
