//! Extracts the number to plot from a payload. PURE.

use std::str::FromStr;

use serde_json::Value;

/// Sums and ranges of larger numbers could overflow.
const MAX_VALUE: f64 = 1e100;

/// In bytes; parsed JSON takes about 16 times as much memory.
const MAX_PAYLOAD: usize = 256 << 10;

const DEFAULT_POINTER: &str = "/temperature";

/// Without a pointer the number is the payload itself or at `/temperature`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValueExtractor {
    pointer: Option<String>,
}

impl FromStr for ValueExtractor {
    type Err = &'static str;

    fn from_str(pointer: &str) -> Result<Self, &'static str> {
        if !pointer.is_empty() && !pointer.starts_with('/') {
            return Err("a JSON pointer starts with /, as in /temperature or /values/0");
        }
        let mut after_tildes = pointer.split('~').skip(1);
        if after_tildes.any(|rest| !rest.starts_with(['0', '1'])) {
            return Err("in a JSON pointer ~ is written ~0, and / in a name ~1");
        }
        let pointer = Some(pointer.to_owned());
        Ok(Self { pointer })
    }
}

impl ValueExtractor {
    /// A JSON number, a number in a string or in plain text, or true and false as 1 and 0.
    pub fn extract(&self, payload: &[u8]) -> Option<f64> {
        if payload.len() > MAX_PAYLOAD {
            return None;
        }
        if self.pointer.is_none()
            && let Some(number) = std::str::from_utf8(payload).ok().and_then(text_number)
        {
            return Some(number);
        }
        let json: Value = serde_json::from_slice(payload).ok()?;
        match &self.pointer {
            Some(pointer) => json.pointer(pointer).and_then(json_to_number),
            None => json_to_number(&json)
                .or_else(|| json.pointer(DEFAULT_POINTER).and_then(json_to_number)),
        }
    }
}

pub fn is_plottable(number: f64) -> bool {
    number.is_finite() && number.abs() <= MAX_VALUE
}

fn json_to_number(json: &Value) -> Option<f64> {
    match json {
        Value::Number(number) => number.as_f64().filter(|n| is_plottable(*n)),
        Value::String(text) => text_number(text),
        Value::Bool(set) => Some(f64::from(u8::from(*set))),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn text_number(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|n| is_plottable(*n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extract(pointer: Option<&str>, payload: &str) -> Option<f64> {
        let extractor = pointer.map(|p| p.parse::<ValueExtractor>().unwrap());
        extractor.unwrap_or_default().extract(payload.as_bytes())
    }

    #[test]
    fn without_a_pointer_the_number_is_the_payload_or_the_temperature() {
        for (payload, value) in [
            (" 21.5\n", 21.5),
            ("-1e3", -1000.0),
            ("\"7\"", 7.0),
            ("true", 1.0),
            ("false\n", 0.0),
            (r#"{"sequence":1,"temperature":21.53}"#, 21.53),
        ] {
            assert_eq!(extract(None, payload), Some(value), "{payload}");
        }
        for nothing in ["", "warm", "{}", "null", "[1]", r#"{"temperature":null}"#] {
            assert_eq!(extract(None, nothing), None, "{nothing}");
        }
        assert_eq!(ValueExtractor::default().extract(b"\xff"), None);
    }

    #[test]
    fn with_a_pointer_only_its_target_counts() {
        let payload = r#"{"temperature":1,"a":{"b/c":[2,"3.5",false]},"~":4}"#;
        for (pointer, payload, value) in [
            ("/a/b~1c/0", payload, Some(2.0)),
            ("/a/b~1c/1", payload, Some(3.5)),
            ("/a/b~1c/2", payload, Some(0.0)),
            ("/~0", payload, Some(4.0)),
            ("/missing", payload, None),
            ("/a", payload, None),
            ("", "5", Some(5.0)),
            ("/a", "5", None),
        ] {
            assert_eq!(extract(Some(pointer), payload), value, "{pointer}");
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_ignored() {
        for nothing in ["NaN", "inf", "-infinity", "1e999", "1e101", "\"nan\""] {
            assert_eq!(extract(None, nothing), None, "{nothing}");
        }
    }

    #[test]
    fn an_invalid_pointer_is_refused() {
        for (pointer, why) in [
            ("temperature", "a JSON pointer starts with /"),
            ("/a~", "in a JSON pointer ~ is written ~0"),
            ("/a~2b", "in a JSON pointer ~ is written ~0"),
        ] {
            let error = pointer.parse::<ValueExtractor>().unwrap_err();
            assert!(error.starts_with(why), "{pointer}: {error}");
        }
    }

    proptest! {
        #[test]
        fn every_extracted_number_can_be_plotted(payload in "\\PC*", pointer in "(/[a~01]{0,3})?") {
            let extractor = pointer.parse::<ValueExtractor>().unwrap_or_default();
            let value = extractor.extract(payload.as_bytes());
            prop_assert!(value.is_none_or(is_plottable));
        }
    }
}
