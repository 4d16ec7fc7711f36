//! A moment by two clocks, and how old a message is by them. PURE.
//!
//! The wall clock is set by people and NTP. The time since boot cannot be set, and starts from zero at each boot
//! (`CLOCK_BOOTTIME`; it counts while the machine is suspended). As long as the machine has not restarted, the time
//! since boot decides. Across a restart the wall clock does, if both of its times are plausible; otherwise the
//! message is at least as old as this boot.

use std::str::FromStr;
use std::time::Duration;

/// 1 January 2026, as a Unix time in milliseconds: an earlier wall clock has not been set.
pub const EARLIEST_MS: u64 = 1_767_225_600_000;

/// The boot of a machine: the kernel's `random/boot_id` (random(4)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootId(pub [u8; 16]);

impl FromStr for BootId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = text.trim().replace('-', "");
        let is_uuid = digits.len() == 32 && !digits.starts_with('+');
        let id = u128::from_str_radix(&digits, 16).ok().filter(|_| is_uuid);
        id.map(|id| Self(id.to_be_bytes())).ok_or("not a UUID")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootTime {
    pub boot: BootId,
    pub ms: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TwoClockTime {
    /// Unix time in milliseconds.
    pub wall_ms: u64,
    pub boot: Option<BootTime>,
}

impl From<u64> for TwoClockTime {
    fn from(wall_ms: u64) -> Self {
        let boot = None;
        Self { wall_ms, boot }
    }
}

impl TwoClockTime {
    /// How long `earlier` is ago, if the machine has not restarted since: the wall clock does not matter.
    pub fn since_in_this_boot(&self, earlier: &Self) -> Option<Duration> {
        let (now, then) = self.boot.zip(earlier.boot)?;
        let same = now.boot == then.boot;
        let ms = same.then(|| now.ms.checked_sub(then.ms)).flatten()?;
        Some(Duration::from_millis(ms))
    }

    /// How long `earlier` is ago, as far as that is known: never longer than it is, unless the machine has
    /// restarted since, and the wall clock is wrong and looks right.
    pub fn since(&self, earlier: &Self) -> Duration {
        if let Some(age) = self.since_in_this_boot(earlier) {
            return age;
        }
        let least = match (self.boot, earlier.boot) {
            // It was before this boot.
            (Some(now), Some(then)) if now.boot != then.boot => now.ms,
            _ => 0,
        };
        let plausible = earlier.wall_ms >= EARLIEST_MS;
        let by_wall_clock = self.wall_ms.checked_sub(earlier.wall_ms);
        let by_wall_clock = by_wall_clock.filter(|_| plausible).unwrap_or(0);
        Duration::from_millis(by_wall_clock.max(least))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: u64 = 3_600_000;
    const NOW: u64 = EARLIEST_MS + 1_000 * HOUR;

    fn at(wall_ms: u64, boot: Option<(u8, u64)>) -> TwoClockTime {
        let boot = boot.map(|(boot, ms)| BootTime {
            boot: BootId([boot; 16]),
            ms,
        });
        TwoClockTime { wall_ms, boot }
    }

    fn hours(accepted: TwoClockTime, now: TwoClockTime) -> u64 {
        now.since(&accepted).as_secs() / 3_600
    }

    #[test]
    fn a_boot_id_is_read_as_the_kernel_writes_it() {
        let id: BootId = "38a530dc-362b-452a-a6e9-c887448654d0\n".parse().unwrap();
        assert_eq!((id.0[0], id.0[15]), (0x38, 0xd0));
        let short = "38a530dc-362b-452a-a6e9-c887448654d";
        for wrong in ["", "38a530dc", short, &format!("{short}01"), "x"] {
            assert!(wrong.parse::<BootId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn across_a_restart_a_plausible_wall_clock_decides() {
        let before = at(NOW, Some((1, 7 * HOUR)));
        assert_eq!(hours(before, at(NOW + 3 * HOUR, Some((2, HOUR)))), 3);
        // Set back, or not set at all: at least as old as this boot.
        for wall in [NOW - 24 * HOUR, 0] {
            assert_eq!(hours(before, at(wall, Some((2, 2 * HOUR)))), 2);
        }
        let unset = at(HOUR, Some((1, HOUR)));
        assert_eq!(hours(unset, at(NOW, Some((2, 2 * HOUR)))), 2);
        // It was before this boot, whatever the wall clock says.
        assert_eq!(hours(before, at(NOW + HOUR, Some((2, 5 * HOUR)))), 5);
    }

    #[test]
    fn without_a_time_since_boot_the_wall_clock_decides() {
        for boot in [None, Some((2, 9 * HOUR))] {
            assert_eq!(hours(at(NOW, None), at(NOW + 3 * HOUR, boot)), 3);
            assert_eq!(hours(at(NOW, None), at(NOW - HOUR, boot)), 0);
        }
        assert_eq!(hours(at(NOW, Some((1, 1))), at(NOW + 3 * HOUR, None)), 3);
    }

    proptest! {
        #[test]
        fn no_setting_of_the_wall_clock_changes_an_age_in_one_boot(
            accepted in any::<u64>(), now in any::<u64>(), boot in 0..HOUR, age in 0..HOUR,
        ) {
            let accepted = at(accepted, Some((1, boot)));
            let now = at(now, Some((1, boot + age)));
            prop_assert_eq!(now.since(&accepted), Duration::from_millis(age));
        }
    }
}
