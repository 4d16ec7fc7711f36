//! Reads a format, and refuses what `mosquitto_sub` refuses. PURE.

use super::arrival_time::LETTERS;
use super::field_spec::FieldSpec;
use crate::common::escape::quoted;

/// The widest field. `mosquitto_sub` has no limit; a wider one is surely a typing error.
const MAX_WIDTH: usize = 1_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Text(Vec<u8>),
    Field(FieldSpec, char),
    Time(char),
    Nanoseconds,
}

const FIELDS: &str = "%ACDEFIJPRSUXjlmpqrtx";

pub(super) fn segments(format: &str) -> Result<Vec<Segment>, String> {
    let mut segments = Vec::new();
    let mut text = String::new();
    let mut rest = Rest(format);
    while let Some(c) = rest.next() {
        let segment = match c {
            '%' => Some(field(&mut rest)?),
            '@' => parse_time(&mut rest, &mut text)?,
            '\\' => {
                text.push(backslash(&mut rest)?);
                None
            }
            c => {
                text.push(c);
                None
            }
        };
        if let Some(segment) = segment {
            flush(&mut text, &mut segments);
            segments.push(segment);
        }
    }
    flush(&mut text, &mut segments);
    Ok(segments)
}

fn flush(text: &mut String, segments: &mut Vec<Segment>) {
    if !text.is_empty() {
        segments.push(Segment::Text(std::mem::take(text).into_bytes()));
    }
}

struct Rest<'a>(&'a str);

impl Rest<'_> {
    fn next(&mut self) -> Option<char> {
        let mut chars = self.0.chars();
        let next = chars.next();
        self.0 = chars.as_str();
        next
    }

    fn strip_char(&mut self, c: char) -> bool {
        let after = self.0.strip_prefix(c);
        self.0 = after.unwrap_or(self.0);
        after.is_some()
    }

    /// 0 if there are no digits.
    fn number(&mut self) -> usize {
        let mut number = 0_usize;
        while let Some(digit) = self.0.chars().next().and_then(|c| c.to_digit(10)) {
            let digit = usize::try_from(digit).unwrap_or_default();
            number = number.saturating_mul(10).saturating_add(digit);
            self.next();
        }
        number
    }
}

fn field(rest: &mut Rest<'_>) -> Result<Segment, String> {
    let spec = FieldSpec {
        left: rest.strip_char('-'),
        zero: rest.strip_char('0'),
        width: rest.number(),
        precision: rest.strip_char('.').then(|| rest.number()),
    };
    if spec.width > MAX_WIDTH {
        return Err(format!(
            "has a field of more than {MAX_WIDTH} bytes; give it a smaller width"
        ));
    }
    match rest.next() {
        None => Err("ends in the middle of a % escape; write %% for a percent sign".into()),
        Some(letter) if FIELDS.contains(letter) => Ok(Segment::Field(spec, letter)),
        Some(letter) => Err(format!(
            "has the unknown escape {}; known are % A C D E F I j J l m P p q R r S t U x X, and \
             %% for a percent sign",
            quoted(&format!("%{letter}"))
        )),
    }
}

fn parse_time(rest: &mut Rest<'_>, text: &mut String) -> Result<Option<Segment>, String> {
    let Some(letter) = rest.next() else {
        return Err("ends with an @; write @@ for an at sign".into());
    };
    match letter {
        '@' | '%' => text.push(letter),
        'N' => return Ok(Some(Segment::Nanoseconds)),
        'n' => text.push('\n'),
        't' => text.push('\t'),
        letter if LETTERS.contains(letter) => return Ok(Some(Segment::Time(letter))),
        // The C library copies unknown letters, and takes digits as a width.
        letter => {
            let width = letter.to_digit(10).unwrap_or_default();
            for _ in 2..width {
                text.push(' ');
            }
            text.push('%');
            text.push(letter);
        }
    }
    Ok(None)
}

fn backslash(rest: &mut Rest<'_>) -> Result<char, String> {
    let Some(letter) = rest.next() else {
        return Err(r"ends with a \; write \\ for a backslash".into());
    };
    Ok(match letter {
        '\\' => '\\',
        '0' => '\0',
        'a' => '\x07',
        'e' => '\x1b',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        letter => {
            // Quoted by hand: a backslash would be doubled.
            let letter = letter.escape_debug();
            return Err(format!(
                r"has the unknown escape \{letter}; known are \0 \a \e \n \r \t \v, and \\ for a backslash"
            ));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_that_mosquitto_sub_refuses_are_refused_with_cause_and_remedy() {
        for (formats, cause, remedy) in [
            (
                &["%", "%-", "a%5", "%5.", "%-05.3", "%0"][..],
                "middle",
                "%%",
            ),
            (&["%z", "%--t", "%\t", "%\u{e9}", "%0-5t"], "unknown", "%%"),
            (&["a@"], "ends with an @", "@@"),
            (&["a\\"], "ends with a \\", "\\\\"),
            (&["\\z", "\\\u{e9}"], "unknown", "\\\\"),
            (
                &["%1000001p", "%99999999999999999999p"],
                "1000000",
                "smaller",
            ),
        ] {
            for format in formats {
                let error = segments(format).unwrap_err();
                assert!(error.contains(cause) && error.contains(remedy), "{error}");
                assert!(!error.contains('\t'), "{error}");
            }
        }
        for format in r"|%00t|%-05.3t|%.t|@q|@@@@|\\|%1000000p".split('|') {
            assert!(segments(format).is_ok(), "{format}");
        }
    }

    #[test]
    fn adjacent_text_is_one_segment() {
        let read = segments(r"a\n@@@qb%p").unwrap();
        assert_eq!(read.len(), 2);
        assert_eq!(read.first(), Some(&Segment::Text(b"a\n@%qb".to_vec())));
    }
}
