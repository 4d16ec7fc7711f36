//! Standard output for JSON and for lines about messages: on a terminal nothing that is written can do
//! more than appear.

use std::io::{self, IsTerminal, Write};

use crate::common::escape::{escape, escape_json};

/// Writes text. On a terminal, control and format characters become `\uNNNN`, so that JSON stays the same
/// JSON; newlines stay. Each write has to end between characters, as those of `writeln!` do.
#[derive(Debug)]
pub struct Harmless<W> {
    inner: W,
    terminal: bool,
}

impl<W: Write> Harmless<W> {
    /// Everything that `inner` gets goes to standard output in the end.
    pub fn stdout(inner: W) -> Self {
        Self::new(inner, io::stdout().is_terminal())
    }

    fn new(inner: W, terminal: bool) -> Self {
        Self { inner, terminal }
    }
}

impl<W: Write> Write for Harmless<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.terminal {
            return self.inner.write_all(bytes);
        }
        for chunk in bytes.utf8_chunks() {
            self.inner
                .write_all(escape_json(chunk.valid()).as_bytes())?;
            self.inner
                .write_all(escape(chunk.invalid(), &[]).as_bytes())?;
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
    fn on_a_terminal_json_is_escaped_and_elsewhere_every_byte_is_as_it_is() {
        let written = |terminal| {
            let mut out = Vec::new();
            let mut harmless = Harmless::new(&mut out, terminal);
            let topic = "\u{9b}\u{7f}\u{202e}\u{feff}";
            writeln!(harmless, "{{\"t\":\"{topic}\"}}").unwrap();
            harmless.write_all(b"\xff\x1b\n").unwrap();
            out
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
