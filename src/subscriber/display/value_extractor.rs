//! Extracts the values to show from a payload. PURE.

use std::borrow::Cow;

use serde_json::Value;

use super::json_pointer::JsonPointer;
use crate::common::escape::one_line;

/// Sums and ranges of larger numbers could overflow.
const MAX_VALUE: f64 = 1e100;

/// In bytes; parsed JSON takes about 16 times as much memory.
const MAX_PAYLOAD: usize = 256 << 10;

const DEFAULT_POINTER: &str = "/temperature";

/// Without a pointer the number is the payload itself or at `/temperature`, and the text is the payload itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValueExtractor {
    pointers: Vec<JsonPointer>,
}

impl ValueExtractor {
    pub fn new(pointers: Vec<JsonPointer>) -> Self {
        Self { pointers }
    }

    /// One for each value, as the user wrote the pointers.
    pub fn headings(&self) -> Vec<String> {
        if self.pointers.is_empty() {
            return vec!["value".into()];
        }
        let headings = self.pointers.iter().map(|pointer| one_line(&pointer.0));
        headings.collect()
    }

    /// The payload itself, or what the pointers point to, as text: a string without its quotes, other values as JSON.
    pub fn extract_texts<'a>(&self, payload: &'a [u8]) -> Vec<Option<Cow<'a, [u8]>>> {
        if self.pointers.is_empty() {
            return vec![Some(payload.into())];
        }
        let json = parse(payload);
        let text = |pointer: &JsonPointer| {
            let found = json.as_ref()?.pointer(&pointer.0)?;
            Some(json_to_text(found).into_bytes().into())
        };
        self.pointers.iter().map(text).collect()
    }

    /// A JSON number, a number in a string or in plain text, or true and false as 1 and 0; one for each heading.
    pub fn extract_numbers(&self, payload: &[u8]) -> Vec<Option<f64>> {
        if self.pointers.is_empty()
            && payload.len() <= MAX_PAYLOAD
            && let Some(number) = std::str::from_utf8(payload).ok().and_then(text_number)
        {
            return vec![Some(number)];
        }
        let json = parse(payload);
        let at = |pointer: &str| {
            let found = json.as_ref()?.pointer(pointer)?;
            json_to_number(found)
        };
        if self.pointers.is_empty() {
            return vec![at("").or_else(|| at(DEFAULT_POINTER))];
        }
        self.pointers.iter().map(|pointer| at(&pointer.0)).collect()
    }
}

fn parse(payload: &[u8]) -> Option<Value> {
    if payload.len() > MAX_PAYLOAD {
        return None;
    }
    serde_json::from_slice(payload).ok()
}

fn json_to_text(json: &Value) -> String {
    match json {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn is_plottable(number: f64) -> bool {
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

    fn extractor(pointers: &[&str]) -> ValueExtractor {
        ValueExtractor::new(pointers.iter().map(|p| p.parse().unwrap()).collect())
    }

    fn extract(pointer: Option<&str>, payload: &str) -> Option<f64> {
        extractor(pointer.as_slice()).extract_numbers(payload.as_bytes())[0]
    }

    #[test]
    fn several_pointers_give_several_values() {
        let extractor = extractor(&["/b", "/a/0", "/missing"]);
        assert_eq!(extractor.headings(), ["/b", "/a/0", "/missing"]);
        let payload = br#"{"a":[21.5],"b":"on","c":null}"#;
        assert_eq!(extractor.extract_numbers(payload), [None, Some(21.5), None]);
        let texts = extractor.extract_texts(payload);
        let texts: Vec<_> = texts.iter().map(Option::as_deref).collect();
        assert_eq!(texts, [Some(&b"on"[..]), Some(b"21.5"), None]);
        assert_eq!(extractor.extract_texts(b"no JSON"), [None, None, None]);
        let whole = ValueExtractor::default();
        assert_eq!(whole.headings(), ["value"]);
        let texts = whole.extract_texts(b"\xff");
        assert_eq!(texts[0].as_deref(), Some(&b"\xff"[..]));
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
        assert_eq!(ValueExtractor::default().extract_numbers(b"\xff"), [None]);
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

    proptest! {
        #[test]
        fn every_extracted_number_can_be_plotted(payload in "\\PC*", pointer in "(/[a~01]{0,3})?") {
            let pointer = pointer.parse::<JsonPointer>().ok();
            let extractor = ValueExtractor::new(pointer.into_iter().collect());
            let values = extractor.extract_numbers(payload.as_bytes());
            prop_assert!(values.into_iter().flatten().all(is_plottable));
        }
    }
}
