//! Random numbers, identifiers and seeds from the operating system's random source: devices that
//! start at the same moment must not draw the same ones.

use crate::common::fault::{Exit, Fault};

/// 64 random bits. Soon after the start of the machine it waits until the source is ready.
pub fn bits() -> Result<u64, Fault> {
    getrandom::u64().map_err(|cause| {
        let message = format!("the operating system's random source cannot be read: {cause}");
        Fault::permanent(Exit::Io, message)
            .with_remedy("a container or jail has to allow getrandom, or have /dev/urandom")
    })
}

/// A unique identifier: 64 random bits as 16 hexadecimal digits.
pub fn identifier() -> Result<String, Fault> {
    Ok(format!("{:016x}", bits()?))
}

/// A generator for jitter and simulated readings. Without a random source it uses a weaker seed.
pub fn generator() -> fastrand::Rng {
    getrandom::u64().map_or_else(|_| fastrand::Rng::new(), fastrand::Rng::with_seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_has_16_hexadecimal_digits_and_no_two_are_equal() {
        let identifiers = [identifier().unwrap(), identifier().unwrap()];
        for identifier in &identifiers {
            assert_eq!(identifier.len(), 16);
            assert!(identifier.chars().all(|c| c.is_ascii_hexdigit()));
        }
        assert_ne!(identifiers[0], identifiers[1]);
    }
}
