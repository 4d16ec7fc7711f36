//! The time at which a message arrived, in every form that a format can name, as the C library writes them in the
//! C locale. PURE: the time zone is a parameter.

use std::time::Duration;

use jiff::fmt::strtime::{BrokenDownTime, Config, PosixCustom};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ZonedDateTime};

/// The letters that [`ArrivalTime::strftime`] knows.
pub(super) const LETTERS: &str = "aAbBcCdDeFgGhHIjklmMpPrRsSTuUVwWxXyYzZ";

#[derive(Debug)]
pub(super) struct ArrivalTime {
    local: ZonedDateTime,
    seconds: u64,
    nanoseconds: u32,
}

impl ArrivalTime {
    /// Takes a Unix time, of which later years than 9999 become that year.
    pub(super) fn new(now: Duration, zone: &TimeZone) -> Self {
        let since = SignedDuration::try_from(now).unwrap_or(SignedDuration::MAX);
        let time = Timestamp::from_duration(since).unwrap_or(Timestamp::MAX);
        Self {
            local: time.to_zoned_datetime(zone.clone()),
            seconds: now.as_secs(),
            nanoseconds: now.subsec_nanos(),
        }
    }

    pub(super) fn strftime(&self, letter: char) -> String {
        match letter {
            's' => self.seconds.to_string(),
            'z' => self.offset(),
            _ => self.formatted(&format!("%{letter}")),
        }
    }

    /// Of the second, nine digits.
    pub(super) fn nanoseconds(&self) -> String {
        format!("{:09}", self.nanoseconds)
    }

    /// Seconds and nanoseconds since 1970.
    pub(super) fn unix(&self) -> String {
        format!("{}.{:09}", self.seconds, self.nanoseconds)
    }

    pub(super) fn iso(&self) -> String {
        self.formatted("%FT%T") + &self.offset()
    }

    /// As `mosquitto_sub` has it, with a `Z` that does not mean UTC.
    pub(super) fn in_json(&self) -> String {
        let (date, micros) = (self.formatted("%FT%T"), self.nanoseconds / 1_000);
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

    /// What Debian's C library 2.36 says, for each of [`LETTERS`].
    const RECORDED: [(&str, u64, &str); 7] = [
        (
            "CET-1CEST,M3.5.0,M10.5.0/3",
            1_769_846_405,
            "Sat|Saturday|Jan|January|Sat Jan 31 09:00:05 2026|20|31|01/31/26|31|2026-01-31|26|2026|Jan|09|09|031| 9| 9|01|00|AM|am|09:00:05 AM|09:00|1769846405|05|09:00:05|6|04|05|6|04|01/31/26|09:00:05|26|2026|+0100|CET",
        ),
        (
            "CET-1CEST,M3.5.0,M10.5.0/3",
            1_782_900_000,
            "Wed|Wednesday|Jul|July|Wed Jul  1 12:00:00 2026|20|01|07/01/26| 1|2026-07-01|26|2026|Jul|12|12|182|12|12|07|00|PM|pm|12:00:00 PM|12:00|1782900000|00|12:00:00|3|26|27|3|26|07/01/26|12:00:00|26|2026|+0200|CEST",
        ),
        (
            "UTC0",
            0,
            "Thu|Thursday|Jan|January|Thu Jan  1 00:00:00 1970|19|01|01/01/70| 1|1970-01-01|70|1970|Jan|00|12|001| 0|12|01|00|AM|am|12:00:00 AM|00:00|0|00|00:00:00|4|00|01|4|00|01/01/70|00:00:00|70|1970|+0000|UTC",
        ),
        (
            "EST5",
            1_735_693_199,
            "Tue|Tuesday|Dec|December|Tue Dec 31 19:59:59 2024|20|31|12/31/24|31|2024-12-31|25|2025|Dec|19|07|366|19| 7|12|59|PM|pm|07:59:59 PM|19:59|1735693199|59|19:59:59|2|52|01|2|53|12/31/24|19:59:59|24|2024|-0500|EST",
        ),
        (
            "<+0530>-5:30",
            1_704_067_199,
            "Mon|Monday|Jan|January|Mon Jan  1 05:29:59 2024|20|01|01/01/24| 1|2024-01-01|24|2024|Jan|05|05|001| 5| 5|01|29|AM|am|05:29:59 AM|05:29|1704067199|59|05:29:59|1|00|01|1|01|01/01/24|05:29:59|24|2024|+0530|+0530",
        ),
        (
            "NST3:30",
            1_483_228_800,
            "Sat|Saturday|Dec|December|Sat Dec 31 20:30:00 2016|20|31|12/31/16|31|2016-12-31|16|2016|Dec|20|08|366|20| 8|12|30|PM|pm|08:30:00 PM|20:30|1483228800|00|20:30:00|6|52|52|6|52|12/31/16|20:30:00|16|2016|-0330|NST",
        ),
        (
            "UTC0",
            4_102_444_799,
            "Thu|Thursday|Dec|December|Thu Dec 31 23:59:59 2099|20|31|12/31/99|31|2099-12-31|99|2099|Dec|23|11|365|23|11|12|59|PM|pm|11:59:59 PM|23:59|4102444799|59|23:59:59|4|52|53|4|52|12/31/99|23:59:59|99|2099|+0000|UTC",
        ),
    ];

    fn zone(rule: &str) -> TimeZone {
        TimeZone::posix(rule).unwrap()
    }

    #[test]
    fn every_letter_is_as_the_c_library_has_it() {
        for (rule, seconds, recorded) in RECORDED {
            let time = ArrivalTime::new(Duration::from_secs(seconds), &zone(rule));
            let letters = LETTERS.chars().map(|letter| time.strftime(letter));
            let all: Vec<_> = letters.collect();
            assert_eq!(all.join("|"), recorded, "{rule} {seconds}");
        }
    }

    #[test]
    fn iso_json_and_unix_times_are_as_mosquitto_sub_prints_them() {
        let now = Duration::new(1_795_550_621, 4_187_478);
        let time = ArrivalTime::new(now, &zone("CET-1CEST,M3.5.0,M10.5.0/3"));
        assert_eq!(time.iso(), "2026-11-24T21:03:41+0100");
        assert_eq!(time.in_json(), "2026-11-24T21:03:41.004187Z+0100");
        assert_eq!(time.unix(), "1795550621.004187478");
        assert_eq!(time.nanoseconds(), "004187478");
    }

    #[test]
    fn a_time_beyond_the_last_year_is_printed() {
        let time = ArrivalTime::new(Duration::MAX, &TimeZone::UTC);
        assert_eq!(time.strftime('Y'), "9999");
    }
}
