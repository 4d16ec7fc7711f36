//! The `seq` user property, which carries a message's number to the receiver. PURE.

use std::fmt;
use std::str::FromStr;

use super::properties::RawProperties;

/// Written as `STREAM/SEQ/MS`. A message that is sent again keeps it, so that a receiver can drop repeats, see gaps
/// and know when a reading was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeqProperty {
    /// Which run of which publisher, or which queue file.
    pub stream: String,
    /// From 1.
    pub seq: u64,
    /// Unix time at which the publisher took the message, in milliseconds.
    pub accepted_ms: u64,
}

impl SeqProperty {
    pub const NAME: &'static str = "seq";

    /// Bytes of the longest property, name included, of a stream whose name has at most 64 bytes.
    pub const MAX_SIZE: usize = Self::NAME.len() + 64 + 2 * ("/".len() + 20);

    pub fn find(properties: RawProperties<'_>) -> Option<Self> {
        let (_, value) = properties.user().find(|(name, _)| *name == Self::NAME)?;
        value.parse().ok()
    }

    pub fn value_size(stream: &str, seq: u64, accepted_ms: u64) -> usize {
        let digits = |number: u64| number.checked_ilog10().map_or(1, |log| log as usize + 1);
        stream.len() + digits(seq) + digits(accepted_ms) + 2
    }
}

impl fmt::Display for SeqProperty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.stream, self.seq, self.accepted_ms)
    }
}

impl FromStr for SeqProperty {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.rsplitn(3, '/');
        let accepted_ms = parts.next().and_then(|ms| ms.parse().ok()).ok_or(())?;
        let seq = parts.next().and_then(|seq| seq.parse().ok()).ok_or(())?;
        let stream = parts.next().filter(|stream| !stream.is_empty()).ok_or(())?;
        Ok(Self {
            stream: stream.to_owned(),
            seq,
            accepted_ms,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seq_property_reads_back_what_it_wrote() {
        let property = SeqProperty {
            stream: "b1c2".into(),
            seq: 42,
            accepted_ms: 1_769_846_400_123,
        };
        assert_eq!(property.to_string(), "b1c2/42/1769846400123");
        assert_eq!(property.to_string().parse(), Ok(property));
        for foreign in ["", "42", "a/b/c", "/1/2", "a/1", "a/1/-2"] {
            assert!(foreign.parse::<SeqProperty>().is_err(), "{foreign}");
        }
    }

    #[test]
    fn the_size_of_a_property_is_that_of_its_text() {
        for number in [0, 1, 9, 10, 99, 100, u64::MAX] {
            let size = |stream| SeqProperty::value_size(stream, number, number);
            assert_eq!(size("b1c2"), format!("b1c2/{number}/{number}").len());
            let largest = SeqProperty::NAME.len() + size(&"s".repeat(64));
            assert!(largest <= SeqProperty::MAX_SIZE);
            assert_eq!(largest == SeqProperty::MAX_SIZE, number == u64::MAX);
        }
    }
}
