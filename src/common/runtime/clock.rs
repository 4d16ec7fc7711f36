//! The clock, and how an event loop waits: the only place that reads the time (the log
//! stamps its own lines). Pure code never calls this; it is given the time.

use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollTimeout, poll};

use rustix::time::{ClockId, clock_gettime};

use crate::common::mqtt::age::{BootId, BootTime, Timestamp};

/// The kernel's name for this boot (random(4)), if it says.
static BOOT_ID: LazyLock<Option<BootId>> = LazyLock::new(|| {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.ok()?.parse().ok()
});

/// An instant, and the time since boot at it.
#[allow(clippy::disallowed_methods, reason = "an origin for the event loops")]
static ORIGIN: LazyLock<(Instant, Duration)> = LazyLock::new(|| (Instant::now(), since_boot()));

/// `CLOCK_BOOTTIME`, from the kernel itself: the C library's functions may be replaced by others
/// that pretend (libfaketime).
fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    // Neither is negative.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Now, on a clock that never goes back and that nobody sets. Unlike [`Instant::now`] it
/// goes on while the machine is suspended.
pub fn clock() -> Instant {
    let (instant, boot) = *ORIGIN;
    instant + since_boot().saturating_sub(boot)
}

/// Now, as the time since boot in milliseconds.
pub fn boot_ms() -> u64 {
    u64::try_from(since_boot().as_millis()).unwrap_or(u64::MAX)
}

/// Now, by both clocks.
pub fn timestamp() -> Timestamp {
    Timestamp {
        wall_ms: unix_ms(),
        boot: BOOT_ID.map(|boot| BootTime {
            boot,
            ms: boot_ms(),
        }),
    }
}

/// Now, as people reckon.
#[allow(clippy::disallowed_methods, reason = "for the event loops")]
pub fn wall_clock() -> SystemTime {
    SystemTime::now()
}

/// Now, as the Unix time in milliseconds; 0 before 1970.
pub fn unix_ms() -> u64 {
    let since = wall_clock().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Whether the C library's monotonic clock is the kernel's. The standard library reads a time from the former and has
/// the kernel wait until then, which under libfaketime may be decades away.
static CLOCKS_AGREE: LazyLock<bool> = LazyLock::new(|| {
    let kernel = clock_gettime(ClockId::Monotonic).tv_sec;
    let library = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    library.is_ok_and(|library| library.tv_sec().abs_diff(kernel) <= 1)
});

/// How often to look for an event where the two clocks do not agree.
const LOOK: Duration = Duration::from_millis(5);

/// Sleeps for about so long.
pub fn pause(duration: Duration) {
    if *CLOCKS_AGREE {
        std::thread::park_timeout(duration);
    } else {
        let timeout = PollTimeout::try_from(duration.max(Duration::from_millis(1)));
        // It can only be interrupted.
        let _ = poll(&mut [], timeout.unwrap_or(PollTimeout::MAX));
    }
}

/// The next event, if there is one within this time.
///
/// # Errors
///
/// There is none, or there will be none any more.
pub fn receive_within<E>(inbox: &Receiver<E>, within: Duration) -> Result<E, RecvTimeoutError> {
    if *CLOCKS_AGREE {
        return inbox.recv_timeout(within);
    }
    let until = clock() + within;
    loop {
        match inbox.try_recv() {
            Ok(event) => return Ok(event),
            Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
            Err(TryRecvError::Empty) if clock() >= until => return Err(RecvTimeoutError::Timeout),
            Err(TryRecvError::Empty) => pause(LOOK),
        }
    }
}

/// The next event, or none when it is time to look at the clock.
pub fn wait<E>(inbox: &Receiver<E>, until: Option<Instant>) -> Option<E> {
    match until {
        Some(until) => receive_within(inbox, until.saturating_duration_since(clock())).ok(),
        None => inbox.recv().ok(),
    }
}

/// Hands an event to a loop. Without one the process is ending, and nobody need know.
pub fn send<E>(events: &Sender<E>, event: E) {
    let _ = events.send(event);
}
