//! What to report to the service manager, and when: `sd_notify(3)`. PURE.

use std::time::{Duration, Instant};

/// A start is over after this time, connected or not: a restart, an upgrade of the package, or the boot must not wait
/// for the end of an outage.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a status stays at least.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Starting { ready_by: Instant },
    Running,
    Reloading,
    Stopping,
}

#[derive(Debug)]
pub(super) struct ServiceNotifications {
    phase: Phase,
    /// Half of the time after which a silent service is restarted, and when to report next.
    watchdog: Option<(Duration, Instant)>,
    status: String,
    status_due: Instant,
    /// The status may have changed since it was last compared.
    may_have_changed: bool,
    lines: Vec<String>,
}

impl ServiceNotifications {
    /// `watchdog`: after which time without a report the service manager restarts the service.
    pub(super) fn new(watchdog: Option<Duration>, now: Instant) -> Self {
        Self {
            phase: Phase::Starting {
                ready_by: now + READY_TIMEOUT,
            },
            watchdog: watchdog.map(|time| (time / 2, now)),
            status: String::new(),
            status_due: now,
            may_have_changed: false,
            lines: Vec::new(),
        }
    }

    /// How often the loop has to report while it waits for something else.
    pub(super) fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|(interval, _)| interval)
    }

    pub(super) fn is_reloading(&self) -> bool {
        self.phase == Phase::Reloading
    }

    /// `is_ready`: the first connection stands, or the first reading is safe in the queue.
    pub(super) fn update(&mut self, is_ready: bool, status: impl FnOnce() -> String, now: Instant) {
        if let Phase::Starting { ready_by } = self.phase
            && (is_ready || now >= ready_by)
        {
            self.phase = Phase::Running;
            self.lines.push("READY=1".into());
            self.status_due = now;
        }
        self.may_have_changed = now < self.status_due;
        if !self.may_have_changed && self.phase != Phase::Stopping {
            self.set_status(status(), now);
        }
        self.feed_watchdog(now);
    }

    fn set_status(&mut self, status: String, now: Instant) {
        if status != self.status {
            self.lines.push(format!("STATUS={status}"));
            self.status = status;
            self.status_due = now + STATUS_INTERVAL;
        }
    }

    /// Call it on the event loop only.
    pub(super) fn feed_watchdog(&mut self, now: Instant) {
        if let Some((interval, next)) = &mut self.watchdog
            && now >= *next
        {
            *next = now + *interval;
            self.lines.push("WATCHDOG=1".into());
        }
    }

    /// The start may take a while.
    pub(super) fn begin_step(&mut self, status: &str, now: Instant) {
        self.set_status(status.to_owned(), now);
        self.status_due = now;
    }

    /// `monotonic_us`: `CLOCK_MONOTONIC` in microseconds.
    pub(super) fn begin_reload(&mut self, monotonic_us: u128) {
        if matches!(self.phase, Phase::Running | Phase::Reloading) {
            self.phase = Phase::Reloading;
            self.lines.push("RELOADING=1".into());
            self.lines.push(format!("MONOTONIC_USEC={monotonic_us}"));
        }
    }

    pub(super) fn end_reload(&mut self, now: Instant) {
        if self.phase == Phase::Reloading {
            self.phase = Phase::Running;
            self.lines.push("READY=1".into());
            self.status_due = now;
        }
    }

    /// `within`: how long the end may take.
    pub(super) fn stop(&mut self, status: &str, within: Duration, now: Instant) {
        if self.phase != Phase::Stopping {
            self.phase = Phase::Stopping;
            self.may_have_changed = false;
            self.lines.push("STOPPING=1".into());
            let within = format!("EXTEND_TIMEOUT_USEC={}", within.as_micros());
            self.lines.push(within);
            self.set_status(status.to_owned(), now);
        }
    }

    pub(super) fn take_lines(&mut self) -> Vec<String> {
        std::mem::take(&mut self.lines)
    }

    /// When [`update`](Self::update) has to be called next.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        let ready_by = match self.phase {
            Phase::Starting { ready_by } => Some(ready_by),
            _ => None,
        };
        let status = self.may_have_changed.then_some(self.status_due);
        let watchdog = self.watchdog.map(|(_, next)| next);
        [ready_by, status, watchdog].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::common::runtime::clock::instant_now;

    const SECOND: Duration = Duration::from_secs(1);

    fn lines(all: &mut ServiceNotifications) -> String {
        all.take_lines().join(" ")
    }

    #[test]
    fn ready_comes_once_with_the_first_success_and_without_one_after_half_a_minute() {
        let start = instant_now();
        let mut all = ServiceNotifications::new(None, start);
        all.update(false, || "a".into(), start);
        assert_eq!(lines(&mut all), "STATUS=a");
        assert_eq!(all.wake_at(), Some(start + 30 * SECOND));
        all.update(true, || "b".into(), start + SECOND);
        assert_eq!(lines(&mut all), "READY=1 STATUS=b");
        all.update(true, || "b".into(), start + 9 * SECOND);
        assert_eq!((&*lines(&mut all), all.wake_at()), ("", None));

        let mut all = ServiceNotifications::new(None, start);
        all.update(false, || "a".into(), start + 29 * SECOND);
        assert_eq!(lines(&mut all), "STATUS=a");
        all.update(false, || "a".into(), start + 30 * SECOND);
        assert_eq!(lines(&mut all), "READY=1");
    }

    #[test]
    fn a_status_that_changes_too_soon_follows_after_five_seconds() {
        let start = instant_now();
        let mut all = ServiceNotifications::new(None, start);
        all.update(true, || "a".into(), start);
        all.take_lines();
        all.update(true, || "b".into(), start + SECOND);
        assert_eq!(lines(&mut all), "");
        assert_eq!(all.wake_at(), Some(start + 5 * SECOND));
        all.update(true, || "c".into(), start + 5 * SECOND);
        assert_eq!(lines(&mut all), "STATUS=c");
        assert_eq!(all.wake_at(), None);
    }

    #[test]
    fn a_reload_ends_with_ready_and_the_end_of_the_run_is_reported_once() {
        let now = instant_now();
        let mut all = ServiceNotifications::new(None, now);
        all.begin_reload(7);
        assert_eq!(lines(&mut all), "", "it is still starting");
        all.update(true, String::new, now);
        all.take_lines();
        all.begin_reload(7);
        assert_eq!(lines(&mut all), "RELOADING=1 MONOTONIC_USEC=7");
        all.end_reload(now);
        all.end_reload(now);
        assert_eq!(lines(&mut all), "READY=1");
        all.stop("ending", SECOND, now);
        all.stop("ending", SECOND, now);
        all.update(true, || "b".into(), now + 9 * SECOND);
        assert_eq!(
            lines(&mut all),
            "STOPPING=1 EXTEND_TIMEOUT_USEC=1000000 STATUS=ending"
        );
    }

    proptest! {
        /// A loop that wakes when it should feeds the watchdog in time, and never more often than twice as often.
        #[test]
        fn the_watchdog_is_fed_at_half_its_time(
            watchdog_ms in 2_u64..100_000,
            events in proptest::collection::vec(0_u64..50_000, 1..50),
        ) {
            let start = instant_now();
            let watchdog = Duration::from_millis(watchdog_ms);
            let mut all = ServiceNotifications::new(Some(watchdog), start);
            let (mut now, mut fed_at) = (start, None);
            for event in events {
                let event_at = now + Duration::from_millis(event);
                loop {
                    all.update(true, || "a".into(), now);
                    if all.take_lines().iter().any(|line| line == "WATCHDOG=1") {
                        let since = fed_at.map(|fed_at| now - fed_at);
                        prop_assert!(since.is_none_or(|since| since <= watchdog && since >= watchdog / 2));
                        fed_at = Some(now);
                    }
                    let wake_at = all.wake_at().unwrap();
                    if wake_at > event_at {
                        break;
                    }
                    prop_assert!(wake_at > now);
                    now = wake_at;
                }
                now = event_at;
            }
        }
    }
}
