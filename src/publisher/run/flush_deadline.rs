//! Until when messages are sent after the end of the input. PURE.

use std::time::Instant;

use crate::publisher::outbox::Outbox;

#[derive(Debug, Default)]
pub(super) struct FlushDeadline {
    /// `--deadline`: the end of the run, whatever happens.
    run: Option<Instant>,
    until: Option<Instant>,
    /// The time is up, and only the message with this position may still be acknowledged.
    last_message: Option<u64>,
    /// It is not extended: a signal ended the run.
    pub(super) is_final: bool,
}

impl FlushDeadline {
    pub(super) fn new(run: Option<Instant>) -> Self {
        Self {
            run,
            ..Self::default()
        }
    }

    pub(super) fn is_set(&self) -> bool {
        self.until.is_some()
    }

    /// The rest has to be sent by `until`, or by an earlier deadline. Returns the deadline.
    pub(super) fn bring_forward(&mut self, until: Instant) -> Instant {
        let until = self.earliest().map_or(until, |earlier| earlier.min(until));
        self.until = Some(until);
        until
    }

    pub(super) fn earliest(&self) -> Option<Instant> {
        self.until.into_iter().chain(self.run).min()
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.earliest().is_some_and(|at| now >= at)
    }

    pub(super) fn is_extended(&self) -> bool {
        self.last_message.is_some()
    }

    /// When the time is up, the message that is being transmitted has as long as it makes progress: a
    /// slow connection may need longer for it.
    pub(super) fn extend(&mut self, outbox: &Outbox, now: Instant) {
        let first = outbox.in_flight_messages().first_position();
        let is_other = self.last_message.is_some_and(|last| Some(last) != first);
        if self.is_final || is_other || self.until.is_none_or(|at| now < at) {
            return;
        }
        if let Some(until) = outbox.deadline_if_progressing().filter(|at| *at > now) {
            self.last_message = first;
            self.until = Some(until);
        }
    }
}
