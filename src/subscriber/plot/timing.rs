//! When a reading was taken, as far as its sender's clock can be believed, and how many
//! messages arrive in a second. PURE.

use std::collections::VecDeque;

/// Milliseconds since the chart began; before it, less than nought.
pub(super) type Ms = i64;

/// How long the shortest delay is remembered: this long at least, twice as long at most. A
/// clock that was set anew is believed again after that.
const MEMORY: Ms = 5 * 60 * 1000;

/// How late readings are, told from two clocks that need not agree: the shortest delay seen
/// lately counts as no delay at all.
#[derive(Debug, Default)]
pub(super) struct Skew {
    least: Option<i64>,
    least_before: Option<i64>,
    since: Ms,
}

impl Skew {
    /// How late a reading is, in milliseconds, 0 or more, if `delay` lies between its
    /// sender's time and ours.
    pub(super) fn late(&mut self, delay: i64, now: Ms) -> Ms {
        if self.least.is_some() && now.saturating_sub(self.since) >= MEMORY {
            self.least_before = self.least.take();
            self.since = now;
        }
        let least = self.least.map_or(delay, |least| least.min(delay));
        self.least = Some(least);
        let least = self.least_before.map_or(least, |before| before.min(least));
        delay.saturating_sub(least)
    }
}

/// Over how long a rate is taken.
const RECENT: Ms = 10_000;
const MINUTE: Ms = 60_000;
const SECOND: Ms = 1000;

/// The messages of one second.
#[derive(Debug)]
struct Second {
    number: i64,
    first: Ms,
    last: Ms,
    count: u64,
}

/// How many messages arrive.
#[derive(Debug, Default)]
pub(super) struct Rate {
    seconds: VecDeque<Second>,
}

impl Rate {
    /// Counts one. Bounded: a minute is remembered.
    pub(super) fn count(&mut self, now: Ms) {
        let number = now.div_euclid(SECOND);
        match self.seconds.back_mut() {
            Some(second) if second.number >= number => {
                second.count += 1;
                second.last = second.last.max(now);
            }
            _ => self.seconds.push_back(Second {
                number,
                first: now,
                last: now,
                count: 1,
            }),
        }
        while self
            .seconds
            .front()
            .is_some_and(|second| second.last < now - MINUTE)
        {
            self.seconds.pop_front();
        }
    }

    /// Messages in the last minute.
    pub(super) fn per_minute(&self, now: Ms) -> u64 {
        self.since(now - MINUTE).map(|second| second.count).sum()
    }

    /// Messages a second, of late. Even ones give an even rate.
    #[allow(clippy::cast_precision_loss, reason = "a rate, not a count")]
    pub(super) fn per_second(&self, now: Ms) -> f64 {
        let count: u64 = self.since(now - RECENT).map(|second| second.count).sum();
        let first = self.since(now - RECENT).next().map(|second| second.first);
        let (Some(first), Some(last)) = (first, self.seconds.back()) else {
            return 0.0;
        };
        let (count, between) = (count as f64, (last.last - first) as f64 / 1e3);
        let silent = (now - last.last) as f64 / 1e3;
        let spacing = between / (count - 1.0).max(1.0);
        if count < 2.0 || silent > 2.0 * spacing.max(0.5) {
            count * 1e3 / RECENT as f64
        } else {
            (count - 1.0) / between.max(1e-3)
        }
    }

    fn since(&self, from: Ms) -> impl Iterator<Item = &Second> {
        self.seconds
            .iter()
            .skip_while(move |second| second.first < from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waited_is_late_whatever_the_senders_clock_says() {
        for ahead in [-600_000, 0, 600_000] {
            let mut skew = Skew::default();
            assert_eq!(skew.late(40 - ahead, 0), 0);
            assert_eq!(skew.late(45 - ahead, 1000), 5);
            assert_eq!(skew.late(30_040 - ahead, 31_000), 30_000);
            assert_eq!(skew.late(20 - ahead, 32_000), 0);
        }
    }

    #[test]
    fn a_clock_that_is_set_back_is_believed_again_in_time() {
        let mut skew = Skew::default();
        skew.late(10, 0);
        let late: Vec<_> = (1..=11)
            .map(|minute| skew.late(90_010, minute * 60_000))
            .collect();
        assert_eq!(late[0], 90_000);
        assert_eq!(late[10], 0);
    }

    #[test]
    fn absurd_clocks_do_not_overflow() {
        let mut skew = Skew::default();
        assert_eq!(skew.late(i64::MIN, 0), 0);
        assert_eq!(skew.late(i64::MAX, 0), i64::MAX);
    }

    #[test]
    fn an_even_stream_has_an_even_rate_and_silence_lets_it_fall() {
        let mut rate = Rate::default();
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
