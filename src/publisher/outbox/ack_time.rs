//! How long acknowledgements take, and so how long a message may wait for its own before it
//! is worth writing to disk. PURE.
//!
//! The estimate is that of RFC 6298 for TCP: a smoothed time plus four deviations.

use std::time::{Duration, Instant};

/// Before anything is known.
const INITIAL: Duration = Duration::from_millis(250);
/// Shorter is not worth a wake.
const SHORTEST: Duration = Duration::from_millis(50);
/// Longer keeps the source waiting.
const LONGEST: Duration = Duration::from_secs(1);

/// The estimate, from one message at a time.
#[derive(Debug, Default)]
pub struct AckTime {
    /// Smoothed time and its deviation, in seconds.
    estimate: Option<(f64, f64)>,
    timing: Option<(u64, Instant)>,
}

impl AckTime {
    /// A message goes out; it is timed unless another one is.
    pub fn sent(&mut self, id: u64, now: Instant) {
        self.timing.get_or_insert((id, now));
    }

    /// It has been acknowledged.
    pub fn acknowledged(&mut self, id: u64, now: Instant) {
        let Some((_, since)) = self.timing.take_if(|(timed, _)| *timed == id) else {
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

    /// The connection is gone, and with it the message that was timed.
    pub fn stop(&mut self) {
        self.timing = None;
    }

    /// How long an acknowledgement may well take.
    pub fn patience(&self) -> Duration {
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
    fn patience_follows_the_acknowledgements_within_its_bounds() {
        let mut ack_time = AckTime::default();
        let mut now = Instant::now();
        assert_eq!(ack_time.patience(), INITIAL);
        let mut after = |milliseconds: u64, rounds: u64| {
            for id in 0..rounds {
                ack_time.sent(id, now);
                ack_time.sent(id + 1_000, now);
                now += Duration::from_millis(milliseconds);
                ack_time.acknowledged(id, now);
            }
            ack_time.patience()
        };
        assert_eq!(after(1, 20), SHORTEST);
        let steady = after(200, 60);
        assert!(steady > Duration::from_millis(190) && steady < Duration::from_millis(260));
        assert_eq!(after(5_000, 5), LONGEST);
    }
}
