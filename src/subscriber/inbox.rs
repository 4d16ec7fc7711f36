//! What has been received: how many, which are repeats, what is missing, what is wanted, when to
//! stop. PURE.

use super::retained::{Retained, Verdict};
use super::streams::{Streams, Told};
use crate::common::message::SeqProperty;

/// Which messages are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// How many readings are enough.
    pub limit: Option<u64>,
    /// No repeats.
    pub dedup: bool,
    /// Retained ones, others, or both.
    pub retained: Retained,
}

/// What a message is to its receiver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Wanted.
    New(Told),
    /// A repeat that is not wanted.
    Unwanted,
}

/// The counters.
#[derive(Debug, Default)]
pub struct Inbox {
    wanted: Wanted,
    taken: u64,
    duplicates: u64,
    streams: Streams,
}

impl Inbox {
    /// Nothing received; `streams` is what earlier runs have.
    #[must_use]
    pub fn new(wanted: Wanted, streams: Streams) -> Self {
        Self {
            wanted,
            streams,
            ..Self::default()
        }
    }

    /// What is to be done with a message by its retain flag.
    #[must_use]
    pub fn judge(&self, retained: bool) -> Verdict {
        self.wanted.retained.judge(retained)
    }

    /// A message has come.
    pub fn arrive(&mut self, seq: Option<&SeqProperty>) -> Arrival {
        let Some(property) = seq else {
            return Arrival::New(Told::Next);
        };
        let told = self.streams.take(property);
        if told == Told::Repeat {
            self.duplicates += 1;
            if self.wanted.dedup {
                return Arrival::Unwanted;
            }
        }
        Arrival::New(told)
    }

    /// Takes the readings of a message that has this number of them: how many are wanted.
    pub fn take(&mut self, readings: usize) -> usize {
        let left = self
            .wanted
            .limit
            .map(|limit| limit.saturating_sub(self.taken));
        let left = left.map_or(usize::MAX, |left| {
            usize::try_from(left).unwrap_or(usize::MAX)
        });
        let taken = readings.min(left);
        self.taken += taken as u64;
        taken
    }

    /// Whether it has all that it is to have.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.wanted.limit.is_some_and(|limit| self.taken >= limit)
    }

    /// Messages whose stream and number had been received before.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Numbers that are missing between those received.
    #[must_use]
    pub fn gaps(&self) -> u64 {
        self.streams.missing()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn property(seq: u64) -> SeqProperty {
        SeqProperty {
            stream: "s".into(),
            seq,
            accepted_ms: 0,
        }
    }

    #[test]
    fn it_is_full_at_its_limit_and_not_before() {
        let wanted = Wanted {
            limit: Some(2),
            ..Wanted::default()
        };
        let mut inbox = Inbox::new(wanted, Streams::default());
        assert!(inbox.take(1) == 1 && !inbox.is_full());
        assert!(inbox.take(7) == 1 && inbox.is_full());
        assert_eq!(inbox.take(1), 0);
    }

    #[test]
    fn repeats_are_counted_and_dropped_only_if_asked_for() {
        for dedup in [false, true] {
            let wanted = Wanted {
                dedup,
                ..Wanted::default()
            };
            let mut inbox = Inbox::new(wanted, Streams::default());
            for seq in [1, 2, 2, 4] {
                let arrival = inbox.arrive(Some(&property(seq)));
                assert_eq!(
                    arrival == Arrival::Unwanted,
                    dedup && inbox.duplicates() == 1 && seq == 2
                );
            }
            assert_eq!(inbox.arrive(None), Arrival::New(Told::Next));
            assert_eq!((inbox.duplicates(), inbox.gaps()), (1, 1));
        }
    }
}
