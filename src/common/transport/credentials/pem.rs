//! The blocks of a PEM file (RFC 7468; RFC 1421 for headers), each with its place, and what is wrong with one
//! that is damaged. PURE.
//!
//! Own code, because an error has to name block and line: OpenSSL gives up a file as a whole, and the crates
//! `pem` and `pem-rfc7468` do not tell where a block stands. It takes what people's editors and tools leave: any
//! line ends, a byte order mark, indentation, text between the blocks.

use std::fmt;

use data_encoding::{BASE64, DecodeError, DecodeKind};

use super::der;

const DASHES: &str = "-----";

/// A label is not longer in an error.
const LABEL_SHOWN: usize = 40;

/// One block, whole or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// Its number in the file, from 1.
    pub(crate) number: usize,
    /// The line on which it begins, from 1.
    pub(crate) line: usize,
    /// What stands behind BEGIN.
    pub(crate) label: String,
    /// Headers in front of the content, as an encrypted key in OpenSSL's older form has them.
    pub(crate) headers: Vec<String>,
    /// What the base64 stands for.
    pub(crate) content: Result<Vec<u8>, Flaw>,
}

/// What is wrong with a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Something stands in front of BEGIN, such as the END of another block.
    NotAlone,
    /// Something stands behind BEGIN or END: the file has lost its line ends.
    NoLines,
    /// `\n` is written out.
    EscapedLines,
    /// The line with BEGIN does not have five hyphens on both sides.
    Begin,
    NoBegin,
    NoEnd,
    /// Its END is that of another block.
    OtherEnd(String),
    /// A line holds something that is no base64.
    NoBase64(usize),
    /// The base64 does not come out even.
    Uneven,
    /// It has no content.
    Empty,
    /// There is less than its first bytes announce.
    Short {
        /// Bytes that are there.
        have: usize,
        /// Bytes that should be.
        want: usize,
    },
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Flaw::NotAlone => f.write_str("its BEGIN does not stand on a line of its own"),
            Flaw::NoLines => {
                f.write_str("BEGIN, base64 and END do not stand on lines of their own")
            }
            Flaw::EscapedLines => f.write_str("it has \\n written out in the place of line ends"),
            Flaw::Begin => {
                f.write_str("five hyphens must stand on both sides of BEGIN and its name")
            }
            Flaw::NoBegin => f.write_str("its -----BEGIN line is missing"),
            Flaw::NoEnd => f.write_str("its -----END line is missing"),
            Flaw::OtherEnd(label) => write!(f, "it ends with END {label}"),
            Flaw::NoBase64(line) => write!(f, "line {line} is not base64"),
            Flaw::Uneven => f.write_str("its base64 is cut short"),
            Flaw::Empty => f.write_str("it is empty"),
            Flaw::Short { have, want } => {
                write!(f, "it is cut short, {have} of {want} bytes are there")
            }
        }
    }
}

impl Block {
    /// What an error calls it.
    pub(crate) fn place(&self) -> String {
        format!("block {} ({}, line {})", self.number, self.label, self.line)
    }

    /// Whether the content is encrypted as a whole.
    pub(crate) fn is_encrypted(&self) -> bool {
        let announced = |header: &String| {
            let (name, value) = header.split_once(':').unwrap_or((header, ""));
            name.trim() == "Proc-Type" && value.split(',').any(|v| v.trim() == "ENCRYPTED")
        };
        self.label == "ENCRYPTED PRIVATE KEY" || self.headers.iter().any(announced)
    }

    /// The cipher that the headers name.
    pub(crate) fn header_cipher(&self) -> Option<&str> {
        let value = self
            .headers
            .iter()
            .find_map(|header| header.strip_prefix("DEK-Info:"))?;
        value.split(',').next().map(str::trim)
    }

    /// The block as a file of its own.
    pub(crate) fn to_pem(&self, content: &[u8]) -> String {
        let mut pem = format!("-----BEGIN {}-----\n", self.label);
        for header in &self.headers {
            pem.push_str(header);
            pem.push('\n');
        }
        if !self.headers.is_empty() {
            pem.push('\n');
        }
        let text = BASE64.encode(content);
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem + &format!("-----END {}-----\n", self.label)
    }
}

/// A BEGIN or an END.
struct Marker<'a> {
    begins: bool,
    label: String,
    line: usize,
    /// Where it stands in the file.
    from: usize,
    to: usize,
    before: &'a [u8],
    after: &'a [u8],
    /// It has its hyphens.
    whole: bool,
}

/// All blocks of a file.
pub(crate) fn blocks(bytes: &[u8]) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open: Option<Marker<'_>> = None;
    for marker in markers(bytes) {
        if marker.begins {
            if let Some(begin) = open.take() {
                add(
                    &mut found,
                    &begin,
                    flawed(at_begin(&begin).unwrap_or(Flaw::NoEnd)),
                );
            }
            if marker.whole {
                open = Some(marker);
            } else {
                add(&mut found, &marker, flawed(Flaw::Begin));
            }
            continue;
        }
        let Some(begin) = open.take() else {
            // What a BEGIN without its hyphens has begun is told already.
            if found
                .last()
                .is_none_or(|last| last.content != Err(Flaw::Begin))
            {
                add(&mut found, &marker, flawed(Flaw::NoBegin));
            }
            continue;
        };
        let flaw = at_begin(&begin).or_else(|| {
            if marker.label != begin.label {
                Some(Flaw::OtherEnd(marker.label.clone()))
            } else if !marker.before.is_empty() || !is_next_begin(marker.after) {
                Some(Flaw::NoLines)
            } else {
                None
            }
        });
        let content = match flaw {
            Some(flaw) => flawed(flaw),
            None => decoded(&bytes[begin.to..marker.from], begin.line),
        };
        add(&mut found, &begin, content);
    }
    if let Some(begin) = open {
        add(
            &mut found,
            &begin,
            flawed(at_begin(&begin).unwrap_or(Flaw::NoEnd)),
        );
    }
    found
}

/// Headers, and the content.
type Decoded = (Vec<String>, Result<Vec<u8>, Flaw>);

fn flawed(flaw: Flaw) -> Decoded {
    (Vec::new(), Err(flaw))
}

fn add(found: &mut Vec<Block>, begin: &Marker<'_>, (headers, content): Decoded) {
    found.push(Block {
        number: found.len() + 1,
        line: begin.line,
        label: begin.label.clone(),
        headers,
        content,
    });
}

/// What is wrong with the line of a BEGIN.
fn at_begin(begin: &Marker<'_>) -> Option<Flaw> {
    if begin.after.starts_with(b"\\n") || begin.after.starts_with(b"\\r\\n") {
        Some(Flaw::EscapedLines)
    } else if !begin.after.is_empty() {
        Some(Flaw::NoLines)
    } else if !begin.before.is_empty() {
        Some(Flaw::NotAlone)
    } else {
        None
    }
}

/// Whether what follows an END on its line is nothing, or the BEGIN that is at fault by itself.
fn is_next_begin(after: &[u8]) -> bool {
    after.is_empty() || after.starts_with(b"-----BEGIN ")
}

/// The lines of a file with where they begin, whichever way they end.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    let mut done = false;
    std::iter::from_fn(move || {
        if done {
            return None;
        }
        let from = at;
        let rest = bytes.get(from..).unwrap_or_default();
        let Some(length) = rest.iter().position(|b| matches!(b, b'\n' | b'\r')) else {
            done = true;
            return Some((from, rest));
        };
        at = from + length + 1;
        if rest[length..].starts_with(b"\r\n") {
            at += 1;
        }
        Some((from, &rest[..length]))
    })
}

/// Without white space and a byte order mark around it.
fn trimmed(line: &[u8]) -> &[u8] {
    let line = line.trim_ascii();
    line.strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(line)
        .trim_ascii()
}

fn find(bytes: &[u8], word: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, word)
}

/// Every BEGIN and END of a file.
fn markers(bytes: &[u8]) -> Vec<Marker<'_>> {
    let mut found = Vec::new();
    for (number, (start, raw)) in (1..).zip(lines(bytes)) {
        let line = trimmed(raw);
        let mut rest = line;
        let mut any = false;
        loop {
            let begin = find(rest, b"-----BEGIN ").map(|at| (at, true, 11));
            let end = find(rest, b"-----END ").map(|at| (at, false, 9));
            let Some((at, begins, word)) = [begin, end].into_iter().flatten().min() else {
                break;
            };
            let Some(length) = find(&rest[at + word..], DASHES.as_bytes()) else {
                break;
            };
            any = true;
            let to = at + word + length + DASHES.len();
            let skipped = line.len() - rest.len();
            let offset = |within: usize| start + find_start(raw, line) + skipped + within;
            found.push(Marker {
                begins,
                label: label(&rest[at + word..at + word + length]),
                line: number,
                from: offset(at),
                to: offset(to),
                before: &line[..skipped + at],
                after: &rest[to..],
                whole: true,
            });
            rest = &rest[to..];
        }
        if !any && let Some(begun) = nearly_begins(line) {
            found.push(Marker {
                begins: true,
                label: label(begun),
                line: number,
                from: start,
                to: start + raw.len(),
                before: &[],
                after: &[],
                whole: false,
            });
        }
    }
    found
}

/// Where the trimmed line stands in the whole one.
fn find_start(raw: &[u8], line: &[u8]) -> usize {
    line.as_ptr() as usize - raw.as_ptr() as usize
}

/// What a line begins that looks like a BEGIN and lacks hyphens, or has others.
fn nearly_begins(line: &[u8]) -> Option<&[u8]> {
    let at = find(line, b"BEGIN ")?;
    let is_dash = |byte: &u8| *byte == b'-' || !byte.is_ascii();
    let (before, begun) = line.split_at(at);
    let begun = &begun[b"BEGIN ".len()..];
    let length = begun.iter().position(is_dash).unwrap_or(begun.len());
    let around = !before.is_empty() && before.iter().all(is_dash)
        || before.is_empty() && length < begun.len();
    around.then_some(&begun[..length])
}

fn label(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.trim_ascii());
    text.chars().take(LABEL_SHOWN).collect()
}

/// Headers and content of what stands between BEGIN, on this line, and END.
fn decoded(body: &[u8], first: usize) -> Decoded {
    let mut headers = Vec::new();
    let mut in_headers = true;
    let mut base64 = Vec::with_capacity(body.len());
    // Where each line begins in what is decoded.
    let mut starts: Vec<(usize, usize)> = Vec::new();
    for (number, (_, line)) in (first..).zip(lines(body)) {
        let line = trimmed(line);
        if in_headers && base64.is_empty() && line.contains(&b':') {
            headers.push(String::from_utf8_lossy(line).into_owned());
            continue;
        }
        if line.is_empty() {
            in_headers &= headers.is_empty();
            continue;
        }
        in_headers = false;
        starts.push((base64.len(), number));
        base64.extend(line.iter().filter(|byte| !byte.is_ascii_whitespace()));
    }
    if base64.is_empty() {
        return flawed(Flaw::Empty);
    }
    let line_of = |position: usize| {
        let line = starts.iter().rev().find(|(start, _)| *start <= position);
        line.map_or(first, |(_, number)| *number)
    };
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    if let Some(position) = base64.iter().position(|byte| !is_base64(byte)) {
        return flawed(Flaw::NoBase64(line_of(position)));
    }
    let content = match BASE64.decode(&base64) {
        Ok(content) => content,
        Err(DecodeError { position, kind }) => {
            return flawed(match kind {
                DecodeKind::Length | DecodeKind::Padding => Flaw::Uneven,
                DecodeKind::Symbol | DecodeKind::Trailing => Flaw::NoBase64(line_of(position)),
            });
        }
    };
    let have = content.len();
    // What is encrypted as a whole does not tell how long it is.
    let want = der::sequence_size(&content).filter(|_| headers.is_empty());
    match want.filter(|want| *want > have) {
        Some(want) => (headers, Err(Flaw::Short { have, want })),
        None => (headers, Ok(content)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: &str = "-----BEGIN A-----\nMAMBAQA=\n-----END A-----\n";

    fn flaws(text: &str) -> Vec<(usize, String, Option<Flaw>)> {
        let blocks = blocks(text.as_bytes()).into_iter();
        blocks.map(|b| (b.line, b.label, b.content.err())).collect()
    }

    fn only(text: &str) -> Option<Flaw> {
        let all = flaws(text);
        assert_eq!(all.len(), 1, "{all:?}");
        all[0].2.clone()
    }

    #[test]
    fn what_editors_leave_is_taken() {
        let taken = [
            ONE.to_owned(),
            ONE.replace('\n', "\r\n"),
            ONE.replace('\n', "\r"),
            format!("\u{feff}{ONE}"),
            format!("# BEGIN of it\n{ONE}END of it\n"),
            ONE.replace('\n', "\n  "),
            ONE.trim_end().to_owned(),
            ONE.replace("MAMB", "MA\nMB"),
        ];
        for text in taken {
            assert_eq!(only(&text), None, "{text:?}");
            assert_eq!(
                blocks(text.as_bytes())[0].content,
                Ok(vec![0x30, 3, 1, 1, 0])
            );
        }
    }

    #[test]
    fn headers_belong_to_the_block() {
        let text = "-----BEGIN A-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: DES-CBC,00\n\nMAMBAQA=\n-----END A-----\n";
        let block = &blocks(text.as_bytes())[0];
        assert!(block.is_encrypted());
        assert_eq!(block.header_cipher(), Some("DES-CBC"));
        assert_eq!(block.to_pem(block.content.as_ref().unwrap()), text);
        assert!(!blocks(format!("# UNENCRYPTED\n{ONE}").as_bytes())[0].is_encrypted());
    }

    #[test]
    fn each_flaw_is_told_with_the_block_that_has_it() {
        let glued = format!("{}{ONE}", ONE.trim_end());
        let all = flaws(&glued);
        assert_eq!(all[0], (1, "A".into(), None));
        assert_eq!(all[1], (3, "A".into(), Some(Flaw::NotAlone)));
        let text = format!("x {ONE}");
        assert_eq!(only(&text), Some(Flaw::NotAlone));
        assert_eq!(only(&ONE.replace('\n', " ")), Some(Flaw::NoLines));
        assert_eq!(only(&ONE.replace('\n', "\\n")), Some(Flaw::EscapedLines));
        assert_eq!(only(&ONE.replace("-----END", "----END")), Some(Flaw::NoEnd));
        assert_eq!(
            only(&ONE.replacen("-----BEGIN", "----BEGIN", 1)),
            Some(Flaw::Begin)
        );
        assert_eq!(only(&ONE.replacen("A-----", "A----", 1)), Some(Flaw::Begin));
        assert_eq!(
            only(&ONE.replacen("-----BEGIN", "\u{2013}BEGIN", 1)),
            Some(Flaw::Begin)
        );
        assert_eq!(only("-----BEGIN A-----\nMAMB"), Some(Flaw::NoEnd));
        assert_eq!(only("MAMBAQA=\n-----END A-----"), Some(Flaw::NoBegin));
        assert_eq!(
            only(&ONE.replace("END A", "END B")),
            Some(Flaw::OtherEnd("B".into()))
        );
        assert_eq!(only(&ONE.replace("AQ", "?Q")), Some(Flaw::NoBase64(2)));
        assert_eq!(only(&ONE.replace("AQA=", "AQA")), Some(Flaw::Uneven));
        assert_eq!(
            only(&ONE.replace("AQA=", "")),
            Some(Flaw::Short { have: 3, want: 5 })
        );
        assert_eq!(only(&ONE.replace("MAMBAQA=", "")), Some(Flaw::Empty));
        let twice = format!("-----BEGIN A-----\nMAMB\n{ONE}");
        assert_eq!(flaws(&twice)[0].2, Some(Flaw::NoEnd));
        assert_eq!(flaws(&twice)[1], (3, "A".into(), None));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = blocks(&bytes);
        }

        #[test]
        fn a_file_like_pem_is_read_without_a_panic(
            parts in proptest::collection::vec("(-----BEGIN A-----|-----END A-----|-----|BEGIN |MAMB|=|\n|\r|:| |\u{feff})", 0..30),
        ) {
            let _ = blocks(parts.concat().as_bytes());
        }

        #[test]
        fn what_is_written_is_read(content in proptest::collection::vec(1u8..0x30, 1..200)) {
            let block = Block {
                number: 1, line: 1, label: "X Y".into(), headers: Vec::new(), content: Ok(content.clone()),
            };
            prop_assert_eq!(blocks(block.to_pem(&content).as_bytes()), vec![block]);
        }
    }
}
