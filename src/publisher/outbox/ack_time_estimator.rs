//! How long acknowledgements take, and so how long a message may wait for its own before it is written to disk. PURE.
//! The estimate is that of RFC 6298 for TCP: a smoothed time plus four deviations.

use std::time::{Duration, Instant};

const INITIAL: Duration = Duration::from_millis(250);
/// Shorter is not worth a wake-up.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub struct AckTimeEstimator {
    /// Smoothed time and its deviation, in seconds.
    estimate: Option<(f64, f64)>,
    timing: Option<(u64, Instant)>,
}

impl AckTimeEstimator {
    pub fn handle_sent(&mut self, position: u64, now: Instant) {
        self.timing.get_or_insert((position, now));
    }

    pub fn handle_ack(&mut self, position: u64, now: Instant) {
        let Some((_, since)) = self.timing.take_if(|(timed, _)| *timed == position) else {
            return;
        };
        let sample = now.saturating_duration_since(since).as_secs_f64();
        self.estimate = Some(match self.estimate {
            None => (sample, sample / 2.0),
            Some((time, deviation)) => (
                0.875 * time + 0.125 * sample,
                0.75 * deviation + 0.25 * (time - sample).abs(),
            ),
        });
    }

    pub fn stop(&mut self) {
        self.timing = None;
    }

    pub fn estimate_upper_bound(&self) -> Duration {
        let Some((time, deviation)) = self.estimate else {
            return INITIAL;
        };
        Duration::try_from_secs_f64(time + 4.0 * deviation)
            .unwrap_or(LONGEST)
            .clamp(SHORTEST, LONGEST)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an origin; the test moves it")]
mod tests {
    use super::*;

    #[test]
    fn the_estimate_follows_the_acknowledgements_within_its_bounds() {
        let mut ack_time = AckTimeEstimator::default();
        let mut now = Instant::now();
        assert_eq!(ack_time.estimate_upper_bound(), INITIAL);
        let mut after = |milliseconds: u64, rounds: u64| {
            for position in 0..rounds {
                ack_time.handle_sent(position, now);
                ack_time.handle_sent(position + 1_000, now);
                now += Duration::from_millis(milliseconds);
                ack_time.handle_ack(position, now);
            }
            ack_time.estimate_upper_bound()
        };
        assert_eq!(after(1, 20), SHORTEST);
        let steady = after(200, 60);
        assert!(steady > Duration::from_millis(190) && steady < Duration::from_millis(260));
        assert_eq!(after(5_000, 5), LONGEST);
    }
}
