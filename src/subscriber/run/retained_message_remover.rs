//! Removes retained messages from the broker (`--remove-retained`): which empty messages to publish, and when. PURE.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::client::Delivery;
use crate::common::mqtt::draft::Draft;
use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::common::mqtt::qos::Qos;

/// Empty messages in flight at once: few enough for every broker's Receive Maximum and queue.
const WINDOW: usize = 20;

/// Retained messages arrive faster than they can be removed: further topics are left alone.
const MAX_WAITING: usize = 100_000;

/// Connections that ended with removals in flight, none of which was acknowledged, after which no more is tried.
const MAX_ATTEMPTS: u32 = 3;

/// How long nothing is sent after the broker took no message.
const PAUSE: Duration = Duration::from_secs(1);

/// An empty retained message removes the one of its topic (MQTT 5.0 section 3.3.1.3).
#[derive(Debug, Default)]
pub(super) struct RetainedMessageRemover {
    waiting: VecDeque<String>,
    in_flight: BTreeMap<u64, String>,
    /// The topics of both: a reconnect brings their messages again.
    known: BTreeSet<String>,
    last_id: u64,
    window: usize,
    qos: Qos,
    attempts: u32,
    paused_until: Option<Instant>,
    last_done: Option<Instant>,
    /// Some topics were not tried, or the broker refuses to remove their messages.
    is_incomplete: bool,
}

impl RetainedMessageRemover {
    pub(super) fn push(&mut self, topics: Vec<String>) {
        for topic in topics {
            if self.known.len() >= MAX_WAITING || self.attempts >= MAX_ATTEMPTS {
                self.is_incomplete = true;
            } else if self.known.insert(topic.clone()) {
                self.waiting.push_back(topic);
            }
        }
    }

    /// What the broker allows, as far as it says so.
    pub(super) fn apply_broker_limits(
        &mut self,
        receive_maximum: Option<u16>,
        max_qos: Option<u8>,
    ) {
        self.window = receive_maximum.map_or(WINDOW, |max| WINDOW.min(max.into()));
        self.qos = if max_qos == Some(0) {
            Qos::AtMostOnce
        } else {
            Qos::AtLeastOnce
        };
    }

    /// The connection is over, or is replaced: what was in flight is sent again on the next one.
    pub(super) fn requeue_in_flight(&mut self) {
        self.window = 0;
        for (_, topic) in std::mem::take(&mut self.in_flight).into_iter().rev() {
            self.waiting.push_front(topic);
        }
    }

    /// The connection has failed. Returns `false` if no more is tried,
    /// because the broker ends each connection on which something is removed.
    pub(super) fn handle_disconnected(&mut self) -> bool {
        let had_removals = !self.in_flight.is_empty();
        self.requeue_in_flight();
        self.attempts += u32::from(had_removals);
        if !had_removals || self.attempts < MAX_ATTEMPTS {
            return true;
        }
        self.waiting.clear();
        self.known.clear();
        self.is_incomplete = true;
        false
    }

    /// Returns the topic and the reason if the broker refuses.
    pub(super) fn handle_delivery(
        &mut self,
        id: u64,
        delivery: Delivery,
        now: Instant,
    ) -> Option<(String, String)> {
        let topic = self.in_flight.remove(&id)?;
        if delivery == Delivery::NotNow {
            self.paused_until = Some(now + PAUSE);
            self.waiting.push_front(topic);
            return None;
        }
        self.known.remove(&topic);
        self.last_done = Some(now);
        self.attempts = 0;
        let Delivery::Refused(refusal) = delivery else {
            return None;
        };
        self.is_incomplete = true;
        Some((topic, refusal.reason))
    }

    pub(super) fn next_messages(&mut self, now: Instant) -> Vec<(u64, Arc<OutgoingMessage>)> {
        if self.paused_until.is_some_and(|until| now < until) {
            return Vec::new();
        }
        self.paused_until = None;
        let free = self.window.saturating_sub(self.in_flight.len());
        let topics = self.waiting.drain(..free.min(self.waiting.len()));
        let mut messages = Vec::new();
        for topic in topics {
            self.last_id += 1;
            let id = self.last_id;
            let draft = Draft {
                topic: topic.as_str().into(),
                qos: self.qos,
                retain: true,
                readings: 1,
                ..Draft::default()
            };
            self.in_flight.insert(id, topic);
            let message = OutgoingMessage {
                id,
                draft,
                ..OutgoingMessage::default()
            };
            messages.push((id, Arc::new(message)));
        }
        messages
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.paused_until
    }

    pub(super) fn first_in_flight(&self) -> Option<&str> {
        self.in_flight.values().next().map(String::as_str)
    }

    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }

    /// Whether one was acknowledged since `earlier`.
    pub(super) fn has_progressed_since(&self, earlier: Option<Instant>) -> bool {
        self.last_done > earlier
    }

    pub(super) fn last_done(&self) -> Option<Instant> {
        self.last_done
    }

    pub(super) fn is_incomplete(&self) -> bool {
        self.is_incomplete || !self.is_done()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(messages: &[(u64, Arc<OutgoingMessage>)]) -> Vec<&str> {
        messages.iter().map(|(_, m)| &*m.draft.topic).collect()
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "an origin; the tests move it by hand"
    )]
    fn remover(names: &[&str]) -> (RetainedMessageRemover, Instant) {
        let mut remover = RetainedMessageRemover::default();
        remover.push(names.iter().map(|name| (*name).to_owned()).collect());
        (remover, Instant::now())
    }

    #[test]
    fn what_was_not_acknowledged_goes_out_again_in_order_within_the_window() {
        let (mut remover, now) = remover(&["a", "b", "c"]);
        assert!(
            remover.next_messages(now).is_empty(),
            "there is no connection"
        );
        remover.apply_broker_limits(Some(2), None);
        let sent = remover.next_messages(now);
        assert_eq!(topics(&sent), ["a", "b"]);
        let is_removal = |m: &OutgoingMessage| m.draft.retain && m.draft.payload.is_empty();
        assert!(
            sent.iter()
                .all(|(_, m)| is_removal(m) && m.draft.qos == Qos::AtLeastOnce)
        );
        assert_eq!(
            remover.handle_delivery(sent[0].0, Delivery::Done, now),
            None
        );
        assert!(remover.handle_disconnected());
        // The broker sends on the next connection what it still has.
        remover.push(["b", "c"].map(String::from).into());
        remover.apply_broker_limits(None, Some(0));
        let again = remover.next_messages(now);
        assert_eq!(topics(&again), ["b", "c"]);
        assert!(again.iter().all(|(_, m)| m.draft.qos == Qos::AtMostOnce));
        // A late answer to the first connection's message.
        assert_eq!(
            remover.handle_delivery(sent[1].0, Delivery::Done, now),
            None
        );
        for (id, _) in again {
            assert!(remover.is_incomplete());
            remover.handle_delivery(id, Delivery::Done, now);
        }
        assert!(remover.is_done() && !remover.is_incomplete());
    }

    #[test]
    fn a_broker_that_closes_each_connection_is_not_asked_for_ever() {
        let (mut remover, now) = remover(&["a"]);
        for is_tried_again in [true, true, false] {
            remover.apply_broker_limits(None, None);
            assert_eq!(topics(&remover.next_messages(now)), ["a"]);
            assert_eq!(remover.handle_disconnected(), is_tried_again);
            remover.push(vec!["a".into()]);
        }
        remover.apply_broker_limits(None, None);
        assert!(remover.next_messages(now).is_empty() && remover.is_incomplete());
    }

    #[test]
    fn a_connection_that_the_program_replaces_does_not_count_as_closed_by_the_broker() {
        let (mut remover, now) = remover(&["a"]);
        for _ in 0..=MAX_ATTEMPTS {
            remover.apply_broker_limits(None, None);
            assert_eq!(topics(&remover.next_messages(now)), ["a"]);
            remover.requeue_in_flight();
            assert!(remover.next_messages(now).is_empty());
        }
        assert!(!remover.is_done());
        remover.apply_broker_limits(None, None);
        assert_eq!(topics(&remover.next_messages(now)), ["a"]);
        assert!(remover.handle_disconnected());
    }

    #[test]
    fn after_an_exceeded_quota_nothing_is_sent_for_a_second() {
        let (mut remover, now) = remover(&["a"]);
        remover.apply_broker_limits(None, None);
        let id = remover.next_messages(now)[0].0;
        assert_eq!(remover.handle_delivery(id, Delivery::NotNow, now), None);
        assert!(remover.next_messages(now).is_empty());
        assert_eq!(remover.wake_at(), Some(now + PAUSE));
        assert_eq!(topics(&remover.next_messages(now + PAUSE)), ["a"]);
    }

    #[test]
    fn what_waits_is_bounded() {
        let (mut remover, _) = remover(&[]);
        remover.push((0..=MAX_WAITING).map(|n| n.to_string()).collect());
        assert_eq!(remover.waiting.len(), MAX_WAITING);
        assert!(remover.is_incomplete());
    }
}
