//! The way of a reading from the source through the outbox to the client.

use std::borrow::Cow;

use log::warn;

use super::Publisher;
use crate::common::mqtt::message;
use crate::common::runtime::clock::{timestamp, wall_clock};
use crate::publisher::input::batch::Batch;
use crate::publisher::input::draft;
use crate::publisher::input::source::Chunk;
use crate::publisher::outbox::Offered;

impl Publisher<'_> {
    /// From the source into the outbox and out of it, until one of them is satisfied.
    pub(super) fn pump(&mut self) {
        loop {
            let room = self.outbox.room(self.now);
            self.input.fill(self.now, wall_clock, room);
            self.offer_held();
            let held_back = self.outbox.holds_back();
            let moved = self.dispatch();
            // What was refused before is let in now, and no event may follow that says so.
            let lets_in = held_back && !self.outbox.holds_back();
            if !moved && !lets_in {
                break;
            }
        }
        if !self.input.is_open() && self.flush_until.is_none() {
            self.flush_by(self.now + self.config.flush_timeout);
        }
    }

    /// Offers what has been read, as far as the outbox takes it.
    pub(super) fn offer_held(&mut self) {
        while self.offer_closed() && self.gather() {}
    }

    /// Offers what has been gathered, however little it is, and nothing more.
    pub(super) fn offer_gathered(&mut self) {
        if self.offer_closed() {
            self.input.close_due_batch(self.now);
            self.offer_closed();
        }
    }

    /// Offers the messages that are complete; whether the outbox has taken them all.
    fn offer_closed(&mut self) -> bool {
        while let Some(batch) = self.input.next_batch() {
            if let Some(back) = self.offer(batch) {
                self.input.put_back(back);
                return false;
            }
        }
        true
    }

    /// Makes messages of what the source gave; whether there is one to offer now.
    fn gather(&mut self) -> bool {
        while let Some(chunk) = self.input.next_chunk() {
            match chunk {
                Chunk::Message { line, payload } => self.take(line, payload.into()),
                Chunk::Lines { first, bytes, .. } => {
                    for (line, bytes) in (first..).zip(message::lines(&bytes)) {
                        self.take(line, bytes.into());
                    }
                }
            }
            if self.input.has_batch() {
                return true;
            }
        }
        self.input.close_due_batch(self.now);
        self.input.has_batch()
    }

    fn take(&mut self, line: u64, bytes: Cow<'_, [u8]>) {
        match draft::parse(&self.config.input, self.config.connection.profile, bytes) {
            Ok(reading) => self.input.push_reading(reading, line, self.now),
            Err(why) => self.report.rejected(line, &why),
        }
    }

    /// Offers one message to the outbox; it comes back if the source has to wait.
    fn offer(&mut self, Batch { draft, lines }: Batch) -> Option<Batch> {
        let readings = draft.readings;
        match self.outbox.offer(draft, self.now, timestamp()) {
            Offered::Full(draft) => return Some(Batch { draft, lines }),
            Offered::Refused => lines
                .iter()
                .for_each(|line| self.report.refused_offline(line)),
            Offered::TooLarge(why) => lines
                .iter()
                .for_each(|line| self.report.rejected(line, &why.to_string())),
            Offered::Taken { .. } | Offered::Dropped { .. } => {}
        }
        self.input.count_offered(readings);
        None
    }

    /// Hands to the client what may go; whether there was anything.
    fn dispatch(&mut self) -> bool {
        if self.flushing_last.is_some() {
            return false;
        }
        self.outbox.set_time(timestamp());
        let messages = self.outbox.dispatch(self.now);
        let moved = !messages.is_empty();
        if moved {
            let batches = || messages.iter().any(|sent| sent.message.draft.is_batch());
            if !self.v5 && !self.warned_older && batches() {
                self.warned_older = true;
                warn!(
                    "{}: spoken to in MQTT 3.1.1, by which receivers cannot tell batches from \
                     messages",
                    self.config.connection.endpoint
                );
            }
            let generation = self.driver.generation();
            let named = messages.into_iter().map(|sent| (sent.place, sent.message));
            self.driver.client().publish(generation, named.collect());
        }
        moved
    }
}
