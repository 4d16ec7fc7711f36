//! JSON as cJSON 1.7.15 reads and writes it, the library of `mosquitto_sub`: more than JSON
//! allows is read, and a string ends at its first NUL. But a number that is JSON keeps the digits that it came
//! with: cJSON makes a double of it, and of 12345678901234567890 another number. PURE.

/// How deep arrays and objects may lie in each other.
const MAX_DEPTH: usize = 1_000;

/// The same JSON without white space; nothing if it is none.
pub(super) fn reprinted(text: &[u8]) -> Option<Vec<u8>> {
    if text.contains(&0) {
        return None;
    }
    let mut reader = Reader {
        rest: text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text),
        out: Vec::with_capacity(text.len()),
        depth: 0,
    };
    reader.skip_space();
    reader.value()?;
    reader.skip_space();
    reader.rest.is_empty().then_some(reader.out)
}

/// A string with its quotes, up to its first NUL. Nothing from DEL upwards is escaped.
pub(super) fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    out.push(b'"');
    for byte in text {
        let short = match byte {
            b'"' | b'\\' => *byte,
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0..0x20 => {
                out.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
                continue;
            }
            _ => {
                out.push(*byte);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
    }
    out.push(b'"');
}

/// The shortest of 15 digits if that is the same number but for the last bit, else 17.
fn number(value: f64) -> String {
    if !value.is_finite() {
        return "null".into();
    }
    let short = general(value, 15);
    let test: f64 = short.parse().unwrap_or(f64::NAN);
    let largest = test.abs().max(value.abs());
    if (test - value).abs() <= largest * f64::EPSILON {
        short
    } else {
        general(value, 17)
    }
}

/// What C's `%.*g` prints of a finite number.
fn general(value: f64, digits: usize) -> String {
    let scientific = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    // The digits that are left behind the point, if it need not move far.
    let decimals = usize::try_from(exponent.saturating_neg())
        .map(|up| digits - 1 + up)
        .or_else(|_| {
            let down = usize::try_from(exponent).unwrap_or(usize::MAX);
            (digits - 1).checked_sub(down).ok_or(())
        });
    match decimals {
        Ok(decimals) if exponent >= -4 => trimmed(&format!("{value:.decimals$}")).into(),
        _ => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{}e{sign}{:02}", trimmed(mantissa), exponent.abs())
        }
    }
}

/// Without zeros at the end of a fraction.
fn trimmed(number: &str) -> &str {
    if number.contains('.') {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    }
}

/// Reads and writes in one go.
struct Reader<'a> {
    rest: &'a [u8],
    out: Vec<u8>,
    depth: usize,
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        while let [0..=0x20, rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    fn take(&mut self, word: &[u8]) -> bool {
        let after = self.rest.strip_prefix(word);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn value(&mut self) -> Option<()> {
        match self.rest.first()? {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => self.number(),
            b'[' => self.list(b'[', b']', Self::value),
            b'{' => self.list(b'{', b'}', Self::member),
            _ => {
                let words: [&[u8]; 3] = [b"null", b"false", b"true"];
                let word = words.into_iter().find(|word| self.take(word))?;
                self.out.extend_from_slice(word);
                Some(())
            }
        }
    }

    fn list(&mut self, open: u8, close: u8, item: fn(&mut Self) -> Option<()>) -> Option<()> {
        if self.depth >= MAX_DEPTH || !self.take(&[open]) {
            return None;
        }
        self.depth += 1;
        self.out.push(open);
        self.skip_space();
        if !self.take(&[close]) {
            loop {
                self.skip_space();
                item(self)?;
                self.skip_space();
                if !self.take(b",") {
                    break;
                }
                self.out.push(b',');
            }
            if !self.take(&[close]) {
                return None;
            }
        }
        self.depth -= 1;
        self.out.push(close);
        Some(())
    }

    fn member(&mut self) -> Option<()> {
        self.string()?;
        self.skip_space();
        if !self.take(b":") {
            return None;
        }
        self.out.push(b':');
        self.skip_space();
        self.value()
    }

    /// As far as `strtod` reads: as it stands there if it is JSON, else the number that was read.
    fn number(&mut self) -> Option<()> {
        let digits = |at: usize| {
            let rest = self.rest.get(at..).unwrap_or_default();
            rest.iter().take_while(|byte| byte.is_ascii_digit()).count()
        };
        let byte = |at: usize| self.rest.get(at).copied();
        let start = usize::from(byte(0) == Some(b'-'));
        let whole = digits(start);
        let mut end = start + whole;
        let mut fraction = 0;
        let mut is_json = whole == 1 || (whole > 1 && byte(start) != Some(b'0'));
        if byte(end) == Some(b'.') {
            fraction = digits(end + 1);
            end += 1 + fraction;
            is_json &= fraction > 0;
        }
        if whole + fraction == 0 {
            return None;
        }
        if let Some(b'e' | b'E') = byte(end) {
            let sign = usize::from(matches!(byte(end + 1), Some(b'+' | b'-')));
            let power = digits(end + 1 + sign);
            if power > 0 {
                end += 1 + sign + power;
            }
        }
        let (text, rest) = self.rest.split_at_checked(end)?;
        if is_json {
            self.out.extend_from_slice(text);
        } else {
            let value: f64 = std::str::from_utf8(text).ok()?.parse().ok()?;
            self.out.extend_from_slice(number(value).as_bytes());
        }
        self.rest = rest;
        Some(())
    }

    fn string(&mut self) -> Option<()> {
        let body = self.rest.strip_prefix(b"\"")?;
        let mut end = 0;
        while *body.get(end)? != b'"' {
            end += if body.get(end) == Some(&b'\\') { 2 } else { 1 };
        }
        let (body, rest) = body.split_at_checked(end)?;
        let text = unescaped(body)?;
        write_string(&mut self.out, &text);
        self.rest = rest.get(1..)?;
        Some(())
    }
}

/// What a string means.
fn unescaped(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut text = Vec::with_capacity(body.len());
    loop {
        body = match body {
            // A lone backslash: digits that were none took the other half; it is behind their NUL.
            [] | [b'\\'] => return Some(text),
            [b'\\', b'u', rest @ ..] => {
                let (c, rest) = utf16(rest)?;
                text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                rest
            }
            [b'\\', escape, rest @ ..] => {
                text.push(match escape {
                    b'b' => 0x08,
                    b'f' => 0x0c,
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'"' | b'\\' | b'/' => *escape,
                    _ => return None,
                });
                rest
            }
            [byte, rest @ ..] => {
                text.push(*byte);
                rest
            }
        }
    }
}

/// The character that one or two units after `\u` stand for. Digits that are none are a NUL.
fn utf16(digits: &[u8]) -> Option<(char, &[u8])> {
    let (first, rest) = unit(digits)?;
    if !(0xd800..0xdc00).contains(&first) {
        return Some((char::from_u32(first)?, rest));
    }
    let (second, rest) = unit(rest.strip_prefix(b"\\u")?)?;
    let low = second.checked_sub(0xdc00).filter(|low| *low < 0x400)?;
    let c = char::from_u32(0x10000 + ((first - 0xd800) << 10) + low)?;
    Some((c, rest))
}

fn unit(digits: &[u8]) -> Option<(u32, &[u8])> {
    let (digits, rest) = digits.split_at_checked(4)?;
    let all = digits.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(digits).ok().filter(|_| all);
    let unit = text.and_then(|text| u32::from_str_radix(text, 16).ok());
    Some((unit.unwrap_or_default(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expect(text: &[u8], recorded: Option<&[u8]>) {
        let found = reprinted(text);
        let found = found.as_deref().map(String::from_utf8_lossy);
        assert_eq!(found, recorded.map(String::from_utf8_lossy), "{text:?}");
    }

    /// What `mosquitto_sub` 2.0.11 makes of them, on Debian; but for numbers that are JSON.
    #[test]
    fn odd_json_is_read_and_written_as_recorded() {
        let digits = b"1".repeat(64);
        let deep = [b"[".repeat(MAX_DEPTH), b"]".repeat(MAX_DEPTH)].concat();
        for (text, recorded) in [
            (&b"null"[..], &b"null"[..]),
            (br#""a\u0000b""#, b"\"a\""),
            (br#""\uZZZZx""#, b"\"\""),
            (br#""a\u12a\\""#, b"\"a\""),
            (
                b"[1,-0,-0.0,0.1,1e999,123456789012345678,1e21,1e15,1e16,1e17,0.1e-5,\
                  3.14159265358979312,1.7976931348623157e308,5e-324,100000,1e5,2147483648,1.5,\
                  0.30000000000000004,01,-.5,1.,1.e2]",
                b"[1,-0,-0.0,0.1,1e999,123456789012345678,1e21,1e15,1e16,1e17,0.1e-5,\
                  3.14159265358979312,1.7976931348623157e308,5e-324,100000,1e5,2147483648,1.5,\
                  0.30000000000000004,1,-0.5,1,100]",
            ),
            (
                br#"{"a":"\ud83d\ude00\/","a":[ ],"b":{ },"c":[{},[]]}"#,
                "{\"a\":\"\u{1f600}/\",\"a\":[],\"b\":{},\"c\":[{},[]]}".as_bytes(),
            ),
            (b" \x01 1 \x02", b"1"),
            (b"\xef\xbb\xbf1", b"1"),
            (
                b"\"\xff\x1b\n\r\t\x08\x0c\\\"\\\\\x7f\"",
                b"\"\xff\\u001b\\n\\r\\t\\b\\f\\\"\\\\\x7f\"",
            ),
            (&digits, &digits),
            (b"[ 2.10 ,1E+2 , -1.0e-05]", b"[2.10,1E+2,-1.0e-05]"),
            (b"[01.5,00,1.e400,-01e2]", b"[1.5,0,null,-100]"),
            (br#"{"a\u0000b":1}"#, br#"{"a":1}"#),
            (&deep, &deep),
        ] {
            expect(text, Some(recorded));
        }
        let deeper = [b"[", &deep[..], b"]"].concat();
        let not: [&[u8]; 14] = [
            b"",
            b"x",
            b"a\0b",
            b"\xff\xfe",
            b"nul",
            b"1 \0",
            b"\"x",
            b"[1,]",
            b"-",
            b"1e",
            b"truex",
            br#""\u12""#,
            b"\n",
            b"[1\0]",
        ];
        for text in not
            .into_iter()
            .chain([&deeper[..], br#""\udc00""#, br#""\ud800x""#])
        {
            expect(text, None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_borne(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = reprinted(&text);
        }

        #[test]
        fn what_was_written_reads_the_same(text in r#"[\[\]{},:"\\0-9eE.+\-a-fu ]{0,30}"#) {
            if let Some(once) = reprinted(text.as_bytes()) {
                prop_assert_eq!(reprinted(&once), Some(once));
            }
        }

        #[test]
        fn a_number_that_is_json_keeps_its_digits(
            text in "-?(0|[1-9][0-9]{0,30})(\\.[0-9]{1,30})?([eE][+-]?[0-9]{1,5})?",
        ) {
            prop_assert_eq!(reprinted(text.as_bytes()), Some(text.into_bytes()));
        }

        #[test]
        fn numbers_keep_fifteen_digits(value in any::<f64>().prop_filter("a number", |v| v.is_finite())) {
            let text = number(value);
            let back: f64 = text.parse().unwrap();
            // The largest of all rounds up to infinity, as it does there.
            prop_assert!(back.is_infinite() || (back - value).abs() <= value.abs() * f64::EPSILON);
        }
    }
}
