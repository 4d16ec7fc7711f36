//! Which numbers of one stream have been received, as runs of consecutive ones. PURE, and bounded
//! in memory whatever a sender writes into its `seq` property.

use std::fmt::Write as _;

const MAX_RUNS: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NumberStatus {
    /// Nothing is missing before it.
    Next,
    /// These are missing before it: ranges, both ends included.
    Gap(Vec<(u64, u64)>),
    Late,
    /// Only multiples of this width come: the others are sent to topics that no filter matches.
    /// What was reported of them before was no gap.
    PartialStream(u64),
    /// It has been received before, with this message or, where two publishers use one stream, with another.
    Duplicate,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReceivedNumbers {
    runs: Vec<(u64, u64)>,
    /// The highest number of a message that was not retained. Up to it all that is in
    /// no run is missing; runs beyond it are of retained messages.
    last: Option<u64>,
}

impl ReceivedNumbers {
    /// Takes a number. What comes before the first number ever seen is neither known nor late: the
    /// subscriber was not there. A retained message may be of any age: no stream begins with one,
    /// and nothing is missing before it, but its own number has been received.
    pub fn handle_number(&mut self, seq: u64, retained: bool) -> NumberStatus {
        let Some(last) = self.last else {
            if !retained {
                self.runs.push((seq, seq));
                self.last = Some(seq);
            }
            return NumberStatus::Next;
        };
        if self.runs.first().is_none_or(|(first, _)| seq < *first) {
            return NumberStatus::Next;
        }
        let new = self.insert(seq);
        let status = if !new && (seq <= last || retained) {
            NumberStatus::Duplicate
        } else if seq <= last {
            NumberStatus::Late
        } else if retained {
            NumberStatus::Next
        } else {
            self.last = Some(seq);
            let missing = self.missing_ranges_between(last, seq);
            if missing.is_empty() {
                NumberStatus::Next
            } else {
                NumberStatus::Gap(missing)
            }
        };
        self.forget_oldest_gap();
        status
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

    fn missing_ranges_between(&self, last: u64, seq: u64) -> Vec<(u64, u64)> {
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

    pub fn last(&self) -> Option<u64> {
        self.last
    }

    pub fn text(&self) -> String {
        let mut text = String::new();
        for (start, end) in &self.runs {
            let comma = if text.is_empty() { "" } else { "," };
            // Writing to a string cannot fail.
            let _ = write!(text, "{comma}{start}-{end}");
        }
        text
    }

    /// The inverse of [`text`](Self::text) and [`last`](Self::last); none if they contradict each other.
    pub fn parse(text: &str, last: Option<u64>) -> Option<Self> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for run in text.split(',').filter(|run| !run.is_empty()) {
            let (start, end) = run.split_once('-')?;
            let (start, end) = (start.parse().ok()?, end.parse().ok()?);
            let after = runs.last().map_or(0, |run| run.1.saturating_add(2));
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn memory_is_bounded_whatever_comes(
            numbers in proptest::collection::vec((any::<u64>(), any::<bool>()), 1..600)
        ) {
            let mut received = ReceivedNumbers::default();
            for (seq, retained) in numbers {
                received.handle_number(seq, retained);
                prop_assert!(received.runs.len() <= MAX_RUNS);
            }
        }

        #[test]
        fn any_text_parses_or_is_rejected_without_harm(
            text in "[0-9,-]{0,40}", last in any::<Option<u64>>(), seq in any::<u64>()
        ) {
            if let Some(mut received) = ReceivedNumbers::parse(&text, last) {
                received.handle_number(seq, false);
            }
        }
    }
}
