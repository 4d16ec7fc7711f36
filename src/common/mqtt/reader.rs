//! Reads the fields of a packet (MQTT 5.0 section 1.5). PURE.

use super::violation::Violation;

/// What is left of a packet's contents.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads these bytes from their beginning.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The bytes that have not been read.
    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    /// Whether all has been read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    ///
    /// A malformed packet, if there are fewer.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Violation> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| Violation::malformed("it ends in the middle of a field"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Violation> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// One byte.
    ///
    /// # Errors
    ///
    /// As [`take`](Self::take), like all that follow.
    pub fn byte(&mut self) -> Result<u8, Violation> {
        self.array().map(|[byte]| byte)
    }

    /// A two byte integer.
    ///
    /// # Errors
    ///
    /// See [`byte`](Self::byte).
    pub fn short(&mut self) -> Result<u16, Violation> {
        self.array().map(u16::from_be_bytes)
    }

    /// A four byte integer.
    ///
    /// # Errors
    ///
    /// See [`byte`](Self::byte).
    pub fn long(&mut self) -> Result<u32, Violation> {
        self.array().map(u32::from_be_bytes)
    }

    /// A variable byte integer, in as few bytes as hold it (MQTT-1.5.5-1).
    ///
    /// # Errors
    ///
    /// A malformed packet for one of more than four bytes, or of more than it needs.
    pub fn variable(&mut self) -> Result<u32, Violation> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    return Err(Violation::malformed(
                        "a length has more bytes than it needs",
                    ));
                }
                return Ok(value);
            }
        }
        Err(Violation::malformed("a length has more than four bytes"))
    }

    /// Binary data: a length of two bytes, and the bytes.
    ///
    /// # Errors
    ///
    /// See [`byte`](Self::byte).
    pub fn binary(&mut self) -> Result<&'a [u8], Violation> {
        let length = self.short()?;
        self.take(length.into())
    }

    /// A UTF-8 encoded string. It may have a U+0000, which the specification forbids but which does
    /// not make the encoding ill-formed.
    ///
    /// # Errors
    ///
    /// A malformed packet for ill-formed UTF-8 (MQTT-1.5.4-1).
    pub fn string(&mut self) -> Result<&'a str, Violation> {
        std::str::from_utf8(self.binary()?)
            .map_err(|_| Violation::malformed("a string is not valid UTF-8"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_byte_integer_has_one_form() {
        let read = |bytes: &[u8]| Reader::new(bytes).variable().map_err(|v| v.code);
        for (bytes, value) in [
            (&[0][..], 0),
            (&[0x7f], 127),
            (&[0x80, 1], 128),
            (&[0xff, 0xff, 0xff, 0x7f], 268_435_455),
        ] {
            assert_eq!(read(bytes), Ok(value));
        }
        for bytes in [&[0x80, 0][..], &[0xff, 0xff, 0xff, 0xff, 1], &[0x80], &[]] {
            assert_eq!(read(bytes), Err(0x81));
        }
    }

    #[test]
    fn a_string_is_valid_utf_8_and_within_the_packet() {
        let read = |bytes: &[u8]| {
            Reader::new(bytes)
                .string()
                .map(str::len)
                .map_err(|v| v.code)
        };
        assert_eq!(read(b"\0\x01a"), Ok(1));
        assert_eq!(read(b"\0\x01\0"), Ok(1));
        for bytes in [
            &b"\0\x02a"[..],
            b"\0",
            b"\0\x01\xff",
            b"\0\x03\xed\xa0\x80",
            b"\0\x02\xc0\x80",
        ] {
            assert_eq!(read(bytes), Err(0x81), "{bytes:?}");
        }
    }
}
