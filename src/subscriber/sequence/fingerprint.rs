//! Identifies a message by a keyed hash of its stream, number, time and topic. PURE.
//!
//! Stream and number alone do not identify it: a copy of a queue file gives the same ones to other messages, and
//! another client may forge them. The key is secret, so that nobody can make two messages with the same fingerprint.
//! With a quarter of a million fingerprints known, a new message is taken for a repeat with a probability of 2⁻⁴⁶.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

use crate::common::mqtt::seq_property::SeqProperty;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub u64);

/// Fingerprints made with different keys cannot be compared, so the key is stored with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FingerprintKey(pub [u64; 2]);

impl FingerprintKey {
    /// `SipHash` 1-3 over the length of the stream's name, the name, the number, the time in
    /// milliseconds, and the topic; numbers little-endian, in 8 bytes.
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

    const KEY: FingerprintKey = FingerprintKey([1, 2]);

    fn of(key: FingerprintKey, text: &str, topic: &str) -> u64 {
        key.fingerprint(&text.parse().unwrap(), topic).0
    }

    #[test]
    fn every_part_of_a_message_changes_its_fingerprint() {
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
        assert_ne!(of(FingerprintKey([1, 3]), "s/1/1000", "t"), one);
        assert_eq!(of(KEY, "s/01/1000", "t"), one);
    }

    #[test]
    fn fingerprints_in_existing_files_stay_valid() {
        // A change needs a new version of the state file.
        let fingerprint = of(KEY, "5b7d025ce9bc0b91/7/1769846400123", "a/b");
        assert_eq!(fingerprint, 0x103e_64a6_a8ae_0c83);
    }
}
