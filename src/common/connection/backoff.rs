//! The progressive reconnect delay of the AWS IoT Device SDK: delay *n* is
//! min(2ⁿ · base, max), *n* from 0, and *n* starts anew only after a connection has lasted
//! the stable time. PURE: randomness comes in as a number.
//!
//! Two things differ from the SDK, both on purpose: the configured base applies from the
//! first failure on, and each delay is drawn from [(1 − jitter) · t, t], so that a fleet
//! that lost its broker together does not come back in lock-step.

use std::time::Duration;

use thiserror::Error;

/// The four numbers of the backoff, checked against each other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    base: Duration,
    max: Duration,
    stable: Duration,
    jitter: f64,
}

/// Why a set of backoff numbers cannot work.
#[derive(Clone, Debug, Error, PartialEq)]
pub enum PolicyError {
    /// A base of zero would reconnect in a hot loop.
    #[error("--base-backoff 0 would reconnect without a pause; give a positive delay")]
    ZeroBase,
    /// The cap lies under the first delay.
    #[error(
        "--max-backoff {max:?} is shorter than --base-backoff {base:?}; raise it or lower the base"
    )]
    MaxBelowBase {
        /// The first delay.
        base: Duration,
        /// The cap.
        max: Duration,
    },
    /// The stable time must be longer than the first delay.
    #[error(
        "--stable-time {stable:?} must be longer than --base-backoff {base:?}: it says when a \
         connection counts as stable again"
    )]
    StableNotAboveBase {
        /// The first delay.
        base: Duration,
        /// The stable time.
        stable: Duration,
    },
    /// The share of the delay that is random.
    #[error("--jitter {0} is outside 0 to 1")]
    Jitter(f64),
}

impl Policy {
    /// Checks that the delays grow from something to something.
    ///
    /// # Errors
    ///
    /// [`PolicyError`] names the flag that has to change.
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
    pub fn delay(&self, n: u32) -> Duration {
        1u32.checked_shl(n)
            .and_then(|factor| self.base.checked_mul(factor))
            .map_or(self.max, |delay| delay.min(self.max))
    }
}

/// Counts the failures in a row and gives the next delay.
#[derive(Clone, Debug)]
pub struct Backoff {
    policy: Policy,
    failures: u32,
}

impl Backoff {
    /// Starts at the base delay.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            failures: 0,
        }
    }

    /// The delay before the next attempt, and one step further. `random` is uniform in
    /// [0, 1); 0 gives the bare formula.
    pub fn next_delay(&mut self, random: f64) -> Duration {
        let delay = self.upcoming();
        self.failures = self.failures.saturating_add(1);
        delay.mul_f64(1.0 - self.policy.jitter * random.clamp(0.0, 1.0))
    }

    /// What the formula will give next, without jitter and without taking it.
    pub fn upcoming(&self) -> Duration {
        self.policy.delay(self.failures)
    }

    /// A connection has ended after `lasted`: at least the stable time starts the delays
    /// anew, a shorter one goes on doubling.
    pub fn connection_ended(&mut self, lasted: Duration) {
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
                let full = policy.delay(u32::try_from(n).unwrap());
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
            assert_eq!(policy.delay(n), second * 32);
        }
    }
}
