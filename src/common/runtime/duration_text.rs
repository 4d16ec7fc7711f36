//! A duration in a line of the log. PURE.

use std::time::Duration;

/// As `0.4 s`, `32 s`, `2m 5s` or `1day 3h`.
pub fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 9.95 {
        format!("{seconds:.1} s")
    } else if seconds < 100.0 {
        format!("{seconds:.0} s")
    } else {
        let seconds = duration.as_secs();
        // The seconds of an hour and the minutes of a day say nothing.
        let unit = match seconds {
            0..3_600 => 1,
            3_600..86_400 => 60,
            _ => 3_600,
        };
        let rounded = Duration::from_secs(seconds / unit * unit);
        humantime::format_duration(rounded).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_the_digits_that_matter() {
        for (ms, text) in [
            (40, "0.0 s"),
            (1_000, "1.0 s"),
            (9_960, "10 s"),
            (32_400, "32 s"),
            (125_900, "2m 5s"),
            (3_661_000, "1h 1m"),
            (604_805_000, "7days"),
            (97_201_000, "1day 3h"),
        ] {
            assert_eq!(duration_text(Duration::from_millis(ms)), text);
        }
    }
}
