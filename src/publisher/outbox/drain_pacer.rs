//! How fast a backlog drains. PURE.
//!
//! Messages that were queued while offline are sent at the draining rate, so that a fleet that
//! reconnects does not flood its broker. Two things may raise a rate that the user has not set: a
//! backlog that does not shrink because readings arrive as fast as they drain, and the end of the
//! run, when all messages have to be sent in the time that is left.

use std::fmt;
use std::time::{Duration, Instant};

/// How late a message may be before the schedule starts again, so that a stopped process does not
/// burst when it continues.
const CATCH_UP: Duration = Duration::from_millis(50);

const ARRIVALS_PER_CHECK: u32 = 4;

/// A raised rate is this many times the lowest that would do: the rate of arrivals, or the messages
/// left over the time left.
const HEADROOM: f64 = 2.0;

#[derive(Clone, Copy, Debug)]
struct GrowthMeasurement {
    since: Instant,
    backlog: usize,
    arrivals: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BacklogGrowth {
    pub arrivals_per_s: f64,
    pub drains_per_s: f64,
    pub raised: bool,
}

impl fmt::Display for BacklogGrowth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let then = if self.raised {
            "from now on"
        } else {
            "as --drain-rate says"
        };
        write!(
            f,
            "the queue grows while it drains: {:.1} readings per second arrive; draining {:.1} \
             per second {then}",
            self.arrivals_per_s, self.drains_per_s
        )
    }
}

#[derive(Debug)]
pub struct DrainPacer {
    /// In messages per second; infinite is as fast as the window allows.
    configured: f64,
    /// The user has set the rate, so it is never raised.
    pub by_hand: bool,
    rate: f64,
    /// When the message at the head may be sent. While it is set, new readings have to wait behind the
    /// backlog: it drains, or its last message was sent less than an interval ago.
    pub next_at: Option<Instant>,
    check: Option<GrowthMeasurement>,
    /// No more readings come, and all have to be sent by then.
    pub finish_by: Option<Instant>,
}

impl DrainPacer {
    pub fn new(configured: f64, by_hand: bool) -> Self {
        Self {
            configured,
            by_hand,
            rate: configured,
            next_at: None,
            check: None,
            finish_by: None,
        }
    }

    pub fn handle_connected(&mut self, now: Instant, backlog: usize) {
        self.rate = self.configured;
        let draining = backlog > 0;
        self.next_at = draining.then_some(now);
        self.check = draining.then_some(GrowthMeasurement {
            since: now,
            backlog,
            arrivals: 0,
        });
    }

    pub fn stop(&mut self) {
        self.next_at = None;
        self.check = None;
    }

    pub fn count_arrival(&mut self) {
        if let Some(check) = &mut self.check {
            check.arrivals += 1;
        }
    }

    /// Whether the message at the head may be sent now. Becomes inactive when draining is over.
    pub fn permits(&mut self, now: Instant, backlog: usize) -> bool {
        if self.next_at.is_some_and(|at| now < at) {
            return false;
        }
        if backlog == 0 {
            self.stop();
        }
        true
    }

    pub fn handle_sent(&mut self, now: Instant, backlog: usize) {
        let interval = self.interval(now, backlog);
        self.next_at = self.next_at.map(|at| {
            let due = at + interval;
            let is_late = now.saturating_duration_since(due) > CATCH_UP.max(interval);
            if is_late { now + interval } else { due }
        });
    }

    /// Raises the rate if the backlog has not shrunk since the last check.
    pub fn check_backlog_growth(&mut self, now: Instant, backlog: usize) -> Option<BacklogGrowth> {
        let check = self
            .check
            .filter(|check| check.arrivals >= ARRIVALS_PER_CHECK)?;
        let elapsed = now.saturating_duration_since(check.since);
        self.check = Some(GrowthMeasurement {
            since: now,
            backlog,
            arrivals: 0,
        });
        if backlog < check.backlog || elapsed.is_zero() {
            return None;
        }
        let arrivals_per_s = f64::from(check.arrivals) / elapsed.as_secs_f64();
        let wanted = HEADROOM * arrivals_per_s;
        if wanted <= self.rate {
            // Something else than the rate delays them.
            return None;
        }
        if !self.by_hand {
            self.rate = wanted;
            self.next_at = self.next_at.map(|at| at.min(now));
        }
        Some(BacklogGrowth {
            arrivals_per_s,
            drains_per_s: self.rate,
            raised: !self.by_hand,
        })
    }

    fn interval(&self, now: Instant, backlog: usize) -> Duration {
        let configured = Duration::try_from_secs_f64(1.0 / self.rate).unwrap_or(Duration::MAX);
        match self.finish_by {
            Some(deadline) if !self.by_hand && backlog > 0 => {
                let share = deadline.saturating_duration_since(now).div_f64(HEADROOM);
                configured.min(share / u32::try_from(backlog).unwrap_or(u32::MAX))
            }
            _ => configured,
        }
    }
}

/// Messages per second, or `max`, which is infinite.
pub fn parse_drain_rate(text: &str) -> Result<f64, String> {
    if text == "max" {
        return Ok(f64::INFINITY);
    }
    match text.parse::<f64>() {
        Ok(rate) if (0.001..=1e6).contains(&rate) => Ok(rate),
        Ok(0.0) => Err("would never drain the queue; give messages per second, or max".into()),
        Ok(_) => Err("is outside 0.001 to 1000000 messages per second".into()),
        Err(_) => Err("is neither a number of messages per second nor max".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_of_zero_is_refused_with_the_reason() {
        assert_eq!(parse_drain_rate("2"), Ok(2.0));
        assert_eq!(parse_drain_rate("max"), Ok(f64::INFINITY));
        assert!(parse_drain_rate("0").unwrap_err().contains("never drain"));
        for bad in ["-1", "NaN", "inf", "fast", "1e9"] {
            assert!(parse_drain_rate(bad).is_err(), "{bad}");
        }
    }
}
