//! What has been received: how many, which were repeats, what is missing, when to stop.
//! PURE, and bounded in memory whatever a sender writes into its `seq` property.

use std::collections::VecDeque;

use crate::common::message::SeqProperty;

/// Streams remembered; the one that was silent longest is forgotten first.
const MAX_STREAMS: usize = 64;

/// Runs of consecutive numbers remembered for a stream; the oldest gap is given up first.
const MAX_RUNS: usize = 64;

/// The numbers received of one stream, as runs in ascending order.
#[derive(Debug)]
struct Stream {
    name: String,
    runs: VecDeque<(u64, u64)>,
    /// Numbers missing in gaps that are no longer remembered.
    given_up: u64,
}

impl Stream {
    /// Takes a number; `false` if it was there already. What comes before the first number
    /// ever seen is neither a repeat nor a gap: we were not there.
    fn take(&mut self, seq: u64) -> bool {
        let next = self.runs.partition_point(|(_, end)| *end < seq);
        if next == 0 && self.runs.front().is_some_and(|(start, _)| seq < *start) {
            return true;
        }
        if self.runs.get(next).is_some_and(|(start, _)| *start <= seq) {
            return false;
        }
        let after = self
            .runs
            .get(next)
            .is_some_and(|(start, _)| *start - 1 == seq);
        let before = next > 0 && self.runs[next - 1].1 + 1 == seq;
        match (before, after) {
            (true, true) => {
                self.runs[next - 1].1 = self.runs[next].1;
                self.runs.remove(next);
            }
            (true, false) => self.runs[next - 1].1 = seq,
            (false, true) => self.runs[next].0 = seq,
            (false, false) => self.runs.insert(next, (seq, seq)),
        }
        if self.runs.len() > MAX_RUNS
            && let Some((start, end)) = self.runs.pop_front()
        {
            let (next, _) = self.runs[0];
            self.given_up = self.given_up.saturating_add(next - end - 1);
            self.runs[0].0 = start;
        }
        true
    }

    fn missing(&self) -> u64 {
        let holes = self.runs.iter().zip(self.runs.iter().skip(1));
        holes.fold(self.given_up, |sum, ((_, end), (start, _))| {
            sum.saturating_add(start - end - 1)
        })
    }
}

/// The counters.
#[derive(Debug, Default)]
pub struct Inbox {
    limit: Option<u64>,
    received: u64,
    duplicates: u64,
    /// Missing in streams that are no longer remembered.
    forgotten_gaps: u64,
    streams: VecDeque<Stream>,
}

impl Inbox {
    /// Nothing received; `limit` messages are enough, if there is one.
    #[must_use]
    pub fn new(limit: Option<u64>) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Counts a message that has been written.
    pub fn take(&mut self, seq: Option<&SeqProperty>) {
        self.received += 1;
        let Some(property) = seq else { return };
        let known = self.streams.iter().position(|s| s.name == property.stream);
        let mut stream = known
            .and_then(|i| self.streams.remove(i))
            .unwrap_or_else(|| Stream {
                name: property.stream.clone(),
                runs: VecDeque::new(),
                given_up: 0,
            });
        if !stream.take(property.seq) {
            self.duplicates += 1;
        }
        self.streams.push_back(stream);
        if self.streams.len() > MAX_STREAMS
            && let Some(oldest) = self.streams.pop_front()
        {
            self.forgotten_gaps = self.forgotten_gaps.saturating_add(oldest.missing());
        }
    }

    /// Whether it has all that it is to have.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.limit.is_some_and(|limit| self.received >= limit)
    }

    /// Messages written.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Messages whose stream and number had been received before.
    #[must_use]
    pub fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Numbers that are missing between those received.
    #[must_use]
    pub fn gaps(&self) -> u64 {
        let streams = self.streams.iter().map(Stream::missing);
        streams.fold(self.forgotten_gaps, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn property(stream: &str, seq: u64) -> SeqProperty {
        SeqProperty {
            stream: stream.into(),
            seq,
            accepted_ms: 0,
        }
    }

    proptest! {
        #[test]
        fn repeats_and_gaps_agree_with_a_plain_set(seqs in proptest::collection::vec(1u64..60, 1..200)) {
            let mut inbox = Inbox::new(None);
            let first = seqs[0];
            let mut seen = BTreeSet::new();
            let mut repeats = 0;
            for seq in &seqs {
                inbox.take(Some(&property("s", *seq)));
                if *seq >= first && !seen.insert(*seq) {
                    repeats += 1;
                }
            }
            let (low, high) = (*seen.first().unwrap(), *seen.last().unwrap());
            prop_assert_eq!(inbox.duplicates(), repeats);
            prop_assert_eq!(inbox.gaps(), high - low + 1 - seen.len() as u64);
        }

        #[test]
        fn memory_is_bounded_whatever_comes(numbers in proptest::collection::vec((0u32..200, any::<u64>()), 1..600)) {
            let mut inbox = Inbox::new(None);
            for (stream, seq) in numbers {
                inbox.take(Some(&property(&stream.to_string(), seq)));
                prop_assert!(inbox.streams.len() <= MAX_STREAMS);
                prop_assert!(inbox.streams.iter().all(|s| s.runs.len() <= MAX_RUNS));
                let _ = inbox.gaps();
            }
        }
    }

    #[test]
    fn it_is_full_at_its_limit_and_not_before() {
        let mut inbox = Inbox::new(Some(2));
        inbox.take(None);
        assert!(!inbox.is_full());
        inbox.take(None);
        assert!(inbox.is_full());
        assert_eq!(inbox.received(), 2);
    }
}
