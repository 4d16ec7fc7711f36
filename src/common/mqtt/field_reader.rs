//! Reads the fields of a packet (MQTT 5.0 section 1.5). PURE.

use super::violation::Violation;

/// What has not been read of a packet's contents. A field that is cut off is a malformed packet.
#[derive(Clone, Copy, Debug)]
pub struct FieldReader<'a>(&'a [u8]);

impl<'a> FieldReader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Violation> {
        let split = self.0.split_at_checked(count);
        let cut_off = || Violation::malformed("it ends in the middle of a field");
        let (taken, rest) = split.ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Violation> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub fn byte(&mut self) -> Result<u8, Violation> {
        self.array().map(|[byte]| byte)
    }

    pub fn u16(&mut self) -> Result<u16, Violation> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Result<u32, Violation> {
        self.array().map(u32::from_be_bytes)
    }

    /// A variable byte integer, in as few bytes as hold it (MQTT-1.5.5-1).
    pub fn variable_int(&mut self) -> Result<u32, Violation> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.byte()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                if byte == 0 && shift > 0 {
                    let cause = "a length has more bytes than it needs";
                    return Err(Violation::malformed(cause));
                }
                return Ok(value);
            }
        }
        Err(Violation::malformed("a length has more than four bytes"))
    }

    pub fn binary(&mut self) -> Result<&'a [u8], Violation> {
        let length = self.u16()?;
        self.take(length.into())
    }

    /// UTF-8 (MQTT-1.5.4-1). It may have a U+0000, which is forbidden but not ill-formed.
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
        let read = |bytes: &[u8]| FieldReader::new(bytes).variable_int().map_err(|v| v.code);
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
        for (bytes, expected) in [
            (&b"\0\x01a"[..], Ok("a")),
            (b"\0\x01\0", Ok("\0")),
            (b"\0\x02a", Err(0x81)),
            (b"\0", Err(0x81)),
            (b"\0\x01\xff", Err(0x81)),
            (b"\0\x03\xed\xa0\x80", Err(0x81)),
            (b"\0\x02\xc0\x80", Err(0x81)),
        ] {
            let read = FieldReader::new(bytes).string().map_err(|v| v.code);
            assert_eq!(read, expected, "{bytes:?}");
        }
    }
}
