//! The format of numbers. PURE.

/// A longer number is written with an exponent if that is shorter.
const MAX_PLAIN_CHARS: usize = 9;

/// Uses an exponent if the number is long and that is shorter.
pub fn format_number(value: f64, places: usize) -> String {
    let plain = format!("{:.*}", places, value + 0.0);
    if plain.len() <= MAX_PLAIN_CHARS {
        return plain;
    }
    // The shortest without trailing zeros, as in 1.500000e9.
    let precise = format!("{value:.6e}").parse::<f64>();
    let scientific = (0..=6)
        .map(|digits| format!("{value:.digits$e}"))
        .find(|text| text.parse() == precise);
    scientific
        .filter(|text| text.len() < plain.len())
        .unwrap_or(plain)
}

pub fn decimal_places(value: f64) -> usize {
    let text = value.to_string();
    text.split_once('.').map_or(0, |(_, places)| places.len())
}

/// `places`, but fewer if a number of the line would have more than six digits.
pub fn limit_places(values: &[f64], places: usize) -> usize {
    let magnitude = values.iter().fold(0f64, |most, n| most.max(n.abs()));
    let digits_before = if magnitude < 1.0 {
        1
    } else {
        format!("{magnitude:.0}").len()
    };
    places.min(6usize.saturating_sub(digits_before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_line_have_the_same_decimal_places_and_are_not_too_long() {
        assert_eq!(decimal_places(22.25), 2);
        assert_eq!(decimal_places(1e9), 0);
        assert_eq!(limit_places(&[21.5, 20.0], 2), 2);
        assert_eq!(limit_places(&[1.0 / 3.0], 16), 5);
        assert_eq!(limit_places(&[0.5, -1013.1], 16), 2);
        assert_eq!(limit_places(&[1e9], 1), 0);
        assert_eq!(format_number(-0.0, 1), "0.0");
        assert_eq!(format_number(1.5e9, 0), "1.5e9");
        assert_eq!(format_number(123_456_789.0, 0), "123456789");
        assert_eq!(format_number(1_234_567_890.0, 0), "1234567890");
    }
}
