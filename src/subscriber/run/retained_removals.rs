//! Which retained messages are still to be removed from the broker (`--remove-retained`). PURE.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::common::client::Delivery;
use crate::common::mqtt::draft::Draft;
use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::common::mqtt::qos::Qos;

/// Empty messages in flight at once: few enough for every broker's Receive Maximum and queue.
const WINDOW: usize = 20;

/// An empty retained message removes the one of its topic (MQTT 5.0 section 3.3.1.3).
#[derive(Debug, Default)]
pub(super) struct RetainedRemovals {
    waiting: VecDeque<String>,
    in_flight: BTreeMap<u64, String>,
    last_id: u64,
    window: usize,
}

impl RetainedRemovals {
    pub(super) fn push(&mut self, topics: Vec<String>) {
        self.waiting.extend(topics);
    }

    /// `receive_maximum` is the broker's, if it names one.
    pub(super) fn handle_connected(&mut self, receive_maximum: Option<u16>) {
        self.window = receive_maximum.map_or(WINDOW, |max| WINDOW.min(max.into()));
    }

    /// What was in flight is sent again on the next connection.
    pub(super) fn handle_disconnected(&mut self) {
        self.window = 0;
        for (_, topic) in std::mem::take(&mut self.in_flight).into_iter().rev() {
            self.waiting.push_front(topic);
        }
    }

    /// Returns the topic and the reason if the broker refuses.
    pub(super) fn handle_delivery(
        &mut self,
        id: u64,
        delivery: Delivery,
    ) -> Option<(String, String)> {
        let topic = self.in_flight.remove(&id)?;
        match delivery {
            Delivery::Done => None,
            Delivery::Refused(refusal) => Some((topic, refusal.reason.clone())),
            Delivery::NotNow => {
                self.waiting.push_front(topic);
                None
            }
        }
    }

    pub(super) fn next_messages(&mut self) -> Vec<(u64, Arc<OutgoingMessage>)> {
        let free = self.window.saturating_sub(self.in_flight.len());
        let topics = self.waiting.drain(..free.min(self.waiting.len()));
        let mut messages = Vec::new();
        for topic in topics {
            self.last_id += 1;
            let id = self.last_id;
            let draft = Draft {
                topic: topic.as_str().into(),
                qos: Qos::AtLeastOnce,
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

    pub(super) fn is_done(&self) -> bool {
        self.waiting.is_empty() && self.in_flight.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topics(messages: &[(u64, Arc<OutgoingMessage>)]) -> Vec<&str> {
        messages.iter().map(|(_, m)| &*m.draft.topic).collect()
    }

    #[test]
    fn what_was_not_acknowledged_goes_out_again_in_order_within_the_window() {
        let mut removals = RetainedRemovals::default();
        removals.push(["a", "b", "c"].map(String::from).into());
        assert!(
            removals.next_messages().is_empty(),
            "there is no connection"
        );
        removals.handle_connected(Some(2));
        let sent = removals.next_messages();
        assert_eq!(topics(&sent), ["a", "b"]);
        assert!(
            sent.iter()
                .all(|(_, m)| m.draft.retain && m.draft.payload.is_empty())
        );
        assert_eq!(removals.handle_delivery(sent[0].0, Delivery::Done), None);
        removals.handle_disconnected();
        removals.handle_connected(None);
        let again = removals.next_messages();
        assert_eq!(topics(&again), ["b", "c"]);
        // A late answer to the first connection's message.
        assert_eq!(removals.handle_delivery(sent[1].0, Delivery::Done), None);
        for (id, _) in again {
            assert!(!removals.is_done());
            removals.handle_delivery(id, Delivery::Done);
        }
        assert!(removals.is_done());
    }
}
