//! What tells one message from all others: a fingerprint of its stream, its number, its time of acceptance and its
//! topic. PURE.
//!
//! Stream and number alone do not: a copy of a queue file gives the same ones to other messages, and
//! another client may forge them. The hash has a secret key, so that nobody can make two messages that have the
//! same fingerprint. Of a quarter of a million that are known, one is that of a message never seen
//! before with a probability of 2⁻⁴⁶.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use crate::common::mqtt::message::SeqProperty;

/// The fingerprint of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u64);

/// The key of fingerprints: those made with another one cannot be compared. It is stored with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub [u64; 2]);

impl Key {
    /// The fingerprint of a message with this number that came on this topic: `SipHash` 1-3 over
    /// the length of the stream, stream, number, time in milliseconds, topic; numbers
    /// little-endian, in 8 bytes.
    pub fn fingerprint(&self, seq: &SeqProperty, topic: &str) -> Fingerprint {
        let mut hasher = SipHasher13::new_with_keys(self.0[0], self.0[1]);
        hasher.write(&(seq.stream.len() as u64).to_le_bytes());
        hasher.write(seq.stream.as_bytes());
        hasher.write(&seq.seq.to_le_bytes());
        hasher.write(&seq.accepted_ms.to_le_bytes());
        hasher.write(topic.as_bytes());
        Fingerprint(hasher.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key([1, 2]);

    fn of(key: Key, text: &str, topic: &str) -> u64 {
        key.fingerprint(&text.parse().unwrap(), topic).0
    }

    #[test]
    fn each_part_of_it_makes_a_difference() {
        let one = of(KEY, "s/1/1000", "t");
        for (text, topic) in [
            ("z/1/1000", "t"),
            ("s/2/1000", "t"),
            ("s/1/1001", "t"),
            ("s/1/1000", "u"),
            ("s/1/1000", "tt"),
        ] {
            assert_ne!(of(KEY, text, topic), one, "{text} {topic}");
        }
        assert_ne!(of(Key([1, 3]), "s/1/1000", "t"), one);
        assert_eq!(of(KEY, "s/01/1000", "t"), one);
    }

    #[test]
    fn what_files_hold_stays_what_it_was() {
        // Never to be changed without a new version of the state file.
        let fingerprint = of(KEY, "5b7d025ce9bc0b91/7/1769846400123", "a/b");
        assert_eq!(fingerprint, 0x103e_64a6_a8ae_0c83);
    }
}
