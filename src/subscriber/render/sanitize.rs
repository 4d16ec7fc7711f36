//! Where a message is written to, and what is made harmless there: on a terminal all that
//! came over the network, never what the user asked for. PURE.

use std::borrow::Cow;

use crate::common::escape::{escape, escape_json};

/// Bytes to be written.
#[derive(Debug)]
pub struct Page<'a> {
    out: &'a mut Vec<u8>,
    escape: bool,
}

impl<'a> Page<'a> {
    /// Appends to `out`; `escape` on a terminal.
    pub fn new(out: &'a mut Vec<u8>, escape: bool) -> Self {
        Self { out, escape }
    }

    /// What is ours or the user's: as it is.
    pub fn own(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    /// The same character so many times.
    pub fn fill(&mut self, with: u8, count: usize) {
        self.out.resize(self.out.len().saturating_add(count), with);
    }

    /// A topic or a property.
    pub fn name(&mut self, bytes: &[u8]) {
        self.foreign(bytes, &[]);
    }

    /// A payload: its tabs and newlines do no harm.
    pub fn payload(&mut self, bytes: &[u8]) {
        self.foreign(bytes, &['\t', '\n']);
    }

    /// JSON, which need not be UTF-8.
    pub fn json(&mut self, json: &[u8]) {
        if !self.escape {
            return self.own(json);
        }
        for chunk in json.utf8_chunks() {
            self.own(escape_json(chunk.valid()).as_bytes());
            self.own(escape(chunk.invalid(), &[]).as_bytes());
        }
    }

    fn foreign(&mut self, bytes: &[u8], keep: &[char]) {
        let shown = if self.escape {
            Cow::Owned(escape(bytes, keep).into_bytes())
        } else {
            Cow::Borrowed(bytes)
        };
        self.own(&shown);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(escape: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let mut page = Page::new(&mut out, escape);
        page.own(b"\x1b[1m");
        page.fill(b'.', 2);
        page.name(b"\x1b\n");
        page.payload(b"\x1b\n\xff");
        page.json(b"\"\xff\x7f\\n\"");
        out
    }

    #[test]
    fn only_what_came_over_the_network_is_escaped_and_only_on_a_terminal() {
        assert_eq!(
            written(false),
            b"\x1b[1m..\x1b\n\x1b\n\xff\"\xff\x7f\\n\"".to_vec()
        );
        let shown = b"\x1b[1m..\\x1b\\x0a\\x1b\n\\xff\"\\xff\\u007f\\n\"";
        assert_eq!(written(true), shown.to_vec());
    }
}
