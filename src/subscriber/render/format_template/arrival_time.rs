//! The time at which a message arrived, in every form that a format can name, as the C library
//! writes them in the C locale. PURE: the time zone is a parameter.

use std::time::Duration;

use jiff::fmt::strtime::{BrokenDownTime, Config, PosixCustom};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ZonedDateTime};

pub(super) const LETTERS: &str = "aAbBcCdDeFgGhHIjklmMpPrRsSTuUVwWxXyYzZ";

#[derive(Debug)]
pub(super) struct ArrivalTime {
    local: ZonedDateTime,
    unix: Duration,
}

impl ArrivalTime {
    /// Years beyond 9999 become 9999.
    pub(super) fn new(now: Duration, zone: &TimeZone) -> Self {
        let since = SignedDuration::try_from(now).unwrap_or(SignedDuration::MAX);
        let time = Timestamp::from_duration(since).unwrap_or(Timestamp::MAX);
        Self {
            local: time.to_zoned_datetime(zone.clone()),
            unix: now,
        }
    }

    pub(super) fn format_by_letter(&self, letter: char) -> String {
        match letter {
            's' => self.unix.as_secs().to_string(),
            'z' => self.offset(),
            _ => self.formatted(&format!("%{letter}")),
        }
    }

    pub(super) fn nanoseconds(&self) -> String {
        format!("{:09}", self.unix.subsec_nanos())
    }

    pub(super) fn unix(&self) -> String {
        format!("{}.{}", self.unix.as_secs(), self.nanoseconds())
    }

    pub(super) fn iso(&self) -> String {
        self.formatted("%FT%T") + &self.offset()
    }

    /// As `mosquitto_sub` has it, with a `Z` that does not mean UTC.
    pub(super) fn in_json(&self) -> String {
        let (date, micros) = (self.formatted("%FT%T"), self.unix.subsec_micros());
        format!("{date}.{micros:06}Z{}", self.offset())
    }

    /// Hours and minutes from UTC, without seconds.
    fn offset(&self) -> String {
        let seconds = self.local.offset().seconds();
        let sign = if seconds < 0 { '-' } else { '+' };
        let minutes = seconds.abs() / 60;
        format!("{sign}{:02}{:02}", minutes / 60, minutes % 60)
    }

    fn formatted(&self, format: &str) -> String {
        let posix = Config::new().custom(PosixCustom::new());
        let time = BrokenDownTime::from(&self.local);
        // No letter of `LETTERS` fails, and the time is complete.
        time.to_string_with_config(&posix, format)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_letter_is_printed_as_the_c_library_prints_it() {
        let recorded = include_str!("../../../../tests/data/strftime.tsv");
        let lines = recorded.lines().filter(|line| !line.starts_with('#'));
        assert_eq!(lines.clone().count(), 7);
        for line in lines {
            let [rule, seconds, recorded] = line.split('\t').collect::<Vec<_>>()[..] else {
                panic!("{line}");
            };
            let seconds = Duration::from_secs(seconds.parse().unwrap());
            let time = ArrivalTime::new(seconds, &TimeZone::posix(rule).unwrap());
            let letters = LETTERS.chars().map(|letter| time.format_by_letter(letter));
            assert_eq!(letters.collect::<Vec<_>>().join("|"), recorded, "{line}");
        }
    }

    #[test]
    fn a_time_beyond_the_last_year_is_printed() {
        let time = ArrivalTime::new(Duration::MAX, &TimeZone::UTC);
        assert_eq!(time.format_by_letter('Y'), "9999");
    }
}
