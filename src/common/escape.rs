//! Makes text from the network safe for a terminal. PURE.
//!
//! A payload or a topic may hold escape sequences that move the cursor or change the title, and characters that reorder
//! the line. On a terminal they are shown as text; what goes to a pipe or a file is never changed.

use std::fmt::Write as _;

/// Whether a character is a control, or one of Unicode's general categories Zl, Zp and Cf (Unicode 16, section 4.5)
/// that reorders (U+202E), ends a line (U+2028) or cannot be seen (U+FEFF, tags). Not those with a visible shape, and
/// not the joiners U+200C and U+200D: several scripts and emoji need them.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{AD}'
                | '\u{61C}'
                | '\u{180E}'
                | '\u{200B}'
                | '\u{200E}'
                | '\u{200F}'
                | '\u{2028}'..='\u{202E}'
                | '\u{2060}'..='\u{206F}'
                | '\u{FEFF}'
                | '\u{FFF9}'..='\u{FFFB}'
                | '\u{1BCA0}'..='\u{1BCA3}'
                | '\u{1D173}'..='\u{1D17A}'
                | '\u{E0000}'..='\u{E007F}'
        )
}

/// Escapes bytes that are not UTF-8 and ASCII controls as `\xNN`, other unsafe characters as `\u{NNNN}`, and a
/// backslash as `\\`, so that nothing is ambiguous. Controls in `keep` are not escaped.
pub fn escape(bytes: &[u8], keep: &[char]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' {
                out.push_str("\\\\");
            } else if !is_unsafe(c) || keep.contains(&c) {
                out.push(c);
            } else if c.is_ascii() {
                let _ = write!(out, "\\x{:02x}", u32::from(c));
            } else {
                let _ = write!(out, "\\u{{{:04x}}}", u32::from(c));
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

/// Escapes what JSON serialisers do not (DEL, C1, format characters) as `\uNNNN`, so that it is
/// still the same JSON. A newline can only stand between values, and stays.
pub fn escape_unsafe_in_json(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if is_unsafe(c) && c != '\n' {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        } else {
            out.push(c);
        }
    }
    out
}

fn cut(text: &str, length: usize) -> (&str, &'static str) {
    match text.char_indices().nth(length) {
        Some((end, _)) => (&text[..end], "…"),
        None => (text, ""),
    }
}

/// A text for a log line, cut at 200 characters.
pub fn cut_to_log_length(text: &str) -> String {
    let (text, more) = cut(text, 200);
    format!("{text}{more}")
}

/// A value from the command line for an error, quoted and cut at 80 characters.
pub fn quoted(text: &str) -> String {
    let (text, more) = cut(text, 80);
    format!("{text:?}{more}")
}

pub fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push(' '),
            c if is_unsafe(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escape_sequences_are_shown_as_text() {
        assert_eq!(escape(b"\x1b[2Jhi\x07", &[]), "\\x1b[2Jhi\\x07");
        assert_eq!(escape("21.5 °C ✓".as_bytes(), &[]), "21.5 °C ✓");
        assert_eq!(escape(b"a\tb\nc", &['\t']), "a\tb\\x0ac");
        assert_eq!(escape(b"\xff\\", &[]), "\\xff\\\\");
        let escaped = escape("\u{9b}2J\u{202e}".as_bytes(), &[]);
        assert_eq!(escaped, "\\u{009b}2J\\u{202e}");
    }

    #[test]
    fn format_characters_are_escaped_and_those_that_scripts_need_are_not() {
        let unsafe_characters = "\u{7f}\u{85}\u{9b}\u{ad}\u{61c}\u{200b}\u{200e}\u{200f}\u{2028}\
             \u{2029}\u{202a}\u{202e}\u{2060}\u{2066}\u{2069}\u{206f}\u{feff}\u{fff9}\u{1d173}\u{e0041}";
        for c in unsafe_characters.chars() {
            let code = u32::from(c);
            assert_eq!(one_line(&c.to_string()), format!("\\u{{{code:x}}}"));
            assert!(escape(c.to_string().as_bytes(), &[]).contains(&format!("{code:02x}")));
            let json = format!("\"{}\"", escape_unsafe_in_json(&c.to_string()));
            assert!(json.is_ascii(), "{json}");
            assert_eq!(serde_json::from_str::<char>(&json).unwrap(), c);
        }
        // A family of emoji is joined by U+200D, a Persian word needs U+200C.
        let texts = [
            "\u{1f468}\u{200d}\u{1f469}",
            "\u{646}\u{200c}\u{647}",
            "\u{e9} \u{b0}C \u{6e29}",
        ];
        for text in texts {
            assert_eq!(escape(text.as_bytes(), &[]), text);
            assert_eq!(
                (&*one_line(text), &*escape_unsafe_in_json(text)),
                (text, text)
            );
        }
        assert_eq!(escape_unsafe_in_json("{}\n{}\n"), "{}\n{}\n");
    }

    proptest! {
        #[test]
        fn no_unsafe_character_is_left(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(!escape(&bytes, &[]).chars().any(is_unsafe));
        }

        #[test]
        fn json_stays_the_same_json(text in "\\PC*[\u{7f}-\u{9f}\u{202e}\u{2028}\u{feff}\u{e0061}]?") {
            let json = serde_json::to_string(&text).unwrap();
            let shown = escape_unsafe_in_json(&json);
            prop_assert!(!shown.chars().any(is_unsafe));
            prop_assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }
    }
}
