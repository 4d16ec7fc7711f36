//! When the metrics file is written. PURE.

use std::time::{Duration, Instant};

/// As often as Prometheus usually reads.
const INTERVAL: Duration = Duration::from_secs(15);

/// What happens to the connection is written at once, but one that flaps is not written all the time.
const MIN_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct WriteSchedule {
    /// When it was written, and the number of connection events by then.
    last: Option<(Instant, u64)>,
    has_changed: bool,
}

impl WriteSchedule {
    /// Whether to write now. `events` counts connections made, lost and not made.
    pub(super) fn is_due(&mut self, now: Instant, events: u64) -> bool {
        self.has_changed = self.last.is_none_or(|(_, written)| written != events);
        self.wake_at().is_none_or(|at| now >= at)
    }

    pub(super) fn handle_written(&mut self, now: Instant, events: u64) {
        self.last = Some((now, events));
        self.has_changed = false;
    }

    /// None for at once.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let (last, _) = self.last?;
        Some(
            last + if self.has_changed {
                MIN_INTERVAL
            } else {
                INTERVAL
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_at_once_every_15_seconds_and_soon_after_a_change() {
        let start = crate::common::runtime::clock::instant_now();
        let mut schedule = WriteSchedule::default();
        let mut written = Vec::new();
        // The connection is made after 2.1 s and lost after 2.3 s.
        for tenths in 0..400 {
            let now = start + Duration::from_millis(100 * tenths);
            let events = u64::from(tenths >= 21) + u64::from(tenths >= 23);
            if schedule.is_due(now, events) {
                schedule.handle_written(now, events);
                written.push(tenths);
            }
            assert!(schedule.wake_at().unwrap() > now);
        }
        assert_eq!(written, [0, 21, 31, 181, 331]);
    }
}
