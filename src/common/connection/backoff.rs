//! The delays between connection attempts, as in the AWS IoT Device SDK: delay *n* is min(2ⁿ · base, max). *n* counts
//! the failures in a row, from 0, and is reset only by a connection that has lasted the stable time. PURE: randomness
//! comes in as a number.
//!
//! Two differences are intended: the configured base applies from the first failure on, and each delay t is drawn from
//! [(1 − jitter) · t, t], so that the clients of a broker that was down do not all reconnect at the same moment.

use std::time::Duration;

use thiserror::Error;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    base: Duration,
    max: Duration,
    stable: Duration,
    jitter: f64,
}

#[derive(Clone, Debug, Error, PartialEq)]
pub enum PolicyError {
    #[error("--base-backoff 0 would reconnect without a pause; give a positive delay")]
    ZeroBase,
    #[error(
        "--max-backoff {max:?} is shorter than --base-backoff {base:?}; raise it or lower the base"
    )]
    MaxBelowBase { base: Duration, max: Duration },
    #[error(
        "--stable-time {stable:?} must be longer than --base-backoff {base:?}: it says when a \
         connection counts as stable again"
    )]
    StableNotAboveBase { base: Duration, stable: Duration },
    #[error("--jitter {0} is outside 0 to 1")]
    Jitter(f64),
}

impl Policy {
    pub fn new(
        base: Duration,
        max: Duration,
        stable: Duration,
        jitter: f64,
    ) -> Result<Self, PolicyError> {
        if base.is_zero() {
            return Err(PolicyError::ZeroBase);
        }
        if max < base {
            return Err(PolicyError::MaxBelowBase { base, max });
        }
        if base >= stable {
            return Err(PolicyError::StableNotAboveBase { base, stable });
        }
        if !(0.0..=1.0).contains(&jitter) {
            return Err(PolicyError::Jitter(jitter));
        }
        Ok(Self {
            base,
            max,
            stable,
            jitter,
        })
    }

    /// min(2ⁿ · base, max), without jitter.
    pub fn nominal_delay(&self, n: u32) -> Duration {
        1u32.checked_shl(n)
            .and_then(|factor| self.base.checked_mul(factor))
            .map_or(self.max, |delay| delay.min(self.max))
    }
}

#[derive(Clone, Debug)]
pub struct Backoff {
    policy: Policy,
    failures: u32,
}

impl Backoff {
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            failures: 0,
        }
    }

    /// Counts a failure. Returns the delay before the next attempt. `random` is uniform in [0, 1);
    /// 0 stands for no jitter.
    pub fn next_delay(&mut self, random: f64) -> Duration {
        let delay = self.upcoming();
        self.failures = self.failures.saturating_add(1);
        delay.mul_f64(1.0 - self.policy.jitter * random.clamp(0.0, 1.0))
    }

    /// The delay after the next failure, without jitter.
    pub fn upcoming(&self) -> Duration {
        self.policy.nominal_delay(self.failures)
    }

    pub fn reset_if_stable(&mut self, lasted: Duration) {
        if lasted >= self.policy.stable {
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn jitter_never_exceeds_the_formula_nor_undercuts_its_share(
            base_ms in 1u64..60_000, factor in 1u32..500, jitter in 0.0f64..=1.0,
            draws in proptest::collection::vec(0.0f64..1.0, 1..80),
        ) {
            let base = Duration::from_millis(base_ms);
            let policy = Policy::new(base, base * factor, base * 2, jitter).unwrap();
            let mut backoff = Backoff::new(policy);
            for (n, draw) in draws.into_iter().enumerate() {
                let full = policy.nominal_delay(u32::try_from(n).unwrap());
                let delay = backoff.next_delay(draw);
                prop_assert!(delay <= full && full <= base * factor);
                prop_assert!(delay >= full.mul_f64((1.0 - jitter).max(0.0)).saturating_sub(Duration::from_nanos(1)));
            }
        }
    }

    #[test]
    fn the_delay_stays_at_the_cap_after_any_number_of_failures() {
        let second = Duration::from_secs(1);
        let policy = Policy::new(second, second * 32, second * 20, 0.0).unwrap();
        for n in [5, 31, 32, 33, u32::MAX] {
            assert_eq!(policy.nominal_delay(n), second * 32);
        }
    }
}
