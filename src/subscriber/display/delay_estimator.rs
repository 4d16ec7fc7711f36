//! How late readings arrive, measured with two clocks that may differ. PURE.

use super::ms::Ms;

/// The shortest delay is forgotten after one to two times this, because a clock may be adjusted.
const MEMORY: Ms = 5 * 60 * 1000;

/// Takes the shortest delay seen lately for no delay at all.
#[derive(Debug, Default)]
pub struct DelayEstimator {
    shortest: Option<i64>,
    shortest_before: Option<i64>,
    since: Ms,
}

impl DelayEstimator {
    /// In milliseconds, 0 or more. `difference`: our time of arrival minus the sender's time of measurement.
    pub fn estimate_delay(&mut self, difference: i64, now: Ms) -> Ms {
        if self.shortest.is_some() && now.saturating_sub(self.since) >= MEMORY {
            self.shortest_before = self.shortest.take();
            self.since = now;
        }
        let shortest = self.shortest.map_or(difference, |s| s.min(difference));
        self.shortest = Some(shortest);
        let shortest = self.shortest_before.map_or(shortest, |s| s.min(shortest));
        difference.saturating_sub(shortest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_found_whatever_the_senders_clock_shows() {
        for ahead in [-600_000, 0, 600_000] {
            let mut delays = DelayEstimator::default();
            assert_eq!(delays.estimate_delay(40 - ahead, 0), 0);
            assert_eq!(delays.estimate_delay(45 - ahead, 1000), 5);
            assert_eq!(delays.estimate_delay(30_040 - ahead, 31_000), 30_000);
            assert_eq!(delays.estimate_delay(20 - ahead, 32_000), 0);
        }
    }

    #[test]
    fn a_clock_that_was_set_back_is_trusted_again_after_some_minutes() {
        let mut delays = DelayEstimator::default();
        delays.estimate_delay(10, 0);
        let late: Vec<_> = (1..=11)
            .map(|minute| delays.estimate_delay(90_010, minute * 60_000))
            .collect();
        assert_eq!(late[0], 90_000);
        assert_eq!(late[10], 0);
    }

    #[test]
    fn absurd_clocks_do_not_overflow() {
        let mut delays = DelayEstimator::default();
        assert_eq!(delays.estimate_delay(i64::MIN, 0), 0);
        assert_eq!(delays.estimate_delay(i64::MAX, 0), i64::MAX);
    }
}
