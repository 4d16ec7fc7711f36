//! Keeps a connection below its broker's quota of messages and bytes per second. PURE.
//!
//! The generic cell rate algorithm (ITU-T I.371, annex A) for each: a theoretical time runs ahead of
//! the clock by what was used, and may be ahead by one burst at most.

use std::time::{Duration, Instant};

use crate::common::broker::profile::Pace;

#[derive(Debug)]
pub struct QuotaLimiter {
    messages: RateLimit,
    bytes: RateLimit,
}

#[derive(Debug)]
struct RateLimit {
    /// The time that one unit takes, in seconds.
    unit: f64,
    /// How far `until`, the theoretical time, may be ahead.
    ahead: Duration,
    until: Option<Instant>,
}

impl RateLimit {
    fn new(per_second: f64, burst: f64) -> Self {
        let unit = 1.0 / per_second;
        Self {
            unit,
            ahead: Duration::from_secs_f64(unit * (burst - 1.0)),
            until: None,
        }
    }

    fn ready_at(&self) -> Option<Instant> {
        self.until.and_then(|until| until.checked_sub(self.ahead))
    }

    fn take(&mut self, count: f64, now: Instant) {
        let from = self.until.map_or(now, |until| until.max(now));
        self.until = from.checked_add(Duration::from_secs_f64(self.unit * count));
    }
}

impl QuotaLimiter {
    pub fn new(pace: Pace) -> Self {
        Self {
            messages: RateLimit::new(pace.messages, pace.burst),
            bytes: RateLimit::new(pace.bytes, pace.burst_bytes),
        }
    }

    /// When the next message may be sent; `None` is now.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        let ready_at = self.messages.ready_at().max(self.bytes.ready_at());
        ready_at.filter(|at| *at > now)
    }

    pub fn record_sent(&mut self, bytes: usize, now: Instant) {
        self.messages.take(1.0, now);
        #[allow(clippy::cast_precision_loss, reason = "a packet has 28 bits of size")]
        self.bytes.take(bytes as f64, now);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an origin; moved by hand")]
mod tests {
    use super::*;
    use crate::common::broker::profile::Profile;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_second_has_more_than_the_quota(
            steps in prop::collection::vec((0u64..40_000, 1usize..3_000), 1..1_500)
        ) {
            let mut quota_limiter = QuotaLimiter::new(Profile::Aws.pace().unwrap());
            let mut now = Instant::now();
            let mut sent: Vec<(Instant, usize)> = Vec::new();
            for (micros, bytes) in steps {
                now += Duration::from_micros(micros);
                while quota_limiter.ready_at(now).is_none() && sent.len() < 20_000 {
                    quota_limiter.record_sent(bytes, now);
                    sent.push((now, bytes));
                }
            }
            for (index, (at, _)) in sent.iter().enumerate() {
                let second = sent[index..].iter().take_while(|(t, _)| *t < *at + Duration::from_secs(1));
                let (count, bytes) = second.fold((0, 0), |(n, b), (_, more)| (n + 1, b + more));
                prop_assert!(count <= 100, "{count} messages");
                prop_assert!(bytes <= 512 << 10, "{bytes} bytes");
            }
        }
    }

    #[test]
    fn a_large_message_is_paid_for_afterwards() {
        let now = Instant::now();
        let mut quota_limiter = QuotaLimiter::new(Profile::Aws.pace().unwrap());
        quota_limiter.record_sent(131_072, now);
        let ready = quota_limiter.ready_at(now).unwrap() - now;
        assert!(ready > Duration::from_millis(150) && ready < Duration::from_millis(300));
    }
}
