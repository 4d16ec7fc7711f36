//! Decides what to take, send, drop and report next. PURE: events and the time in, messages out.
//!
//! A message that is not finished is in exactly one of three queues, each in the order of sending:
//!
//! * *ready*: to be sent before anything else. Taken while the window had space, moved from a full queue while it had,
//!   refused for now by the broker, or in flight when a connection ended; then nobody knows whether it arrived, and it is
//!   sent again. These are one window at most, count against no limit and are never dropped.
//! * the *queue*: taken while offline, while a backlog drains, or while the window was full.
//! * *in flight*: given to the client on this connection.
//!
//! The queue decides what is on disk; the outbox tells it of every message that passes and its outcome.

pub mod ack_deadline;
pub mod ack_time_estimator;
pub mod ack_time_histogram;
pub mod broker_limits;
pub mod commit_gathering;
pub mod drain_pacer;
pub mod poison;
pub mod quota_limiter;
pub mod types;
pub mod user_receipts;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ack_deadline::AckDeadline;
use ack_time_estimator::AckTimeEstimator;
use ack_time_histogram::AckTimeHistogram;
use broker_limits::BrokerLimits;
use commit_gathering::CommitGathering;
use drain_pacer::DrainPacer;
use poison::{PoisonDetector, PoisonFinding};
use quota_limiter::QuotaLimiter;
use types::{Offered, OutboxConfig, PoisonEvidence};
use user_receipts::{UserReceipt, UserReceipts};

use crate::common::client::Delivery;
use crate::common::mqtt::draft::Draft;
use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::common::mqtt::qos::Qos;
use crate::common::mqtt::two_clock_time::TwoClockTime;
use crate::publisher::queue::limits::{Admission, DropBehavior, ReadAllowance};
use crate::publisher::queue::sized::SizedQueue;
use crate::publisher::queue::store_requests::{MessageOutcome, StoreResult};
use crate::publisher::queue::{LostOrMoved, MessageIdentity, Queue, QueueEvent, StoreStatusChange};

/// While acknowledgements are steady, a source waits if a durable queue has more messages.
const SHORT_BACKLOG: usize = 8_192;

/// How many messages are read ahead of a full window while acknowledgements are steady.
const READ_AHEAD: usize = 256;

/// The most bytes in flight, however much the queue may hold.
const MAX_BYTES_IN_FLIGHT: u64 = 64 << 20;

/// The pause after the broker said that it cannot take a message now (quota exceeded, for one).
const HOLD: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Outbox {
    config: OutboxConfig,
    pub queue: Box<dyn Queue>,
    pub drain: DrainPacer,
    online: Option<BrokerLimits>,
    /// The last position in the order of sending. A message keeps its position when it is sent
    /// again. Its `id` is not in this order: rows of earlier runs are read late and sent first.
    last_position: u64,
    ready: SizedQueue,
    in_flight: SizedQueue,
    receipts: UserReceipts,
    poison: PoisonDetector,
    ack_time: AckTimeEstimator,
    ack_deadline: AckDeadline,
    /// Only with `--metrics`.
    pub ack_time_histogram: Option<AckTimeHistogram>,
    quota_limiter: Option<QuotaLimiter>,
    /// Messages of QoS 0, which nobody acknowledges, were sent on this connection.
    pub sent_unconfirmed: bool,
    held_until: Option<Instant>,
    /// Until then, messages wait for the first connection rather than be written to disk.
    connecting_until: Option<Instant>,
    /// Only with `--commit-interval`, until the input ends.
    gathering: Option<CommitGathering>,
}

impl Outbox {
    pub fn new(config: OutboxConfig, queue: Box<dyn Queue>, drain: DrainPacer) -> Self {
        Self {
            queue,
            drain,
            online: None,
            last_position: 0,
            ready: SizedQueue::default(),
            in_flight: SizedQueue::default(),
            receipts: UserReceipts::default(),
            poison: PoisonDetector::new(config.max_attempts),
            ack_time: AckTimeEstimator::default(),
            ack_deadline: AckDeadline::new(config.operation_timeout),
            ack_time_histogram: None,
            quota_limiter: config.profile.pace().map(QuotaLimiter::new),
            sent_unconfirmed: false,
            held_until: None,
            connecting_until: None,
            gathering: config.commit_interval.map(CommitGathering::new),
            config,
        }
    }

    /// Sends nothing more until then, or on the next connection.
    pub fn pause(&mut self, until: Instant) {
        self.held_until = Some(until);
    }

    pub fn expect_connection(&mut self, now: Instant) {
        self.connecting_until = Some(now + self.ack_time.estimate_upper_bound());
    }

    /// Messages without an outcome: waiting, in flight, or to be deleted from the disk.
    pub fn count_unfinished(&self) -> usize {
        let waiting = self.queue.len() + self.queue.undeleted();
        self.ready.len()
            + self.queue.count_for_other_sender().unwrap_or(waiting)
            + self.in_flight.len()
    }

    /// Messages that would be lost if the process ended now.
    pub fn at_risk(&self) -> usize {
        match self.queue.unwritten() {
            Some(unwritten) if self.queue.missing_file() != Some(LostOrMoved::Lost) => unwritten,
            _ => self.count_unfinished(),
        }
    }

    pub fn backlog(&self) -> usize {
        self.ready.len() + self.queue.len()
    }

    /// The oldest message that is not finished, if it is in memory, and the bytes of all.
    pub fn oldest_and_bytes(&self) -> (Option<&Arc<OutgoingMessage>>, u64) {
        let first = [self.in_flight.first(), self.ready.first()];
        let first = first
            .into_iter()
            .flatten()
            .min_by_key(|first| first.accepted_ms);
        let bytes = self.in_flight.bytes() + self.ready.bytes() + self.queue.backlog_bytes();
        (first.or_else(|| self.queue.first()), bytes)
    }

    pub fn in_flight_messages(&self) -> &SizedQueue {
        &self.in_flight
    }

    pub fn take_receipts(&mut self) -> Vec<UserReceipt> {
        self.receipts.take_receipts()
    }

    /// How much a source that can wait should read now. Offline, a queue that drops takes everything;
    /// on a connection even its sources wait.
    pub fn read_allowance(&self, now: Instant) -> ReadAllowance {
        let limits = self.queue.limits();
        let mut space = self.queue.unwritten_space();
        if limits.behavior != DropBehavior::Block && self.online.is_none() {
            space.bytes = space.bytes.min(limits.max_bytes);
            return space;
        }
        let behind = if self.should_source_wait_for_window(now) {
            READ_AHEAD
        } else {
            self.queue.free_message_slots(now)
        };
        let bytes = self.queue.bytes() + self.ready.bytes() + self.in_flight.bytes();
        space.messages = space
            .messages
            .min(self.direct_space().saturating_add(behind));
        space.bytes = space.bytes.min(limits.max_bytes.saturating_sub(bytes));
        space
    }

    /// Whether new drafts have to wait whatever the window: a backlog drains, or the broker asked for
    /// a pause. [`next_messages`](Self::next_messages) notices when that is over.
    pub fn is_draining_or_paused(&self) -> bool {
        self.held_until.is_some() || self.drain.next_at.is_some()
    }

    /// Whether acknowledgements come so steadily that a source that can wait should: a message that
    /// is read when the window has space need not be written to disk.
    fn should_source_wait_for_window(&self, now: Instant) -> bool {
        let waits = self.queue.limits().behavior == DropBehavior::Block;
        let is_short = self.queue.len() <= SHORT_BACKLOG && !self.drain.by_hand;
        let has_stalled = self.steady_acks_until().is_some_and(|until| until <= now);
        self.is_durable() && waits && is_short && self.online.is_some() && !has_stalled
    }

    /// Without an acknowledgement by then, they do not come steadily. `None` if none is due.
    fn steady_acks_until(&self) -> Option<Instant> {
        let since = self.ack_deadline.last_ack_time(&self.in_flight)?;
        Some(since + self.ack_time.estimate_upper_bound())
    }

    fn is_durable(&self) -> bool {
        self.queue.unwritten().is_some() && self.queue.missing_file().is_none()
    }

    /// Takes a draft; `at` is `now` by both clocks.
    pub fn offer(&mut self, draft: Draft, now: Instant, at: impl Into<TwoClockTime>) -> Offered {
        let at = at.into();
        let MessageIdentity { id, stream, seq } = self.queue.peek_identity();
        let own = draft.properties.as_ref();
        let own = own.and_then(|properties| properties.message_expiry);
        let own = own.map(|seconds| Duration::from_secs(seconds.into()));
        let expiry = own.or(self.config.expiry);
        let lifetime = expiry.map(|expiry| u64::try_from(expiry.as_millis()).unwrap_or(u64::MAX));
        let message = OutgoingMessage {
            id,
            stream,
            seq,
            accepted_ms: at.wall_ms,
            accepted_boot: at.boot,
            expires_ms: lifetime.map(|ms| at.wall_ms.saturating_add(ms)),
            expires_at: expiry.and_then(|expiry| now.checked_add(expiry)),
            attempts: 0,
            draft,
        };
        // A batch may have been gathered before the limit was known: it becomes one dead letter.
        if let Some(too_large) = self.why_too_large(&message)
            && !message.draft.is_batch()
        {
            return Offered::TooLarge(too_large);
        }
        let readings = message.draft.readings;
        let mut is_dropped = false;
        let size = message.draft.content_size();
        if self.direct_space() > 0 {
            let message = Arc::new(message);
            let late = now + self.ack_time.estimate_upper_bound();
            let gathered = self.gather_until(size, now);
            let due = gathered.map_or(late, |due| due.max(late));
            self.queue.store_unless_acked(&message, due);
            self.push_ready(message);
        } else {
            self.send_oldest_early(size);
            if self.should_source_wait_for_window(now) {
                return Offered::Full(message.draft);
            }
            let mut evicted = Vec::new();
            let admission = self.queue.make_room(size, now, &mut evicted);
            for oldest in evicted {
                self.finish_message(oldest, MessageOutcome::OLDEST_IN_QUEUE, now);
            }
            match admission {
                Admission::Fits => {
                    let connecting = self.connecting_until.filter(|until| now < *until);
                    let due = connecting.max(self.gather_until(size, now));
                    self.queue.push(Arc::new(message), due);
                }
                Admission::Drop => is_dropped = true,
                Admission::Disabled if self.queue.limits().behavior != DropBehavior::Block => {
                    return Offered::Refused;
                }
                _ => return Offered::Full(message.draft),
            }
            self.drain.count_arrival();
        }
        self.queue.advance_identity();
        self.receipts.enter(id, seq, readings);
        if is_dropped {
            self.receipts
                .end_message(id, seq, MessageOutcome::NEWEST_FOR_QUEUE, None);
            return Offered::Dropped { seq };
        }
        if self.queue.unwritten().is_none() {
            self.receipts.mark_accepted(id);
        }
        Offered::Taken { seq }
    }

    /// Until when a message of this size waits for others, those in flight too, before it is written; none if not sent here.
    fn gather_until(&mut self, size: u64, now: Instant) -> Option<Instant> {
        let gathering = self.gathering.as_mut()?;
        let sends = self.queue.count_for_other_sender().is_none();
        let size = size + self.ready.bytes() + self.in_flight.bytes();
        let (space, end) = (self.queue.unwritten_space(), self.drain.finish_by);
        gathering.due(size, space, end, now).filter(|_| sends)
    }

    /// No more input comes: what was gathered is written soon, unless it is acknowledged before.
    pub fn end_gathering(&mut self, now: Instant) {
        if self.gathering.take().is_some() {
            self.queue
                .bring_writes_forward(now + self.ack_time.estimate_upper_bound());
        }
    }

    fn push_ready(&mut self, message: Arc<OutgoingMessage>) {
        self.last_position += 1;
        self.ready.insert(self.last_position, message);
    }

    /// How many new drafts may be sent at once, past the queue, without overtaking anything.
    fn direct_space(&self) -> usize {
        if self.is_draining_or_paused() || !self.queue.is_empty() {
            return 0;
        }
        self.window_space().saturating_sub(self.ready.len())
    }

    /// On a connection a full queue makes space by sending sooner than its rate, unless the user has
    /// set that: while the window has space, nothing is dropped.
    fn send_oldest_early(&mut self, bytes: u64) {
        if self.drain.by_hand || self.held_until.is_some() {
            return;
        }
        let limits = self.queue.limits();
        while limits.admit(self.queue.len(), self.queue.bytes(), bytes) != Admission::Fits
            && self.window_space() > self.ready.len()
            && let Some(oldest) = self.queue.pop()
        {
            self.push_ready(oldest);
        }
    }

    pub fn handle_connected(&mut self, limits: BrokerLimits, now: Instant) {
        self.online = Some(limits);
        self.poison.handle_connected();
        self.sent_unconfirmed = false;
        self.connecting_until = None;
        self.held_until = None;
        self.drain.handle_connected(now, self.queue.len());
        let window = self.config.max_in_flight.min(limits.receive_maximum);
        self.queue.adapt_deletes_to_window(window);
    }

    /// The connection is gone; the messages in flight are sent again on the next one. Returns whether
    /// one was given up because the connection ended for it.
    pub fn handle_disconnected(&mut self, loss: PoisonEvidence, now: Instant) -> bool {
        let poison = self.pop_if_poison(loss, now);
        self.online = None;
        self.sent_unconfirmed = false;
        self.connecting_until = None;
        self.drain.stop();
        self.ack_time.stop();
        if let Some(histogram) = &mut self.ack_time_histogram {
            histogram.clear();
        }
        self.ack_deadline.reset();
        let is_poison = poison.is_some();
        if let Some((message, reason)) = poison {
            self.finish_message(message, MessageOutcome::Dead(reason), now);
        }
        self.ready.append_queue(&mut self.in_flight);
        is_poison
    }

    /// The message that is given up because the connection ended for it, and why.
    fn pop_if_poison(
        &mut self,
        loss: PoisonEvidence,
        now: Instant,
    ) -> Option<(Arc<OutgoingMessage>, String)> {
        let first = self.in_flight.first()?;
        let is_just_sent = self.ack_deadline.has_just_sent(&self.in_flight, now);
        let len = self.in_flight.len();
        let reason = match self.poison.handle_loss(loss, first, len, is_just_sent)? {
            PoisonFinding::Attempts(attempts) => {
                self.queue.record_connection_losses(first, attempts);
                return None;
            }
            PoisonFinding::Refused(reason) => reason,
            PoisonFinding::TooManyAttempts(attempts) => format!(
                "{attempts} connections were lost with it at the head; does {} let this client \
                 publish to {:?}, and is it within the limits?",
                self.config.profile.access_rules(),
                first.draft.topic
            ),
        };
        self.in_flight.pop().map(|(_, message)| (message, reason))
    }

    /// What to give to the client now, in order, with the positions under which it reports their
    /// delivery; `time` is `now` by both clocks. Messages that cannot be sent are finished.
    pub fn next_messages(
        &mut self,
        now: Instant,
        time: impl Into<TwoClockTime>,
    ) -> Vec<(u64, Arc<OutgoingMessage>)> {
        let time = time.into();
        let mut messages = Vec::new();
        let is_held = self.held_until.is_some_and(|until| now < until);
        let Some(limits) = self.online.filter(|_| !is_held) else {
            return messages;
        };
        self.held_until = None;
        while self.window_space() > 0 && self.quota_ready_at(now).is_none() {
            let Some((position, mut message)) = self.next_waiting(now) else {
                break;
            };
            if message.expires_at.is_none()
                && let Some(expiry) = message.expiry_instant(now, &time)
            {
                Arc::make_mut(&mut message).expires_at = Some(expiry);
            }
            if let Some(outcome) = self.outcome_before_sending(&message, now) {
                self.finish_message(message, outcome, now);
                continue;
            }
            self.sent_unconfirmed |= message.draft.qos == Qos::AtMostOnce;
            if let Some(quota_limiter) = &mut self.quota_limiter {
                let packet = message.packet_size(limits.properties, self.config.sequence);
                quota_limiter.record_sent(packet, now);
            }
            let is_first = self.in_flight.is_empty();
            if is_first {
                self.ack_deadline.handle_first_sent(now);
            }
            self.poison.handle_sent(&message, is_first);
            self.ack_time.handle_sent(position, now);
            if let Some(histogram) = &mut self.ack_time_histogram
                && message.draft.qos != Qos::AtMostOnce
            {
                histogram.handle_sent(position, now);
            }
            self.in_flight.insert(position, Arc::clone(&message));
            messages.push((position, message));
        }
        let has_more = !self.ready.is_empty() || !self.queue.is_empty();
        self.queue
            .set_deletes_urgent(has_more && self.window_space() == 0);
        messages
    }

    fn outcome_before_sending(
        &self,
        message: &OutgoingMessage,
        now: Instant,
    ) -> Option<MessageOutcome> {
        if message.expires_at.is_some_and(|at| at <= now) {
            return Some(MessageOutcome::Expired);
        }
        let check = || self.config.profile.check_message(&message.draft).err();
        self.why_too_large(message)
            .or_else(check)
            .map(MessageOutcome::Dead)
    }

    fn next_waiting(&mut self, now: Instant) -> Option<(u64, Arc<OutgoingMessage>)> {
        if !self.ready.is_empty() {
            return self.ready.pop();
        }
        if !self.drain.permits(now, self.queue.len()) {
            return None;
        }
        let message = self.queue.pop()?;
        self.drain.handle_sent(now, self.queue.len());
        self.last_position += 1;
        Some((self.last_position, message))
    }

    /// The client reports the delivery of the message with this position. An acknowledgement that is
    /// reported after the end of its connection still counts; one that is reported again does not.
    pub fn handle_delivery_result(&mut self, position: u64, delivery: Delivery, now: Instant) {
        if self.in_flight.first_position() == Some(position) {
            self.ack_deadline.handle_ack(now);
        }
        if let Some(histogram) = &mut self.ack_time_histogram {
            histogram.handle_result(position, delivery == Delivery::Done, now);
        }
        let found = self.in_flight.remove(position);
        let Some(message) = found.or_else(|| self.ready.remove(position)) else {
            return;
        };
        match delivery {
            Delivery::Done => {
                self.ack_time.handle_ack(position, now);
                self.finish_message(message, MessageOutcome::Delivered, now);
            }
            Delivery::Refused(refusal) => {
                self.poison.others_possible = true;
                self.finish_message(message, MessageOutcome::Dead(refusal.reason), now);
            }
            Delivery::NotNow => {
                self.held_until = Some(now + HOLD);
                self.ready.insert(position, message);
            }
        }
    }

    fn finish_message(
        &mut self,
        message: Arc<OutgoingMessage>,
        outcome: MessageOutcome,
        now: Instant,
    ) {
        self.poison.clear(message.id);
        self.queue.finish_message(&message, &outcome, now);
        if matches!(outcome, MessageOutcome::Dead(_)) && self.is_durable() {
            self.receipts.hold_dead_receipt(message, outcome);
        } else {
            self.receipts
                .end_message(message.id, message.seq, outcome, Some(message));
        }
    }

    pub fn handle_progress(&mut self, all_received: bool, now: Instant) {
        self.ack_deadline
            .handle_progress(all_received, &self.in_flight, now);
    }

    pub fn deadline_if_progressing(&self) -> Option<Instant> {
        self.ack_deadline.due_if_progressing(&self.in_flight)
    }

    pub fn is_ack_overdue(&self, now: Instant) -> bool {
        let due = self.ack_deadline.due(&self.in_flight);
        due.is_some_and(|due| now >= due)
    }

    /// When something here changes without an event.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        let write = self.queue.wake_at(now);
        if self.online.is_none() {
            return write;
        }
        // A head that is being read is a separate event.
        let has_head = self.queue.is_head_loaded() || self.queue.is_empty();
        let quota = self.quota_ready_at(now);
        // Ready messages wait only for the quota; a queue that drains waits for both.
        let next = match self.drain.next_at.filter(|_| has_head) {
            _ if !self.ready.is_empty() => quota,
            Some(at) => quota.max(Some(at)),
            None => quota.filter(|_| !self.queue.is_empty()),
        };
        let send = self.held_until.or(next).filter(|_| self.window_space() > 0);
        let is_written = self.queue.unwritten().is_some();
        let stalls = self
            .steady_acks_until()
            .filter(|at| *at > now && is_written);
        let due = self.ack_deadline.due(&self.in_flight);
        [due, send, write, stalls].into_iter().flatten().min()
    }

    /// When the broker's quota permits the next message; `None` is now.
    fn quota_ready_at(&self, now: Instant) -> Option<Instant> {
        self.quota_limiter.as_ref()?.ready_at(now)
    }

    /// Why the broker does not take the message, if it is too large. Unknown without a connection.
    fn why_too_large(&self, message: &OutgoingMessage) -> Option<String> {
        let limits = self.online?;
        let packet = message.packet_size(limits.properties, self.config.sequence);
        let most = limits.maximum_packet_size;
        let why = || format!("{packet} bytes are above the broker's maximum packet size of {most}");
        (packet > most).then(why)
    }

    /// How many more messages may be sent; none while offline, or while the bytes in flight are as
    /// many as may wait in the queue. A message that is acknowledged and still on disk counts as in
    /// flight: a crash would send it again, and that is to be one window at most.
    fn window_space(&self) -> usize {
        let Some(limits) = self.online else {
            return 0;
        };
        let max_bytes = self.queue.limits().max_bytes.min(MAX_BYTES_IN_FLIGHT);
        let has_all_bytes = self.in_flight.bytes() >= max_bytes && !self.in_flight.is_empty();
        if has_all_bytes || self.in_flight.exactly_once() >= limits.exactly_once {
            return 0;
        }
        let window = if self.poison.is_isolating() {
            1
        } else {
            self.config.max_in_flight.min(limits.receive_maximum)
        };
        window.saturating_sub(self.in_flight.len() + self.queue.undeleted())
    }

    pub fn handle_store_result(
        &mut self,
        result: StoreResult,
        now: Instant,
    ) -> Vec<StoreStatusChange> {
        let mut store_events = Vec::new();
        for event in self.queue.handle_store_result(result, now) {
            match event {
                QueueEvent::Stored { id } => self.receipts.mark_accepted(id),
                QueueEvent::Numbered { id, seq } => self.receipts.handle_numbered(id, seq),
                QueueEvent::Ended { id, seq, outcome } => {
                    self.receipts.end_message(id, seq, outcome, None);
                }
                QueueEvent::DeadLetterStored { id } => self.receipts.release_held_receipt(id),
                QueueEvent::Store(event) => {
                    if matches!(event, StoreStatusChange::FileMissing(_)) {
                        self.receipts.release_held_receipts();
                    }
                    store_events.push(event);
                }
            }
        }
        store_events
    }
}
