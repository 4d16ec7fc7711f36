//! Parses what the source has read and offers the messages to the outbox.

use std::borrow::Cow;
use std::time::{Duration, Instant, UNIX_EPOCH};

use log::error;

use crate::common::broker::profile::Profile;
use crate::common::fault::Exit;
use crate::common::mqtt::draft::split_complete_lines;
use crate::common::runtime::clock::{two_clock_now, wall_clock};
use crate::publisher::input::batch::Batch;
use crate::publisher::input::config::InputConfig;
use crate::publisher::input::reading_parser;
use crate::publisher::input::source::{InputChunk, InputError, SourceEvent};
use crate::publisher::input::source_reader::SourceReader;
use crate::publisher::outbox::Outbox;
use crate::publisher::outbox::types::Offered;
use crate::publisher::report::Reporter;

pub(super) struct OutboxFeeder<'a> {
    pub(super) config: &'a InputConfig,
    pub(super) profile: Profile,
    pub(super) input: SourceReader,
}

impl OutboxFeeder<'_> {
    /// Returns the exit code that the event stands for.
    pub(super) fn handle_source_event(
        &mut self,
        event: SourceEvent,
        report: &mut Reporter,
        now: Instant,
    ) -> Exit {
        // Only a stamp shows it.
        let read_at = if self.config.stamp {
            wall_clock().duration_since(UNIX_EPOCH).unwrap_or_default()
        } else {
            Duration::ZERO
        };
        match self.input.handle_event(event, read_at, now) {
            Ok(()) => {}
            Err(InputError::LineTooLong { line }) => {
                let why = reading_parser::too_long(self.config, self.profile);
                report.report_rejected_line(line, &why, now);
            }
            Err(InputError::CommandFailed(why)) => report.command_failed(&why, now),
            Err(InputError::ReadFailed(cause)) => {
                error!(code = Exit::Io.code(); "standard input cannot be read: {cause}");
                return Exit::Io;
            }
        }
        Exit::Success
    }

    pub(super) fn offer_all(&mut self, outbox: &mut Outbox, report: &mut Reporter, now: Instant) {
        while self.offer_closed(outbox, report, now) && self.parse_until_message(report, now) {}
    }

    /// Offers what has been parsed, also an open batch that is due, and nothing more.
    pub(super) fn offer_parsed(
        &mut self,
        outbox: &mut Outbox,
        report: &mut Reporter,
        now: Instant,
    ) {
        if self.offer_closed(outbox, report, now) {
            self.input.close_due_batch(now);
            self.offer_closed(outbox, report, now);
        }
    }

    /// Offers the messages that are complete. Returns whether the outbox has taken all of them.
    fn offer_closed(&mut self, outbox: &mut Outbox, report: &mut Reporter, now: Instant) -> bool {
        while let Some(Batch { draft, lines }) = self.input.batches.next_batch() {
            let readings = draft.readings;
            match outbox.offer(draft, now, two_clock_now()) {
                Offered::Full(draft) => {
                    self.input.batches.put_back(Batch { draft, lines });
                    return false;
                }
                Offered::Refused => lines
                    .iter()
                    .for_each(|line| report.refused_offline(line, now)),
                Offered::TooLarge(why) => {
                    lines
                        .iter()
                        .for_each(|line| report.report_rejected_line(line, &why, now));
                }
                Offered::Taken { .. } | Offered::Dropped { .. } => {}
            }
            self.input.deduct_from_count(readings);
        }
        true
    }

    /// Parses what the source has read until a message is complete. Returns whether one is.
    fn parse_until_message(&mut self, report: &mut Reporter, now: Instant) -> bool {
        while let Some((chunk, read_at)) = self.input.pop_unparsed_chunk() {
            match chunk {
                InputChunk::Message { line, payload } => {
                    self.parse_and_push(line, payload.into(), read_at, report, now);
                }
                InputChunk::Lines { first, bytes, .. } => {
                    for (line, bytes) in (first..).zip(split_complete_lines(&bytes)) {
                        self.parse_and_push(line, bytes.into(), read_at, report, now);
                    }
                }
            }
            if self.input.batches.has_closed_batch() {
                return true;
            }
        }
        self.input.close_due_batch(now);
        self.input.batches.has_closed_batch()
    }

    fn parse_and_push(
        &mut self,
        line: u64,
        bytes: Cow<'_, [u8]>,
        read_at: Duration,
        report: &mut Reporter,
        now: Instant,
    ) {
        match reading_parser::parse(self.config, self.profile, bytes, read_at) {
            Ok(reading) => self.input.push_reading(reading, line, now),
            Err(why) => report.report_rejected_line(line, &why, now),
        }
    }
}
