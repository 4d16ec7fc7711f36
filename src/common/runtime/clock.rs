//! The only place that reads the time; the log stamps its own lines. Pure code never calls it:
//! the time is a parameter there.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollTimeout, poll};
use rustix::time::{ClockId, clock_gettime};

use crate::common::mqtt::two_clock_time::{BootId, BootTime, TwoClockTime};

/// The kernel's identifier of this boot (random(4)), if it can be read.
static BOOT_ID: LazyLock<Option<BootId>> = LazyLock::new(|| {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    text.ok()?.parse().ok()
});

/// An instant, and the time since boot at that instant.
#[allow(clippy::disallowed_methods, reason = "an origin for the event loops")]
static ORIGIN: LazyLock<(Instant, Duration)> = LazyLock::new(|| (Instant::now(), since_boot()));

/// `CLOCK_BOOTTIME`, directly from the kernel: the C library's functions may be replaced (libfaketime).
fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    // Neither is negative.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Now, on a clock that never goes back and cannot be set. Unlike [`Instant::now`] it also counts
/// the time during which the machine is suspended.
pub fn instant_now() -> Instant {
    let (instant, boot) = *ORIGIN;
    instant + since_boot().saturating_sub(boot)
}

/// `CLOCK_MONOTONIC` of the kernel, in microseconds.
pub fn monotonic_us() -> u128 {
    let time = clock_gettime(ClockId::Monotonic);
    // Neither is negative.
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0)).as_micros()
}

pub fn boot_ms() -> u64 {
    u64::try_from(since_boot().as_millis()).unwrap_or(u64::MAX)
}

pub fn two_clock_now() -> TwoClockTime {
    let ms = boot_ms();
    TwoClockTime {
        wall_ms: unix_ms(),
        boot: BOOT_ID.map(|boot| BootTime { boot, ms }),
    }
}

#[allow(clippy::disallowed_methods, reason = "for the event loops")]
pub fn wall_clock() -> SystemTime {
    SystemTime::now()
}

pub fn unix_ms() -> u64 {
    let since = wall_clock().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

/// Whether the C library's monotonic clock is the kernel's. The standard library computes a
/// deadline from the former and passes it to the kernel; under libfaketime it may be decades away.
pub(super) static CLOCKS_AGREE: LazyLock<bool> = LazyLock::new(|| {
    let kernel = u64::try_from(clock_gettime(ClockId::Monotonic).tv_sec).unwrap_or(0);
    let library = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    library.is_ok_and(|library| Duration::from(library).as_secs().abs_diff(kernel) <= 1)
});

pub fn sleep(duration: Duration) {
    if *CLOCKS_AGREE {
        std::thread::park_timeout(duration);
    } else {
        let timeout = PollTimeout::try_from(duration.max(Duration::from_millis(1)));
        // It can only be interrupted.
        let _ = poll(&mut [], timeout.unwrap_or(PollTimeout::MAX));
    }
}
