//! Numbers, durations and sizes as people write them on a command line. PURE.

use std::fmt::Display;
use std::ops::{Bound, RangeBounds};
use std::str::FromStr;
use std::time::Duration;

/// Longer than any run, and short enough that no clock overflows.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Reads whole numbers of this range.
pub fn integer_parser<T>(
    range: impl RangeBounds<T> + Clone + Send + Sync + 'static,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display,
{
    move |text| {
        let number = text.trim().parse().ok();
        number.filter(|n| range.contains(n)).ok_or_else(|| {
            let wanted = match (range.start_bound(), range.end_bound()) {
                (Bound::Included(first), Bound::Included(last)) => {
                    format!(" from {first} to {last}")
                }
                (Bound::Included(first), _) => format!(", at least {first}"),
                _ => String::new(),
            };
            format!("must be a whole number{wanted}")
        })
    }
}

pub fn parse_number(text: &str) -> Result<f64, String> {
    let number = text.trim().parse();
    number.map_err(|_| "is not a number; write it as in 0.5".into())
}

/// Reads a duration: a bare number is seconds; `500ms`, `5m`, `2h`, `1h30m` work too.
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

pub fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("must be longer than 0".into()),
        duration => Ok(duration),
    }
}

/// Reads a size: bytes, or with a unit as in `64KiB`, `1MiB`, `1GB`.
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
    fn numbers_out_of_range_are_refused_with_the_range() {
        let error = "must be a whole number from 1 to 5".to_owned();
        for bad in ["0", "6", "x", "", "1.5", "99999999999"] {
            assert_eq!(integer_parser(1u8..=5)(bad), Err(error.clone()), "{bad}");
        }
        assert_eq!(integer_parser(-1i64..=5)("-1"), Ok(-1));
        assert_eq!(parse_number("0.5"), Ok(0.5));
        assert!(parse_number("half").is_err());
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
