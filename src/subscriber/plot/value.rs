//! The number in a payload. PURE.

use std::str::FromStr;

use serde_json::Value;
use thiserror::Error;

/// Beyond this a number is no reading, and sums and ranges would overflow.
const LARGEST: f64 = 1e100;

/// Where a JSON payload without a pointer is looked into.
const DEFAULT: &str = "/temperature";

/// A JSON pointer (RFC 6901) that is known to be one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer(String);

/// Why a text is no JSON pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PointerError {
    /// It does not start where pointers start.
    #[error("a JSON pointer starts with /, as in /temperature or /values/0")]
    NoSlash,
    /// A tilde that is neither of the two escapes.
    #[error("in a JSON pointer ~ is written ~0, and / in a name ~1")]
    Tilde,
}

impl FromStr for Pointer {
    type Err = PointerError;

    fn from_str(text: &str) -> Result<Self, PointerError> {
        if !text.is_empty() && !text.starts_with('/') {
            return Err(PointerError::NoSlash);
        }
        let mut after_tildes = text.split('~').skip(1);
        if after_tildes.any(|rest| !rest.starts_with(['0', '1'])) {
            return Err(PointerError::Tilde);
        }
        Ok(Self(text.to_owned()))
    }
}

/// How to find the number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picker {
    pointer: Option<Pointer>,
}

impl Picker {
    /// Looks where `pointer` points; without one at the payload itself, else at
    /// `/temperature`.
    pub fn new(pointer: Option<Pointer>) -> Self {
        Self { pointer }
    }

    /// The number in a payload: a JSON number, a number in a string or in plain text, or
    /// true and false as 1 and 0.
    pub fn pick(&self, payload: &[u8]) -> Option<f64> {
        if payload.len() > LARGEST_PAYLOAD {
            return None;
        }
        if self.pointer.is_none()
            && let Some(number) = std::str::from_utf8(payload).ok().and_then(plain)
        {
            return Some(number);
        }
        let json: Value = serde_json::from_slice(payload).ok()?;
        match &self.pointer {
            Some(pointer) => json.pointer(&pointer.0).and_then(number),
            None => number(&json).or_else(|| json.pointer(DEFAULT).and_then(number)),
        }
    }
}

/// The largest payload that is looked at, in bytes: as JSON it takes some 16 times its size in memory.
const LARGEST_PAYLOAD: usize = 256 << 10;

/// Whether a number can be drawn.
pub fn is_reading(number: f64) -> bool {
    number.is_finite() && number.abs() <= LARGEST
}

fn number(json: &Value) -> Option<f64> {
    match json {
        Value::Number(number) => number.as_f64().filter(|n| is_reading(*n)),
        Value::String(text) => plain(text),
        Value::Bool(set) => Some(f64::from(u8::from(*set))),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn plain(text: &str) -> Option<f64> {
    text.trim().parse().ok().filter(|n| is_reading(*n))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pick(pointer: Option<&str>, payload: &str) -> Option<f64> {
        Picker::new(pointer.map(|p| p.parse().unwrap())).pick(payload.as_bytes())
    }

    #[test]
    fn without_a_pointer_it_is_the_payload_itself_or_the_temperature() {
        assert_eq!(pick(None, " 21.5\n"), Some(21.5));
        assert_eq!(pick(None, "-1e3"), Some(-1000.0));
        assert_eq!(pick(None, "\"7\""), Some(7.0));
        assert_eq!(pick(None, "true"), Some(1.0));
        assert_eq!(pick(None, "false\n"), Some(0.0));
        assert_eq!(
            pick(None, r#"{"sequence":1,"temperature":21.53}"#),
            Some(21.53)
        );
        for nothing in ["", "warm", "{}", "null", "[1]", r#"{"temperature":null}"#] {
            assert_eq!(pick(None, nothing), None, "{nothing}");
        }
        assert_eq!(Picker::default().pick(b"\xff"), None);
    }

    #[test]
    fn a_pointer_is_followed_and_nothing_else() {
        let payload = r#"{"temperature":1,"a":{"b/c":[2,"3.5",false]},"~":4}"#;
        assert_eq!(pick(Some("/a/b~1c/0"), payload), Some(2.0));
        assert_eq!(pick(Some("/a/b~1c/1"), payload), Some(3.5));
        assert_eq!(pick(Some("/a/b~1c/2"), payload), Some(0.0));
        assert_eq!(pick(Some("/~0"), payload), Some(4.0));
        assert_eq!(pick(Some("/missing"), payload), None);
        assert_eq!(pick(Some("/a"), payload), None);
        assert_eq!(pick(Some(""), "5"), Some(5.0));
        assert_eq!(pick(Some("/a"), "5"), None);
    }

    #[test]
    fn what_is_not_finite_is_no_value() {
        for nothing in ["NaN", "inf", "-infinity", "1e999", "1e101", "\"nan\""] {
            assert_eq!(pick(None, nothing), None, "{nothing}");
        }
    }

    #[test]
    fn a_bad_pointer_is_named() {
        assert_eq!("temperature".parse::<Pointer>(), Err(PointerError::NoSlash));
        assert_eq!("/a~".parse::<Pointer>(), Err(PointerError::Tilde));
        assert_eq!("/a~2b".parse::<Pointer>(), Err(PointerError::Tilde));
    }

    proptest! {
        #[test]
        fn only_numbers_that_can_be_drawn_come_out(payload in "\\PC*", pointer in "(/[a~01]{0,3})?") {
            let pointer = pointer.parse::<Pointer>().ok();
            let picked = Picker::new(pointer).pick(payload.as_bytes());
            prop_assert!(picked.is_none_or(is_reading));
        }
    }
}
