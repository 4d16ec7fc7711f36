//! Takes each message on the connection's thread, in order: selects it, splits it into readings,
//! and hands them to the output. It never waits: [`acks`](crate::common::acks) bounds how much may
//! accumulate, and acknowledges a message only once it has been written.

pub mod selector;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use log::{Level, info, log, log_enabled, warn};
use parking_lot::Mutex;
use serde::Serialize;

use self::selector::{Action, MessageSelector};
use crate::common::acks::Ticket;
use crate::common::escape::cut_to_log_length;
use crate::common::mqtt::publish::Received;
use crate::common::mqtt::seq_property::SeqProperty;
use crate::common::runtime::clock::{instant_now, wall_clock};
use crate::common::runtime::logging::level_of;
use crate::common::runtime::repeat_filter::{RepeatFilter, Repetition};
use crate::common::transport::bridge::{OutOfMemory, SkippedMessage};
use crate::subscriber::output::completion::FinishedMessages;
use crate::subscriber::output::sink::OutputSink;
use crate::subscriber::sequence::SavedSeqRecord;
use crate::subscriber::sequence::numbers::NumberStatus;

#[derive(Clone, Copy, Debug, Serialize)]
pub struct ReceiverCounts {
    pub received: u64,
    pub duplicates: u64,
    pub gaps: u64,
    pub skipped: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<u64>,
    #[serde(skip)]
    pub is_blocked: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct SequenceOptions {
    pub records_sequence: bool,
    /// Whether the session, and with it an exchange at QoS 2, outlives the run.
    pub keeps_session: bool,
    pub reports_gaps: bool,
}

pub struct MessageReceiver {
    pub state: Mutex<LockedState>,
    pub sink: OutputSink,
    pub options: SequenceOptions,
    pub completed_readings: Arc<AtomicU64>,
    /// When the last message came, for `--idle-timeout`.
    pub last_message: Option<Arc<Mutex<Instant>>>,
    /// Unix time in seconds; 0 before the first message.
    pub last_received_s: AtomicU64,
}

#[derive(Default)]
pub struct LockedState {
    pub selector: MessageSelector,
    pub(crate) is_closed: bool,
    pub(crate) skipped: u64,
    pub(crate) warned: BTreeSet<Vec<u8>>,
    pub(crate) number_warnings: RepeatFilter,
    /// Gaps that are not in the log, since the last one that is.
    pub(crate) unlogged_gaps: u64,
}

const MAX_WARNED: usize = 100;

impl MessageReceiver {
    /// Without memory for the message it is not acknowledged.
    pub fn handle_message(
        &self,
        message: &Received<'_>,
        ticket: Ticket,
    ) -> Result<(), OutOfMemory> {
        let mut state = self.state.lock();
        if state.is_closed {
            return Ok(());
        }
        let mut completion = FinishedMessages::default();
        // A message that is not taken whole is not acknowledged.
        let mut is_whole = true;
        let mut fingerprint = None;
        match state.selector.action(message) {
            Action::Stop => {
                is_whole = false;
                completion.is_last = true;
            }
            Action::Skip => {
                let status = state.selector.record_undelivered_number(message);
                self.report_number_status(&mut state, &status, message);
            }
            Action::Deliver => {
                if let Some(last) = &self.last_message {
                    *last.lock() = instant_now();
                }
                // Before it counts as received: without memory it comes again.
                let prepared = self.sink.reserve_message(message)?;
                let check = state.selector.check_sequence(message);
                fingerprint = check.fingerprint;
                self.report_number_status(&mut state, &check.status, message);
                if check.is_wanted {
                    let now = wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default();
                    self.last_received_s.store(now.as_secs(), Ordering::Relaxed);
                    let total = prepared.readings.count;
                    let count = state.selector.take_up_to_limit(total);
                    is_whole = count == total;
                    completion.readings = count as u64;
                    completion.is_last = state.selector.is_limit_reached();
                    self.sink.push_message(message, prepared, count, now);
                    if is_whole && state.selector.mark_for_removal(message) {
                        completion.removable.push(message.topic.to_owned());
                    }
                }
            }
        }
        state.is_closed |= completion.is_last;
        if is_whole {
            if self.options.records_sequence {
                let record = SavedSeqRecord::of(message, fingerprint);
                completion.records.extend(record);
                if self.options.keeps_session {
                    completion.exchanges.extend(ticket.exchange());
                }
            }
            completion.tickets.push(ticket);
        }
        self.sink.push_completion(completion);
        Ok(())
    }

    fn report_number_status(
        &self,
        state: &mut LockedState,
        status: &NumberStatus,
        message: &Received<'_>,
    ) {
        if *status == NumberStatus::Next {
            return;
        }
        if let Some(seq) = &message.seq
            && self.options.reports_gaps
        {
            state.log_number_status(status, seq, message.topic, instant_now());
        }
        let missing = state.selector.streams.missing();
        self.sink.set_displayed_missing_count(missing);
    }

    pub fn handle_skipped(&self, skipped: SkippedMessage<'_>) {
        let mut state = self.state.lock();
        state.skipped += 1;
        let warned = &mut state.warned;
        if warned.len() >= MAX_WARNED || !warned.insert(skipped.topic.to_owned()) {
            return;
        }
        let topic = cut_to_log_length(&skipped.topic.escape_ascii().to_string());
        let defect = skipped.defect.describe();
        warn!("topic \"{topic}\": messages are acknowledged and skipped: {defect}");
        if warned.len() == MAX_WARNED {
            warn!("further topics whose messages are skipped are not named");
        }
    }

    /// Takes no more messages, and waits for those received, for `grace_period` at most.
    pub fn close(&self, grace_period: Duration) -> ReceiverCounts {
        let mut state = self.state.lock();
        state.is_closed = true;
        match std::mem::take(&mut state.unlogged_gaps) {
            0 => {}
            1 => warn!("1 further gap is not in the log; --debug logs all"),
            n => warn!("{n} further gaps are not in the log; --debug logs all"),
        }
        drop(state);
        let is_blocked = !self.sink.close(grace_period);
        ReceiverCounts {
            is_blocked,
            ..self.counts()
        }
    }

    /// The wanted message that came last, in seconds of Unix time.
    pub fn last_received_s(&self) -> Option<u64> {
        let last = self.last_received_s.load(Ordering::Relaxed);
        (last > 0).then_some(last)
    }

    pub fn counts(&self) -> ReceiverCounts {
        let state = self.state.lock();
        ReceiverCounts {
            received: self.completed_readings.load(Ordering::Relaxed),
            duplicates: state.selector.duplicates,
            gaps: state.selector.streams.missing(),
            skipped: state.skipped,
            failed: self.sink.failed_commands(),
            is_blocked: false,
        }
    }
}

impl LockedState {
    fn log_number_status(
        &mut self,
        status: &NumberStatus,
        seq: &SeqProperty,
        topic: &str,
        now: Instant,
    ) {
        let stream = &seq.stream;
        match status {
            NumberStatus::Gap(gaps) => {
                for (from, until) in gaps {
                    let line = if from == until {
                        format!("gap: {from} of stream {stream} is missing ({topic})")
                    } else {
                        format!("gap: {from} to {until} of stream {stream} are missing ({topic})")
                    };
                    self.log_gap(&line, now);
                }
            }
            NumberStatus::PartialStream(width) => warn!(
                "stream {stream}: only one number in {width} comes, and none comes late: the others \
                 seem to be sent to topics that no --topic matches ({topic} is matched), and are not \
                 counted as missing; for --gaps subscribe to all topics of a publisher, or use one \
                 publisher per topic. If all topics are matched, messages are being lost"
            ),
            NumberStatus::Late => info!("{} of stream {stream} came late ({topic})", seq.seq),
            NumberStatus::Next | NumberStatus::Duplicate => {}
        }
    }

    /// Each gap is a new one. Of very many a part is logged.
    fn log_gap(&mut self, line: &str, now: Instant) {
        let repetition = self.number_warnings.filter(line, now);
        let unlogged = match (repetition, self.unlogged_gaps) {
            (Repetition::Suppressed, _) | (_, 0) => String::new(),
            (_, 1) => "; 1 further gap before it is not in the log".into(),
            (_, n) => format!("; {n} further gaps before it are not in the log"),
        };
        log!(level_of(repetition), "{line}{unlogged}");
        if repetition != Repetition::Suppressed {
            self.unlogged_gaps = 0;
        } else if !log_enabled!(Level::Debug) {
            self.unlogged_gaps += 1;
        }
    }
}
