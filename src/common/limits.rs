//! What MQTT allows in topic names, topic filters, client identifiers and sizes. PURE.
//!
//! Sources: MQTT 5.0 sections 1.5.4 (UTF-8 strings), 2.1.4 (remaining length), 4.7
//! (topics), 4.8.2 (shared subscriptions); MQTT 3.1.1 sections 1.5.3 and 4.7. Checked
//! before anything is accepted, because a broker answers a breach by closing the
//! connection, every time the message is sent again.

use thiserror::Error;

/// The longest UTF-8 string of the protocol, in bytes.
pub const MAX_STRING: usize = 65_535;

/// The largest remaining length of a packet, in bytes.
pub const MAX_REMAINING_LENGTH: usize = 268_435_455;

/// `QoS` 2 messages in flight at most where a broker of MQTT 3.1.1 is not known to take more. Only MQTT 5 lets
/// a broker say how many it takes (Receive Maximum); Mosquitto takes `max_inflight_messages`, 20 by default,
/// and with MQTT 3.1.1 acknowledges and drops what is above.
pub const EXACTLY_ONCE_WINDOW: usize = 20;

/// Why a name, a filter or an identifier is not allowed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum LimitError {
    /// At least one character is needed.
    #[error("is empty")]
    Empty,
    /// Longer than a protocol string can be.
    #[error("is {0} bytes long, at most {MAX_STRING} are allowed")]
    TooLong(usize),
    /// The character U+0000.
    #[error("contains a NUL character")]
    Nul,
    /// A name to publish to cannot be a pattern.
    #[error("contains the wildcard '{0}', which only a subscriber's filter may")]
    Wildcard(char),
    /// `+` fills a whole level.
    #[error("has a '+' that does not stand alone between slashes")]
    MisplacedPlus,
    /// `#` ends a filter.
    #[error("has a '#' that is not alone in the last level")]
    MisplacedHash,
    /// `$share/NAME/FILTER`, with both parts.
    #[error("is not of the form $share/NAME/FILTER, with NAME free of wildcards")]
    BadShare,
}

/// Checks any text that a packet carries, such as a user name.
///
/// # Errors
///
/// [`LimitError`] for an empty, over-long or NUL-carrying one.
pub fn check_text(text: &str) -> Result<(), LimitError> {
    if text.is_empty() {
        Err(LimitError::Empty)
    } else if text.len() > MAX_STRING {
        Err(LimitError::TooLong(text.len()))
    } else if text.contains('\0') {
        Err(LimitError::Nul)
    } else {
        Ok(())
    }
}

/// Checks a topic name, as PUBLISH carries it.
///
/// # Errors
///
/// [`LimitError`] for an empty, over-long or NUL-carrying name, or one with wildcards.
pub fn check_topic_name(name: &str) -> Result<(), LimitError> {
    check_text(name)?;
    match name.chars().find(|c| matches!(c, '+' | '#')) {
        Some(wildcard) => Err(LimitError::Wildcard(wildcard)),
        None => Ok(()),
    }
}

/// Checks a topic filter, as SUBSCRIBE carries it, shared subscriptions included.
///
/// # Errors
///
/// [`LimitError`] for what [`check_topic_name`] refuses, but for wildcards in their
/// places, and for a malformed `$share/…`.
pub fn check_topic_filter(filter: &str) -> Result<(), LimitError> {
    check_text(filter)?;
    let levels = match filter.strip_prefix("$share/") {
        None => filter,
        Some(shared) => match shared.split_once('/') {
            Some((name, rest))
                if !name.is_empty() && !name.contains(['+', '#']) && !rest.is_empty() =>
            {
                rest
            }
            _ => return Err(LimitError::BadShare),
        },
    };
    let mut parts = levels.split('/').peekable();
    while let Some(level) = parts.next() {
        if level.contains('#') && (level != "#" || parts.peek().is_some()) {
            return Err(LimitError::MisplacedHash);
        }
        if level.contains('+') && level != "+" {
            return Err(LimitError::MisplacedPlus);
        }
    }
    Ok(())
}

/// Checks a client identifier.
///
/// # Errors
///
/// [`LimitError`] for an empty, over-long or NUL-carrying one.
pub fn check_client_id(id: &str) -> Result<(), LimitError> {
    check_text(id)
}

/// The size in bytes of an MQTT 5 PUBLISH at QoS 1 or 2 with so many bytes of properties
/// (MQTT 5.0 section 3.3).
#[must_use]
pub fn publish_size(topic: usize, payload: usize, properties: usize) -> usize {
    let remaining = 2 + topic + 2 + varint_size(properties) + properties + payload;
    1 + varint_size(remaining) + remaining
}

/// The size in bytes of a user property with so many bytes of name and value.
#[must_use]
pub fn user_property(bytes: usize) -> usize {
    1 + 2 + 2 + bytes
}

/// The size in bytes of a property whose value is a string of so many bytes.
#[must_use]
pub fn string_property(bytes: usize) -> usize {
    1 + 2 + bytes
}

/// The largest payload in bytes that a PUBLISH to a topic of `topic` bytes can carry, with
/// 128 bytes left for properties.
#[must_use]
pub fn max_payload(topic: usize) -> usize {
    payload_within(MAX_REMAINING_LENGTH, topic)
}

/// The largest payload in bytes of a PUBLISH of `packet` bytes, with 128 bytes left for
/// properties; 0 if there is no room for any.
#[must_use]
pub fn payload_within(packet: usize, topic: usize) -> usize {
    // The length of the rest takes up to three bytes more than without a payload.
    packet.saturating_sub(publish_size(topic, 0, user_property(128)))
}

/// The bytes of a variable byte integer (MQTT 5.0 section 1.5.5).
fn varint_size(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_a_broker_would_close_on_are_refused() {
        assert_eq!(check_topic_name("a/b"), Ok(()));
        assert_eq!(check_topic_name("/"), Ok(()));
        assert_eq!(check_topic_name(""), Err(LimitError::Empty));
        assert_eq!(check_topic_name("a/+"), Err(LimitError::Wildcard('+')));
        assert_eq!(check_topic_name("a/#"), Err(LimitError::Wildcard('#')));
        assert_eq!(check_topic_name("a\0b"), Err(LimitError::Nul));
        let long = "x".repeat(MAX_STRING + 1);
        assert_eq!(check_topic_name(&long), Err(LimitError::TooLong(65_536)));
        assert_eq!(check_topic_name(&long[1..]), Ok(()));
    }

    #[test]
    fn filters_take_wildcards_in_their_places_only() {
        for good in [
            "#",
            "+",
            "a/#",
            "+/b/+",
            "$share/g/a/#",
            "foo/+",
            "/",
            "$SYS/#",
        ] {
            assert_eq!(check_topic_filter(good), Ok(()), "{good}");
        }
        for bad in [
            "a#",
            "a/#/b",
            "#/",
            "a+/b",
            "++",
            "$share/g",
            "$share//a",
            "$share/g+/a",
            "$share/g/",
        ] {
            assert!(check_topic_filter(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_checked_name_is_always_a_valid_filter(name in "\\PC{0,40}") {
            if check_topic_name(&name).is_ok() && !name.starts_with("$share/") {
                prop_assert_eq!(check_topic_filter(&name), Ok(()));
            }
        }
    }
}
