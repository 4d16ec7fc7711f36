//! Splits a PEM file into its blocks (RFC 7468; RFC 1421 for headers), with their positions, and
//! finds what is wrong with a damaged one. PURE.
//!
//! Own code, because an error has to name block and line: OpenSSL rejects a file as a whole, and
//! the crates `pem` and `pem-rfc7468` do not give positions. Accepted is what editors and tools
//! leave: any line ends, a byte order mark, indentation, text between the blocks.

use data_encoding::{BASE64, DecodeError, DecodeKind};
use memchr::memmem;
use thiserror::Error;

use super::der;

const DASHES: &[u8] = b"-----";

/// Characters of a label that an error shows.
const MAX_LABEL: usize = 40;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// In the file, from 1; so is the line, which is that of its BEGIN.
    pub(super) number: usize,
    pub(super) line: usize,
    pub(super) label: String,
    /// Headers before the content, as OpenSSL's older form of an encrypted key has them.
    pub(super) headers: Vec<String>,
    pub(super) content: Result<Vec<u8>, Flaw>,
}

#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Flaw {
    #[error("its BEGIN does not stand on a separate line")]
    NotAlone,
    #[error("BEGIN, base64 and END do not stand on separate lines")]
    NoLines,
    #[error("it has \\n written out in the place of line ends")]
    EscapedLines,
    #[error("five hyphens must stand on both sides of BEGIN and its name")]
    Begin,
    #[error("its -----BEGIN line is missing")]
    NoBegin,
    #[error("its -----END line is missing")]
    NoEnd,
    #[error("it ends with END {0}")]
    OtherEnd(String),
    #[error("line {0} is not base64")]
    NoBase64(usize),
    #[error("its base64 is cut short")]
    Incomplete,
    #[error("it is empty")]
    Empty,
    #[error("it is cut short, {have} of {want} bytes are there")]
    Short { have: usize, want: usize },
}

impl Block {
    pub(super) fn describe(&self) -> String {
        format!("block {} ({}, line {})", self.number, self.label, self.line)
    }

    pub(super) fn is_encrypted(&self) -> bool {
        let says_so = |header: &String| {
            let (name, value) = header.split_once(':').unwrap_or((header, ""));
            name.trim() == "Proc-Type" && value.split(',').any(|v| v.trim() == "ENCRYPTED")
        };
        self.label == "ENCRYPTED PRIVATE KEY" || self.headers.iter().any(says_so)
    }

    pub(super) fn header_cipher(&self) -> Option<&str> {
        let mut headers = self.headers.iter();
        let value = headers.find_map(|header| header.strip_prefix("DEK-Info:"))?;
        value.split(',').next().map(str::trim)
    }

    pub(super) fn to_pem(&self, content: &[u8]) -> String {
        let mut lines = vec![format!("-----BEGIN {}-----", self.label)];
        lines.extend(self.headers.iter().cloned());
        if !self.headers.is_empty() {
            lines.push(String::new());
        }
        let base64 = BASE64.encode(content);
        let chunks = base64.as_bytes().chunks(64);
        lines.extend(chunks.map(|line| String::from_utf8_lossy(line).into_owned()));
        lines.push(format!("-----END {}-----\n", self.label));
        lines.join("\n")
    }
}

struct Marker<'a> {
    is_begin: bool,
    label: String,
    line: usize,
    /// Where it stands in the file.
    from: usize,
    to: usize,
    /// The rest of its line.
    before: &'a [u8],
    after: &'a [u8],
    /// It has all its hyphens.
    is_whole: bool,
}

impl Marker<'_> {
    fn begin_flaw(&self) -> Option<Flaw> {
        if self.after.starts_with(b"\\n") || self.after.starts_with(b"\\r\\n") {
            return Some(Flaw::EscapedLines);
        }
        let not_alone = || (!self.before.is_empty()).then_some(Flaw::NotAlone);
        (!self.after.is_empty())
            .then_some(Flaw::NoLines)
            .or_else(not_alone)
    }

    fn block_flaw(&self, end: &Marker<'_>) -> Option<Flaw> {
        // What follows END may be the next BEGIN; then the flaw is that BEGIN's.
        let is_end_alone = end.before.is_empty()
            && (end.after.is_empty() || end.after.starts_with(b"-----BEGIN "));
        let other_end = || (end.label != self.label).then(|| Flaw::OtherEnd(end.label.clone()));
        let no_lines = || (!is_end_alone).then_some(Flaw::NoLines);
        self.begin_flaw().or_else(other_end).or_else(no_lines)
    }
}

type DecodedBody = (Vec<String>, Result<Vec<u8>, Flaw>);

fn flawed_content(flaw: Flaw) -> DecodedBody {
    (Vec::new(), Err(flaw))
}

pub(super) fn blocks(bytes: &[u8]) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open: Option<Marker<'_>> = None;
    let mut add = |begin: &Marker<'_>, (headers, content): DecodedBody| {
        found.push(Block {
            number: found.len() + 1,
            line: begin.line,
            label: begin.label.clone(),
            headers,
            content,
        });
    };
    let without_end =
        |begin: &Marker<'_>| flawed_content(begin.begin_flaw().unwrap_or(Flaw::NoEnd));
    // An END after a BEGIN without its hyphens is no further flaw.
    let mut is_begin_flawed = false;
    for marker in find_markers(bytes) {
        if marker.is_begin {
            if let Some(begin) = open.take() {
                add(&begin, without_end(&begin));
            }
            is_begin_flawed = !marker.is_whole;
            if marker.is_whole {
                open = Some(marker);
            } else {
                add(&marker, flawed_content(Flaw::Begin));
            }
        } else if let Some(begin) = open.take() {
            let decoded = match begin.block_flaw(&marker) {
                Some(flaw) => flawed_content(flaw),
                None => decode_body(&bytes[begin.to..marker.from], begin.line),
            };
            add(&begin, decoded);
        } else if !is_begin_flawed {
            add(&marker, flawed_content(Flaw::NoBegin));
        }
    }
    if let Some(begin) = open {
        add(&begin, without_end(&begin));
    }
    found
}

/// The lines of a file, which may end with CR, LF or both, and their positions.
fn lines(bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut next = Some(0);
    std::iter::from_fn(move || {
        let from = next?;
        let rest = bytes.get(from..)?;
        let length = rest.iter().position(|b| matches!(b, b'\n' | b'\r'));
        let line = &rest[..length.unwrap_or(rest.len())];
        next = length.map(|length| {
            let is_crlf = rest[length..].starts_with(b"\r\n");
            from + length + if is_crlf { 2 } else { 1 }
        });
        Some((from, line))
    })
}

/// A line without white space at its ends, and without a byte order mark.
fn trim(line: &[u8]) -> &[u8] {
    let line = line.trim_ascii();
    line.strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(line)
        .trim_ascii()
}

fn find_markers(bytes: &[u8]) -> Vec<Marker<'_>> {
    let mut found = Vec::new();
    for (number, (start, raw)) in (1..).zip(lines(bytes)) {
        let line = trim(raw);
        // Where the trimmed line begins in the file.
        let line_start = start + (line.as_ptr() as usize - raw.as_ptr() as usize);
        let mut done = 0;
        loop {
            let rest = &line[done..];
            let begin = memmem::find(rest, b"-----BEGIN ").map(|at| (at, true, 11));
            let end = memmem::find(rest, b"-----END ").map(|at| (at, false, 9));
            let Some((at, is_begin, word)) = [begin, end].into_iter().flatten().min() else {
                break;
            };
            let Some(length) = memmem::find(&rest[at + word..], DASHES) else {
                break;
            };
            let (from, to) = (done + at, done + at + word + length + DASHES.len());
            found.push(Marker {
                is_begin,
                label: decode_label(&rest[at + word..at + word + length]),
                line: number,
                from: line_start + from,
                to: line_start + to,
                before: &line[..from],
                after: &line[to..],
                is_whole: true,
            });
            done = to;
        }
        if done == 0
            && let Some(text) = damaged_begin_label(line)
        {
            found.push(Marker {
                is_begin: true,
                label: decode_label(text),
                line: number,
                from: start,
                to: start + raw.len(),
                before: &[],
                after: &[],
                is_whole: false,
            });
        }
    }
    found
}

/// The label of a line that looks like a BEGIN and lacks hyphens, or has other dashes.
fn damaged_begin_label(line: &[u8]) -> Option<&[u8]> {
    const WORD: &[u8] = b"BEGIN ";
    let (before, begin) = line.split_at(memmem::find(line, WORD)?);
    let is_dash = |byte: &u8| *byte == b'-' || !byte.is_ascii();
    let text = &begin[WORD.len()..];
    let length = text.iter().position(is_dash).unwrap_or(text.len());
    let has_dashes = if before.is_empty() {
        length < text.len()
    } else {
        before.iter().all(is_dash)
    };
    has_dashes.then_some(&text[..length])
}

fn decode_label(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes.trim_ascii());
    text.chars().take(MAX_LABEL).collect()
}

fn decode_body(body: &[u8], first: usize) -> DecodedBody {
    let mut headers = Vec::new();
    let mut in_headers = true;
    let mut base64 = Vec::with_capacity(body.len());
    // Position in `base64` and number of each line.
    let mut starts: Vec<(usize, usize)> = Vec::new();
    for (number, (_, line)) in (first..).zip(lines(body)) {
        let line = trim(line);
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
        return flawed_content(Flaw::Empty);
    }
    let line_of = |position: usize| {
        let line = starts.iter().rev().find(|(start, _)| *start <= position);
        line.map_or(first, |(_, number)| *number)
    };
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    if let Some(position) = base64.iter().position(|byte| !is_base64(byte)) {
        return flawed_content(Flaw::NoBase64(line_of(position)));
    }
    let content = match BASE64.decode(&base64) {
        Ok(content) => content,
        Err(DecodeError { position, kind }) => {
            return flawed_content(match kind {
                DecodeKind::Length | DecodeKind::Padding => Flaw::Incomplete,
                DecodeKind::Symbol | DecodeKind::Trailing => Flaw::NoBase64(line_of(position)),
            });
        }
    };
    let have = content.len();
    // Content that is encrypted as a whole has no DER header.
    match der::sequence_size(&content) {
        Some(want) if want > have && headers.is_empty() => {
            flawed_content(Flaw::Short { have, want })
        }
        _ => (headers, Ok(content)),
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
            let content = &blocks(text.as_bytes())[0].content;
            assert_eq!(content, &Ok(vec![0x30, 3, 1, 1, 0]));
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
    fn each_flaw_is_found_in_its_block() {
        let glued = format!("{}{ONE}", ONE.trim_end());
        let all = flaws(&glued);
        assert_eq!(all[0], (1, "A".into(), None));
        assert_eq!(all[1], (3, "A".into(), Some(Flaw::NotAlone)));
        for (text, flaw) in [
            (format!("x {ONE}"), Flaw::NotAlone),
            (ONE.replace('\n', " "), Flaw::NoLines),
            (ONE.replace('\n', "\\n"), Flaw::EscapedLines),
            (ONE.replace("-----END", "----END"), Flaw::NoEnd),
            (ONE.replacen("-----BEGIN", "----BEGIN", 1), Flaw::Begin),
            (ONE.replacen("A-----", "A----", 1), Flaw::Begin),
            (ONE.replacen("-----BEGIN", "\u{2013}BEGIN", 1), Flaw::Begin),
            ("-----BEGIN A-----\nMAMB".into(), Flaw::NoEnd),
            ("MAMBAQA=\n-----END A-----".into(), Flaw::NoBegin),
            (ONE.replace("END A", "END B"), Flaw::OtherEnd("B".into())),
            (ONE.replace("AQ", "?Q"), Flaw::NoBase64(2)),
            (ONE.replace("AQA=", "AQA"), Flaw::Incomplete),
            (ONE.replace("AQA=", ""), Flaw::Short { have: 3, want: 5 }),
            (ONE.replace("MAMBAQA=", ""), Flaw::Empty),
        ] {
            assert_eq!(only(&text), Some(flaw), "{text:?}");
        }
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
