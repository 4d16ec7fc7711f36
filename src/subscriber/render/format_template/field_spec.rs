//! Alignment, field width and precision, as `mosquitto_sub` interprets them. PURE.

use data_encoding::Encoding;

use super::super::sanitize::Sanitizer;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FieldSpec {
    /// `-`
    pub(super) left: bool,
    /// `0`: pad with zeros instead of spaces.
    pub(super) zero: bool,
    /// In bytes; 0 for none.
    pub(super) width: usize,
    /// The most bytes of a string.
    pub(super) precision: Option<usize>,
}

impl FieldSpec {
    /// Only padding if there is no value.
    pub(super) fn push_integer(self, out: &mut Sanitizer<'_>, value: Option<i64>) {
        let Some(value) = value else {
            return out.push_repeated(self.padding_byte(), self.width);
        };
        // Not `format!`, which panics at a width above 65,535.
        let text = value.to_string();
        if self.zero && !self.left {
            let (sign, digits) = text.split_at(usize::from(value < 0));
            out.push_trusted(sign.as_bytes());
            out.push_repeated(b'0', self.width.saturating_sub(text.len()));
            return out.push_trusted(digits.as_bytes());
        }
        let precision = None;
        Self { precision, ..self }.push_trusted(out, text.as_bytes());
    }

    pub(super) fn push_trusted(self, out: &mut Sanitizer<'_>, text: &[u8]) {
        let (text, missing) = self.string_and_padding(text);
        self.push_aligned(out, b' ', missing, |out| out.push_trusted(text));
    }

    pub(super) fn push_padded_text(self, out: &mut Sanitizer<'_>, text: &[u8]) {
        let (text, missing) = self.string_and_padding(text);
        self.push_aligned(out, b' ', missing, |out| out.push_name(text));
    }

    /// What is shown of a string, and the spaces beside it: it is never padded with zeros.
    fn string_and_padding(self, text: &[u8]) -> (&[u8], usize) {
        let most = self.precision.unwrap_or(usize::MAX);
        let text = text.get(..most).unwrap_or(text);
        (text, self.width.saturating_sub(text.len()))
    }

    /// The width is also the most that is shown of a payload.
    pub(super) fn push_payload(self, out: &mut Sanitizer<'_>, payload: &[u8]) {
        let shown = self.cut_payload_to_width(payload);
        self.push_padded(out, payload.len(), shown.len(), |out| {
            out.push_payload(shown);
        });
    }

    /// A payload in hexadecimal digits, of which a width never cuts a byte in half.
    pub(super) fn push_hex(self, out: &mut Sanitizer<'_>, payload: &[u8], encoding: &Encoding) {
        let mut shown = self.cut_payload_to_width(payload);
        if self.width > 0 {
            shown = shown.get(..shown.len() / 2).unwrap_or_default();
        }
        let digits = encoding.encode_len(shown.len());
        self.push_padded(out, payload.len(), digits, |out| {
            out.push_hex(shown, encoding);
        });
    }

    fn cut_payload_to_width(self, payload: &[u8]) -> &[u8] {
        match self.width {
            0 => payload,
            width => payload.get(..width).unwrap_or(payload),
        }
    }

    /// `length` is the payload's: with `-` and no width, `mosquitto_sub` adds as many spaces.
    fn push_padded(
        self,
        out: &mut Sanitizer<'_>,
        length: usize,
        shown: usize,
        push: impl FnOnce(&mut Sanitizer<'_>),
    ) {
        let missing = match self.width {
            0 if self.left => length,
            width => width.saturating_sub(shown),
        };
        self.push_aligned(out, self.padding_byte(), missing, push);
    }

    fn push_aligned(
        self,
        out: &mut Sanitizer<'_>,
        padding: u8,
        missing: usize,
        push: impl FnOnce(&mut Sanitizer<'_>),
    ) {
        if !self.left {
            out.push_repeated(padding, missing);
        }
        push(out);
        if self.left {
            out.push_repeated(b' ', missing);
        }
    }

    fn padding_byte(self) -> u8 {
        if self.zero { b'0' } else { b' ' }
    }
}
