//! Appends output, and on a terminal escapes what came over the network, never what the user typed. PURE.

use data_encoding::Encoding;

use crate::common::escape::{escape, escape_unsafe_in_json};

#[derive(Debug)]
pub struct Sanitizer<'a> {
    out: &'a mut Vec<u8>,
    escapes: bool,
}

impl<'a> Sanitizer<'a> {
    pub fn new(out: &'a mut Vec<u8>, escapes: bool) -> Self {
        Self { out, escapes }
    }

    pub fn push_trusted(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    pub fn push_repeated(&mut self, byte: u8, count: usize) {
        self.out.resize(self.out.len().saturating_add(count), byte);
    }

    pub fn push_name(&mut self, bytes: &[u8]) {
        self.push_untrusted(bytes, &[]);
    }

    /// Appends a payload: its tabs and newlines are harmless.
    pub fn push_payload(&mut self, bytes: &[u8]) {
        self.push_untrusted(bytes, &['\t', '\n']);
    }

    /// Appends the JSON that `write` appends.
    pub fn push_json(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.escapes {
            return write(self.out);
        }
        let mut json = Vec::new();
        write(&mut json);
        let json = String::from_utf8_lossy(&json);
        self.push_trusted(escape_unsafe_in_json(&json).as_bytes());
    }

    pub fn push_hex(&mut self, bytes: &[u8], encoding: &Encoding) {
        let begin = self.out.len();
        self.push_repeated(b'0', encoding.encode_len(bytes.len()));
        encoding.encode_mut(bytes, &mut self.out[begin..]);
    }

    fn push_untrusted(&mut self, bytes: &[u8], keep: &[char]) {
        if self.escapes {
            self.push_trusted(escape(bytes, keep).as_bytes());
        } else {
            self.push_trusted(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data_encoding::HEXLOWER;

    #[test]
    fn only_what_came_over_the_network_is_escaped_and_only_on_a_terminal() {
        let written = |escapes| {
            let mut out = Vec::new();
            let mut sanitizer = Sanitizer::new(&mut out, escapes);
            sanitizer.push_trusted(b"\x1b[1m");
            sanitizer.push_repeated(b'.', 2);
            sanitizer.push_name(b"\x1b\n");
            sanitizer.push_payload(b"\x1b\n\xff");
            sanitizer.push_json(|out| out.extend_from_slice(b"\"\x7f\\n\""));
            sanitizer.push_hex(b"\x1b\xff", &HEXLOWER);
            out
        };
        let raw = b"\x1b[1m..\x1b\n\x1b\n\xff\"\x7f\\n\"1bff";
        assert_eq!(written(false), raw.to_vec());
        let shown = b"\x1b[1m..\\x1b\\x0a\\x1b\n\\xff\"\\u007f\\n\"1bff";
        assert_eq!(written(true), shown.to_vec());
    }
}
