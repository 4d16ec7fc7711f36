//! Keeps repeated failures out of the log: the first is logged at once, further ones are counted
//! and logged at growing intervals. PURE.

use std::time::{Duration, Instant};

/// Until the first count is logged; then twice as long, and so on.
const FIRST_INTERVAL: Duration = Duration::from_secs(60);
const MAX_INTERVAL: Duration = Duration::from_secs(60 * 60);

#[derive(Clone, Debug, Default)]
pub struct RepeatFilter {
    last: Option<LastFailure>,
}

#[derive(Clone, Debug)]
struct LastFailure {
    what: String,
    unlogged: u64,
    interval: Duration,
    logged_at: Instant,
}

impl RepeatFilter {
    /// The line to log for this failure, if it is another one or if it is time for a count.
    pub fn filter(&mut self, what: &str, now: Instant) -> Option<String> {
        match &mut self.last {
            Some(last) if last.what == what => {
                last.unlogged += 1;
                let since = now.saturating_duration_since(last.logged_at);
                if since < last.interval {
                    return None;
                }
                let count = std::mem::take(&mut last.unlogged);
                last.logged_at = now;
                last.interval = MAX_INTERVAL.min(last.interval * 2);
                let seconds = since.as_secs();
                Some(format!("{what} ({count} times in {seconds} s)"))
            }
            _ => {
                self.last = Some(LastFailure {
                    what: what.to_owned(),
                    unlogged: 0,
                    interval: FIRST_INTERVAL,
                    logged_at: now,
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
    fn a_failure_per_second_is_logged_at_once_and_then_at_growing_intervals() {
        let start = crate::common::runtime::clock::instant_now();
        let mut filter = RepeatFilter::default();
        let lines: Vec<(u64, String)> = (0..3_600)
            .filter_map(|n| Some((n, filter.filter("no", start + Duration::from_secs(n))?)))
            .collect();
        let logged: Vec<_> = lines.iter().map(|(n, _)| *n).collect();
        assert_eq!(logged, [0, 60, 180, 420, 900, 1_860]);
        assert_eq!(lines[0].1, "no");
        assert_eq!(lines[1].1, "no (60 times in 60 s)");
        assert_eq!(lines[2].1, "no (120 times in 120 s)");
        assert_eq!(filter.filter("other", start).unwrap(), "other");
    }
}
