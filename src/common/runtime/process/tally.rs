//! Keeps repeated failures out of the log: the first is said at once, further ones are counted and
//! said at growing intervals. PURE.

use std::time::{Duration, Instant};

/// Until the first count is said; then twice as long, and so on.
const FIRST: Duration = Duration::from_secs(60);

/// The longest interval.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// One kind of failure, as far as it has been told.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    last: Option<Last>,
}

#[derive(Clone, Debug)]
struct Last {
    what: String,
    /// Failures that have not been told.
    untold: u64,
    interval: Duration,
    told: Instant,
}

impl Tally {
    /// The same failure again, or another: the line to log, if it is time for one.
    pub fn note(&mut self, what: &str, now: Instant) -> Option<String> {
        match &mut self.last {
            Some(last) if last.what == what => {
                last.untold += 1;
                let since = now.saturating_duration_since(last.told);
                if since < last.interval {
                    return None;
                }
                let count = std::mem::take(&mut last.untold);
                last.told = now;
                last.interval = LONGEST.min(last.interval * 2);
                let seconds = since.as_secs();
                Some(format!("{what} ({count} times in {seconds} s)"))
            }
            _ => {
                self.last = Some(Last {
                    what: what.to_owned(),
                    untold: 0,
                    interval: FIRST,
                    told: now,
                });
                Some(what.to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_a_second_is_told_at_once_and_then_at_growing_intervals() {
        let start = crate::common::runtime::clock::clock();
        let mut tally = Tally::default();
        let lines: Vec<(u64, String)> = (0..3_600)
            .filter_map(|n| Some((n, tally.note("no", start + Duration::from_secs(n))?)))
            .collect();
        let told: Vec<_> = lines.iter().map(|(n, _)| *n).collect();
        assert_eq!(told, [0, 60, 180, 420, 900, 1_860]);
        assert_eq!(lines[0].1, "no");
        assert_eq!(lines[1].1, "no (60 times in 60 s)");
        assert_eq!(lines[2].1, "no (120 times in 120 s)");
        assert_eq!(tally.note("other", start).unwrap(), "other");
    }
}
