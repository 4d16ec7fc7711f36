//! Text from the network, made harmless for a terminal. PURE.
//!
//! A payload or a topic may carry escape sequences that move the cursor, change the title
//! or worse, and characters that reorder the line. On a terminal they are shown as text;
//! in a pipe or a file nothing is ever changed.

use std::fmt::Write as _;

/// Whether a character could do something other than appear: the C0 and C1 controls, DEL,
/// and the format characters that reorder a line, end it, or are not seen.
fn is_unsafe(c: char) -> bool {
    c.is_control() || is_format(c)
}

/// The characters of Unicode's general categories Zl, Zp and Cf (Unicode 16, section 4.5) that reorder
/// (U+202E), end a line (U+2028) or cannot be seen (U+FEFF, tags). Left out are those that have a shape of their
/// own, and the joiners U+200C and U+200D: several scripts and emoji need them.
fn is_format(c: char) -> bool {
    matches!(
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

/// Bytes as they may be shown: UTF-8 as it is, `\xNN` for bytes that are not UTF-8 and for
/// ASCII controls, `\u{NNNN}` for the other unsafe characters, `\\` for a backslash so
/// that nothing is ambiguous. `keep` names controls to leave alone.
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

/// JSON as it may be shown: what serialisers leave raw (DEL, C1, format characters) becomes
/// `\uNNNN`, so that it is still the same JSON. A newline can only stand between values, and stays.
pub fn escape_json(json: &str) -> String {
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

/// As much of a text as a line of the log should have.
pub fn shortened(text: &str) -> String {
    const SHOWN: usize = 200;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => text.get(..end).unwrap_or_default().to_owned() + "…",
        None => text.to_owned(),
    }
}

/// A value from the command line as an error quotes it: not all of a long one.
pub fn quoted(text: &str) -> String {
    const SHOWN: usize = 80;
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// A log line or an error that may quote the network: one line, whatever it quotes.
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
    fn escape_sequences_become_text() {
        assert_eq!(escape(b"\x1b[2Jhi\x07", &[]), "\\x1b[2Jhi\\x07");
        assert_eq!(escape("21.5 °C ✓".as_bytes(), &[]), "21.5 °C ✓");
        assert_eq!(escape(b"a\tb\nc", &['\t']), "a\tb\\x0ac");
        assert_eq!(escape(b"\xff\\", &[]), "\\xff\\\\");
        assert_eq!(
            escape("\u{9b}2J\u{202e}".as_bytes(), &[]),
            "\\u{009b}2J\\u{202e}"
        );
    }

    #[test]
    fn what_reorders_breaks_or_hides_text_is_shown_and_what_scripts_need_is_left() {
        for c in [
            '\u{7f}',
            '\u{85}',
            '\u{9b}',
            '\u{ad}',
            '\u{61c}',
            '\u{200b}',
            '\u{200e}',
            '\u{200f}',
            '\u{2028}',
            '\u{2029}',
            '\u{202a}',
            '\u{202e}',
            '\u{2060}',
            '\u{2066}',
            '\u{2069}',
            '\u{206f}',
            '\u{feff}',
            '\u{fff9}',
            '\u{1d173}',
            '\u{e0041}',
        ] {
            let code = u32::from(c);
            assert_eq!(one_line(&c.to_string()), format!("\\u{{{code:x}}}"));
            assert!(escape(c.to_string().as_bytes(), &[]).contains(&format!("{code:02x}")));
            let json = format!("\"{}\"", escape_json(&c.to_string()));
            assert!(json.is_ascii(), "{json}");
            assert_eq!(serde_json::from_str::<char>(&json).unwrap(), c);
        }
        // A family of emoji is joined by U+200D, a Persian word needs U+200C.
        for text in [
            "\u{1f468}\u{200d}\u{1f469}",
            "\u{646}\u{200c}\u{647}",
            "\u{e9} \u{b0}C \u{6e29}",
        ] {
            assert_eq!(escape(text.as_bytes(), &[]), text);
            assert_eq!((&*one_line(text), &*escape_json(text)), (text, text));
        }
        assert_eq!(escape_json("{}\n{}\n"), "{}\n{}\n");
    }

    proptest! {
        #[test]
        fn nothing_unsafe_is_left(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(!escape(&bytes, &[]).chars().any(is_unsafe));
        }

        #[test]
        fn json_stays_the_same_json(text in "\\PC*[\u{7f}-\u{9f}\u{202e}\u{2028}\u{feff}\u{e0061}]?") {
            let json = serde_json::to_string(&text).unwrap();
            let shown = escape_json(&json);
            prop_assert!(!shown.chars().any(is_unsafe));
            prop_assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }
    }
}
