//! The clock, and how an event loop waits: the only place that reads the time (the log
//! stamps its own lines). Pure code never calls this; it is given the time.

use std::sync::mpsc::{Receiver, Sender};
use std::time::{Instant, SystemTime};

/// Now, on the clock that never goes back.
#[allow(clippy::disallowed_methods, reason = "for the event loops")]
#[must_use]
pub fn clock() -> Instant {
    Instant::now()
}

/// Now, as people reckon.
#[allow(clippy::disallowed_methods, reason = "for the event loops")]
#[must_use]
pub fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// Now, as the Unix time in milliseconds; 0 before 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    let since = wall_clock().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// The next event, or none when it is time to look at the clock.
#[must_use]
pub fn wait<E>(inbox: &Receiver<E>, until: Option<Instant>) -> Option<E> {
    match until {
        Some(until) => inbox
            .recv_timeout(until.saturating_duration_since(clock()))
            .ok(),
        None => inbox.recv().ok(),
    }
}

/// Hands an event to a loop. Without one the process is ending, and nobody need know.
pub fn send<E>(events: &Sender<E>, event: E) {
    let _ = events.send(event);
}
