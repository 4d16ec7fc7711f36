//! What MQTT allows in topic names, topic filters, client identifiers and sizes. PURE.
//!
//! Sources: MQTT 5.0 sections 1.5.4 (UTF-8 strings), 2.1.4 (remaining length), 4.7
//! (topics), 4.8.2 (shared subscriptions); MQTT 3.1.1 sections 1.5.3 and 4.7. Checked
//! before anything is accepted, because a broker answers a breach by closing the
//! connection, every time the message is sent again.
//!
//! Control characters are refused in names although the specification only advises against them: it lets a
//! receiver close the connection for one, and Mosquitto does (`utf8_mosq.c`).

use thiserror::Error;

/// The longest UTF-8 string of the protocol, in bytes.
pub const MAX_STRING: usize = 65_535;

/// The largest remaining length of a packet, in bytes.
const MAX_REMAINING_LENGTH: usize = 268_435_455;

/// The largest packet, in bytes.
pub const MAX_PACKET: usize = 1 + varint_size(MAX_REMAINING_LENGTH) + MAX_REMAINING_LENGTH;

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
    /// A C0 or C1 control character, or DEL.
    #[error("contains the control character U+{0:04X}, for which brokers close the connection")]
    Control(u32),
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

/// Checks any name that a packet carries: a text without control characters.
///
/// # Errors
///
/// [`LimitError`] for what [`check_text`] refuses, and for control characters (U+0001 to U+001F, U+007F to
/// U+009F).
pub fn check_name(name: &str) -> Result<(), LimitError> {
    check_text(name)?;
    match name.chars().find(|c| c.is_control()) {
        Some(c) => Err(LimitError::Control(c.into())),
        None => Ok(()),
    }
}

/// Whether a name has Unicode non-characters (U+FDD0 to U+FDEF, and the last two of each plane), which a receiver
/// may refuse (MQTT 5.0 section 1.5.4). Some brokers pass them on, so they are not refused here.
pub fn has_noncharacters(name: &str) -> bool {
    name.chars().any(|c| {
        let code = u32::from(c);
        code & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&code)
    })
}

/// Checks a topic name, as PUBLISH carries it.
///
/// # Errors
///
/// [`LimitError`] for what [`check_name`] refuses, and for wildcards.
pub fn check_topic_name(name: &str) -> Result<(), LimitError> {
    check_name(name)?;
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
    check_name(filter)?;
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

/// What the size of a PUBLISH depends on, in bytes (MQTT 5.0 and 3.1.1, section 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishParts {
    /// The topic name.
    pub topic: usize,
    /// Whether it has a packet identifier: at QoS 1 and 2.
    pub identifier: bool,
    /// The properties, without their length; none with MQTT 3.1.1.
    pub properties: Option<usize>,
    pub payload: usize,
}

impl PublishParts {
    /// The size of the packet in bytes.
    pub fn packet(self) -> usize {
        let identifier = if self.identifier { 2 } else { 0 };
        let properties = self.properties.map_or(0, |size| varint_size(size) + size);
        let remaining = 2 + self.topic + identifier + properties + self.payload;
        1 + varint_size(remaining) + remaining
    }

    /// The largest payload with which it fits into a packet of this many bytes; none if it does not
    /// fit even without.
    pub fn payload_within(self, packet: usize) -> Option<usize> {
        let with = |payload| Self { payload, ..self }.packet();
        // Without a payload the remaining length takes up to three bytes less than with one.
        let rest = packet.checked_sub(with(0))?;
        (rest.saturating_sub(3)..=rest)
            .rev()
            .find(|payload| with(*payload) <= packet)
    }
}

/// The size in bytes of a user property with so many bytes of name and value.
pub const fn user_property(bytes: usize) -> usize {
    1 + 2 + 2 + bytes
}

/// The size in bytes of a property whose value is a string of so many bytes.
pub const fn string_property(bytes: usize) -> usize {
    1 + 2 + bytes
}

/// The size in bytes of a property whose value is a four byte integer.
pub const INTEGER_PROPERTY: usize = 1 + 4;

/// The largest payload in bytes that a PUBLISH to a topic of `topic` bytes can carry, with
/// 128 bytes left for properties.
pub fn max_payload(topic: usize) -> usize {
    let parts = PublishParts {
        topic,
        identifier: true,
        properties: Some(128),
        payload: 0,
    };
    parts.payload_within(MAX_PACKET).unwrap_or_default()
}

/// The bytes of a variable byte integer (MQTT 5.0 section 1.5.5).
const fn varint_size(value: usize) -> usize {
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
    fn characters_for_which_mosquitto_closes_the_connection_are_refused_by_name() {
        let refused = [
            '\u{1}', '\t', '\n', '\r', '\u{1b}', '\u{1f}', '\u{7f}', '\u{80}', '\u{9f}',
        ];
        for c in refused {
            let name = format!("a/{c}");
            assert_eq!(check_topic_name(&name), Err(LimitError::Control(c.into())));
            assert_eq!(
                check_topic_filter(&format!("{name}/#")),
                Err(LimitError::Control(c.into()))
            );
            assert_eq!(check_name(&name), Err(LimitError::Control(c.into())));
        }
        for c in [' ', '~', '\u{a0}', '\u{feff}', '\u{ffff}', '\u{202e}', '$'] {
            assert_eq!(check_topic_name(&format!("a/{c}")), Ok(()));
        }
        let why = check_topic_name("a\u{1b}[2J").unwrap_err().to_string();
        assert!(why.contains("U+001B") && !why.contains('\u{1b}'), "{why}");
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

    /// Sizes around those at which a length takes a byte more.
    fn around_a_boundary() -> impl Strategy<Value = usize> {
        let last = MAX_PACKET - 300..=MAX_PACKET;
        prop_oneof![
            0..400usize,
            16_200..16_700usize,
            2_097_000..2_097_500usize,
            last
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn the_largest_payload_fits_and_one_byte_more_does_not(
            topic in 1usize..200,
            identifier: bool,
            properties in proptest::option::of(0usize..300),
            packet in around_a_boundary(),
        ) {
            let parts = PublishParts { topic, identifier, properties, payload: 0 };
            let with = |payload| PublishParts { payload, ..parts }.packet();
            match parts.payload_within(packet) {
                Some(payload) => prop_assert!(with(payload) <= packet && with(payload + 1) > packet),
                None => prop_assert!(with(0) > packet),
            }
        }

        #[test]
        fn a_checked_name_is_always_a_valid_filter(name in "\\PC{0,40}") {
            if check_topic_name(&name).is_ok() && !name.starts_with("$share/") {
                prop_assert_eq!(check_topic_filter(&name), Ok(()));
            }
        }
    }
}
