//! The delays between attempts.

use iot_pubsub::common::connection::backoff::{Backoff, Policy, PolicyError};

use super::{SECOND, secs};

fn policy(base: u64, max: u64, stable: u64) -> Result<Policy, PolicyError> {
    Policy::new(secs(base), secs(max), secs(stable), 0.0)
}

fn delays(policy: Policy, count: usize) -> Vec<u64> {
    let mut backoff = Backoff::new(policy);
    (0..count)
        .map(|_| backoff.next_delay(0.5).as_secs())
        .collect()
}

#[test]
fn keep_the_default_delays_double_to_the_cap() {
    let delays = delays(policy(1, 32, 20).unwrap(), 8);
    assert_eq!(delays, [1, 2, 4, 8, 16, 32, 32, 32]);
}

#[test]
fn better_the_configured_base_counts_from_the_first_failure() {
    let delays = delays(policy(2, 128, 30).unwrap(), 9);
    assert_eq!(delays, [2, 4, 8, 16, 32, 64, 128, 128, 128]);
}

#[test]
fn keep_the_stable_time_must_exceed_the_base() {
    for (base, stable) in [(200, 30), (20, 20)] {
        let refused = policy(base, 500, stable);
        assert!(matches!(
            refused,
            Err(PolicyError::StableNotAboveBase { .. })
        ));
    }
    assert!(policy(2, 128, 30).is_ok());
}

#[test]
fn better_a_base_or_a_cap_that_would_loop_hot_is_refused() {
    assert_eq!(policy(0, 32, 20), Err(PolicyError::ZeroBase));
    assert!(matches!(
        policy(1, 0, 20),
        Err(PolicyError::MaxBelowBase { .. })
    ));
    assert!(matches!(
        policy(4, 2, 20),
        Err(PolicyError::MaxBelowBase { .. })
    ));
}

#[test]
fn keep_a_connection_shorter_than_the_stable_time_does_not_reset() {
    let mut backoff = Backoff::new(policy(1, 32, 5).unwrap());
    assert_eq!(backoff.next_delay(0.0), SECOND);
    backoff.reset_if_stable(secs(4));
    assert_eq!(backoff.next_delay(0.0), secs(2));
    assert_eq!(backoff.upcoming(), secs(4));
    backoff.reset_if_stable(secs(5));
    assert_eq!(backoff.upcoming(), SECOND);
}
