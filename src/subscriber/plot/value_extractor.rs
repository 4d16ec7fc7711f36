//! Extracts the number to plot from a payload. PURE.

use std::str::FromStr;

use serde_json::Value;
use thiserror::Error;

/// Sums and ranges of larger numbers could overflow.
const MAX_VALUE: f64 = 1e100;

const DEFAULT_POINTER: &str = "/temperature";

/// A valid JSON pointer (RFC 6901).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPointer(String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum JsonPointerError {
    #[error("a JSON pointer starts with /, as in /temperature or /values/0")]
    NoSlash,
    #[error("in a JSON pointer ~ is written ~0, and / in a name ~1")]
    Tilde,
}

impl FromStr for JsonPointer {
    type Err = JsonPointerError;

    fn from_str(text: &str) -> Result<Self, JsonPointerError> {
        if !text.is_empty() && !text.starts_with('/') {
            return Err(JsonPointerError::NoSlash);
        }
        let mut after_tildes = text.split('~').skip(1);
        if after_tildes.any(|rest| !rest.starts_with(['0', '1'])) {
            return Err(JsonPointerError::Tilde);
        }
        Ok(Self(text.to_owned()))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValueExtractor {
    pointer: Option<JsonPointer>,
}

impl ValueExtractor {
    /// Without a pointer the number is the payload itself or at `/temperature`.
    pub fn new(pointer: Option<JsonPointer>) -> Self {
        Self { pointer }
    }

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
            Some(pointer) => json.pointer(&pointer.0).and_then(json_number),
            None => {
                json_number(&json).or_else(|| json.pointer(DEFAULT_POINTER).and_then(json_number))
            }
        }
    }
}

/// In bytes; parsed JSON takes about 16 times as much memory.
const MAX_PAYLOAD: usize = 256 << 10;

pub fn is_plottable(number: f64) -> bool {
    number.is_finite() && number.abs() <= MAX_VALUE
}

fn json_number(json: &Value) -> Option<f64> {
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
        ValueExtractor::new(pointer.map(|p| p.parse().unwrap())).extract(payload.as_bytes())
    }

    #[test]
    fn without_a_pointer_the_number_is_the_payload_or_the_temperature() {
        assert_eq!(extract(None, " 21.5\n"), Some(21.5));
        assert_eq!(extract(None, "-1e3"), Some(-1000.0));
        assert_eq!(extract(None, "\"7\""), Some(7.0));
        assert_eq!(extract(None, "true"), Some(1.0));
        assert_eq!(extract(None, "false\n"), Some(0.0));
        assert_eq!(
            extract(None, r#"{"sequence":1,"temperature":21.53}"#),
            Some(21.53)
        );
        for nothing in ["", "warm", "{}", "null", "[1]", r#"{"temperature":null}"#] {
            assert_eq!(extract(None, nothing), None, "{nothing}");
        }
        assert_eq!(ValueExtractor::default().extract(b"\xff"), None);
    }

    #[test]
    fn with_a_pointer_only_its_target_counts() {
        let payload = r#"{"temperature":1,"a":{"b/c":[2,"3.5",false]},"~":4}"#;
        assert_eq!(extract(Some("/a/b~1c/0"), payload), Some(2.0));
        assert_eq!(extract(Some("/a/b~1c/1"), payload), Some(3.5));
        assert_eq!(extract(Some("/a/b~1c/2"), payload), Some(0.0));
        assert_eq!(extract(Some("/~0"), payload), Some(4.0));
        assert_eq!(extract(Some("/missing"), payload), None);
        assert_eq!(extract(Some("/a"), payload), None);
        assert_eq!(extract(Some(""), "5"), Some(5.0));
        assert_eq!(extract(Some("/a"), "5"), None);
    }

    #[test]
    fn numbers_that_are_not_finite_are_ignored() {
        for nothing in ["NaN", "inf", "-infinity", "1e999", "1e101", "\"nan\""] {
            assert_eq!(extract(None, nothing), None, "{nothing}");
        }
    }

    #[test]
    fn an_invalid_pointer_is_refused() {
        assert_eq!(
            "temperature".parse::<JsonPointer>(),
            Err(JsonPointerError::NoSlash)
        );
        assert_eq!("/a~".parse::<JsonPointer>(), Err(JsonPointerError::Tilde));
        assert_eq!("/a~2b".parse::<JsonPointer>(), Err(JsonPointerError::Tilde));
    }

    proptest! {
        #[test]
        fn every_extracted_number_can_be_plotted(payload in "\\PC*", pointer in "(/[a~01]{0,3})?") {
            let pointer = pointer.parse::<JsonPointer>().ok();
            let value = ValueExtractor::new(pointer).extract(payload.as_bytes());
            prop_assert!(value.is_none_or(is_plottable));
        }
    }
}
