//! The outbox's way to the broker: what goes out next, and what comes back. PURE.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Outbox;
use super::ledger::Receipt;
use super::shelf::Placed;
use super::types::TooLarge;
use crate::common::client::Delivery;
use crate::common::mqtt::message::{Message, Qos};
use crate::publisher::outbox::throttle::Throttle;
use crate::publisher::queue::requests::Outcome;
use crate::publisher::queue::size;

/// The slowest line that is not taken for a dead one, in bytes per second: 64 kbit/s.
const SLOW_LINE: u64 = 8 << 10;

/// Bytes in flight at most, however much the queue may hold.
const MAX_UNDER_WAY: u64 = 64 << 20;

/// How long so many bytes may take.
fn time_on_the_line(bytes: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1_000) / SLOW_LINE)
}

/// The slowest line that one large message gets through, in bytes per second, and the longest that it may stand in
/// buffers on the way.
const SLOWEST_LINE: u64 = 1 << 10;
const LONGEST_IN_BUFFERS: Duration = Duration::from_secs(60);

/// A broker closes a connection for a message this soon after it has received it.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);

/// How long to wait after the broker said "not now" (quota exceeded, for one).
const HOLD: Duration = Duration::from_secs(1);

impl Outbox {
    /// What to hand to the client now, in order. What cannot be sent comes to its end.
    pub fn dispatch(&mut self, now: Instant) -> Vec<Placed> {
        let mut send = Vec::new();
        let Some(limits) = self.online else {
            return send;
        };
        if self.held_until.is_some_and(|until| now < until) {
            return send;
        }
        self.held_until = None;
        while self.free() > 0 && self.throttle.as_ref().is_none_or(|t| t.permits(now)) {
            let Some(mut placed) = self.next_waiting(now) else {
                break;
            };
            if placed.message.expires_at.is_none()
                && let Some(expiry) = placed.message.expiry(now, &self.time)
            {
                Arc::make_mut(&mut placed.message).expires_at = Some(expiry);
            }
            let message = &placed.message;
            if message.expires_at.is_some_and(|at| at <= now) {
                let (id, seq) = (message.id, message.seq);
                self.suspect.settled(id);
                self.queue.settle(message, Outcome::Expired, now);
                self.ledger.end(id, Receipt::ended(seq, Outcome::Expired));
                continue;
            }
            if let Some(too_large) = self.too_large(message) {
                self.dead(message, too_large.to_string(), now);
                continue;
            }
            if let Err(reason) = self.rules.profile.check_message(&message.draft) {
                self.dead(message, reason, now);
                continue;
            }
            let unconfirmed = message.draft.qos == Qos::AtMostOnce;
            self.others_to_blame |= unconfirmed;
            self.unconfirmed |= unconfirmed;
            if let Some(throttle) = &mut self.throttle {
                let packet = message.packet_size(limits.properties, self.rules.sequence);
                throttle.take(packet, now);
            }
            if self.in_flight.is_empty() {
                self.progress_at = Some(now);
                if message.attempts > 0 {
                    // Suspected in an earlier run.
                    self.suspect.suspect(message.id, message.attempts);
                }
            }
            self.sent += 1;
            self.ack_time.sent(placed.place, now);
            self.in_flight.insert(placed.clone());
            send.push(placed);
        }
        let waiting = !self.ready.is_empty() || !self.queue.is_empty();
        self.queue.press(waiting && self.free() == 0);
        send
    }

    /// The client has heard of the message in this place. An acknowledgement that is heard of after the end
    /// of its connection still counts; one that is heard of again does not.
    pub fn settle(&mut self, place: u64, delivery: Delivery, now: Instant) {
        let oldest = self.in_flight.first_place() == Some(place);
        let found = self.in_flight.remove(place);
        let Some(placed) = found.or_else(|| self.ready.remove(place)) else {
            return;
        };
        let message = &placed.message;
        let id = message.id;
        if oldest {
            self.progress_at = Some(now);
            self.carried_for = Duration::ZERO;
        }
        match delivery {
            Delivery::Done => {
                self.suspect.settled(id);
                self.ack_time.acknowledged(place, now);
                self.queue.settle(message, Outcome::Delivered, now);
                let receipt = Receipt::Ended {
                    seq: message.seq,
                    outcome: Outcome::Delivered,
                    message: Some(placed.message),
                };
                self.ledger.end(id, receipt);
            }
            Delivery::Refused(refusal) => {
                self.others_to_blame = true;
                self.dead(message, refusal.reason, now);
            }
            Delivery::NotNow => {
                self.held_until = Some(now + HOLD);
                self.ready.insert(placed);
            }
        }
    }

    pub(super) fn dead(&mut self, message: &Arc<Message>, reason: String, now: Instant) {
        let (id, seq) = (message.id, message.seq);
        self.suspect.settled(id);
        let outcome = Outcome::Dead(reason);
        self.queue.settle(message, outcome.clone(), now);
        let message = Some(Arc::clone(message));
        let receipt = Receipt::Ended {
            seq,
            outcome,
            message,
        };
        if self.queue.unwritten().is_some() && self.queue.gone().is_none() {
            // Told once it is among the dead letters on disk.
            self.ledger.hold(id, receipt);
        } else {
            self.ledger.end(id, receipt);
        }
    }

    /// The other end's system has acknowledged bytes of what is in flight: the line is slow, not dead. If that was the
    /// last of them, they may still stand in a buffer on the way, so the answer has as long again, or as long as the
    /// slowest line takes for the first message.
    pub fn line_moved(&mut self, arrived: bool, now: Instant) {
        let Some((since, first)) = self.progress_at.zip(self.in_flight.first()) else {
            return;
        };
        self.line_moved_at = Some(now);
        self.carried_for = if arrived {
            let buffered = size(&first.message).saturating_mul(1_000) / SLOWEST_LINE;
            let buffered = Duration::from_millis(buffered).min(LONGEST_IN_BUFFERS);
            now.saturating_duration_since(since).max(buffered)
        } else {
            Duration::ZERO
        };
    }

    /// Until when an acknowledgement is waited for on a line that was seen to be slow, or to have taken a large message.
    pub fn moves_until(&self) -> Option<Instant> {
        self.line_moved_at.and_then(|_| self.acknowledgement_due())
    }

    /// The place of the first message in flight.
    pub fn first_in_flight(&self) -> Option<u64> {
        self.in_flight.first_place()
    }

    /// Whether the oldest message in flight has waited for its acknowledgement longer than
    /// the operation timeout and the time that a slow line takes for what is under way. The time
    /// starts again with each in-order acknowledgement, and whenever the line makes progress: a slow
    /// link with a full window, or with one large message, is not a dead one.
    pub fn overdue(&self, now: Instant) -> bool {
        self.acknowledgement_due().is_some_and(|due| now >= due)
    }

    /// When something here changes by time alone.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        let write = self.queue.wake_at(now);
        if self.online.is_none() {
            return write;
        }
        let send = if self.free() == 0 {
            None
        } else {
            // A head that is being read is an event of its own.
            let head = self.queue.has_next() || self.queue.is_empty();
            let drain = self.drain.wake_at().filter(|_| head);
            let quota = self.throttle.as_ref().and_then(Throttle::ready_at);
            let quota = quota.filter(|at| *at > now);
            // What is ready waits for nothing but the quota; a queue that drains waits for both.
            let next = match (self.ready.is_empty(), drain) {
                (false, _) => quota,
                (true, Some(at)) => quota.max(Some(at)),
                (true, None) => quota.filter(|_| !self.queue.is_empty()),
            };
            self.held_until.or(next)
        };
        let stalls = self
            .flows_until()
            .filter(|at| *at > now && self.queue.unwritten().is_some());
        let due = self.acknowledgement_due().into_iter();
        due.chain(send).chain(write).chain(stalls).min()
    }

    fn acknowledgement_due(&self) -> Option<Instant> {
        let since = self.moved_at()?;
        let bytes = self.in_flight.bytes();
        let patience = time_on_the_line(bytes).max(self.carried_for);
        Some(since + self.rules.operation_timeout + patience)
    }

    /// When something in flight was last sent, acknowledged in order, or seen to make progress.
    fn moved_at(&self) -> Option<Instant> {
        self.in_flight.first_place()?;
        self.progress_at.max(self.line_moved_at)
    }

    /// Whether what is in flight has been sent so recently that a close may be the answer to it.
    pub(super) fn was_just_sent(&self, now: Instant) -> bool {
        let bytes = self.in_flight.bytes();
        self.moved_at()
            .is_some_and(|at| now < at + CLOSES_WITHIN + time_on_the_line(bytes))
    }

    /// Whether the broker takes a packet of its size. Without a connection nobody knows.
    pub(super) fn too_large(&self, message: &Message) -> Option<TooLarge> {
        let limits = self.online?;
        let packet = message.packet_size(limits.properties, self.rules.sequence);
        let most = limits.maximum_packet_size;
        (packet > most).then_some(TooLarge { packet, most })
    }

    /// Places left in the window; none while offline, or while as many bytes are under way
    /// as may wait in the queue. What is acknowledged and still on disk has a place as well:
    /// a crash would send it again, and that is to be a window at most.
    pub(super) fn free(&self) -> usize {
        let window = self.online.map_or(0, |limits| {
            let window = self.rules.max_in_flight.min(limits.receive_maximum);
            if self.suspect.goes_alone() { 1 } else { window }
        });
        let max_bytes = self.queue.limits().max_bytes.min(MAX_UNDER_WAY);
        if self.in_flight.bytes() >= max_bytes && !self.in_flight.is_empty() {
            return 0;
        }
        let exactly_once = self.online.map_or(0, |limits| limits.exactly_once);
        if self.in_flight.exactly_once() >= exactly_once {
            return 0;
        }
        window.saturating_sub(self.in_flight.len() + self.queue.unsettled())
    }

    fn next_waiting(&mut self, now: Instant) -> Option<Placed> {
        if let Some(placed) = self.ready.pop_first() {
            return Some(placed);
        }
        if !self.drain.permits(now, self.queue.len()) {
            return None;
        }
        let message = self.queue.pop()?;
        self.drain.sent(now, self.queue.len());
        Some(self.place(message))
    }
}
