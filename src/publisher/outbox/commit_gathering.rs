//! When what is gathered with `--commit-interval` is written to the queue file. PURE.

use std::time::{Duration, Instant};

use crate::publisher::queue::limits::ReadAllowance;

/// With less space than this for messages that are not on disk yet, nothing more is gathered.
const MIN_SPACE: ReadAllowance = ReadAllowance {
    messages: 2_048,
    bytes: 2 << 20,
};

/// The last part of a run is for the disk.
const LAST: Duration = Duration::from_secs(1);

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

    /// When a message of this size that is taken now is due; `None` is at once. `space` is what is left for messages that
    /// are not on disk yet, `end` is the end of the run.
    pub fn due(
        &mut self,
        size: u64,
        space: ReadAllowance,
        end: Option<Instant>,
        now: Instant,
    ) -> Option<Instant> {
        let left = space.bytes.saturating_sub(size);
        if space.messages < MIN_SPACE.messages || left < MIN_SPACE.bytes {
            return None;
        }
        let current = self.until.filter(|until| now < *until);
        self.until = current.or(now.checked_add(self.interval));
        let last = end.and_then(|end| end.checked_sub(LAST));
        last.map_or(self.until, |last| self.until.map(|until| until.min(last)))
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
                let due = gathering.due(0, MIN_SPACE, None, now).unwrap();
                prop_assert!(now < due && due <= now + interval);
                writes.push(due);
            }
            writes.dedup();
            prop_assert!(writes.windows(2).all(|two| two[0] + interval <= two[1]));
            prop_assert_eq!(gathering.due(1, MIN_SPACE, None, now), None, "too large");
            let end = now + LAST;
            prop_assert_eq!(gathering.due(0, MIN_SPACE, Some(end), now), Some(now));
        }
    }
}
