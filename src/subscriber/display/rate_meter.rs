//! How many messages arrive. PURE.

use std::collections::VecDeque;

use super::ms::Ms;

/// The rate per second is measured over this time.
const RECENT: Ms = 10_000;
const MINUTE: Ms = 60_000;
const SECOND: Ms = 1000;

#[derive(Debug)]
struct Second {
    first: Ms,
    last: Ms,
    count: u64,
}

#[derive(Debug, Default)]
pub struct RateMeter {
    seconds: VecDeque<Second>,
}

impl RateMeter {
    pub fn count(&mut self, now: Ms) {
        let number = now.div_euclid(SECOND);
        match self.seconds.back_mut() {
            Some(second) if second.first.div_euclid(SECOND) >= number => {
                second.count += 1;
                second.last = second.last.max(now);
            }
            _ => self.seconds.push_back(Second {
                first: now,
                last: now,
                count: 1,
            }),
        }
        let is_old = |second: &Second| second.last < now - MINUTE;
        while self.seconds.front().is_some_and(is_old) {
            self.seconds.pop_front();
        }
    }

    pub fn per_minute(&self, now: Ms) -> u64 {
        self.count_since(now - MINUTE)
    }

    /// The rate of the last seconds. It is constant for messages at a constant interval.
    #[allow(clippy::cast_precision_loss, reason = "a rate, not a count")]
    pub fn per_second(&self, now: Ms) -> f64 {
        let (Some(first), Some(last)) = (
            self.second_counts_since(now - RECENT).next(),
            self.seconds.back(),
        ) else {
            return 0.0;
        };
        let count = self.count_since(now - RECENT) as f64;
        let between = (last.last - first.first) as f64 / 1e3;
        let silent = (now - last.last) as f64 / 1e3;
        let spacing = between / (count - 1.0).max(1.0);
        if count < 2.0 || silent > 2.0 * spacing.max(0.5) {
            count * 1e3 / RECENT as f64
        } else {
            (count - 1.0) / between.max(1e-3)
        }
    }

    fn count_since(&self, from: Ms) -> u64 {
        self.second_counts_since(from)
            .map(|second| second.count)
            .sum()
    }

    fn second_counts_since(&self, from: Ms) -> impl Iterator<Item = &Second> {
        let seconds = self.seconds.iter();
        seconds.skip_while(move |second| second.first < from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_interval_gives_a_constant_rate_that_falls_in_silence() {
        let mut rate = RateMeter::default();
        assert_eq!(rate.per_second(0).to_bits(), 0f64.to_bits());
        for n in 0..100 {
            rate.count(n * 500);
        }
        assert!((rate.per_second(49_700) - 2.0).abs() < 1e-9);
        assert!(rate.per_second(55_000) < 1.2);
        assert!(rate.per_second(70_000) < 0.01);
        assert_eq!(rate.per_minute(50_000), 100);
        for n in 0..1_000_000 {
            rate.count(100_000 + n);
        }
        assert!(rate.seconds.len() <= 62);
        assert!((rate.per_second(1_100_000) - 1000.0).abs() < 1.0);
    }
}
