//! Keeps repeated failures out of the log: the first of each cause is logged at once, further ones are counted
//! and logged at growing intervals. PURE.

use std::collections::VecDeque;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::time::{Duration, Instant};

use super::duration_text::duration_text;

/// Until the first count is logged; then twice as long, and so on.
const FIRST_INTERVAL: Duration = Duration::from_secs(60);
const MAX_INTERVAL: Duration = Duration::from_secs(60 * 60);

/// A cause that has not occurred for this long is a new one when it occurs again.
const FORGET_AFTER: Duration = Duration::from_secs(15 * 60);

/// After a success that has lasted this long, every cause is a new one.
const RECOVERED_AFTER: Duration = Duration::from_secs(60);

/// Causes remembered; of more, the one that has not occurred for longest is forgotten.
const MAX_CAUSES: usize = 32;

/// Lines of any cause. With those of new causes, no sequence of causes makes more than 48 + 288 + 32 + 28 = 396 lines per
/// week.
const LINES: LineBudget = LineBudget {
    burst: 48,
    interval: Duration::from_secs(35 * 60),
    full_at: None,
};

/// Lines that are reserved for causes of which nothing is in the log yet: each of the first 32 is logged at once, however
/// many lines others have used.
const NEW_CAUSE_LINES: LineBudget = LineBudget {
    burst: 32,
    interval: Duration::from_secs(6 * 60 * 60),
    full_at: None,
};

/// Causes that are known to be in the log; of more, the one that was first logged earliest is forgotten.
const MAX_LOGGED_CAUSES: usize = 64;

/// Whether to log a failure; what is displayed is to be appended to the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repetition {
    First,
    /// It has occurred `count` times, this time included, since it was logged, `period` ago.
    Repeated {
        count: u64,
        period: Duration,
        /// Nothing of this cause was in the log: there was no line left for its first occurrence.
        is_new_cause: bool,
    },
    /// Counted, not to be logged.
    Suppressed,
}

#[derive(Clone, Debug)]
struct RecentCause {
    cause: String,
    /// Since `counted_since`.
    unlogged: u64,
    counted_since: Instant,
    occurred_at: Instant,
    /// From `counted_since` to the next line; zero if it has not been logged yet.
    interval: Duration,
}

/// How many lines may be logged.
#[derive(Clone, Copy, Debug)]
struct LineBudget {
    burst: u32,
    /// How long it takes until one more may be.
    interval: Duration,
    /// When the burst will be available again; each line moves it.
    full_at: Option<Instant>,
}

#[derive(Clone, Debug)]
pub struct RepeatFilter {
    /// The one that occurred last is at the end.
    causes: Vec<RecentCause>,
    /// Hashes of the causes in the log.
    logged: VecDeque<u64>,
    succeeded_at: Option<Instant>,
    lines: LineBudget,
    new_cause_lines: LineBudget,
}

impl Default for RepeatFilter {
    fn default() -> Self {
        Self {
            causes: Vec::new(),
            logged: VecDeque::new(),
            succeeded_at: None,
            lines: LINES,
            new_cause_lines: NEW_CAUSE_LINES,
        }
    }
}

impl LineBudget {
    fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + self.interval;
        let is_free = full_at.saturating_duration_since(now) <= self.interval * self.burst;
        if is_free {
            self.full_at = Some(full_at);
        }
        is_free
    }
}

impl Repetition {
    /// Whether the line has to say everything, the remedy included.
    pub fn is_first_line(self) -> bool {
        match self {
            Self::First => true,
            Self::Repeated { is_new_cause, .. } => is_new_cause,
            Self::Suppressed => false,
        }
    }
}

impl RepeatFilter {
    /// A failure. `cause` identifies it, so it must not have numbers that change ([`without_numbers`]).
    pub fn filter(&mut self, cause: &str, now: Instant) -> Repetition {
        let succeeded_at = self.succeeded_at.take();
        if succeeded_at.is_some_and(|at| now.saturating_duration_since(at) >= RECOVERED_AFTER) {
            self.causes.clear();
        }
        let known = self.causes.iter().position(|known| known.cause == cause);
        let known = known.map(|index| self.causes.remove(index));
        let is_recent =
            |known: &RecentCause| now.saturating_duration_since(known.occurred_at) < FORGET_AFTER;
        let mut known = known.filter(is_recent).unwrap_or_else(|| RecentCause {
            cause: cause.to_owned(),
            unlogged: 0,
            counted_since: now,
            occurred_at: now,
            interval: Duration::ZERO,
        });
        known.occurred_at = now;
        known.unlogged += 1;
        let period = now.saturating_duration_since(known.counted_since);
        let mut repetition = Repetition::Suppressed;
        if period >= known.interval
            && let Some(is_new_cause) = self.take_line(cause, now)
        {
            let count = std::mem::take(&mut known.unlogged);
            repetition = if known.interval.is_zero() && count == 1 {
                Repetition::First
            } else {
                Repetition::Repeated {
                    count,
                    period,
                    is_new_cause,
                }
            };
            known.counted_since = now;
            known.interval = MAX_INTERVAL.min(FIRST_INTERVAL.max(known.interval * 2));
        }
        if self.causes.len() >= MAX_CAUSES {
            self.causes.remove(0);
        }
        self.causes.push(known);
        repetition
    }

    /// What failed has succeeded: if it does not fail again soon, the next failure is logged at once.
    pub fn handle_success(&mut self, now: Instant) {
        self.succeeded_at.get_or_insert(now);
    }

    /// Whether nothing of the cause was in the log; `None` if there is no line left.
    fn take_line(&mut self, cause: &str, now: Instant) -> Option<bool> {
        let mut hasher = DefaultHasher::new();
        cause.hash(&mut hasher);
        let hash = hasher.finish();
        let is_new = !self.logged.contains(&hash);
        let is_free = is_new && self.new_cause_lines.take(now) || self.lines.take(now);
        if is_free && is_new {
            self.logged.truncate(MAX_LOGGED_CAUSES - 1);
            self.logged.push_front(hash);
        }
        is_free.then_some(is_new)
    }
}

impl fmt::Display for Repetition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::First | Self::Suppressed => Ok(()),
            Self::Repeated {
                count: 1, period, ..
            } => {
                write!(f, " (again after {})", duration_text(*period))
            }
            Self::Repeated { count, period, .. } => {
                write!(f, " ({count} times in {})", duration_text(*period))
            }
        }
    }
}

/// A text without the words that have digits: the rest identifies a failure whose ports, times and sizes change.
pub fn without_numbers(text: &str) -> String {
    let words = text.split(' ');
    let words = words.filter(|word| !word.contains(|c: char| c.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::common::runtime::clock::instant_now;

    const SECOND: Duration = Duration::from_secs(1);
    const WEEK: u32 = 7 * 24 * 60 * 60;

    fn lines(causes: impl Iterator<Item = (u32, &'static str)>) -> Vec<(u32, String)> {
        let start = instant_now();
        let mut filter = RepeatFilter::default();
        let lines = causes.filter_map(|(second, cause)| {
            let repetition = filter.filter(cause, start + SECOND * second);
            let is_logged = repetition != Repetition::Suppressed;
            is_logged.then(|| (second, format!("{cause}{repetition}")))
        });
        lines.collect()
    }

    #[test]
    fn a_failure_per_second_is_logged_at_once_and_then_at_growing_intervals() {
        let lines = lines((0..3_600).map(|second| (second, "no")));
        let logged: Vec<_> = lines.iter().map(|(second, _)| *second).collect();
        assert_eq!(logged, [0, 60, 180, 420, 900, 1_860]);
        assert_eq!(lines[0].1, "no");
        assert_eq!(lines[1].1, "no (60 times in 60 s)");
        assert_eq!(lines[3].1, "no (240 times in 4m)");
    }

    #[test]
    fn in_the_end_a_failure_per_second_is_one_line_per_hour() {
        let lines = lines((0..WEEK).map(|second| (second, "no")));
        assert_eq!(lines.len(), 173);
        assert_eq!(lines[172].1, "no (3600 times in 1h)");
    }

    #[test]
    fn causes_that_alternate_are_logged_as_rarely_as_one() {
        let lines = lines((0..240).map(|second| (second, ["a", "b", "c"][second as usize % 3])));
        let texts: Vec<_> = lines.iter().map(|(_, text)| text.as_str()).collect();
        let [first, second] = ["(20 times in 60 s)", "(40 times in 2m)"];
        let counts = |times: &str| ["a", "b", "c"].map(|cause| format!("{cause} {times}"));
        let expected = [
            ["a", "b", "c"].map(str::to_owned),
            counts(first),
            counts(second),
        ]
        .concat();
        assert_eq!(texts, expected);
    }

    #[test]
    fn a_cause_that_stayed_away_is_logged_at_once() {
        let minutes = [0, 1, 2, 16, 31, 47];
        let lines = lines(minutes.into_iter().map(|minute| (minute * 60, "no")));
        let expected = [
            (0, "no"),
            (1, "no (again after 60 s)"),
            (16, "no (2 times in 15m)"),
            (31, "no"),
            (47, "no"),
        ];
        let expected = expected.map(|(minute, text)| (minute * 60, text.to_owned()));
        assert_eq!(lines, expected);
    }

    #[test]
    fn after_a_success_that_lasted_the_same_cause_is_logged_at_once() {
        for (lasted, expected) in [(59, Repetition::Suppressed), (60, Repetition::First)] {
            let start = instant_now();
            let mut filter = RepeatFilter::default();
            filter.filter("no", start);
            filter.filter("no", start + SECOND * 61);
            filter.handle_success(start + SECOND * 62);
            let next = start + SECOND * (62 + lasted);
            assert_eq!(filter.filter("no", next), expected);
        }
    }

    #[test]
    fn a_new_cause_for_which_no_line_was_left_is_logged_whole_later() {
        let start = instant_now();
        let mut filter = RepeatFilter::default();
        // More causes than there are lines.
        for n in 0..LINES.burst + NEW_CAUSE_LINES.burst {
            assert_eq!(
                filter.filter(&format!("cause {n}"), start),
                Repetition::First
            );
        }
        let mut logged = Vec::new();
        for minutes in (0..75).step_by(2) {
            let repetition = filter.filter("late", start + SECOND * 60 * minutes);
            if repetition != Repetition::Suppressed {
                logged.push((minutes, repetition.is_first_line()));
            }
        }
        assert_eq!(logged, [(36, true), (70, false)]);
    }

    #[test]
    fn what_identifies_a_failure_has_no_numbers() {
        let text = "h:8883: no answer within 5s (0x87) from fe80::1";
        assert_eq!(without_numbers(text), "no answer within from");
        assert_eq!(without_numbers("h: closed"), "h: closed");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]

        #[test]
        fn no_sequence_of_causes_makes_more_than_400_lines_per_week(
            step in 1u32..900,
            causes in prop_oneof![1usize..100, Just(usize::MAX)],
            success_every in 1usize..50,
        ) {
            let start = instant_now();
            let mut filter = RepeatFilter::default();
            let mut lines = 0;
            for (n, second) in (0..WEEK).step_by(step as usize).enumerate() {
                let now = start + SECOND * second;
                let cause = format!("cause {}", n % causes);
                lines += usize::from(filter.filter(&cause, now) != Repetition::Suppressed);
                if n % success_every == 0 {
                    filter.handle_success(now);
                }
            }
            prop_assert!(lines <= 400, "{}", lines);
        }

        /// Other causes may have used up all other lines.
        #[test]
        fn each_of_the_first_causes_is_logged_whole_when_it_first_occurs(
            others in proptest::collection::vec((0u32..100_000, 0usize..8), 0..2_000),
            first_occurrences in proptest::collection::vec(0u32..100_000, 24),
        ) {
            let start = instant_now();
            let others = others.into_iter().map(|(second, n)| (second, format!("other {n}")));
            let firsts = first_occurrences.into_iter().enumerate();
            let firsts = firsts.map(|(n, second)| (second, format!("cause {n}")));
            let mut causes: Vec<_> = others.chain(firsts).collect();
            causes.sort();
            let mut filter = RepeatFilter::default();
            let mut known = std::collections::BTreeSet::new();
            for (second, cause) in causes {
                let repetition = filter.filter(&cause, start + SECOND * second);
                if known.insert(cause) {
                    prop_assert_eq!(repetition, Repetition::First);
                }
            }
        }
    }
}
