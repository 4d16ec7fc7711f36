//! Which message the broker closes connections for. PURE.
//!
//! Some brokers close the connection when they do not accept a message, and give no reason. When a
//! connection ends in a way that may be because of a message, the first one in flight becomes the
//! candidate: it is sent alone on the next connection. Only a close while it is alone counts against
//! it. Ends that have nothing to do with a message neither count nor clear it.

use super::types::PoisonEvidence;
use crate::common::mqtt::outgoing_message::OutgoingMessage;
use crate::common::mqtt::qos::Qos;

#[derive(Debug)]
pub struct PoisonDetector {
    max_attempts: u32,
    /// The candidate's id, and the connections that were closed while it was alone.
    candidate: Option<(u64, u32)>,
    /// The broker may end this connection because of a message that is not in flight any more: one
    /// that it refused, or one of `QoS` 0.
    pub others_possible: bool,
    sent: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub enum PoisonFinding {
    Attempts(u32),
    Refused(String),
    TooManyAttempts(u32),
}

impl PoisonDetector {
    pub fn new(max_attempts: u32) -> Self {
        Self {
            max_attempts,
            candidate: None,
            others_possible: false,
            sent: 0,
        }
    }

    pub fn is_isolating(&self) -> bool {
        self.candidate.is_some()
    }

    pub fn handle_connected(&mut self) {
        self.others_possible = false;
        self.sent = 0;
    }

    pub fn handle_sent(&mut self, message: &OutgoingMessage, is_first: bool) {
        self.sent += 1;
        self.others_possible |= message.draft.qos == Qos::AtMostOnce;
        if is_first && message.attempts > 0 {
            self.set_candidate(message);
        }
    }

    pub fn clear(&mut self, id: u64) {
        self.candidate = self.candidate.filter(|(candidate, _)| *candidate != id);
    }

    /// The connection has ended with `first` as the first one of `in_flight` messages. It counts against the message
    /// only if that was the only one that the broker had to answer, and had reached it.
    pub fn handle_loss(
        &mut self,
        loss: PoisonEvidence,
        first: &OutgoingMessage,
        in_flight: usize,
        is_just_sent: bool,
    ) -> Option<PoisonFinding> {
        let PoisonEvidence::ByBroker { reason, reached } = loss else {
            return None;
        };
        self.set_candidate(first);
        let is_alone = in_flight == 1 && !self.others_possible;
        let reached = reached.filter(|reached| is_alone && reached.begun == self.sent)?;
        if let Some(reason) = reason {
            return Some(PoisonFinding::Refused(reason));
        }
        let (_, attempts) = self.candidate.as_mut()?;
        if !reached.complete || !is_just_sent {
            return None;
        }
        *attempts = attempts.saturating_add(1);
        Some(if *attempts < self.max_attempts {
            PoisonFinding::Attempts(*attempts)
        } else {
            PoisonFinding::TooManyAttempts(*attempts)
        })
    }

    fn set_candidate(&mut self, message: &OutgoingMessage) {
        if self.candidate.is_none_or(|(id, _)| id != message.id) {
            self.candidate = Some((message.id, message.attempts));
        }
    }
}
