//! Alignment, field width and precision, as `mosquitto_sub` understands them. PURE.

use data_encoding::{HEXLOWER, HEXUPPER};

use super::super::sanitize::Page;

/// What stands between `%` and its letter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Field {
    /// `-`: spaces behind, not in front.
    pub(super) left: bool,
    /// `0`: zeros in front, not spaces.
    pub(super) zero: bool,
    /// The field width in bytes; 0 for none.
    pub(super) width: usize,
    /// At most so many bytes of a string.
    pub(super) precision: Option<usize>,
}

/// Which hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    Lower,
    Upper,
}

impl Field {
    /// A number; blank if there is none.
    pub(super) fn integer(self, page: &mut Page<'_>, value: Option<i64>) {
        let Some(value) = value else {
            return page.fill(self.padding(), self.width);
        };
        // Not by `format!`, which panics at a width above 65,535.
        let text = value.to_string();
        if self.zero && !self.left {
            let (sign, digits) = text.split_at(usize::from(value < 0));
            page.own(sign.as_bytes());
            page.fill(b'0', self.width.saturating_sub(text.len()));
            return page.own(digits.as_bytes());
        }
        let field = Self {
            precision: None,
            ..self
        };
        field.own(page, text.as_bytes());
    }

    /// Spaces in the place of a string.
    pub(super) fn blank(self, page: &mut Page<'_>) {
        page.fill(b' ', self.width);
    }

    /// A string that is ours.
    pub(super) fn own(self, page: &mut Page<'_>, text: &[u8]) {
        let (before, text, behind) = self.laid_out(text);
        page.fill(b' ', before);
        page.own(text);
        page.fill(b' ', behind);
    }

    /// A topic or a property.
    pub(super) fn name(self, page: &mut Page<'_>, text: &[u8]) {
        let (before, text, behind) = self.laid_out(text);
        page.fill(b' ', before);
        page.name(text);
        page.fill(b' ', behind);
    }

    /// What is shown of a string, between how many spaces: it is never padded with zeros.
    fn laid_out(self, text: &[u8]) -> (usize, &[u8], usize) {
        let most = self.precision.unwrap_or(usize::MAX);
        let text = text.get(..most).unwrap_or(text);
        let missing = self.width.saturating_sub(text.len());
        if self.left {
            (0, text, missing)
        } else {
            (missing, text, 0)
        }
    }

    /// A payload: the width is also the most that is shown of it.
    pub(super) fn payload(self, page: &mut Page<'_>, payload: &[u8]) {
        let shown = self.most(payload);
        self.padded(page, payload.len(), shown.len(), |page| page.payload(shown));
    }

    /// A payload in hexadecimal digits, two a byte, and never half a byte.
    pub(super) fn hex(self, page: &mut Page<'_>, payload: &[u8], base: Base) {
        let mut shown = self.most(payload);
        if self.width > 0 {
            shown = shown.get(..shown.len() / 2).unwrap_or_default();
        }
        let digits = match base {
            Base::Lower => HEXLOWER.encode(shown),
            Base::Upper => HEXUPPER.encode(shown),
        };
        let page_out = |page: &mut Page<'_>| page.own(digits.as_bytes());
        self.padded(page, payload.len(), digits.len(), page_out);
    }

    fn most(self, payload: &[u8]) -> &[u8] {
        match self.width {
            0 => payload,
            width => payload.get(..width).unwrap_or(payload),
        }
    }

    /// `length` is the payload's: with `-` and no width, `mosquitto_sub` adds as many spaces.
    fn padded(
        self,
        page: &mut Page<'_>,
        length: usize,
        shown: usize,
        write: impl FnOnce(&mut Page<'_>),
    ) {
        let missing = match self.width {
            0 if self.left => length,
            width => width.saturating_sub(shown),
        };
        if !self.left {
            page.fill(self.padding(), missing);
        }
        write(page);
        if self.left {
            page.fill(b' ', missing);
        }
    }

    fn padding(self) -> u8 {
        if self.zero { b'0' } else { b' ' }
    }
}
