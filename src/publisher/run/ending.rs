//! How a run comes to its end: when, with what on disk, and with which exit code.

use std::path::Path;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use log::error;

use super::{Event, Publisher};
use crate::common::client::ClientEvent;
use crate::common::connection::driver::DISCONNECT_TIMEOUT;
use crate::common::fault::Exit;
use crate::common::runtime::channel::receive_until;
use crate::common::runtime::clock::clock;
use crate::publisher::report::exit_status::ExitStatus;

/// How long the disk may take for what is left at the end of the run. A signal's guard may
/// cut it shorter.
const LAST_WRITE: Duration = Duration::from_secs(30);

impl Publisher<'_> {
    /// No more input comes; what is left has to go by then. A signal may shorten a flush,
    /// never lengthen it.
    pub(super) fn flush_by(&mut self, until: Instant) {
        let earlier = self.flush_until.into_iter().chain(self.deadline).min();
        let until = earlier.map_or(until, |earlier| earlier.min(until));
        self.flush_until = Some(until);
        self.outbox.finish_by(until);
    }

    /// The time is up. The message that is on the line is still let through, as long as the line makes progress: a
    /// slow line may need longer for it. No other follows it.
    pub(super) fn extend_flush(&mut self) {
        let head = self.outbox.first_in_flight();
        let is_up = self.flush_until.is_some_and(|at| self.now >= at);
        if !is_up || self.stopping || self.flushing_last.is_some_and(|last| Some(last) != head) {
            return;
        }
        if let Some(until) = self.outbox.moves_until().filter(|at| *at > self.now) {
            self.flushing_last = head;
            self.flush_until = Some(until);
        }
    }

    pub(super) fn is_finished(&self) -> bool {
        let done = self.flush_until.is_some() && !self.input.is_open() && self.undelivered() == 0;
        let late = |at: Option<Instant>| at.is_some_and(|at| self.now >= at);
        let given_up = self.fault.is_some()
            && (self.store_done || !self.input.is_open() && self.at_risk() == 0);
        given_up || done || late(self.flush_until) || late(self.deadline)
    }

    pub(super) fn undelivered(&self) -> usize {
        self.outbox.outstanding() + self.input.pending_messages()
    }

    pub(super) fn at_risk(&self) -> usize {
        self.outbox.at_risk() + self.input.pending_messages()
    }

    /// How the run went, as things stand.
    pub(super) fn exit_status(&self) -> ExitStatus<'_> {
        ExitStatus {
            summary: &self.report.summary,
            lost: self.at_risk(),
            kept: self.undelivered().saturating_sub(self.at_risk()),
            queue: self.config.queue.as_deref(),
            gone: self.outbox.queue().gone().is_some(),
            offline: self.driver.connection().why_offline(),
            ended_by: self.fault.as_ref(),
            worst: self.refused,
            first_reason: self.report.first_reason.as_deref(),
        }
    }

    /// Says goodbye, says what is lost, and sums up.
    pub(super) fn finish(mut self, inbox: &Receiver<Event>) -> Exit {
        let unconfirmed = self.outbox.sends_unconfirmed();
        self.input.stop();
        self.progress.stop();
        self.keep_held();
        self.close_queue(inbox);
        self.tell();
        let exit = self.exit_status().exit();
        if let Some(words) = self.exit_status().explanation() {
            error!("{words}");
        }
        let reconnects = self.driver.connection().reconnects();
        let mut patience = self
            .config
            .connection
            .connect_timeout
            .min(DISCONNECT_TIMEOUT);
        if unconfirmed {
            // Nobody acknowledges what was sent at QoS 0: it has to be seen off.
            let until = self.flush_until.into_iter().chain(self.deadline).min();
            let left = until.map(|until| until.saturating_duration_since(clock()));
            patience = patience.max(left.unwrap_or_default());
        }
        let closed = self.driver.close(inbox, patience, |event| match event {
            Event::Client(event) => Some(event),
            Event::Input(_) | Event::Store(_) | Event::Stop => None,
        });
        let mut exit = exit;
        if unconfirmed && !closed {
            error!(
                "{}: the line was too slow for the last messages of QoS 0: they may be lost",
                self.config.connection.endpoint
            );
            exit = exit.or_worse(Exit::Unavailable);
        }
        if self.exit_status().kept > 0 && self.fault.is_none() && !self.keeper.is_in_place() {
            let queue = self.config.queue.as_deref().unwrap_or(Path::new(""));
            error!(
                "{}: the queue was removed or moved as the run ended: what waited in it may be lost",
                queue.display()
            );
            exit = exit.or_worse(Exit::Io);
        }
        let elapsed = clock().saturating_duration_since(self.started);
        let queued = self.outbox.outstanding() as u64;
        self.report.summary.lost = self.at_risk() as u64;
        if self.report.finish(reconnects, queued, elapsed) {
            exit
        } else {
            exit.or_worse(Exit::Io)
        }
    }

    /// What was read and waited for a place on the connection is kept, if it may be.
    fn keep_held(&mut self) {
        if self.keeper.is_durable() && !self.store_done {
            self.outbox.stop_sending(self.now);
            self.offer_held();
        }
    }

    /// Writes what is not on disk yet, and ends the run there. What was read and never taken
    /// is lost, whatever the queue.
    pub(super) fn close_queue(&mut self, inbox: &Receiver<Event>) {
        self.outbox.queue_mut().close();
        let until = clock() + LAST_WRITE;
        while !self.store_done {
            self.now = clock();
            self.keeper.carry(&mut self.outbox, self.now);
            let due = self
                .outbox
                .queue()
                .wake_at(self.now)
                .map_or(until, |at| at.min(until));
            let event = receive_until(inbox, Some(due));
            self.now = clock();
            let Some(event) = event else {
                if self.now >= until {
                    break;
                }
                continue;
            };
            match event {
                Event::Store(report) => self.stored(report),
                Event::Client(ClientEvent::Deliveries { deliveries, .. }) => {
                    self.settle(deliveries);
                }
                Event::Client(_) | Event::Input(_) | Event::Stop => {}
            }
        }
    }
}
