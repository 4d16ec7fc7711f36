//! When what is gathered with `--commit-interval` is written to the queue file. PURE.

use std::time::{Duration, Instant};

use crate::publisher::queue::limits::ReadAllowance;

/// With less space than this for messages that are not on disk yet, nothing more is gathered.
const MIN_SPACE: ReadAllowance = ReadAllowance {
    messages: 2_048,
    bytes: 2 << 20,
};

/// Messages that are taken within one interval are due on disk together, at its end: so one sync is enough for them.
/// The interval begins with the first of them.
#[derive(Debug)]
pub struct CommitGathering {
    interval: Duration,
    until: Option<Instant>,
}

impl CommitGathering {
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            until: None,
        }
    }

    /// When a message that is taken now is due; `None` is at once. `space` is what is left for messages that are not on
    /// disk yet.
    pub fn due(&mut self, space: ReadAllowance, now: Instant) -> Option<Instant> {
        if space.messages < MIN_SPACE.messages || space.bytes < MIN_SPACE.bytes {
            return None;
        }
        let current = self.until.filter(|until| now < *until);
        self.until = current.or(now.checked_add(self.interval));
        self.until
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "an origin; the test moves it")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_message_waits_longer_than_the_interval_and_there_is_one_write_in_each(
            interval in 1u64..100,
            pauses in proptest::collection::vec(0u64..50, 1..200),
        ) {
            let origin = Instant::now();
            let interval = Duration::from_millis(interval);
            let mut gathering = CommitGathering::new(interval);
            let mut now = origin;
            let mut writes = Vec::new();
            for pause in pauses {
                now += Duration::from_millis(pause);
                let due = gathering.due(MIN_SPACE, now).unwrap();
                prop_assert!(now < due && due <= now + interval);
                writes.push(due);
            }
            writes.dedup();
            prop_assert!(writes.windows(2).all(|two| two[0] + interval <= two[1]));
        }
    }
}
