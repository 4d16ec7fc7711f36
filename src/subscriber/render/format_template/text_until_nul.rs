//! Bytes as text in JSON, without memory for a copy. PURE.
//!
//! What stands before the first NUL, with U+FFFD for what is not UTF-8.

use std::fmt::{self, Write as _};

use memchr::memchr;
use serde::{Serialize, Serializer};

use crate::common::mqtt::properties_json::escaped_length;

#[derive(Clone, Copy, Debug)]
pub(super) struct TextUntilNul<'a>(&'a [u8]);

impl<'a> TextUntilNul<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        let end = memchr(0, bytes).unwrap_or(bytes.len());
        Self(&bytes[..end])
    }

    pub(super) fn of(text: &'a str) -> Self {
        Self::new(text.as_bytes())
    }

    /// The bytes in a JSON string, without its quotation marks.
    pub(super) fn json_length(self) -> usize {
        let lengths = self.0.utf8_chunks().map(|chunk| {
            let has_invalid = !chunk.invalid().is_empty();
            escaped_length(chunk.valid().as_bytes())
                + usize::from(has_invalid) * char::REPLACEMENT_CHARACTER.len_utf8()
        });
        lengths.sum()
    }
}

impl fmt::Display for TextUntilNul<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

impl Serialize for TextUntilNul<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_what_the_standard_library_decodes_and_as_long_as_predicted(
            bytes in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let text = TextUntilNul::new(&bytes);
            let before = bytes.split(|byte| *byte == 0).next().unwrap();
            let decoded = String::from_utf8_lossy(before);
            let json = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(&json, &serde_json::to_string(&decoded).unwrap());
            prop_assert_eq!(json.len(), text.json_length() + 2);
        }
    }
}
