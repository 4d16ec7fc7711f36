//! How often readings of one topic arrive, a thousand times per second or once per hour. PURE. Its memory is bounded.

use crate::subscriber::display::ms::Ms;

const SAMPLES: usize = 8;

const SECOND: Ms = 1000;

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    at: Ms,
    readings: u64,
}

/// Keeps the last readings of eight different seconds.
#[derive(Debug, Default)]
pub struct TopicRate {
    samples: [Sample; SAMPLES],
    used: usize,
}

impl TopicRate {
    /// `readings` is the number of readings up to and including the one at `now`.
    pub fn count(&mut self, readings: u64, now: Ms) {
        let sample = Sample { at: now, readings };
        let second = now.div_euclid(SECOND);
        // The first reading stays as it is: what came after it is counted from there.
        if self.used > 1 && self.samples[self.used - 1].at.div_euclid(SECOND) == second {
            self.samples[self.used - 1] = sample;
            return;
        }
        if self.used == SAMPLES {
            self.samples.rotate_left(1);
            self.used -= 1;
        }
        self.samples[self.used] = sample;
        self.used += 1;
    }

    /// It is constant for readings at a constant interval, and falls when two intervals are over.
    #[allow(clippy::cast_precision_loss, reason = "a rate, not a count")]
    pub fn per_second(&self, now: Ms) -> Option<f64> {
        let samples = self.samples.get(..self.used)?;
        let ([first, ..], [.., last]) = (samples, samples) else {
            return None;
        };
        let count = (last.readings - first.readings) as f64;
        if count < 1.0 {
            return None;
        }
        let between = ((last.at - first.at) as f64).max(1.0);
        let silent = (now - last.at) as f64;
        let is_late = silent > 2.0 * (between / count).max(500.0);
        let over = if is_late { between + silent } else { between };
        Some(count * 1e3 / over)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(interval: Ms, readings: u64) -> (TopicRate, Ms) {
        let mut rate = TopicRate::default();
        let mut now = 0;
        for n in 1..=readings {
            now += interval;
            rate.count(n, now);
        }
        (rate, now)
    }

    fn is_about(rate: Option<f64>, expected: f64) -> bool {
        rate.is_some_and(|rate| (rate / expected - 1.0).abs() < 0.001)
    }

    #[test]
    fn a_constant_interval_gives_its_rate_whether_short_or_long() {
        for (interval, per_second) in [(1, 1000.0), (250, 4.0), (3_600_000, 1.0 / 3600.0)] {
            for readings in [2, 5, 20_000] {
                let (rate, now) = rate(interval, readings);
                assert!(is_about(rate.per_second(now), per_second), "{rate:?}");
                let later = rate.per_second(now + interval);
                assert!(is_about(later, per_second), "{rate:?}");
            }
        }
    }

    #[test]
    fn one_reading_has_no_rate_and_silence_makes_it_fall() {
        assert_eq!(rate(1000, 1).0.per_second(5000), None);
        assert_eq!(TopicRate::default().per_second(0), None);
        let (rate, now) = rate(1000, 10);
        assert!(rate.per_second(now + 60_000).unwrap() < 0.2);
    }

    #[test]
    fn a_new_interval_is_known_after_eight_readings() {
        let (mut rate, mut now) = rate(60_000, 10);
        for n in 11..=20 {
            now += 2000;
            rate.count(n, now);
        }
        assert!(is_about(rate.per_second(now), 0.5), "{rate:?}");
    }
}
