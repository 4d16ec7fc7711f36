//! Follows all streams: counts the numbers that are missing, and recognises repeats. PURE, and bounded in memory
//! whatever a sender writes into its `seq` property.
//!
//! Each stream keeps the fingerprints of its latest messages. All streams together have [`MAX_FINGERPRINTS`] at most.
//! When that is exceeded, streams with the most forget their oldest, so that a busy publisher does not push out what is
//! known of a quiet one: with N streams each keeps its latest [`SHARED`] ÷ N at least.

use std::collections::{HashSet, VecDeque};

use hashlink::LruCache;

use super::fingerprint::Fingerprint;
use super::numbers::{NumberStatus, ReceivedNumbers};
use super::partial_stream_detector::{PartialStreamDetector, StepRegularity};
use crate::common::mqtt::seq_property::SeqProperty;

pub const MAX_STREAMS: usize = 16_384;

/// Fingerprints of all streams: what a hash table of 2¹⁸ slots holds before it grows.
pub const MAX_FINGERPRINTS: usize = (1 << 18) / 8 * 7;

/// How many are left when there are too many. Enough for three windows of 65,535 messages, the most
/// that MQTT allows, or for 1,000 of 200.
pub const SHARED: usize = MAX_FINGERPRINTS / 8 * 7;

/// No publisher of this project has a longer stream name: such streams are not tracked.
const MAX_NAME: usize = 128;

#[derive(Debug, Default)]
struct TrackedStream {
    numbers: ReceivedNumbers,
    before: u64,
    stride: PartialStreamDetector,
    /// Numbers missing in this run, as long as the stream may yet prove to be seen in part.
    missing: u64,
    fingerprints: VecDeque<Fingerprint>,
}

impl TrackedStream {
    /// Returns also how many more and how many fewer numbers are missing now.
    fn handle_number(&mut self, seq: u64, retained: bool) -> (NumberStatus, u64, u64) {
        let last = self.numbers.last();
        let status = self.numbers.handle_number(seq, retained);
        if status == NumberStatus::Late {
            let counted = !self.stride.handle_late() && seq > self.before;
            return (status, 0, u64::from(counted));
        }
        if self.numbers.last() == last {
            return (status, 0, 0);
        }
        let gaps: &[(u64, u64)] = match &status {
            NumberStatus::Gap(gaps) => gaps,
            _ => &[],
        };
        let count = gaps.iter().fold(0, |sum: u64, (from, until)| {
            sum.saturating_add((until - from).saturating_add(1))
        });
        match self.stride.handle_number(seq) {
            StepRegularity::Irregular => {
                self.missing = self.missing.saturating_add(count);
                (status, count, 0)
            }
            StepRegularity::Established(width) => {
                (NumberStatus::PartialStream(width), 0, self.missing)
            }
            StepRegularity::Regular(0) => (NumberStatus::Next, 0, 0),
            StepRegularity::Regular(missing) => (status, missing, 0),
        }
    }
}

#[derive(Debug)]
pub struct Streams {
    tracked: LruCache<String, TrackedStream>,
    known: HashSet<Fingerprint>,
    missing: u64,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            tracked: LruCache::new(MAX_STREAMS),
            known: HashSet::new(),
            missing: 0,
        }
    }
}

impl Streams {
    /// Adds a stream of an earlier run. What was missing then does not count in this run.
    pub fn restore(&mut self, name: &str, numbers: ReceivedNumbers) {
        if let Some(stream) = self.stream_mut(name) {
            stream.before = numbers.last().unwrap_or(0);
            stream.numbers = numbers;
        }
    }

    pub fn insert_fingerprint(&mut self, stream: &str, fingerprint: Fingerprint) -> bool {
        if self.known.contains(&fingerprint) {
            return false;
        }
        if self.known.len() >= MAX_FINGERPRINTS {
            self.forget_oldest_fingerprints();
        }
        if let Some(stream) = self.stream_mut(stream) {
            stream.fingerprints.push_back(fingerprint);
            self.known.insert(fingerprint);
        }
        true
    }

    pub fn handle_number(&mut self, seq: &SeqProperty, retained: bool) -> NumberStatus {
        let Some(stream) = self.stream_mut(&seq.stream) else {
            return NumberStatus::Next;
        };
        let (status, more, fewer) = stream.handle_number(seq.seq, retained);
        self.missing = self.missing.saturating_add(more).saturating_sub(fewer);
        status
    }

    /// Adds a new stream, in place of the one that was silent longest if there are too many. None for
    /// a name that is too long.
    fn stream_mut(&mut self, name: &str) -> Option<&mut TrackedStream> {
        if name.len() > MAX_NAME {
            return None;
        }
        if !self.tracked.contains_key(name) {
            if self.tracked.len() >= MAX_STREAMS
                && let Some((_, silent)) = self.tracked.remove_lru()
            {
                for fingerprint in silent.fingerprints {
                    self.known.remove(&fingerprint);
                }
            }
            let stream = TrackedStream::default();
            self.tracked.insert(name.to_owned(), stream);
        }
        self.tracked.get_mut(name)
    }

    fn forget_oldest_fingerprints(&mut self) {
        let tracked = self.tracked.iter();
        let lengths = tracked.map(|(_, stream)| stream.fingerprints.len());
        let share = fair_length_limit(lengths.collect(), SHARED);
        // Removing them one by one would leave tombstones, and the table would grow.
        self.known.clear();
        for (_, stream) in &mut self.tracked {
            let surplus = stream.fingerprints.len().saturating_sub(share);
            stream.fingerprints.drain(..surplus);
            self.known.extend(&stream.fingerprints);
        }
    }

    pub fn received_numbers(&self, name: &str) -> Option<&ReceivedNumbers> {
        self.tracked.peek(name).map(|stream| &stream.numbers)
    }

    pub fn missing(&self) -> u64 {
        self.missing
    }
}

/// The largest limit for each length so that the lengths, cut to it, add up to `total` at most.
pub fn fair_length_limit(mut lengths: Vec<usize>, total: usize) -> usize {
    lengths.sort_unstable();
    let mut left = total;
    for (others, length) in (1..=lengths.len()).rev().zip(&lengths) {
        let share = left / others;
        if *length > share {
            return share;
        }
        left -= length;
    }
    usize::MAX
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

    fn statuses(streams: &mut Streams, numbers: &[(u64, bool)]) -> Vec<NumberStatus> {
        let take =
            |(seq, retained): &(u64, bool)| streams.handle_number(&property("s", *seq), *retained);
        numbers.iter().map(take).collect()
    }

    proptest! {
        #[test]
        fn numbers_agree_with_a_plain_set(
            numbers in proptest::collection::vec((1u64..60, proptest::bool::weighted(0.2)), 1..200)
        ) {
            let mut streams = Streams::default();
            let mut seen = BTreeSet::new();
            let (mut first, mut last) = (0, 0);
            for (seq, retained) in numbers {
                let status = streams.handle_number(&property("s", seq), retained);
                let missing: BTreeSet<_> = (last + 1..seq).filter(|n| !seen.contains(n)).collect();
                let expected = match () {
                    () if last == 0 || seq < first => NumberStatus::Next,
                    () if seen.contains(&seq) && (seq <= last || retained) => NumberStatus::Duplicate,
                    () if seq < last => NumberStatus::Late,
                    () if retained || missing.is_empty() => NumberStatus::Next,
                    () => {
                        let NumberStatus::Gap(gaps) = &status else { panic!("{status:?}") };
                        let reported: BTreeSet<_> = gaps.iter().flat_map(|(a, b)| *a..=*b).collect();
                        prop_assert_eq!(reported, missing);
                        NumberStatus::Gap(gaps.clone())
                    }
                };
                prop_assert_eq!(status, expected);
                if last == 0 && !retained {
                    first = seq;
                }
                if last > 0 && seq >= first || !retained {
                    seen.insert(seq);
                }
                if !retained {
                    last = last.max(seq);
                }
                seen.retain(|seq| *seq >= first);
                let all = (first..=last).filter(|n| last > 0 && !seen.contains(n)).count();
                prop_assert_eq!(streams.missing(), all as u64);
            }
            let numbers = streams.received_numbers("s").unwrap();
            let read = ReceivedNumbers::parse(&numbers.text(), numbers.last());
            prop_assert_eq!(read.as_ref(), Some(numbers));
        }

        #[test]
        fn a_share_is_as_large_as_can_be(
            lengths in proptest::collection::vec(0usize..100, 0..50), total in 0usize..3_000
        ) {
            let share = fair_length_limit(lengths.clone(), total);
            let kept = |share: usize| lengths.iter().map(|l| *l.min(&share)).sum::<usize>();
            prop_assert!(kept(share) <= total);
            prop_assert!(share == usize::MAX || kept(share + 1) > total);
        }
    }

    #[test]
    fn a_retained_message_neither_begins_a_stream_nor_has_anything_missing_before_it() {
        let streams = &mut Streams::default();
        let numbers = [(3, true), (7, false), (8, false), (12, true), (14, false)];
        let gaps = vec![(9, 11), (13, 13)];
        let found = statuses(streams, &numbers);
        assert_eq!(found[..4], vec![NumberStatus::Next; 4]);
        assert_eq!(found[4..], [NumberStatus::Gap(gaps)]);
        assert_eq!(streams.missing(), 4);
        // One that had been missing has been received.
        assert_eq!(statuses(streams, &[(10, true)]), [NumberStatus::Late]);
        assert_eq!(streams.missing(), 3);
    }

    #[test]
    fn numbers_sent_to_topics_that_no_filter_matches_are_not_missing() {
        let mut streams = Streams::default();
        streams.handle_number(&property("other", 1), false);
        streams.handle_number(&property("other", 3), false);
        let mut take = |seq| streams.handle_number(&property("s", seq), false);
        for seq in [1, 3, 5, 7, 9] {
            take(seq);
        }
        assert_eq!(take(11), NumberStatus::PartialStream(2));
        assert_eq!(take(13), NumberStatus::Next);
        assert_eq!(take(17), NumberStatus::Gap(vec![(14, 16)]));
        assert_eq!(take(19), NumberStatus::Next);
        assert_eq!(take(6), NumberStatus::Late);
        assert_eq!(streams.missing(), 2, "one of each");
    }

    #[test]
    fn a_late_number_of_an_earlier_run_does_not_reduce_this_run_s_count() {
        let mut streams = Streams::default();
        streams.restore("s", ReceivedNumbers::parse("1-3,7-7", Some(7)).unwrap());
        let gap = NumberStatus::Gap(vec![(8, 8)]);
        let found = statuses(&mut streams, &[(9, false), (5, false)]);
        assert_eq!(found, [gap, NumberStatus::Late]);
        assert_eq!(streams.missing(), 1);
    }

    fn print(stream: u64, number: u64) -> Fingerprint {
        Fingerprint(stream << 32 | number)
    }

    #[test]
    fn a_busy_stream_does_not_push_out_fingerprints_of_a_quiet_one() {
        let mut streams = Streams::default();
        for number in 0..100 {
            assert!(streams.insert_fingerprint("quiet", print(0, number)));
        }
        for number in 0..2 * MAX_FINGERPRINTS as u64 {
            assert!(streams.insert_fingerprint("busy", print(1, number)));
            assert!(streams.known.len() <= MAX_FINGERPRINTS);
        }
        assert!(streams.known.capacity() <= 1 << 18);
        for number in 0..100 {
            assert!(!streams.insert_fingerprint("quiet", print(0, number)));
        }
        let end = 2 * MAX_FINGERPRINTS as u64;
        for number in end - 65_535..end {
            assert!(!streams.insert_fingerprint("busy", print(1, number)));
        }
        let is_forgotten = streams.insert_fingerprint("busy", print(1, 0));
        assert!(is_forgotten, "delivered");
    }

    #[test]
    fn repeats_within_the_windows_of_a_thousand_publishers_are_recognised() {
        let mut streams = Streams::default();
        let (publishers, each) = (1_000, 400);
        let name = |publisher: u64| publisher.to_string();
        for number in 0..each {
            for publisher in 0..publishers {
                streams.insert_fingerprint(&name(publisher), print(publisher, number));
            }
        }
        for publisher in 0..publishers {
            for number in each - 200..each {
                assert!(!streams.insert_fingerprint(&name(publisher), print(publisher, number)));
            }
        }
    }

    #[test]
    fn streams_beyond_the_limit_replace_the_silent_ones() {
        let mut streams = Streams::default();
        let mut messages = 0;
        let mut take = |name: &str, seq| {
            messages += 1;
            streams.insert_fingerprint(name, print(0, messages));
            streams.handle_number(&property(name, seq), false)
        };
        take("first", 1);
        take("first", 3);
        for number in 0..MAX_STREAMS {
            take(&number.to_string(), 1);
        }
        let long = "x".repeat(MAX_NAME + 1);
        assert_eq!(take(&long, 7), NumberStatus::Next);
        assert_eq!(take(&long, 7), NumberStatus::Next);
        assert_eq!(streams.received_numbers("first"), None);
        assert_eq!(streams.tracked.len(), MAX_STREAMS);
        assert_eq!(streams.known.len(), MAX_STREAMS);
        assert_eq!(streams.missing(), 1, "what was missing stays missing");
    }
}
