//! Which numbers of which streams have been received: what tells repeats and gaps. PURE, and
//! bounded in memory whatever a sender writes into its `seq` property.

use std::fmt::Write as _;

use hashlink::LruCache;

use crate::common::message::SeqProperty;

/// Streams remembered; the one that was silent longest is forgotten first.
pub const MAX_STREAMS: usize = 16_384;

/// Runs of consecutive numbers remembered for a stream; the oldest gap is given up first.
const MAX_RUNS: usize = 64;

/// Streams with longer names are not ours, and not followed.
const MAX_NAME: usize = 128;

/// What a number says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It comes next, or is the first of its stream.
    Next,
    /// These are missing before it: from, and up to.
    Gap(u64, u64),
    /// It had been missing.
    Late,
    /// It has been received before.
    Repeat,
}

/// The numbers received of one stream, as runs in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    runs: Vec<(u64, u64)>,
}

impl Stream {
    /// Takes a number. What comes before the first number ever seen is neither a repeat nor late:
    /// we were not there.
    fn take(&mut self, seq: u64) -> Told {
        let next = self.runs.partition_point(|(_, end)| *end < seq);
        let Some((first, _)) = self.runs.first() else {
            self.runs.push((seq, seq));
            return Told::Next;
        };
        if seq < *first {
            return Told::Next;
        }
        let after = match self.runs.get(next) {
            Some((start, _)) if *start <= seq => return Told::Repeat,
            Some((start, _)) => *start - 1 == seq,
            None => false,
        };
        let last = next == self.runs.len();
        let previous = next.checked_sub(1).and_then(|i| self.runs.get_mut(i));
        let end = previous.as_ref().map_or(0, |run| run.1);
        let told = match (last, end + 1 == seq) {
            (true, true) => Told::Next,
            (true, false) => Told::Gap(end + 1, seq - 1),
            (false, _) => Told::Late,
        };
        match (previous.filter(|run| run.1 + 1 == seq), after) {
            (Some(_), true) => {
                let until = self.runs.remove(next).1;
                if let Some(run) = self.runs.get_mut(next - 1) {
                    run.1 = until;
                }
                return told;
            }
            (Some(run), false) => run.1 = seq,
            (None, true) => {
                if let Some(run) = self.runs.get_mut(next) {
                    run.0 = seq;
                }
            }
            (None, false) => self.runs.insert(next, (seq, seq)),
        }
        self.forget_oldest_gap();
        told
    }

    fn forget_oldest_gap(&mut self) {
        if self.runs.len() > MAX_RUNS {
            let (from, _) = self.runs.remove(0);
            if let Some(run) = self.runs.first_mut() {
                run.0 = from;
            }
        }
    }

    /// As text, `1-40,42-50`: what [`parse`](Self::parse) reads.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (start, end) in &self.runs {
            let comma = if text.is_empty() { "" } else { "," };
            // Writing to a string has no way to fail.
            let _ = write!(text, "{comma}{start}-{end}");
        }
        text
    }

    /// Reads what [`text`](Self::text) wrote.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for run in text.split(',') {
            let (start, end) = run.split_once('-')?;
            let (start, end) = (start.parse().ok()?, end.parse().ok()?);
            let after = runs
                .last()
                .map_or(0, |(_, end): &(u64, u64)| end.saturating_add(2));
            if start < after || end < start || runs.len() >= MAX_RUNS {
                return None;
            }
            runs.push((start, end));
        }
        Some(Self { runs })
    }
}

/// All streams.
#[derive(Debug)]
pub struct Streams {
    streams: LruCache<String, Stream>,
    /// Missing in all, streams that are no longer remembered included.
    missing: u64,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            streams: LruCache::new(MAX_STREAMS),
            missing: 0,
        }
    }
}

impl Streams {
    /// A stream as an earlier run has left it. What was missing then is that run's business.
    pub fn restore(&mut self, name: &str, stream: Stream) {
        if name.len() <= MAX_NAME {
            self.streams.insert(name.to_owned(), stream);
        }
    }

    /// Takes a number.
    pub fn take(&mut self, property: &SeqProperty) -> Told {
        if property.stream.len() > MAX_NAME {
            return Told::Next;
        }
        let Some(stream) = self.streams.get_mut(&property.stream) else {
            let mut stream = Stream::default();
            let told = stream.take(property.seq);
            self.streams.insert(property.stream.clone(), stream);
            return told;
        };
        let told = stream.take(property.seq);
        match told {
            Told::Gap(from, until) => {
                self.missing = self
                    .missing
                    .saturating_add((until - from).saturating_add(1));
            }
            Told::Late => self.missing = self.missing.saturating_sub(1),
            Told::Next | Told::Repeat => {}
        }
        told
    }

    /// What is known of a stream.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Stream> {
        self.streams.peek(name)
    }

    /// Numbers that are missing between those received.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.missing
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
            let mut streams = Streams::default();
            let first = seqs[0];
            let mut seen = BTreeSet::new();
            for seq in &seqs {
                let told = streams.take(&property("s", *seq));
                let last = seen.last().copied().unwrap_or(seq - 1);
                let expected = match () {
                    () if *seq < first => Told::Next,
                    () if seen.contains(seq) => Told::Repeat,
                    () if *seq < last => Told::Late,
                    () if *seq > last + 1 => Told::Gap(last + 1, seq - 1),
                    () => Told::Next,
                };
                prop_assert_eq!(told, expected);
                if *seq >= first {
                    seen.insert(*seq);
                }
                let (low, high) = (*seen.first().unwrap(), *seen.last().unwrap());
                prop_assert_eq!(streams.missing(), high - low + 1 - seen.len() as u64);
            }
            let stream = streams.get("s").unwrap();
            let read = Stream::parse(&stream.text());
            prop_assert_eq!(read.as_ref(), Some(stream));
        }

        #[test]
        fn memory_is_bounded_whatever_comes(numbers in proptest::collection::vec(any::<u64>(), 1..600)) {
            let mut streams = Streams::default();
            for seq in numbers {
                streams.take(&property("s", seq));
                prop_assert!(streams.get("s").is_some_and(|stream| stream.runs.len() <= MAX_RUNS));
            }
        }

        #[test]
        fn no_text_whatever_does_harm(text in "[0-9,-]{0,40}", seq in any::<u64>()) {
            if let Some(mut stream) = Stream::parse(&text) {
                stream.take(seq);
            }
        }
    }

    #[test]
    fn streams_beyond_the_limit_push_the_silent_ones_out() {
        let mut streams = Streams::default();
        streams.take(&property("first", 1));
        streams.take(&property("first", 3));
        for number in 0..MAX_STREAMS {
            streams.take(&property(&number.to_string(), 1));
        }
        assert_eq!(streams.get("first"), None);
        assert_eq!(streams.streams.len(), MAX_STREAMS);
        assert_eq!(streams.missing(), 1, "what was missing stays missing");
        let long = "x".repeat(MAX_NAME + 1);
        assert_eq!(streams.take(&property(&long, 7)), Told::Next);
        assert_eq!(streams.take(&property(&long, 7)), Told::Next);
    }
}
