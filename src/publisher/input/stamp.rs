//! `--stamp`: a reading together with the time at which it was read, as one JSON object. PURE.

use std::time::Duration;

use serde::de::IgnoredAny;

use crate::common::mqtt::message_json::rfc3339;

/// `{"time":…,"value":…}`: the time in UTC with milliseconds (RFC 3339), a payload that is JSON byte for byte, other
/// text as a string. `read_at` is Unix time. Bytes that are not UTF-8 are an error.
pub(super) fn stamp(payload: &[u8], read_at: Duration) -> Result<Vec<u8>, String> {
    let text =
        str::from_utf8(payload).map_err(|_| "is not UTF-8 text, which --stamp needs".to_owned())?;
    let is_json = serde_json::from_str::<IgnoredAny>(text).is_ok();
    let value = if is_json {
        text.trim_matches(JSON_WHITE_SPACE).to_owned()
    } else {
        serde_json::Value::from(text).to_string()
    };
    Ok(format!(r#"{{"time":"{}","value":{value}}}"#, rfc3339(read_at)).into_bytes())
}

/// RFC 8259, section 2.
const JSON_WHITE_SPACE: [char; 4] = [' ', '\t', '\n', '\r'];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamped(payload: &[u8]) -> Result<String, String> {
        stamp(payload, Duration::from_millis(1_769_846_400_250))
            .map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn json_goes_in_as_it_is_and_other_text_as_a_string() {
        for (payload, value) in [
            ("21.50", "21.50"),
            ("12345678901234567890.10", "12345678901234567890.10"),
            ("{\"a\": [1,2]}", "{\"a\": [1,2]}"),
            ("\"text\"", "\"text\""),
            ("true", "true"),
            (" 7\n", "7"),
            ("on", "\"on\""),
            ("007", "\"007\""),
            ("NaN", "\"NaN\""),
            ("", "\"\""),
            ("say \"yes\"\n", "\"say \\\"yes\\\"\\n\""),
            ("21.5 C", "\"21.5 C\""),
        ] {
            let expected = format!(r#"{{"time":"2026-01-31T08:00:00.250Z","value":{value}}}"#);
            assert_eq!(stamped(payload.as_bytes()), Ok(expected), "{payload}");
        }
        assert!(stamped(b"\xff").is_err_and(|why| why.contains("--stamp")));
    }

    proptest! {
        #[test]
        fn any_text_gives_an_object_from_which_it_can_be_read(text in ".*") {
            let object: serde_json::Value = serde_json::from_str(&stamped(text.as_bytes()).unwrap()).unwrap();
            let value = &object["value"];
            let expected = serde_json::from_str(&text).unwrap_or(serde_json::Value::from(text));
            prop_assert_eq!(value, &expected);
        }
    }
}
