//! Which numbers of which streams have been received, and which messages: what tells gaps and repeats. PURE,
//! and bounded in memory whatever a sender writes into its `seq` property.
//!
//! Numbers tell gaps, as runs of consecutive ones. Fingerprints tell repeats: each stream has those of its
//! latest messages. All streams together have [`MAX_KNOWN`] at most. When that is exceeded, streams
//! with the most give their oldest away, so that a busy publisher does not push out what is known of
//! a quiet one: with N streams each keeps its latest [`SHARED`] ÷ N at least.

use std::collections::{HashSet, VecDeque};
use std::fmt::Write as _;

use hashlink::LruCache;

use super::fingerprint::Fingerprint;
use super::steps::{Step, Steps};
use crate::common::mqtt::message::SeqProperty;

/// Streams remembered; the one that was silent longest is forgotten first.
pub const MAX_STREAMS: usize = 16_384;

/// Fingerprints remembered, of all streams together: what a hash table of 2¹⁸ places takes before it
/// grows.
pub const MAX_KNOWN: usize = (1 << 18) / 8 * 7;

/// How many are left when there are too many. Enough for three windows of 65,535 messages, which MQTT
/// has at most, or for 1,000 of 200.
pub const SHARED: usize = MAX_KNOWN / 8 * 7;

/// Runs of consecutive numbers remembered for a stream; the oldest gap is given up first.
const MAX_RUNS: usize = 64;

/// Streams with longer names are not ours, and not followed.
const MAX_NAME: usize = 128;

/// What a number says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Nothing is missing before it.
    Next,
    /// These are missing before it: each from, and up to.
    Gap(Vec<(u64, u64)>),
    /// It had been missing.
    Late,
    /// Only each number of this distance comes: the others are sent where no filter sees them. What
    /// was told of them before was no gap.
    InPart(u64),
    /// It has been received before, with this message or, where two publishers use one stream,
    /// with another.
    Known,
}

/// The numbers received of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// Runs in ascending order, each from, and up to.
    runs: Vec<(u64, u64)>,
    /// The highest number that came with a message that was not retained. Up to it all that is in
    /// no run is missing; runs beyond it are of retained messages.
    last: Option<u64>,
}

impl Stream {
    /// Takes a number. What comes before the first number ever seen is neither known nor late:
    /// we were not there. A retained message may be as old as can be: no stream begins with one,
    /// and nothing is missing before it, but its own number has been received.
    fn take(&mut self, seq: u64, retained: bool) -> Told {
        let Some(last) = self.last else {
            if !retained {
                self.runs.push((seq, seq));
                self.last = Some(seq);
            }
            return Told::Next;
        };
        if self.runs.first().is_none_or(|(first, _)| seq < *first) {
            return Told::Next;
        }
        let new = self.insert(seq);
        let told = if seq <= last {
            if new { Told::Late } else { Told::Known }
        } else if retained {
            if new { Told::Next } else { Told::Known }
        } else {
            self.last = Some(seq);
            let missing = self.missing_between(last, seq);
            if missing.is_empty() {
                Told::Next
            } else {
                Told::Gap(missing)
            }
        };
        self.forget_oldest_gap();
        told
    }

    /// Adds a number that is not below the first run; `false` if it is there.
    fn insert(&mut self, seq: u64) -> bool {
        let next = self.runs.partition_point(|(_, end)| *end < seq);
        let after = match self.runs.get(next) {
            Some((start, _)) if *start <= seq => return false,
            Some((start, _)) => *start - 1 == seq,
            None => false,
        };
        let previous = next.checked_sub(1).and_then(|i| self.runs.get_mut(i));
        match (previous.filter(|run| run.1 + 1 == seq), after) {
            (Some(_), true) => {
                let until = self.runs.remove(next).1;
                if let Some(run) = self.runs.get_mut(next - 1) {
                    run.1 = until;
                }
            }
            (Some(run), false) => run.1 = seq,
            (None, true) => {
                if let Some(run) = self.runs.get_mut(next) {
                    run.0 = seq;
                }
            }
            (None, false) => self.runs.insert(next, (seq, seq)),
        }
        true
    }

    /// The numbers between two received ones that are in no run.
    fn missing_between(&self, last: u64, seq: u64) -> Vec<(u64, u64)> {
        let mut missing = Vec::new();
        let mut from = last.saturating_add(1);
        let first = self.runs.partition_point(|(_, end)| *end < from);
        for (start, end) in self.runs.iter().skip(first) {
            if *start > seq {
                break;
            }
            if *start > from {
                missing.push((from, *start - 1));
            }
            from = end.saturating_add(1);
        }
        missing
    }

    fn forget_oldest_gap(&mut self) {
        if self.runs.len() > MAX_RUNS {
            let (from, _) = self.runs.remove(0);
            if let Some(run) = self.runs.first_mut() {
                run.0 = from;
            }
        }
    }

    /// The highest number of a message that was not retained.
    pub fn last(&self) -> Option<u64> {
        self.last
    }

    /// The numbers as text, `1-40,42-50`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (start, end) in &self.runs {
            let comma = if text.is_empty() { "" } else { "," };
            // Writing to a string has no way to fail.
            let _ = write!(text, "{comma}{start}-{end}");
        }
        text
    }

    /// What [`text`](Self::text) and [`last`](Self::last) have given; none if it cannot be that.
    pub fn parse(text: &str, last: Option<u64>) -> Option<Self> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for run in text.split(',').filter(|run| !run.is_empty()) {
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
        let within = |number: u64| {
            let mut runs = runs.iter();
            runs.any(|(start, end)| (*start..=*end).contains(&number))
        };
        let fits = last.map_or(runs.is_empty(), within);
        fits.then_some(Self { runs, last })
    }
}

/// What is known of a stream.
#[derive(Debug, Default)]
struct Followed {
    numbers: Stream,
    /// Up to here what is missing was missing in an earlier run.
    before: u64,
    /// How its numbers follow each other.
    steps: Steps,
    /// What is missing of it in this run, as long as it may yet prove to be seen in part.
    missing: u64,
    /// The fingerprints of its latest messages, in the order in which they came first.
    latest: VecDeque<Fingerprint>,
}

impl Followed {
    /// Takes a number; what it says, and how many more and how many fewer numbers are missing now.
    fn take(&mut self, seq: u64, retained: bool) -> (Told, u64, u64) {
        let last = self.numbers.last;
        let told = self.numbers.take(seq, retained);
        if told == Told::Late {
            let counted = !self.steps.late() && seq > self.before;
            return (told, 0, u64::from(counted));
        }
        if self.numbers.last == last {
            return (told, 0, 0);
        }
        let gaps: &[(u64, u64)] = match &told {
            Told::Gap(gaps) => gaps,
            _ => &[],
        };
        let count = gaps.iter().fold(0, |sum: u64, (from, until)| {
            sum.saturating_add((until - from).saturating_add(1))
        });
        match self.steps.take(seq) {
            Step::Uneven => {
                self.missing = self.missing.saturating_add(count);
                (told, count, 0)
            }
            Step::Established(width) => (Told::InPart(width), 0, self.missing),
            Step::Even(0) => (Told::Next, 0, 0),
            Step::Even(missing) => (told, missing, 0),
        }
    }
}

#[derive(Debug)]
pub struct Streams {
    followed: LruCache<String, Followed>,
    known: HashSet<Fingerprint>,
    /// Missing in all, streams that are no longer remembered included.
    missing: u64,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            followed: LruCache::new(MAX_STREAMS),
            known: HashSet::new(),
            missing: 0,
        }
    }
}

impl Streams {
    /// A stream as an earlier run has left it. What was missing then is that run's business.
    pub fn restore(&mut self, name: &str, numbers: Stream) {
        if let Some(followed) = self.follow(name) {
            followed.before = numbers.last.unwrap_or(0);
            followed.numbers = numbers;
        }
    }

    /// A message has come. Says whether it is a repeat: it has come before, and that is still known.
    pub fn meet(&mut self, stream: &str, fingerprint: Fingerprint) -> bool {
        if self.known.contains(&fingerprint) {
            return true;
        }
        if self.known.len() >= MAX_KNOWN {
            self.forget_oldest_fingerprints();
        }
        if let Some(followed) = self.follow(stream) {
            followed.latest.push_back(fingerprint);
            self.known.insert(fingerprint);
        }
        false
    }

    /// Takes the number of a message.
    pub fn take(&mut self, seq: &SeqProperty, retained: bool) -> Told {
        let Some(followed) = self.follow(&seq.stream) else {
            return Told::Next;
        };
        let (told, more, fewer) = followed.take(seq.seq, retained);
        self.missing = self.missing.saturating_add(more).saturating_sub(fewer);
        told
    }

    /// What is known of a stream, to be changed; the one that was silent longest makes room for
    /// a new one. None for a name that is not followed.
    fn follow(&mut self, name: &str) -> Option<&mut Followed> {
        if name.len() > MAX_NAME {
            return None;
        }
        if !self.followed.contains_key(name) {
            if self.followed.len() >= MAX_STREAMS
                && let Some((_, silent)) = self.followed.remove_lru()
            {
                for fingerprint in silent.latest {
                    self.known.remove(&fingerprint);
                }
            }
            self.followed.insert(name.to_owned(), Followed::default());
        }
        self.followed.get_mut(name)
    }

    fn forget_oldest_fingerprints(&mut self) {
        let lengths = self.followed.iter().map(|(_, stream)| stream.latest.len());
        let share = fair_share(lengths.collect(), SHARED);
        // A table from which they were removed one by one would grow all the same.
        self.known.clear();
        for (_, stream) in &mut self.followed {
            let surplus = stream.latest.len().saturating_sub(share);
            stream.latest.drain(..surplus);
            self.known.extend(&stream.latest);
        }
    }

    /// The numbers of a stream.
    pub fn get(&self, name: &str) -> Option<&Stream> {
        self.followed.peek(name).map(|followed| &followed.numbers)
    }

    /// Numbers that are missing between those received.
    pub fn missing(&self) -> u64 {
        self.missing
    }
}

/// How much each may keep of what it has, so that all together keep `total` at most: the same for all
/// but for those that have less.
pub fn fair_share(mut lengths: Vec<usize>, total: usize) -> usize {
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

    /// Takes these of one stream, retained where it says so; what each has told.
    fn told(streams: &mut Streams, numbers: &[(u64, bool)]) -> Vec<Told> {
        let take = |(seq, retained): &(u64, bool)| streams.take(&property("s", *seq), *retained);
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
                let told = streams.take(&property("s", seq), retained);
                let missing: BTreeSet<_> = (last + 1..seq).filter(|n| !seen.contains(n)).collect();
                let expected = match () {
                    () if last == 0 || seq < first => Told::Next,
                    () if seen.contains(&seq) && (seq <= last || retained) => Told::Known,
                    () if seq < last => Told::Late,
                    () if retained || missing.is_empty() => Told::Next,
                    () => {
                        let Told::Gap(gaps) = &told else { panic!("{told:?}") };
                        let told: BTreeSet<_> = gaps.iter().flat_map(|(a, b)| *a..=*b).collect();
                        prop_assert_eq!(told, missing);
                        Told::Gap(gaps.clone())
                    }
                };
                prop_assert_eq!(told, expected);
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
            let stream = streams.get("s").unwrap();
            let read = Stream::parse(&stream.text(), stream.last());
            prop_assert_eq!(read.as_ref(), Some(stream));
        }

        #[test]
        fn memory_is_bounded_whatever_comes(
            numbers in proptest::collection::vec((any::<u64>(), any::<bool>()), 1..600)
        ) {
            let mut streams = Streams::default();
            for (seq, retained) in numbers {
                streams.take(&property("s", seq), retained);
                prop_assert!(streams.get("s").is_some_and(|stream| stream.runs.len() <= MAX_RUNS));
            }
        }

        #[test]
        fn no_text_whatever_does_harm(
            text in "[0-9,-]{0,40}", last in any::<Option<u64>>(), seq in any::<u64>()
        ) {
            if let Some(mut stream) = Stream::parse(&text, last) {
                stream.take(seq, false);
            }
        }

        #[test]
        fn a_share_is_as_large_as_can_be(
            lengths in proptest::collection::vec(0usize..100, 0..50), total in 0usize..3_000
        ) {
            let share = fair_share(lengths.clone(), total);
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
        let expected = [
            Told::Next,
            Told::Next,
            Told::Next,
            Told::Next,
            Told::Gap(gaps),
        ];
        assert_eq!(told(streams, &numbers), expected);
        assert_eq!(streams.missing(), 4);
        // One that had been missing has been received.
        assert_eq!(told(streams, &[(10, true)]), [Told::Late]);
        assert_eq!(streams.missing(), 3);
    }

    #[test]
    fn numbers_that_are_sent_where_no_filter_sees_them_are_not_missing() {
        let mut streams = Streams::default();
        streams.take(&property("other", 1), false);
        streams.take(&property("other", 3), false);
        let mut take = |seq| streams.take(&property("s", seq), false);
        for seq in [1, 3, 5, 7, 9] {
            take(seq);
        }
        assert_eq!(take(11), Told::InPart(2));
        assert_eq!(take(13), Told::Next);
        assert_eq!(take(17), Told::Gap(vec![(14, 16)]));
        assert_eq!(take(19), Told::Next);
        assert_eq!(take(6), Told::Late);
        assert_eq!(streams.missing(), 2, "one of each");
    }

    #[test]
    fn what_an_earlier_run_missed_does_not_make_up_for_what_this_one_does() {
        let mut streams = Streams::default();
        streams.restore("s", Stream::parse("1-3,7-7", Some(7)).unwrap());
        let gap = Told::Gap(vec![(8, 8)]);
        assert_eq!(
            told(&mut streams, &[(9, false), (5, false)]),
            [gap, Told::Late]
        );
        assert_eq!(streams.missing(), 1);
    }

    /// The fingerprint of a message of a stream; none like another.
    fn print(stream: u64, number: u64) -> Fingerprint {
        Fingerprint(stream << 32 | number)
    }

    #[test]
    fn a_busy_stream_does_not_push_out_what_is_known_of_a_quiet_one() {
        let mut streams = Streams::default();
        for number in 0..100 {
            assert!(!streams.meet("quiet", print(0, number)));
        }
        for number in 0..2 * MAX_KNOWN as u64 {
            assert!(!streams.meet("busy", print(1, number)));
            assert!(streams.known.len() <= MAX_KNOWN);
        }
        assert!(streams.known.capacity() <= 1 << 18);
        for number in 0..100 {
            assert!(streams.meet("quiet", print(0, number)));
        }
        let end = 2 * MAX_KNOWN as u64;
        for number in end - 65_535..end {
            assert!(streams.meet("busy", print(1, number)));
        }
        assert!(!streams.meet("busy", print(1, 0)), "forgotten: handed over");
    }

    #[test]
    fn windows_of_a_thousand_publishers_are_known() {
        let mut streams = Streams::default();
        let (publishers, each) = (1_000, 400);
        let name = |publisher: u64| publisher.to_string();
        for number in 0..each {
            for publisher in 0..publishers {
                streams.meet(&name(publisher), print(publisher, number));
            }
        }
        for publisher in 0..publishers {
            for number in each - 200..each {
                assert!(streams.meet(&name(publisher), print(publisher, number)));
            }
        }
    }

    #[test]
    fn streams_beyond_the_limit_push_the_silent_ones_out() {
        let mut streams = Streams::default();
        let mut messages = 0;
        let mut take = |name: &str, seq| {
            messages += 1;
            streams.meet(name, print(0, messages));
            streams.take(&property(name, seq), false)
        };
        take("first", 1);
        take("first", 3);
        for number in 0..MAX_STREAMS {
            take(&number.to_string(), 1);
        }
        let long = "x".repeat(MAX_NAME + 1);
        assert_eq!(take(&long, 7), Told::Next);
        assert_eq!(take(&long, 7), Told::Next);
        assert_eq!(streams.get("first"), None);
        assert_eq!(streams.followed.len(), MAX_STREAMS);
        assert_eq!(streams.known.len(), MAX_STREAMS);
        assert_eq!(streams.missing(), 1, "what was missing stays missing");
    }
}
