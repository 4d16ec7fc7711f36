//! A writer for standard output that escapes control characters if that is a terminal.

use std::io::{self, IsTerminal, Write};

use crate::common::escape::{escape, escape_unsafe_in_json};

/// Writes text. On a terminal, control and format characters become `\uNNNN`, so that JSON stays the same JSON;
/// newlines stay. Each write has to end between characters, as those of `writeln!` do.
#[derive(Debug)]
pub struct EscapingWriter<W> {
    inner: W,
    terminal: bool,
}

impl<W: Write> EscapingWriter<W> {
    /// `inner` must write to standard output in the end.
    pub fn stdout(inner: W) -> Self {
        let terminal = io::stdout().is_terminal();
        Self { inner, terminal }
    }
}

impl<W: Write> Write for EscapingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.terminal {
            return self.inner.write_all(bytes);
        }
        for chunk in bytes.utf8_chunks() {
            let valid = escape_unsafe_in_json(chunk.valid());
            self.inner.write_all(valid.as_bytes())?;
            let invalid = escape(chunk.invalid(), &[]);
            self.inner.write_all(invalid.as_bytes())?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_on_a_terminal_only() {
        let written = |terminal| {
            let mut inner = Vec::new();
            let mut writer = EscapingWriter {
                inner: &mut inner,
                terminal,
            };
            let topic = "\u{9b}\u{7f}\u{202e}\u{feff}";
            writeln!(writer, "{{\"t\":\"{topic}\"}}").unwrap();
            writer.write_all(b"\xff\x1b\n").unwrap();
            inner
        };
        let raw = [
            "{\"t\":\"\u{9b}\u{7f}\u{202e}\u{feff}\"}\n".as_bytes(),
            &b"\xff\x1b\n"[..],
        ];
        assert_eq!(written(false), raw.concat());
        let shown = "{\"t\":\"\\u009b\\u007f\\u202e\\ufeff\"}\n\\xff\\u001b\n";
        assert_eq!(String::from_utf8(written(true)).unwrap(), shown);
    }
}
