//! Durations and sizes as people write them on a command line. PURE.

use std::time::Duration;

/// Longer than anybody waits, and short enough that no clock overflows.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Reads a duration: a bare number is seconds; `500ms`, `5m`, `2h`, `1h30m` work too.
///
/// # Errors
///
/// A line that says what is wrong, for a negative, unreadable or absurdly long one.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = match text.trim().parse::<f64>() {
        Ok(seconds) if seconds < 0.0 => return Err("a time cannot be negative".into()),
        Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|e| e.to_string())?,
        Err(_) => humantime::parse_duration(text.trim())
            .map_err(|_| "is not a time; write seconds, or a unit as in 500ms, 5m, 2h")?,
    };
    if duration > LONGEST {
        return Err("is longer than ten years".into());
    }
    Ok(duration)
}

/// Reads a duration that must not be zero.
///
/// # Errors
///
/// As [`parse_duration`], and for zero.
pub fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("must be longer than 0".into()),
        duration => Ok(duration),
    }
}

/// Reads a size: bytes, or with a unit as in `64KiB`, `1MiB`, `1GB`.
///
/// # Errors
///
/// A line that says what is wrong.
pub fn parse_size(text: &str) -> Result<u64, String> {
    match text.trim().parse::<bytesize::ByteSize>() {
        Ok(size) if size.as_u64() > 0 => Ok(size.as_u64()),
        Ok(_) => Err("must be at least 1 byte".into()),
        Err(_) => Err("is not a size; write bytes, or a unit as in 64KiB, 1MiB, 1GB".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_number_is_seconds_and_units_work() {
        let ms = Duration::from_millis;
        for (text, expected) in [
            ("5", 5000),
            ("0.5", 500),
            ("500ms", 500),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("0", 0),
        ] {
            assert_eq!(parse_duration(text), Ok(ms(expected)), "{text}");
        }
        for bad in ["", "-1", "-1s", "NaN", "inf", "1e30", "soon", "11000d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert!(parse_positive_duration("0").is_err());
    }

    #[test]
    fn sizes_know_binary_and_decimal_units() {
        for (text, bytes) in [
            ("1", 1),
            ("64KiB", 65_536),
            ("1MiB", 1 << 20),
            ("1GB", 1_000_000_000),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "-1", "0", "many", "1 furlong"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
